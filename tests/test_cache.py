"""The user's cache folder: it may be missing, broken, full of rubbish or forbidden, and costs time alone."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tinylab.cache import cache_folder, keep, recall

KEY = {"model": "a", "lengths": [1, 2]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_what_is_kept_is_recalled_under_its_key_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert recall("numbers", KEY) is None
    keep("numbers", KEY, 1e-7)
    keep("numbers", {**KEY, "model": "b"}, 2e-7)
    assert (recall("numbers", KEY), recall("numbers", {**KEY, "model": "b"})) == (1e-7, 2e-7)
    assert recall("others", KEY) is None
    keep("numbers", KEY, 3e-7)
    assert recall("numbers", KEY) == 3e-7
    assert len(list(folder.rglob("*"))) == 3  # no temporary file is left
    assert warnings(caplog) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"value": 5}', '{"key": {"model": "b"}, "value": 5}', "[" * 10_000])
def test_a_broken_file_counts_for_nothing_and_is_replaced(content: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep("numbers", KEY, 1.0)
    (file,) = folder.rglob("*.json")
    file.write_text(content, encoding="utf-8")
    assert recall("numbers", KEY) is None
    assert len(warnings(caplog)) == 1
    keep("numbers", KEY, 2.0)
    assert recall("numbers", KEY) == 2.0


def test_a_folder_that_cannot_be_written_is_told_and_fails_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file", encoding="utf-8")
    keep("numbers", KEY, 1.0)
    assert recall("numbers", KEY) is None
    assert any("cannot be written, which only costs time" in told for told in warnings(caplog))


def test_many_writers_at_once_leave_one_whole_file(folder: Path) -> None:
    def both(number: int) -> object:
        keep("numbers", KEY, [number] * 1000)
        return recall("numbers", KEY)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(both, range(200)))
    assert all(isinstance(one, list) and len(one) == 1000 and len(set(one)) == 1 for one in found)
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    assert json.loads(file.read_text(encoding="utf-8"))["key"] == KEY


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    assert cache_folder() == folder
    monkeypatch.delenv("TINYLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tinylab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tinylab"
