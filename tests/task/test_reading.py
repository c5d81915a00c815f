"""Corpora that could be read otherwise than they were written, or that are not what they look like."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from conftest import Command, only, write_jsonl
from tinylab.config.composing import config_folder
from tinylab.config.groups import TAG_BYTES, ConditionConfig
from tinylab.errors import ConfigError, CorpusError
from tinylab.task import reading
from tinylab.task.corpus import Condition, corpus_sha256, load_condition

NAMES = ("clean", "corrupt", "target", "foil")
FIRST = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
SECOND = {"clean": "The capital of Spain is", "corrupt": "The capital of Egypt is", "target": " Madrid", "foil": " Cairo"}
HEADER = ",".join(NAMES)


def load(path: Path | str, **changes: Any) -> Condition:
    return load_condition(ConditionConfig(tag="t", path=str(path), **changes))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


# --- csv ---

ROW = ",".join(FIRST.values()) + "\n"
MANGLED = {
    "a comma that is not quoted": (2, "After Anne and Ryan left, Ryan gave a drink to,After Ryan and Anne left,a, b\n"),
    "a cell too few": (2, "x,y, z\n"),
    "a cell too many": (3, ROW + ROW.strip() + ",\n"),
    "a quote that is not closed on its line": (2, f'"The capital of Spain is,x, y, z\n"{ROW}'),
    "a quote that is never closed": (3, f'{ROW}"The capital of Spain is,x, y, z\n'),
    "quotes with backslashes": (2, r'"He wrote \"the capital of France is\"",x, y, z' + "\n"),
    "a quote at the end of a cell": (3, f'{ROW}The capital of Spain is",x, y, z\n'),
    "a quote inside a cell": (3, f'{ROW}The "capital" of Spain is,x, y, z\n'),
    "a quote after a space": (3, f'{ROW}The capital of Spain is,x, y, "z"\n'),
    "text after a quote": (2, '"The capital" of Spain is,x, y, z\n'),
    "quotes that are not doubled": (2, '"The "capital" of Spain is",x, y, z\n'),
}


@pytest.mark.parametrize("kind", MANGLED)
def test_a_csv_that_can_be_read_in_two_ways_is_refused_with_its_line(kind: str, tmp_path: Path) -> None:
    at, text = MANGLED[kind]
    with pytest.raises(CorpusError, match=rf"c\.csv, line {at}: "):
        load(written(tmp_path / "c.csv", f"{HEADER}\n{text}"))


def test_a_csv_that_follows_the_rules_is_read_to_the_letter(tmp_path: Path) -> None:
    cells = ['He said ""Paris"", and\nleft; is', 'a \\ "" b,', ' "".', ' ""']
    text = f"{HEADER},\r\n" + ",".join(f'"{cell}"' for cell in cells) + ",\r\n\r\n" + ROW.strip() + ",\r\n"
    pairs = load(written(tmp_path / "c.csv", text)).pairs
    assert [getattr(pairs[0], name) for name in NAMES] == [cell.replace('""', '"') for cell in cells]
    assert [getattr(pairs[1], name) for name in NAMES] == list(FIRST.values())


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), min_size=1)] * 4), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_a_csv_writer_writes_is_what_is_read(rows: list[tuple[str, ...]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([NAMES, *rows])
    found = [cells for _, cells in reading._csv_records(io.StringIO(stream.getvalue(), newline=""), Path("c.csv"))]
    assert found == [list(NAMES), *map(list, rows)]


# --- a name twice ---


@pytest.mark.parametrize("twice", ["target", "notes"])
def test_a_column_or_key_that_stands_twice_is_refused_with_its_line(twice: str, tmp_path: Path) -> None:
    row = [*FIRST.items(), ("notes", "x"), (twice, " Lyon")]
    columns = written(tmp_path / "c.csv", "".join(",".join(cells) + "\n" for cells in zip(*row, strict=True)))
    with pytest.raises(CorpusError, match=rf"c\.csv, line 1: has the column '{twice}' twice"):
        load(columns)
    keys = "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in row) + "}\n"
    with pytest.raises(CorpusError, match=rf"c\.jsonl, line 2: has the key '{twice}' twice"):
        load(written(tmp_path / "c.jsonl", line(FIRST) + keys))


def test_a_parquet_column_that_is_used_and_stands_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array([value]) for value in (*FIRST.values(), " Lyon")]
    parquet.write_table(pa.Table.from_arrays(columns, names=[*NAMES, "target"]), tmp_path / "c.parquet")
    with pytest.raises(CorpusError, match=r"c\.parquet: has the column 'target' twice"):
        load(tmp_path / "c.parquet")


# --- nothing ---

NAN = float("nan")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_nan_is_nothing_as_null_is(suffix: str, tmp_path: Path) -> None:
    """So data frames write what a row lacks: rows without a split belong to every split."""
    rows = [{**FIRST, "split": "test", "template": NAN}, {**SECOND, "split": NAN, "template": "b"}, {**SECOND, "split": "train"}]
    path = tmp_path / f"c{suffix}"
    if suffix == ".jsonl":
        written(path, "".join(map(line, rows)))
        assert path.read_text().count("NaN") == 2
    else:
        of_each = [{**row, "split": NAN, "template": NAN} for row in rows]  # a column of floats, all NaN
        parquet.write_table(pa.Table.from_pylist(of_each), path)
    condition = load(path, split="test")
    assert [pair.row for pair in condition.pairs] == ([0, 1] if suffix == ".jsonl" else [0, 1, 2])
    assert [pair.template for pair in condition.pairs] == ([None, "b"] if suffix == ".jsonl" else [None] * 3)


@pytest.mark.parametrize("value", [None, NAN])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_empty_text_is_called_empty_and_not_missing(suffix: str, value: float | None, tmp_path: Path) -> None:
    rows = [FIRST, {**SECOND, "corrupt": value}]
    path = tmp_path / f"c{suffix}"
    if suffix == ".jsonl":
        written(path, "".join(map(line, rows)))
    else:
        parquet.write_table(pa.Table.from_pylist([{**row, "corrupt": None if value is None else NAN} for row in rows]), path)
    with pytest.raises(CorpusError, match="field 'corrupt' is empty; write its text, or leave the row out") as raised:
        load(path)
    assert "did you mean" not in str(raised.value)


# --- what is not said ---


def test_what_a_yaml_leaves_out_is_what_the_inherited_one_says() -> None:
    shipped = yaml.safe_load((config_folder() / "condition" / "jsonl.yaml").read_text())
    own = ConditionConfig(tag="t", path="p")
    said = {key: value for key, value in shipped.items() if key not in ("tag", "path")}
    assert said == {each.name: getattr(own, each.name) for each in fields(own) if each.name in said}
    assert set(shipped) == {each.name for each in fields(own)}


def test_a_yaml_of_ones_own_that_inherits_nothing_takes_all_rows(tinylab: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "my.jsonl", [{**FIRST, "split": "train"}, {**SECOND, "split": "test"}])
    (tmp_path / "conf" / "condition").mkdir(parents=True)
    written(tmp_path / "conf" / "condition" / "bare.yaml", "path: my.jsonl\ntag: bare\n")
    assert tinylab("--config-dir", "conf", "condition=bare", "battery.layers=[0]", "plots=false") == 0
    manifest = json.loads(only(tmp_path / "outputs" / "runs", "h1_bare_*").joinpath("manifest.json").read_text())
    assert manifest["provenance"]["corpus"]["kept"] == 2


@pytest.mark.parametrize(("prompt", "target", "foil"), [
    ("Is it A or B:", " B", " A"), ("Is it A OR B?", " B", " A"), ("A, B or C:", " C", " A"), ("A, B, C:", " C", " A"),
    ("Yes/no:", " no", " Yes"), ("(A) yes (B) no. Answer:", " no", " yes"), ("(A) yes (B) no", " no", " yes"),
    ("A|B", "B", "A"), ("New York, Los Angeles:", " Los Angeles", " New York"),
])
def test_the_last_of_several_choices_is_no_answer(prompt: str, target: str, foil: str, tmp_path: Path) -> None:
    row = {"clean": prompt, "corrupt": f"Or: {prompt}", "target": target, "foil": foil}
    assert len(load(write_jsonl(tmp_path / "c.jsonl", [row])).pairs) == 1


@pytest.mark.parametrize("prompt", ["It is Rome.", "Paris is not Rome", "She likes Paris and then Rome:", "the doctor Rome",
                                    "Paris, Rome", "She met Paris, then Rome; Rome"])
def test_an_answer_that_is_there_already_is_not_one_of_several_choices(prompt: str, tmp_path: Path) -> None:
    row = {"clean": prompt, "corrupt": "It is", "target": " Rome", "foil": " Paris"}
    assert load(write_jsonl(tmp_path / "c.jsonl", [FIRST, row])).dropped == {"prompt ends with its answer": 1}


# --- what is in nobody's way ---


def test_fields_that_are_not_used_may_hold_anything(tmp_path: Path) -> None:
    odd = {"count": 10 ** 4299, "half": "\ud83d", "list": [[[]]], "nan": NAN}
    numbers = line({**FIRST, **odd}).replace('"nan"', f'"huge": {"9" * 5000}, "nan"')
    assert len(load(written(tmp_path / "c.jsonl", numbers)).pairs) == 1
    odd = {"when": pa.array([2 ** 62], pa.timestamp("us")), "how long": pa.array([2 ** 62], pa.duration("s")),
           "half": pa.array([b"\xff"])}
    parquet.write_table(pa.table({**{key: [value] for key, value in FIRST.items()}, **odd}), tmp_path / "c.parquet")
    assert len(load(tmp_path / "c.parquet").pairs) == 1


def test_folders_called_like_partitions_are_folders(tmp_path: Path) -> None:
    folder = tmp_path / "split=train"
    folder.mkdir()
    parquet.write_table(pa.table({key: [value] for key, value in FIRST.items()}), folder / "pairs.parquet")
    assert len(load(folder / "pairs.parquet", split="test").pairs) == 1


def test_columns_of_categories_and_numbers_are_read_as_ever(tmp_path: Path) -> None:
    """As data frames write them."""
    columns = {key: pa.array([value, value]).dictionary_encode() for key, value in FIRST.items()}
    parts = {"split": pa.array([1, 2]).dictionary_encode(), "template": pa.array([1.5, 2.5])}
    parquet.write_table(pa.table({**columns, **parts}), tmp_path / "c.parquet")
    condition = load(tmp_path / "c.parquet", split="2")
    assert [(pair.row, pair.template) for pair in condition.pairs] == [(1, "2.5")]


# --- what cannot be used is one sentence ---

UNUSABLE: dict[str, tuple[bytes, str]] = {
    "half.jsonl": (line({**FIRST, "clean": "The \ud83d capital"}).encode(), "line 1: field 'clean' has half a character"),
    "split.jsonl": (line({**FIRST, "split": "\udc00"}).encode(), "line 1: field 'split' has half a character"),
    "deep.jsonl": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 1: lists or objects nested too deeply"),
    "huge.jsonl": (line(FIRST).replace('" Rome"', "9" * 5000).encode(), "line 1: field 'foil' is inf, expected text"),
    "latin.jsonl": ('{"clean": "é"}'.encode("latin-1"), "byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "latin.csv": (f"{HEADER}\né,b,c,d\n".encode("latin-1"), "byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "utf16.csv": (f"{HEADER}\n".encode("utf-16"), "is not UTF-8"),
    "list.jsonl": (line({**FIRST, "clean": [[["x" * 1000] * 1000]]}).encode(), "line 1: field 'clean' is .{,250}, expected text"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_cannot_be_used_says_so_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, says = UNUSABLE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=says) as raised:
        load(tmp_path / name)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.struct({"a": pa.string()}), pa.binary(3)])
def test_a_column_of_lists_or_arrays_is_refused_before_it_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    columns = {**{key: [value] for key, value in FIRST.items()}, "template": pa.nulls(1, kind)}
    parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(CorpusError, match=r"c\.parquet: column 'template' has cells of type .*, expected text"):
        load(tmp_path / "c.parquet")


def test_a_field_of_a_type_that_has_no_text_is_refused(tmp_path: Path) -> None:
    columns = {**{key: [value] for key, value in FIRST.items()}, "split": pa.array([2 ** 62], pa.timestamp("us"))}
    parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(CorpusError, match=r"c\.parquet: "):
        load(tmp_path / "c.parquet")


@pytest.mark.parametrize(("path", "says"), [
    ("/dev/zero", "a file ending in"), ("", "a file ending in"), ("large.bin", "a file ending in"),
    ("folder.jsonl", "is a folder"), ("pipe.csv", "is a device or a pipe"), ("zero.parquet", "is a device or a pipe"),
    ("large.jsonl", "at most 1,073,741,824 are read"),
    ("a\0b.jsonl", "null"), ("~nobody-of-this-name/c.jsonl", "home"), (f"{'x' * 300}.jsonl", "too long"),
])
def test_only_regular_files_of_a_known_kind_are_opened(
    path: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.jsonl").mkdir()
    os.mkfifo("pipe.csv")
    Path("zero.parquet").symlink_to("/dev/zero")
    for name in ("large.bin", "large.jsonl"):
        with Path(name).open("wb") as stream:
            stream.truncate(200 * 10 ** 9)
    began = time.monotonic()
    for use in (corpus_sha256, load):
        with pytest.raises(CorpusError, match=says):
            use(path)
    assert time.monotonic() - began < 1


def bomb(path: Path) -> None:
    """A parquet file of few bytes, whose texts would have gigabytes."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 10 ** 6]))
    parquet.write_table(pa.table(dict.fromkeys(NAMES, column)), path)
    assert path.stat().st_size < 10 ** 6


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(10 ** 8)


