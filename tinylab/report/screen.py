"""Where words for people are printed."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """Standard output; made at each use so that redirection works. A file or pipe is as wide as a table needs.

    Words are printed as they are: square brackets and colons in paths and errors mean nothing.
    """
    plain = _plain()
    return plain if plain.is_terminal else _plain(width=120)


def _plain(width: int | None = None) -> Console:
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)
