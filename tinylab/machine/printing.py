"""What is printed is for people. That it cannot be written, or that nobody reads it any more, is not part of any work.

A full disk after `>`, a pipe whose reader has gone (`… | head -1`), a stream that was closed (`>&-`), letters that a stream
lacks: the words are lost or written in another way, and no status and no exit code is another one.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Unfailing:
    """A text stream whose writes never fail; in everything else it is the one that it wraps."""

    def __init__(self, stream: TextIO) -> None:
        """In place of a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written; letters that the stream cannot encode become escapes."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: it is closed
            self._lose()
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lose()

    def isatty(self) -> bool:
        """Whether it is a terminal; one that is closed is none."""
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def _lose(self) -> None:
        """Let everything go nowhere from here on, what waits in buffers too: Python would try to write it at its end."""
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        """Whatever else the stream has."""
        return getattr(self._stream, name)


@contextmanager
def unfailing() -> Iterator[None]:
    """While open, nothing that is printed fails."""
    _open_standard_files()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_unfailing(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _unfailing(stream: Any) -> TextIO:
    if isinstance(stream, Unfailing):
        return cast(TextIO, stream)
    return cast(TextIO, Unfailing(io.StringIO() if stream is None else stream))


def _open_standard_files() -> None:
    """Give the numbers of standard files that are closed to nothing, or the next file that is opened gets one of them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
