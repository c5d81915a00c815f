"""The shipped corpora: reproducible, distinct, and held out of the embedded model's training text."""

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Final

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tinylab.embedded import corpora, tables
from tinylab.embedded.text import as_text, documents
from tinylab.embedded.wordings import WORDINGS, Wording

ASSETS: Final = Path(corpora.__file__).parent.parent / "assets"
NAMES: Final = sorted(WORDINGS)
FIELDS: Final = {"clean", "corrupt", "target", "foil", "template", "split"}


def shipped(name: str) -> list[dict[str, str]]:
    """Return the rows of a shipped file."""
    lines = (ASSETS / "corpora" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def held_out(name: str) -> list[Wording]:
    """Return the wordings of the val and test splits."""
    return [wording for split in ("val", "test") for wording in WORDINGS[name][split]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Return the embedded tokenizer."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    return loaded


@pytest.fixture(scope="module")
def training_text() -> list[str]:
    """Return a sample of the documents that the embedded model is trained on."""
    return [as_text(document) for document in islice(documents("a sample"), 20_000)]


def test_writing_the_corpora_again_gives_the_shipped_files_byte_for_byte(tmp_path: Path) -> None:
    corpora.write(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    own = [path for path in (ASSETS / "corpora").iterdir() if not path.name.startswith("planted_")]  # see test_planted_models
    assert written == {path.name: path.read_bytes() for path in own}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_the_fields_and_a_known_split(name: str) -> None:
    for row in shipped(name):
        assert set(row) == FIELDS
        assert all(row.values())
    assert Counter(row["split"] for row in shipped(name)) == corpora.PAIRS


@pytest.mark.parametrize("name", NAMES)
def test_there_are_200_pairs_and_no_clean_prompt_twice(name: str) -> None:
    rows = shipped(name)
    assert len(rows) >= 200
    assert len({row["clean"] for row in rows}) == len(rows)
    assert len({frozenset((row["clean"], row["corrupt"])) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_test_split_has_80_pairs_in_evenly_used_templates_of_its_own(name: str) -> None:
    templates = {
        split: Counter(row["template"] for row in shipped(name) if row["split"] == split) for split in ("train", "val", "test")
    }
    assert templates["test"].total() >= 80
    assert len(templates["test"]) >= 3
    assert len(set(templates["test"].values())) == 1
    assert not templates["test"].keys() & templates["val"].keys()
    assert not (templates["test"] + templates["val"]).keys() & templates["train"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_gives_its_answer_away_at_its_end(name: str) -> None:
    for row in shipped(name):
        for prompt in (row["clean"], row["corrupt"]):
            assert prompt == prompt.strip()
            assert not prompt.endswith((row["target"], row["foil"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_prompts_of_a_pair_differ_in_one_token_and_answers_are_one_token(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    for row in shipped(name):
        clean, corrupt = (tokenizer(row[side])["input_ids"] for side in ("clean", "corrupt"))
        assert sum(one != other for one, other in zip(clean, corrupt, strict=True)) == 1, row
        for answer in (row["target"], row["foil"]):
            assert re.fullmatch(r" \w+", answer)
            assert len(tokenizer(answer)["input_ids"]) == 1, answer
        assert row["target"] != row["foil"]


def test_the_target_and_the_foil_are_equally_often_the_first_to_be_named() -> None:
    for name in ("ioi", "logic"):
        rows = [row for row in shipped(name) if row["split"] == "test"]
        first = [row["clean"].index(row["target"]) < row["clean"].index(row["foil"]) for row in rows]
        assert first.count(True) == len(rows) / 2


def test_no_adjective_has_two_opposites_and_no_list_word_stands_twice() -> None:
    adjectives = [word for first, second, *_ in tables.OPPOSITES for word in (first, second)]
    for words in (adjectives, tables.LIST_WORDS, tables.NAMES, tables.PROPERTIES):
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", NAMES)
def test_no_held_out_prompt_occurs_in_the_training_text(name: str, training_text: list[str]) -> None:
    text = "\n".join(training_text)
    prompts = [row[side] for row in shipped(name) for side in ("clean", "corrupt") if row["split"] != "train"]
    assert [prompt for prompt in prompts if prompt in text] == []


def as_pattern(wording: Wording) -> str:
    """Return a regular expression for the documents that begin in a wording."""
    if "{words}" in wording.frame:
        word = f"(?:{'|'.join(tables.LIST_WORDS)})"
        return re.escape(wording.frame.removesuffix("{words}")) + rf"{word}(?:{wording.kind}{word}){{3}}"
    return r"\w+".join(re.escape(text) for text in re.split(r"{\w+}", wording.frame))


@pytest.mark.parametrize("name", NAMES)
def test_no_held_out_wording_occurs_in_the_training_text(name: str, training_text: list[str]) -> None:
    pattern = re.compile("|".join({as_pattern(wording) for wording in held_out(name)}))
    assert [text for text in training_text if pattern.match(text)] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_pattern_of_a_held_out_wording_finds_its_own_prompts(name: str) -> None:
    patterns = {wording.template: as_pattern(wording) for wording in held_out(name)}
    for row in shipped(name):
        if row["split"] != "train":
            assert re.match(patterns[row["template"]], row["clean"])
            assert re.match(patterns[row["template"]], row["corrupt"])
