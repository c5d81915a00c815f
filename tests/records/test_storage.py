"""Atomic writes: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinylab.errors import OutputError
from tinylab.records import storage
from tinylab.records.storage import read_json, replacing, write_json, write_table, write_text, writing_table


def test_what_is_written_can_be_read_and_nothing_else_is_there(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "er" / "a.json", {"ä": [1, 2.5, None]})
    table = pa.table({"x": [1, 2], "y": ["a", None]})
    write_table(tmp_path / "t.parquet", table)
    write_text(tmp_path / "t.yaml", "a: ü\n")
    assert read_json(tmp_path / "deep" / "er" / "a.json") == {"ä": [1, 2.5, None]}
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    assert (tmp_path / "t.yaml").read_text(encoding="utf-8") == "a: ü\n"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.json", "t.parquet", "t.yaml"]


def test_a_failure_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text('{"half": ')
        raise ZeroDivisionError
    assert read_json(path) == {"old": True}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}])
def test_what_is_no_json_is_refused_and_the_old_file_stays(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert read_json(path) == {"old": True}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_table: pa.Table, where: Path, **_: Any) -> None:
        where.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.pq, "write_table", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_table(tmp_path / "t.parquet", pa.table({"x": [1]}))
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 0, "fill": []})
    stop = threading.Event()
    seen: list[int] = []
    broken: list[str] = []

    def read() -> None:
        while not stop.is_set():
            text = path.read_text(encoding="utf-8")
            try:
                content = json.loads(text)
                assert len(content["fill"]) == content["n"] * 100
                seen.append(content["n"])
            except (json.JSONDecodeError, AssertionError):
                broken.append(text[-50:])

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(60):
        write_json(path, {"n": n, "fill": list(range(n * 100))})
    stop.set()
    reader.join()
    assert broken == []
    assert seen == sorted(seen)


def test_the_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "ours", "x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_folder_that_cannot_be_made_is_an_output_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/sub/a\.json: cannot be written .*output_dir="):
        write_json(tmp_path / "file" / "sub" / "a.json", {})


def test_a_file_where_a_folder_lies_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "a.json", {})
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", '{"half": ', "not json", "[1, 2]"])
def test_reading_what_is_no_document_of_ours_is_an_output_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(OutputError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_reading_a_missing_document_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        read_json(tmp_path / "a.json")


def test_a_table_written_part_by_part_is_there_only_when_all_of_it_is(tmp_path: Path) -> None:
    path, part = tmp_path / "t.parquet", pa.table({"x": [1, 2]})
    with pytest.raises(ZeroDivisionError), writing_table(path, part.schema) as writer:
        writer.write_table(part)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with writing_table(path, part.schema) as writer:
        writer.write_table(part)
        assert not path.exists()
        writer.write_table(part)
    assert pq.read_table(path).equals(pa.concat_tables([part, part]))
    assert list(tmp_path.iterdir()) == [path]
