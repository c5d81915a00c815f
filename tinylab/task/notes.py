"""What a user should know of rows that are used all the same: counted in the manifest, and told once per run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from tinylab.task.corpus import Condition, PromptPair

SAME = "clean and corrupt are the same prompt"
AGAIN = "the same row stands in the corpus before"
BEGUN = "a prompt begins with the BOS token"
SPECIAL = "a special token inside a text"
MERGED = "prompt and answer share a token when joined"
APART = "answer begins with another token alone than after its prompt"
UNSPACED = "answer lacks the space that parts words"
JOINED = "answer is read as it stands after its prompt"
TWICE = "an answer stands twice in its set"
EXTENDS = "an answer begins with another one of its set"

ADVICE = {
    SAME: "nothing can change between them",
    AGAIN: "it counts each time",
    BEGUN: "it is not put there a second time",
    SPECIAL: "the tokenizer takes its name for the token itself, not for text",
    MERGED: "the model has not seen prompts end like this before the answer; white space belongs to the answer's beginning, "
            "not to the prompt's end",
    APART: "that of the answer alone is scored; an answer begins with the space that parts it from the prompt",
    UNSPACED: "with it the answer is one token, and likely another one than is scored; put it before the answers in the corpus",
    JOINED: "alone, the tokenizer puts a space before it",
    TWICE: "it counts once",
    EXTENDS: "what follows the prompt so is counted with the shorter one",
}
"""For each note, what follows from it."""


def text_notes(pairs: Sequence[PromptPair]) -> dict[int, list[str]]:
    """What the text alone tells, by row number."""
    notes: dict[int, list[str]] = {}
    seen: set[tuple[object, ...]] = set()
    for pair in pairs:
        row = (pair.clean, pair.corrupt, *pair.answers())
        notes[pair.row] = [SAME] * (pair.clean == pair.corrupt) + [AGAIN] * (row in seen)
        seen.add(row)
    return notes


def about_rows(condition: Condition, rows: int) -> list[str]:
    """What a user should know of the rows of a condition as a model sees it, a sentence each: notes, and what is dropped.

    Args:
        condition: as the model sees it.
        rows: how many the corpus has.
    """
    said = []
    for note, count in condition.noted.items():
        example = f" ({shown})" if (shown := condition.shown.get(note)) is not None else ""
        said.append(f"{count} of {rows} rows: {note}: {ADVICE[note]}{example}")
    if condition.dropped:
        told = ", ".join(f"{reason}: {count}" for reason, count in condition.dropped.items())
        said.append(f"{sum(condition.dropped.values())} of {rows} rows dropped ({told})")
    return said


def look_swapped(clean: Float64[np.ndarray, " B"], corrupt: Float64[np.ndarray, " B"]) -> bool:
    """Whether the model prefers the foil after most clean prompts, and the target after most corrupt ones.

    Args:
        clean: [B] logit differences of target and foil after the clean prompts.
        corrupt: [B] those after the corrupt prompts.
    """
    return bool((clean < 0).sum() > (clean > 0).sum() and (corrupt > 0).sum() > (corrupt < 0).sum())
