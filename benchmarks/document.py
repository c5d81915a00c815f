"""What of docs/benchmarks.md `make bench` leaves as it is: the part between two markers, which another command writes."""

from __future__ import annotations

BEGIN, END = "<!-- make bench-real -->", "<!-- end of make bench-real -->"


def kept(text: str) -> str:
    """The marked part of a document, markers included; empty if there is none.

    Raises:
        ValueError: one marker without the other.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 and end < 0:
        return ""
    if not 0 <= begin < end:
        raise ValueError(f"expected {BEGIN} and, behind it, {END}; put back the one that is missing, or remove the other.")
    return text[begin : end + len(END)]


def put(text: str, section: str) -> str:
    """A document with this section as its marked part, at its end if it had none."""
    marked, old = f"{BEGIN}\n\n{section}\n\n{END}", kept(text)
    return text.replace(old, marked) if old else "\n\n".join(part for part in (text.rstrip(), marked) if part) + "\n"
