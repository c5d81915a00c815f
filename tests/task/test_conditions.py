"""Corpora as users write them: three formats, their own field names, and every way a row can be wrong."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import write_jsonl
from tinylab.config.groups import ConditionConfig
from tinylab.errors import CorpusError
from tinylab.paths import locate
from tinylab.task.corpus import Condition, PromptPair, corpus_sha256, load_condition, subsamples
from typed import type_in_shell

CITIES = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Japan", "Tokyo"), ("Peru", "Lima"), ("Cuba", "Havana")]
ROWS: list[dict[str, Any]] = [
    {
        "clean": f"The capital of {country} is",
        "corrupt": f"The capital of {other} is",
        "target": f" {city}",
        "foil": f" {wrong}",
        "template": f"t{i % 2}",
        "split": "test" if i % 2 else "train",
    }
    for i, ((country, city), (other, wrong)) in enumerate(zip(CITIES, CITIES[1:] + CITIES[:1], strict=True))
]


def load(path: Path | str, **settings: Any) -> Condition:
    return load_condition(ConditionConfig(**{"tag": "t", "path": str(path), "split": None, **settings}))


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    """The same rows as .jsonl, .csv or .parquet; what a row lacks is left out, blank or null."""
    path = folder / f"corpus{suffix}"
    if suffix == ".jsonl":
        return write_jsonl(path, rows)
    if suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
        return path
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list({key: None for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- formats ---


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_pairs(suffix: str, tmp_path: Path) -> None:
    tricky = {**ROWS[0], "clean": 'He said: "Paris, naïve…",\nor', "target": " it’s"}
    pairs = load(write(tmp_path, suffix, [*ROWS, tricky])).pairs
    for number, (pair, row) in enumerate(zip(pairs, [*ROWS, tricky], strict=True)):
        found = vars(pair)
        assert found.pop("row") == number
        assert found.pop("item") is None and found.pop("parts") == found.pop("targets") == found.pop("foils") == ()
        assert found == {key: row[key] for key in ("clean", "corrupt", "target", "foil", "template")}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_without_a_split_belong_to_every_split_in_every_format(suffix: str, tmp_path: Path) -> None:
    without = {key: value for key, value in ROWS[0].items() if key != "split"}
    path = write(tmp_path, suffix, [*ROWS, without])
    assert [pair.row for pair in load(path, split="test").pairs] == [1, 3, 5, 6]
    assert [pair.row for pair in load(path, split="train").pairs] == [0, 2, 4, 6]
    assert len(load(path, split=None).pairs) == 7


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_row_without_a_template_has_none_in_every_format(suffix: str, tmp_path: Path) -> None:
    without = {key: value for key, value in ROWS[0].items() if key != "template"}
    assert [pair.template for pair in load(write(tmp_path, suffix, [ROWS[1], without])).pairs] == ["t1", None]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_with_a_byte_order_mark_is_read(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, suffix, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets save it
    assert len(load(path).pairs) == len(ROWS)


def test_blank_lines_of_a_jsonl_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n" + "\n\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    assert [pair.row for pair in load(path).pairs] == list(range(len(ROWS)))


def test_the_names_of_all_fields_can_be_chosen(tmp_path: Path) -> None:
    names = {"clean": "question", "corrupt": "other", "target": "right", "foil": "wrong", "template": "form", "split": "part"}
    path = write_jsonl(tmp_path / "own.jsonl", [{names[key]: value for key, value in row.items()} for row in ROWS])
    own = load(path, split="test", **{f"{key}_field": name for key, name in names.items()})
    assert own.pairs == load(write(tmp_path, ".jsonl", ROWS), split="test").pairs


def test_a_path_in_an_installed_package_and_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate("pkg://tinylab/assets/corpora/ioi.jsonl").is_file()
    assert load("pkg://tinylab/assets/corpora/ioi.jsonl", split="test").pairs
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, ".jsonl", ROWS)
    assert len(load("~/corpus.jsonl").pairs) == len(ROWS)


def test_a_path_in_a_package_that_is_not_there_is_the_users_mistake() -> None:
    with pytest.raises(CorpusError, match="pkg://nowhere/corpus.jsonl"):
        load("pkg://nowhere/corpus.jsonl")


def test_the_sha256_is_that_of_the_file_and_follows_its_content(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl", ROWS)
    before = corpus_sha256(str(path))
    assert before == hashlib.sha256(path.read_bytes()).hexdigest() == load(path).sha256
    path.write_bytes(path.read_bytes() + b"\n")
    assert corpus_sha256(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest() != before


# --- which rows ---


def test_each_seed_draws_its_own_rows_and_the_same_ones_again(tmp_path: Path) -> None:
    condition = load(write(tmp_path, ".jsonl", ROWS * 10))
    drawn = subsamples(condition, 7, [0, 1, 2])
    assert drawn == subsamples(condition, 7, [0, 1, 2])
    assert subsamples(condition, 7, [2]) == {2: drawn[2]}
    assert len({tuple(chosen) for chosen in drawn.values()}) == 3
    for chosen in drawn.values():
        assert len(set(chosen)) == 7
        assert chosen == sorted(chosen)
        assert set(chosen) <= set(range(len(condition.pairs)))


@pytest.mark.parametrize("wanted", [None, 6, 1000])
def test_without_a_number_or_with_too_large_a_one_every_seed_uses_all_rows(wanted: int | None, tmp_path: Path) -> None:
    condition = load(write(tmp_path, ".jsonl", ROWS))
    assert subsamples(condition, wanted, [3, 4]) == {3: list(range(6)), 4: list(range(6))}


def pairs(*templates: str | None) -> Condition:
    """A condition of which only the templates matter."""
    rows = tuple(PromptPair(row, "", "", "", "", name) for row, name in enumerate(templates))
    return Condition("t", "t.jsonl", "sha", rows, {})


def test_a_draw_leaves_no_template_with_a_single_example_as_one_in_three_did_that_ignored_templates() -> None:
    names = np.repeat(list("abcdefgh"), 15)  # as in the shipped corpora of eight templates
    condition, seeds = pairs(*names), range(1000)

    def fewest(drawn: list[int]) -> int:
        return min(np.count_nonzero(names[drawn] == name) for name in "abcdefgh")

    ignored = [fewest(np.random.default_rng(seed).choice(120, size=32, replace=False).tolist()) for seed in seeds]
    assert np.mean(np.array(ignored) < 2) == pytest.approx(0.35, abs=0.045)  # three standard errors of a thousand draws
    assert {fewest(drawn) for drawn in subsamples(condition, 32, seeds).values()} == {4}


def test_within_its_template_every_example_is_drawn_equally_often() -> None:
    drawn = subsamples(pairs(*"aabbbbbbcccc"), 6, range(2000)).values()
    often = np.bincount([b for chosen in drawn for b in chosen], minlength=12) / 2000
    assert often[:2].tolist() == [1.0, 1.0]  # quotas 1, 3, 2: the first template gets two all the same
    assert often[2:8] == pytest.approx([2 / 6] * 6, abs=0.045)  # four standard errors
    assert often[8:] == pytest.approx([2 / 4] * 4, abs=0.045)


@pytest.mark.parametrize("names", [[None] * 12, [*"aaaabbbbccc", None], ["a"] * 12], ids=["none", "one without", "one for all"])
def test_where_a_row_names_no_template_the_draw_is_from_all_rows(names: list[str | None]) -> None:
    expected = {seed: sorted(np.random.default_rng(seed).choice(12, size=5, replace=False).tolist()) for seed in (0, 7)}
    assert subsamples(pairs(*names), 5, [0, 7]) == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_rows_reuse_is_read_and_a_row_without_it_has_none(suffix: str, tmp_path: Path) -> None:
    rows = [{**row, "country": None if i == 2 else f"c{i // 2}"} for i, row in enumerate(ROWS)]
    path = write(tmp_path, suffix, rows)
    assert [pair.item for pair in load(path, item_field="country").pairs] == ["c0", "c0", None, "c1", "c2", "c2"]
    assert {pair.item for pair in load(path).pairs} == {None}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_items_that_no_row_has_are_told_with_the_fields_that_there_are(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, suffix, ROWS)
    with pytest.raises(CorpusError, match=r"condition\.item_field=tempalte: no used row .*did you mean 'template'.*clean, corr"):
        load(path, item_field="tempalte")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_templates_that_no_row_has_are_refused_if_their_field_was_named(suffix: str, tmp_path: Path) -> None:
    """Left out in silence, all rows would be of one template, and no effect mixed."""
    path = write(tmp_path, suffix, ROWS)
    with pytest.raises(CorpusError, match=r"condition\.template_field=tempalte: no used row .*did you mean 'template'.*clean"):
        load(path, template_field="tempalte")
    assert {pair.template for pair in load(path, template_field="target").pairs} == {row["target"] for row in ROWS}
    bare = write(tmp_path, suffix, [{name: row[name] for name in ("clean", "corrupt", "target", "foil")} for row in ROWS])
    assert {pair.template for pair in load(bare).pairs} == {None}


def test_an_unknown_split_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"condition\.split=tset.*did you mean 'test'.*known: train, test"):
        load(write(tmp_path, ".jsonl", ROWS), split="tset")


# --- files that cannot be read ---


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_missing_file_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"gone{suffix}"
    with pytest.raises(CorpusError, match=rf"condition\.path={path}: No such file"):
        load(path)


def test_a_folder_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="condition.path="):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("e.jsonl", b""), ("e.jsonl", b"\n\n"), ("e.csv", b""), ("e.csv", b"clean,corrupt,target,foil\n")]
)
def test_an_empty_file_is_called_empty(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match="empty"):
        load(tmp_path / name)


def test_an_empty_parquet_is_called_empty(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).iloc[:0].to_parquet(tmp_path / "e.parquet")
    with pytest.raises(CorpusError, match="empty"):
        load(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.parquet", b"no parquet at all"), ("x.parquet", b""), ("x.jsonl", b"\xff\xfe{}"), ("x.csv", b"clean\n\xff\xfe\n")],
)
def test_a_file_of_another_kind_is_told_apart_from_a_crash(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=name):
        load(tmp_path / name)


def test_a_wrong_suffix_is_told_the_right_ones(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"\.jsonl, \.csv, \.parquet"):
        load(tmp_path / "corpus.txt")


# --- rows that are wrong ---


@pytest.mark.parametrize("field", ["clean", "corrupt", "target", "foil"])
@pytest.mark.parametrize(("suffix", "place"), [(".jsonl", "line 4"), (".csv", "line 2"), (".parquet", "row 0")])
def test_a_row_without_a_field_is_found_by_its_number(field: str, suffix: str, place: str, tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    if suffix != ".jsonl":  # a column that is missing from every row
        rows = [{key: value for key, value in row.items() if key != field} for row in rows]
    else:
        del rows[3][field]
    with pytest.raises(CorpusError, match=rf"{place}: no field '{field}'.*condition\.{field}_field="):
        load(write(tmp_path, suffix, rows))


def test_a_short_csv_row_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text('clean,corrupt,target,foil\n"a\nb",c, d, e\nx,y\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="line 4: 2 cells, but the header has 4"):
        load(path)


def test_a_mistyped_field_name_is_met_with_the_near_one(tmp_path: Path) -> None:
    rows = [{("tagret" if key == "target" else key): value for key, value in row.items()} for row in ROWS]
    with pytest.raises(CorpusError, match="did you mean 'tagret'"):
        load(write_jsonl(tmp_path / "x.jsonl", rows))


@pytest.mark.parametrize(
    ("line", "says"),
    [("{'clean': 1}", "not valid JSON"), ("[1, 2]", "got a list"), ('"text"', "got a str"), ("null", "NoneType")],
)
def test_a_line_that_is_no_object_is_found_by_its_number(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"line 3: .*{says}"):
        load(path)


@pytest.mark.parametrize("value", [5, 1.5, True, ["x"], {"a": 1}])
def test_a_field_that_is_no_text_is_refused_with_its_line(value: object, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="line 2: field 'target' is .* expected text"):
        load(write_jsonl(tmp_path / "x.jsonl", [ROWS[0], {**ROWS[1], "target": value}]))


UNUSABLE = {
    "empty prompt": {"clean": "  "},
    "empty answer": {"foil": ""},
    "prompt ends with its answer": {"clean": "The capital of France is Paris", "target": " Paris"},
}


@pytest.mark.parametrize(("reason", "change"), UNUSABLE.items())
def test_an_unusable_row_is_dropped_and_counted(reason: str, change: dict[str, str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [ROWS[0], {**ROWS[0], **change}, ROWS[1], {**ROWS[0], **change}])
    condition = load(path)
    assert [pair.row for pair in condition.pairs] == [0, 2]
    assert condition.dropped == {reason: 2}


@pytest.mark.parametrize(("reason", "change"), UNUSABLE.items())
def test_strict_makes_it_an_error_that_names_the_row(reason: str, change: dict[str, str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [ROWS[0], {**ROWS[0], **change}])
    with pytest.raises(CorpusError, match=rf"row 1 .*{reason}.*condition\.strict=true"):
        load(path, strict=True)
    assert load(write_jsonl(tmp_path / "good.jsonl", ROWS), strict=True).dropped == {}


def test_the_corrupt_prompt_may_not_end_with_the_foil_either(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [ROWS[0], {**ROWS[0], "corrupt": "Its capital is Rome", "foil": " Rome"}])
    assert load(path).dropped == {"prompt ends with its answer": 1}


def test_a_prompt_that_merely_ends_like_the_answer_is_kept(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{**ROWS[0], "clean": "He lives in a big chat", "target": " hat"}])
    assert len(load(path).pairs) == 1


def test_nothing_left_is_an_error_with_the_counts(tmp_path: Path) -> None:
    rows = [{**ROWS[0], **change} for change in UNUSABLE.values()]
    with pytest.raises(
        CorpusError, match=r"none of its 3 rows.*empty answer: 1, empty prompt: 1, prompt ends with its answer: 1"
    ):
        load(write_jsonl(tmp_path / "x.jsonl", rows))


def test_the_loader_knows_nothing_of_torch(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv", ROWS)
    code = (
        "import sys\nfrom tinylab.task.corpus import load_condition\nfrom tinylab.schema import ConditionConfig\n"
        f"load_condition(ConditionConfig(tag='t', path={str(path)!r}, split=None))\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    done = type_in_shell(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
