"""Frames filled in, with the places of what fills them: named parts of prompts (spans)."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

Told = str | tuple[str, int]
"""Words of a prompt as a corpus has them: as they are, or with which of the places where they stand is meant, from 1."""
Spans = dict[str, tuple[Told, Told]]
"""Named parts: their words in the clean and in the corrupt prompt."""


@dataclass(frozen=True)
class Filled:
    """A frame filled in: its text, and of each slot its words and the character at which they first begin."""

    text: str
    places: dict[str, tuple[str, int]]

    def told(self, slot: str) -> Told:
        """The words of a slot, at its first place in the frame."""
        words, begin = self.places[slot]
        place = sum(self.text.startswith(words, start) for start in range(begin + 1))
        return words if place == 1 else (words, place)


def filled(frame: str, **slots: str) -> Filled:
    """A frame, such as `The capital of {x} is`, with words in its slots."""
    text, places = "", dict[str, tuple[str, int]]()
    for between, slot, _, _ in Formatter().parse(frame):
        text += between
        if slot is not None:
            places.setdefault(slot, (slots[slot], len(text)))
            text += slots[slot]
    return Filled(text, places)


def spans(clean: Filled, corrupt: Filled, **slots: str | tuple[str, str]) -> Spans:
    """Named parts, each what stands in a slot; two where it is another one in the corrupt prompt."""
    sides = {name: (slot, slot) if isinstance(slot, str) else slot for name, slot in slots.items()}
    return {name: (clean.told(one), corrupt.told(other)) for name, (one, other) in sides.items()}
