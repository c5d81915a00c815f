"""The shipped corpora: reproducible, distinct, and held out of the embedded model's training text."""

import hashlib
import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tinylab.config.groups import ConditionConfig
from tinylab.embedded import corpora, published, tables
from tinylab.embedded.frames import filled, spans
from tinylab.embedded.text import as_text, documents
from tinylab.embedded.wordings import WORDINGS, Wording
from tinylab.planted import corpora as planted
from tinylab.task.corpus import load_condition
from tinylab.task.parts import positions_of

ASSETS: Final = Path(corpora.__file__).parent.parent / "assets"
NAMES: Final = sorted(WORDINGS)
FIELDS: Final = {"clean", "corrupt", "target", "foil", "template", "split", "spans"}
BEFORE_SPANS: Final = {
    "corpora/facts": "aedaf7922d9bbe53726ef7bc22b417239041c318781f539ed91242d842250867",
    "corpora/induction": "40ba3d73f929f40ec867275fd669f9b2be671f45e6610b4521e513bfd0075bf8",
    "corpora/ioi": "079ba1f2956245e34f510586f56beb661c1a9809add7f303ab369eed2cd271d5",
    "corpora/logic": "a50b8472be8476c645e07c65f95bf60345491104d89b92ec0b771c1bb2a8b9dd",
    "corpora/negation": "9dd8012dd32ba6e9fff010b4ee4d1b9daee854631cc7d45d2b9d5668ba14253a",
    "corpora/planted_a": "34650d4d74d8d1e032d957440b5f742508539f99159b76a713a99a836bf49ab0",
    "corpora/planted_b": "c56210264e4c826e3248f0ddd246839518127676d036bb3c33682516fefcdc90",
    "corpora/planted_c": "6ee352110599845269d7ac9e940afd041fe5acbbb9e46645512242551083c3ab",
    "corpora/planted_d": "e644d1f5be71879ca9cf7cc0b352462d61c600569a85feb69734a70c9348abe2",
    "corpora/planted_e": "f7c49e211409d4dcf146a404ba1270bfcddfe127cb3e826a5807daa70650e9f6",
    "corpora/planted_f": "0db49d959d937588657b9d15ffe112b930c9b5dc0d230686a05d40a45a87c847",
    "corpora/planted_g": "393f429af32736910a77899d85eb5aa8c1e3984c1e45993ab64dae770bbf1996",
    "corpora/planted_llama": "b07ba1d569389331b493864aec63e6b097dac48f3c25653a453e5832b84d719d",
}
"""The sha256 of the corpora before their rows named parts: all numbers of earlier runs stand on these prompts and answers."""
PARTS: Final = {
    "facts": {"subject"},
    "negation": {"subject", "negation", "adjective"},
    "logic": {"subject", "property1", "property2", "denied"},
    "ioi": {"subject", "io", "s1", "s2", "name1", "name2"},
    "induction": {"subject", "a1", "b", "a2"},
}


