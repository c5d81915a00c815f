"""What is told of rows that are used all the same: once per run, with how many, in its log and its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command, only, write_jsonl
from tinylab.task import notes
from tinylab.task.corpus import Condition, PromptPair
from tinylab.task.tokens import tokenise

FIRST = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
SECOND = {"clean": "The capital of Spain is", "corrupt": "The capital of Egypt is", "target": " Madrid", "foil": " Cairo"}
ALIKE = {**FIRST, "corrupt": FIRST["clean"]}
ENDED = {**FIRST, "clean": "Paris<|endoftext|>The capital of France is"}
BEGUN = {**SECOND, "corrupt": "<|endoftext|>The capital of Egypt is"}


def run(tinylab: Command, folder: Path, *args: str) -> tuple[dict[str, int], list[str]]:
    """A run of mine.jsonl: the notes in its manifest, and the warnings in its log."""
    mine = ("condition=jsonl", "condition.path=mine.jsonl", "condition.tag=t", "battery.layers=[0]", "plots=false")
    assert tinylab(*mine, *args) == 0
    made = only(folder / "outputs" / "runs", "*")
    noted = json.loads((made / "manifest.json").read_text())["provenance"]["corpus"]["noted"]
    log = made / "run.log"
    return noted, [line for line in log.read_text().splitlines() if line.startswith("WARNING")] if log.exists() else []


def test_every_note_is_one_counted_warning_and_one_number_in_the_manifest(tinylab: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [FIRST, ALIKE, SECOND, FIRST, ENDED, BEGUN, FIRST])
    noted, warnings = run(tinylab, tmp_path)
    assert noted == {notes.SAME: 1, notes.AGAIN: 2, notes.SPECIAL: 1, notes.BEGUN: 1}
    for note, count in noted.items():
        told = [line for line in warnings if note in line]
        assert told == [f"WARNING tinylab.computing: {count} of 7 rows: {note}: {notes.ADVICE[note]}"]


def test_nothing_is_told_of_a_corpus_that_has_nothing_to_tell(tinylab: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [FIRST, SECOND])
    assert run(tinylab, tmp_path) == ({}, [])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_corpus_whose_prompts_are_swapped_is_asked_about(swapped: bool, tinylab: Command, tmp_path: Path) -> None:
    """The embedded model knows these: after a clean prompt it prefers the target."""
    rows: list[dict[str, Any]] = []
    for line in (Path(__file__).parents[2] / "tinylab/assets/corpora/ioi.jsonl").read_text().splitlines()[:6]:
        row = json.loads(line)
        rows.append({**row, "clean": row["corrupt"], "corrupt": row["clean"]} if swapped else row)
    write_jsonl(tmp_path / "mine.jsonl", rows)
    _, warnings = run(tinylab, tmp_path)
    assert len([line for line in warnings if "swapped?" in line]) == swapped


@pytest.mark.parametrize(("clean", "corrupt", "swapped"), [
    ([-1, -1, 2], [1, 1, -2], True),
    ([-1, -1, 2], [-1, -1, -2], False),  # a model that always prefers the foil
    ([1, 1, 2], [1, 1, 2], False),
    ([-1, 1], [1, -1], False),
    ([0, 0], [0, 0], False),
])
def test_prompts_look_swapped_where_the_model_is_wrong_after_most_of_both(
    clean: list[int], corrupt: list[int], swapped: bool
) -> None:
    assert notes.look_swapped(np.array(clean, float), np.array(corrupt, float)) is swapped


def test_only_rows_that_are_used_are_counted() -> None:
    row = ("ab", "ab", "x", "y")
    pairs = (PromptPair(0, *row), PromptPair(1, *row), PromptPair(2, "ab", "ab", "x", "x"))
    kept, _ = tokenise(Condition("t", "t.jsonl", "sha", pairs, {}), lambda text: [ord(letter) for letter in text],
                       bos=None, context=None, single_token=False, aligned=False, strict=False)
    assert kept.noted == {notes.SAME: 2, notes.AGAIN: 1}
    assert kept.dropped == {"target and foil begin with the same token": 1}


def test_every_note_has_its_advice() -> None:
    said = {value for name, value in vars(notes).items() if name.isupper() and isinstance(value, str)}
    assert set(notes.ADVICE) == said
