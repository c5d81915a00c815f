"""Named parts of prompts (spans): where a row says that they are, and which tokens they are.

A row's field `spans` gives each part its words in the clean and in the corrupt prompt, `{"subject": ["France", "Italy"]}`. Words
that stand in a prompt several times are meant where they stand first; `["Mary", 2]` in place of `"Mary"` is their second place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinylab.errors import CorpusError
from tinylab.interventions.sources import RUNS, RunName
from tinylab.interventions.variants import Named
from tinylab.task.reading import Row

NAME = re.compile(r"[\w-]+")
EXPECTED = 'expected its words in the clean and the corrupt prompt, such as {"subject": ["France", "Italy"]}'
Offsets = Callable[[str], Sequence[tuple[int, int]]]
"""A text's tokens: where in it each begins and ends, in characters."""


@dataclass(frozen=True)
class Words:
    """Words of a prompt, and which of the places where they stand is meant, from 1."""

    text: str
    place: int = 1

    def find(self, prompt: str) -> tuple[int, int] | None:
        """Where in a prompt they begin and end, in characters; None if they are not there so often."""
        begin = -1
        for _ in range(self.place):
            begin = prompt.find(self.text, begin + 1)
            if begin < 0:
                return None
        return begin, begin + len(self.text)


@dataclass(frozen=True)
class Part:
    """A named part of both prompts of a pair."""

    name: str
    clean: Words
    corrupt: Words

    def of(self, run: RunName) -> Words:
        """Its words in one of the prompts."""
        return self.clean if run == "clean" else self.corrupt


def parts_of(row: Row, field: str) -> tuple[Part, ...]:
    """The named parts of a row; none where it names none. Files that hold text alone (csv) have them as JSON.

    Raises:
        CorpusError: they are not what they should be.
    """
    told = row.values.get(field)
    if isinstance(told, str) and told.strip():
        try:
            told = json.loads(told)
        except ValueError as error:
            raise CorpusError(f"{row.place}: field '{field}' is not JSON ({error}); {EXPECTED}.") from error
    if told is None or told == "" or isinstance(told, float):  # NaN is how data frames write that there is none
        return ()
    if not isinstance(told, Mapping):
        raise CorpusError(f"{row.place}: field '{field}' is a {type(told).__name__}; {EXPECTED}.")
    return tuple(_part(row, field, str(name), words) for name, words in told.items() if words is not None)


def _part(row: Row, field: str, name: str, told: Any) -> Part:
    if not NAME.fullmatch(name):
        raise CorpusError(f"{row.place}: field '{field}' names a part {name!r}; expected letters, digits, _ and - only.")
    sides = list(told) if isinstance(told, Sequence) and not isinstance(told, str) else []
    if len(sides) != len(RUNS):
        raise CorpusError(f"{row.place}: part {name!r} is {json.dumps(told, ensure_ascii=False, default=str)}; {EXPECTED}.")
    return Part(name, *(_words(row, name, side) for side in sides))


def _words(row: Row, name: str, told: Any) -> Words:
    text, place = told, 1
    if isinstance(told, Sequence) and not isinstance(told, str) and len(told) == len(("words", "place")):
        text, place = told
    if not isinstance(text, str) or not text.strip() or not isinstance(place, int) or isinstance(place, bool) or place < 1:
        raise CorpusError(f"{row.place}: part {name!r} has {json.dumps(told, ensure_ascii=False, default=str)}; expected words, "
                          'or words and which place of theirs is meant, such as ["Mary", 2].')
    return Words(text, place)


def positions_of(
    words: Words, prompt: str, read: str, offsets: Sequence[tuple[int, int]], before: int
) -> tuple[int, ...] | None:
    """The token positions of words of a prompt, ascending; None if they are not there.

    Args:
        words: whose.
        prompt: the prompt.
        read: the text that the model gets, which holds the prompt (the turn of a conversation), or is it.
        offsets: of its tokens, see `Offsets`.
        before: tokens that stand before those of the text (BOS).
    """
    found, start = words.find(prompt), read.find(prompt)
    if found is None or start < 0:
        return None
    begin, end = found[0] + start, found[1] + start
    positions = tuple(before + number for number, (first, last) in enumerate(offsets) if max(first, begin) < min(last, end))
    return positions or None


def why_not(positions: Named, counts: Sequence[int | None]) -> str | None:
    """Why a pair cannot be used at a named part of its prompts, None if it can.

    Args:
        positions: the part.
        counts: tokens of the part in each prompt that matters, None where it is not there.
    """
    if None in counts:
        return f"no part {positions.name!r}"
    if positions.part == "all" and len(set(counts)) > 1:
        return f"part {positions.name!r} of unequal lengths"
    return None