def shipped(name: str, folder: str = "corpora") -> list[dict[str, Any]]:
    """Return the rows of a shipped file."""
    lines = (ASSETS / folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def without_spans(name: str, folder: str = "corpora") -> str:
    """Return the JSON lines of a shipped file without the parts of its rows."""
    return corpora.to_jsonl([{key: value for key, value in row.items() if key != "spans"} for row in shipped(name, folder)])


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


@pytest.mark.parametrize("name", BEFORE_SPANS)
def test_prompts_and_answers_are_byte_for_byte_what_they_were_before_rows_named_parts(name: str) -> None:
    folder, _, file = name.partition("/")
    assert hashlib.sha256(without_spans(file, folder).encode()).hexdigest() == BEFORE_SPANS[name]
    assert {path.stem for path in (ASSETS / "corpora").iterdir()} == {name.partition("/")[2] for name in BEFORE_SPANS}


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


def part(row: dict[str, Any], name: str, side: str) -> tuple[str, str, str]:
    """Return a named part of a prompt, what is before it and what is after it, found here by a regular expression."""
    told = row["spans"][name][("clean", "corrupt").index(side)]
    words, place = (told, 1) if isinstance(told, str) else told
    starts = [found.start() for found in re.finditer(f"(?={re.escape(words)})", row[side])]  # 77 overlaps itself in 1777
    assert len(starts) >= place, row
    begin = starts[place - 1]
    return row[side][:begin], words, row[side][begin + len(words):]


EVERY: Final = [("corpora", name) for name in sorted([*NAMES, *planted.corpora()])] + [
    ("published", name) for name in published.FILES
]


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_every_row_names_the_same_parts_whole_words_all_of_which_are_there(folder: str, name: str) -> None:
    rows = shipped(name, folder)
    for row in rows:
        assert row["spans"].keys() == rows[0]["spans"].keys() >= {"subject"}
        for named in row["spans"]:
            for side in ("clean", "corrupt"):
                before, words, behind = part(row, named, side)
                assert words == words.strip() != ""
                half_a_year = (name, named) == ("greater_than", "subject")
                assert before.endswith(" 17") if half_a_year else before == "" or not before[-1].isalnum()
                assert behind == "" or not behind[0].isalnum()
    assert rows[0]["spans"].keys() >= PARTS.get(name, {"subject"})


def test_the_parts_are_where_their_names_say() -> None:
    """Read off the prompts with the answers' help: each check is another one than the generator's."""
    for row in shipped("facts"):
        clean, corrupt = (part(row, "subject", side) for side in ("clean", "corrupt"))
        assert (clean[0], clean[2]) == (corrupt[0], corrupt[2])  # it is where the prompts differ
    for row in shipped("negation"):
        assert part(row, "negation", "clean")[1] == "not" and part(row, "negation", "corrupt")[1] in tables.AFFIRMERS
        before, noun, behind = part(row, "subject", "clean")
        assert before.split()[-1] in ("The", "the") and behind.startswith(" is not ")
        before, adjective, behind = part(row, "adjective", "clean")
        assert (f" {adjective}", behind[0]) == (row["foil"], ".") and f"{noun} is not " in before
    for row in shipped("logic"):
        for side, denied in (("clean", row["foil"]), ("corrupt", row["target"])):
            before, words, behind = part(row, "denied", side)
            assert f" {words}" == denied and before.endswith(" is not ") and behind.startswith(". ")
            first, second = (part(row, name, side) for name in ("property1", "property2"))
            assert first[2] == f" or {second[1]}{second[2]}" and {f" {first[1]}", f" {second[1]}"} == {row["target"], row["foil"]}
            before, words, behind = part(row, "subject", side)
            assert words in tables.NAMES and words not in before and behind.startswith(" is ")


@pytest.mark.parametrize(("folder", "name"), [("corpora", "ioi"), ("published", "ioi_demo"), ("published", "bos_demo")])
def test_the_one_who_acts_is_named_twice_and_the_other_once(folder: str, name: str) -> None:
    for row in shipped(name, folder):
        for side, answer, other in (("clean", "target", "foil"), ("corrupt", "foil", "target")):
            receives, gives = row[answer].strip(), row[other].strip()
            assert part(row, "io", side)[1] == receives and row[side].count(receives) == 1
            (s1, again), s2 = (part(row, "s1", side)[::2], part(row, "s2", side))
            assert (s1 + gives + again, gives in s1, gives in again) == (row[side], False, True)
            assert s2[1] == gives and gives in s2[0] and gives not in s2[2]
            assert part(row, "subject", side) == s2
            assert part(row, "name2", side)[0] == f"{part(row, 'name1', side)[0]}{part(row, 'name1', side)[1]} and "


@pytest.mark.parametrize("name", ["induction", "planted_a", "planted_llama"])
def test_what_followed_a_word_the_first_time_is_the_answer_where_it_stands_again(name: str) -> None:
    for row in shipped(name):
        for side, answer in (("clean", "target"), ("corrupt", "foil")):
            (before, word, behind), (_, again, end) = part(row, "a1", side), part(row, "a2", side)
            assert word == again and word not in before
            assert re.fullmatch(r"\W*(and)?", end.strip())  # nothing but a separator stands behind it
            assert part(row, "subject", side)[0] == before + word + behind[: -len(word + end)]
            between, followed, _ = part(row, "b", side)
            assert f" {followed}" == row[answer]
            assert re.fullmatch(r"\W*( and )?\W*", between.removeprefix(before + word))


def test_the_gates_inputs_are_its_words_in_their_order() -> None:
    for row in shipped("planted_b"):
        for side in ("clean", "corrupt"):
            *inputs, _ = row[side].split()
            assert [len(part(row, f"input{number}", side)[0].split()) for number in (1, 2, 3, 4)] == [0, 1, 2, 3]
            assert [part(row, f"input{number}", side)[1] for number in (1, 2, 3, 4)] == inputs
            assert part(row, "subject", side)[1] == " ".join(inputs)


def test_a_slots_place_counts_every_place_of_its_words_before_it_within_words_too() -> None:
    clean, corrupt = filled("Marygold knows {x} and {y}.", x="Mary", y="Mary"), filled("{y}, {x}, {y}", x="Ann", y="Mary")
    assert spans(clean, corrupt, one="x", two=("y", "x"), three="y") == {
        "one": (("Mary", 2), "Ann"), "two": (("Mary", 3), "Ann"), "three": (("Mary", 3), "Mary"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_loader_and_the_embedded_tokenizer_find_every_part(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokens of a part are its words, no letter more and none less; the tokenizer's text is put together again here."""
    condition = load_condition(ConditionConfig(tag=name, path=str(ASSETS / "corpora" / f"{name}.jsonl")))
    rows = shipped(name)
    for pair in condition.pairs[::3]:
        row = rows[pair.row]
        for named in pair.parts:
            for side in ("clean", "corrupt"):
                text, words = getattr(pair, side), named.of(side)  # type: ignore[arg-type]
                encoded = tokenizer(text, return_offsets_mapping=True)
                found = positions_of(words, text, text, encoded["offset_mapping"], 0)
                assert found is not None and len(found) == 1
                before, own, _ = part(row, named.name, side)
                pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
                assert tokenizer.convert_tokens_to_string(pieces[: found[0]]).rstrip() == before.rstrip()
                assert tokenizer.convert_tokens_to_string([pieces[found[0]]]).strip() == own


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
