"""What of docs/benchmarks.md `make bench` leaves as it is: the parts between two markers, each another command's."""

from __future__ import annotations

REAL, LARGE = "make bench-real", "make bench-large"


def kept(text: str) -> list[str]:
    """The marked parts of a document, markers included, those of `REAL` first.

    Raises:
        ValueError: one marker without the other.
    """
    return [part for command in (REAL, LARGE) if (part := _marked(text, command))]


def put(text: str, section: str, command: str = REAL) -> str:
    """A document with this section as a command's marked part, at its end if it had none."""
    begin, end = _markers(command)
    marked, old = f"{begin}\n\n{section}\n\n{end}", _marked(text, command)
    return text.replace(old, marked) if old else "\n\n".join(part for part in (text.rstrip(), marked) if part) + "\n"


def _markers(command: str) -> tuple[str, str]:
    return f"<!-- {command} -->", f"<!-- end of {command} -->"


def _marked(text: str, command: str) -> str:
    """A command's part, empty if there is none."""
    first, last = _markers(command)
    begin, end = text.find(first), text.find(last)
    if begin < 0 and end < 0:
        return ""
    if not 0 <= begin < end:
        raise ValueError(f"expected {first} and, behind it, {last}; put back the one that is missing, or remove the other.")
    return text[begin : end + len(last)]