def long_line(path: Path) -> None:
    path.write_text(line({**FIRST, "clean": "word " * 10 ** 7}))


def long_cell(path: Path) -> None:
    text = "word " * 250_000
    written(path, line({**FIRST, "clean": text}) if path.suffix == ".jsonl" else f'{HEADER}\n"{text}",b,c,d\n')


def many_lines(path: Path) -> None:
    written(path, f'{HEADER}\n"' + "word\n" * 250_000)


LARGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("c.parquet", bomb, "its texts have more than 268,435,456 bytes"),
    ("c.jsonl", sparse, "line 1: longer than 8,388,608 characters"),
    ("c.csv", sparse, "line 1: longer than 8,388,608 characters"),
    ("c.jsonl", long_line, "line 1: longer than 8,388,608 characters"),
    ("c.jsonl", long_cell, "line 1: field 'clean' has 1,250,000 characters, at most 1,048,576"),
    ("c.csv", long_cell, r"line 2: not valid CSV \(field larger than field limit \(1048576\)"),
    ("c.csv", many_lines, r"line 2: not valid CSV \(field larger than field limit \(1048576\)"),
]


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let this process grow by so many bytes and no more, where its size is known."""
    statm = Path("/proc/self/statm")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(("name", "make", "says"), LARGE)
def test_what_would_fill_the_memory_is_refused_before_it_does(
    name: str, make: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    began = time.monotonic()
    with pytest.raises(CorpusError, match=says), room(2**29):
        load(tmp_path / name)
    assert time.monotonic() - began < 10


def test_a_parquet_file_is_measured_by_what_it_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({key: [value] * 3 for key, value in FIRST.items()}), tmp_path / "c.parquet")
    assert len(load(tmp_path / "c.parquet").pairs) == 3
    monkeypatch.setattr(reading, "ROWS", 2)
    with pytest.raises(CorpusError, match="has 3 rows, at most 2 are read"):
        load(tmp_path / "c.parquet")
    monkeypatch.setattr(reading, "ROWS", 3)
    monkeypatch.setattr(reading, "TEXT", 100)
    with pytest.raises(CorpusError, match="its columns have .* bytes, at most 100 are read"):
        load(tmp_path / "c.parquet")


@pytest.mark.parametrize(("limit", "value", "says"), [("ROWS", 1, "more than 1 rows"), ("TEXT", 150, "more than 150 characters")])
def test_a_corpus_has_so_many_rows_and_so_much_text(
    limit: str, value: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [FIRST, SECOND, FIRST])
    assert len(load(path).pairs) == 3
    monkeypatch.setattr(f"tinylab.task.corpus.{limit}", value)
    with pytest.raises(CorpusError, match=says):
        load(path)


# --- tags ---


@pytest.mark.parametrize("tag", [1000.0, 10, False, None, ["a"], {"a": 1}])
def test_a_tag_is_text(tag: Any) -> None:
    with pytest.raises(ConfigError, match=r"condition\.tag=.* expected text; quote it"):
        ConditionConfig(tag=tag, path="p")


@pytest.mark.parametrize("tag", ["", " ", "a/b", "a\nb", "a\0b", "\ud83d", "x" * 201, "é" * 101])
def test_a_tag_is_a_name_that_file_names_can_hold(tag: str) -> None:
    with pytest.raises(ConfigError, match=r"^condition\.tag="):
        ConditionConfig(tag=tag, path="p")
    assert ConditionConfig(tag="é" * (TAG_BYTES // 2), path="p").tag == "é" * 100


@pytest.mark.parametrize(("typed", "quoted", "found"), [
    ("1e3", "'1e3'", "1e3"), ("1_0", '"1_0"', "1_0"), ("true", "'true'", "true"),
])
def test_a_tag_that_hydra_takes_for_a_number_is_to_be_quoted(
    typed: str, quoted: str, found: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "my.jsonl", [FIRST])
    mine = ("condition=jsonl", "condition.path=my.jsonl", "battery.layers=[0]", "plots=false")
    assert tinylab(*mine, f"condition.tag={typed}") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "expected text; quote it" in said
    assert tinylab(*mine, f"condition.tag={quoted}") == 0
    assert only(tmp_path / "outputs" / "runs", f"h1_{found}_*").is_dir()


def test_a_tag_of_no_in_a_yaml_is_not_false(tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf" / "condition").mkdir(parents=True)
    written(tmp_path / "conf" / "condition" / "norway.yaml", "path: my.jsonl\ntag: no\n")
    assert tinylab("--config-dir", "conf", "condition=norway") == 2
    assert "condition.tag=False: got a bool, expected text; quote it" in capsys.readouterr().err


# --- anything at all ---

PARQUET = io.BytesIO()
parquet.write_table(pa.Table.from_pylist([{**FIRST, "split": "test", "template": "a"}, SECOND]), PARQUET)
ALPHABET = st.sampled_from([*"{}[]:,\"'\\\n\r 0e-.x", "\ufeff", "é", "clean", "corrupt", "target", "foil", "null", "NaN",
                            "\\ud83d", json.dumps(FIRST), json.dumps(SECOND), ROW, HEADER, ' " A', ' "B"'])


@st.composite
def corpora(draw: st.DrawFn) -> tuple[str, bytes]:
    suffix = draw(st.sampled_from(reading.SUFFIXES))
    if draw(st.booleans()):
        return suffix, draw(st.binary(max_size=300))
    if suffix != ".parquet":
        return suffix, "".join(draw(st.lists(ALPHABET, max_size=40))).encode()
    content = bytearray(PARQUET.getvalue())
    for at in draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = draw(st.integers(0, 255))
    return suffix, bytes(content[:draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@given(corpora())
@settings(max_examples=150, deadline=2000)
def test_whatever_a_file_holds_it_is_pairs_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, bytes]
) -> None:
    suffix, content = drawn
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    path.write_bytes(content)
    try:
        pairs = load(path).pairs
    except CorpusError:
        return
    for pair in pairs:
        assert all(getattr(pair, name).strip() for name in NAMES)
        "".join(map(str, vars(pair).values())).encode()
