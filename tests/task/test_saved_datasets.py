"""Folders that the package `datasets` saved as corpora: the rows of the file that they were made of, or one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from saved_datasets import save, save_splits
from tinylab.config.groups import ConditionConfig
from tinylab.errors import CorpusError
from tinylab.task import saved
from tinylab.task.corpus import Condition, load_condition
from tinylab.task.sources import corpus_sha256

FILE = Path(__file__).parents[2] / "tinylab/assets/corpora/facts.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text().splitlines()]
TABLE = pa.Table.from_pylist(ROWS)
Command = Callable[..., int]


def load(path: Path, **changes: Any) -> Condition:
    return load_condition(replace(ConditionConfig(path=str(path), tag="t", split="test"), **changes))


def of(split: str) -> pa.Table:
    return pa.Table.from_pylist([{key: value for key, value in row.items() if key != "split"}
                                 for row in ROWS if row["split"] == split])


def test_a_saved_dataset_has_the_pairs_of_the_file_that_it_was_made_of(tmp_path: Path) -> None:
    assert load(save(tmp_path / "one", TABLE)).pairs == load(FILE).pairs
    assert load(save(tmp_path / "three", TABLE, shards=3)).pairs == load(FILE).pairs


def test_the_splits_of_a_datasetdict_are_splits_whose_rows_count_on(tmp_path: Path) -> None:
    splits = ["val", "test", "train"]
    folder = save_splits(tmp_path / "dict", {split: of(split) for split in splits})
    wanted = [replace(pair, row=0) for pair in load(FILE).pairs]
    assert [replace(pair, row=0) for pair in load(folder).pairs] == wanted
    assert load(folder).pairs[0].row == of("val").num_rows
    every = load(folder, split=None).pairs
    assert [pair.row for pair in every] == list(range(len(every)))
    assert [pair.clean for pair in every] == [row["clean"] for split in splits for row in ROWS if row["split"] == split]
    assert [replace(pair, row=0) for pair in load(folder / "test", split="train").pairs] == wanted
    with pytest.raises(CorpusError, match=r"condition\.split=tset: no row of .* has it; did you mean 'test'\?"):
        load(folder, split="tset")


def test_a_field_that_contradicts_the_split_of_a_datasetdict_is_refused_unless_another_is_named(tmp_path: Path) -> None:
    folder = save_splits(tmp_path / "dict", {"test": TABLE})
    with pytest.raises(CorpusError, match="row 0: field 'split' says 'train', but the row is in the split 'test'"):
        load(folder)
    assert len(load(folder, split_field="none").pairs) == len(ROWS)


def test_class_labels_are_read_by_their_names(tmp_path: Path) -> None:
    names = sorted({row["split"] for row in ROWS})
    numbers = [None if number == 0 else -1 if number == 1 else names.index(row["split"]) for number, row in enumerate(ROWS)]
    table = TABLE.set_column(TABLE.schema.get_field_index("split"), "split", pa.array(numbers, pa.int64()))
    pairs = load(save(tmp_path / "classes", table, labels={"split": names})).pairs
    assert [pair.row for pair in pairs] == [0, 1, *(pair.row for pair in load(FILE).pairs)]
    with pytest.raises(CorpusError, match=r"row 2: field 'split' is \d, but dataset_info\.json names 1 classes"):
        load(save(tmp_path / "fewer", table, labels={"split": names[:1]}))


def test_sets_of_answers_are_read_as_of_a_file(tmp_path: Path) -> None:
    row = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": [" Paris", " paris"],
           "foil": [" Rome"]}
    (pair,) = load(save(tmp_path / "sets", pa.Table.from_pylist([row])), answer="set").pairs
    assert (pair.targets, pair.foils) == ((" Paris", " paris"), (" Rome",))


def test_a_digest_is_of_what_determines_the_rows_and_of_nothing_else(tmp_path: Path) -> None:
    first = save_splits(tmp_path / "a", {"train": of("train"), "test": of("test")})
    digest = corpus_sha256(str(first))
    assert len(digest) == 64 and corpus_sha256(str(shutil.copytree(first, tmp_path / "elsewhere"))) == digest
    told = json.loads((first / "test/state.json").read_text())
    (first / "test/state.json").write_text(json.dumps({**told, "_fingerprint": "0" * 16}))
    assert corpus_sha256(str(first)) == digest
    others = [save_splits(tmp_path / "b", {"train": of("test"), "test": of("train")}),
              save_splits(tmp_path / "c", {"test": of("test"), "train": of("train")}),
              save_splits(tmp_path / "d", {"train": of("train"), "test": of("test").slice(1)}),
              save(tmp_path / "e", of("test")), save(tmp_path / "f", of("test"), labels={"template": ["a"]})]
    assert len({digest, *(corpus_sha256(str(folder)) for folder in others)}) == 6


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def shorter(folder: Path) -> None:
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-400])


def bent(folder: Path) -> None:
    """An offset of a text far outside of the file."""
    file = folder / "data-00000-of-00001.arrow"
    offsets = TABLE.slice(0, 2)["clean"].chunk(0).buffers()[1].to_pybytes()[:12]
    content = file.read_bytes()
    assert offsets in content
    file.write_bytes(content.replace(offsets, offsets[:4] + (10**9).to_bytes(4, "little") + offsets[8:], 1))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no files": (text("state.json", "{}"), "expected _data_files, with the name of each"),
    "a file that is not there": (without("data-00000-of-00001.arrow"), "there is no such file, but state.json names it"),
    "a file outside": (text("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}'), "expected _data_files"),
    "a folder for a file": (text("state.json", '{"_data_files": [{"filename": "."}]}'), "expected _data_files"),
    "no json": (text("state.json", "{"), "state.json: cannot be read (Expecting property name"),
    "another json": (text("dataset_info.json", "[]"), "dataset_info.json: got a list, expected an object"),
    "no info": (without("dataset_info.json"), "dataset_info.json: there is no such file, which a folder of datasets has"),
    "of before": (text("state.json", '{"_indices_data_files": [{"filename": "indices.arrow"}]}'), "an early version of datasets"),
    "no Arrow": (text("data-00000-of-00001.arrow", "{}\n" * 99), "not a readable Arrow file"),
    "cut off": (shorter, "not a readable Arrow file"),
    "bent": (bent, "not a readable Arrow file"),
    "no such folder": (shutil.rmtree, "expected a file ending in .jsonl, .csv, .parquet, or a folder that datasets saved."),
    "neither": (without("state.json"), "is a folder, but none saved by the package datasets (save_to_disk)"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_folder_that_cannot_be_read_is_one_sentence(how: str, tmp_path: Path) -> None:
    breaking, says = BROKEN[how]
    breaking(folder := save(tmp_path / "mine", TABLE))
    with pytest.raises(CorpusError) as raised:
        load(folder)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_wrong_with_a_folder_ends_a_command_with_two(
    tmp_path: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    save_splits(tmp_path / "mine", {"test": of("test")})
    asked = ("condition=jsonl", "condition.path=mine", "condition.tag=mine")
    assert tinylab(*asked, "condition.split=tset") == 2
    assert capsys.readouterr().err.strip().startswith("tinylab: condition.split=tset: no row of mine has it")
    assert tinylab(*asked, "condition.path=.") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("tinylab: condition.path=.: is a folder") and "\n" not in said and not Path("outputs").exists()


@pytest.mark.parametrize("splits", ['{"splits": ["../dict"]}', '{"splits": []}', '{"splits": "test"}'])
def test_a_datasetdict_names_splits_that_lie_in_its_folder(splits: str, tmp_path: Path) -> None:
    folder = save_splits(tmp_path / "dict", {"test": of("test")})
    (folder / "dataset_dict.json").write_text(splits)
    with pytest.raises(CorpusError, match=r"dataset_dict\.json: expected the names of splits"):
        load(folder)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.list_(pa.string()),
                                  pa.struct([("subject", pa.string())])], ids=str)
def test_a_column_whose_cells_are_no_plain_text_is_refused_before_it_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    table = TABLE.set_column(0, "clean", pa.nulls(len(ROWS), kind))
    with pytest.raises(CorpusError, match=r"column 'clean' has cells of type .*, expected text"):
        load(save(tmp_path / "mine", table))


def test_a_missing_column_and_one_that_stands_twice_are_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="row 220: no field 'clean'; did you mean 'klean'"):
        load(save(tmp_path / "other", TABLE.rename_columns(["klean", *TABLE.column_names[1:]])))
    with pytest.raises(CorpusError, match="has the column 'clean' twice"):
        load(save(tmp_path / "twice", TABLE.append_column("clean", TABLE["clean"])))


@pytest.mark.parametrize(("limit", "value", "says"), [
    ("FILE_BYTES", 999, "at most 999 are read"), ("TEXT", 99, "more than 99 bytes"),
])
def test_a_folder_that_is_too_large_is_refused(
    limit: str, value: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, limit, value)
    with pytest.raises(CorpusError, match=says):
        load(save(tmp_path / "mine", TABLE))


def test_what_the_package_itself_saved_is_read_and_it_reads_what_is_written_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the package datasets is in .venv-peers (make test-peers)")
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_list(ROWS)
    assert datasets.load_from_disk(str(save(tmp_path / "ours", TABLE, shards=2))).to_list() == whole.to_list()
    whole.class_encode_column("template").save_to_disk(tmp_path / "one", num_shards=3)
    assert load(tmp_path / "one").pairs == load(FILE).pairs
    splits = {split: whole.filter(lambda row, split=split: row["split"] == split).shuffle(seed=0) for split in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "dict")
    theirs = datasets.load_from_disk(str(tmp_path / "dict"))["test"]
    assert [pair.clean for pair in load(tmp_path / "dict").pairs] == theirs["clean"][:]
    ours = datasets.load_from_disk(str(save_splits(tmp_path / "splits", {"train": of("train"), "test": of("test")})))
    assert {split: one.num_rows for split, one in ours.items()} == {"train": 160, "test": 120}
