"""New files of a finished run come all together or not at all: it is complete and readable at every moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from conftest import Command, only
from tinylab import experiment
from tinylab.records import renewing as renewing_module
from tinylab.records import storage
from tinylab.records.manifest import STAGE, RunFolder
from tinylab.records.renewing import put_in_place, renewing, settle
from tinylab.records.storage import write_table, write_text
from tinylab.results import load_run
from typed import SHORT, snapshot, type_in

NAMES = ("head_impact", "per_example")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, verified, with its picture."""
    folder = tmp_path_factory.mktemp("renewing")
    assert type_in(folder, *SHORT[:2], "verify_slice.n_examples=1") == 0
    return only(folder, "outputs/runs/*")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def more(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("value"), "value", pc.add(table["value"], 1.0))


def renew(run: Path) -> None:
    """Other numbers in both tables, and no verify slice any more."""
    folder = RunFolder(run)
    content = folder.read()
    assert content is not None
    with renewing(folder) as new:
        for name in NAMES:
            write_table(new.file(name), more(pq.read_table(folder.file(name))))
        write_text(new.file("config"), "other: true\n")
        put_in_place(folder, {key: value for key, value in content.items() if key not in ("verify", "verify_slice")})


def values(run: Path) -> list[float]:
    found: list[float] = load_run(run).impact["value"].tolist()
    return found


def failing(real: Callable[..., Any], number: int, error: BaseException) -> Callable[..., Any]:
    """A function whose n-th call fails."""
    calls = [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise error
        return real(*args, **kwargs)

    return call


def test_new_files_replace_the_old_ones_and_what_belonged_to_those_goes(run: Path) -> None:
    before = values(run)
    renew(run)
    assert (run / "config.yaml").read_text() == "other: true\n"
    assert values(run) == [value + 1.0 for value in before]
    assert load_run(run).verify is None
    assert sorted(path.name for path in run.iterdir() if path.name != "run.log") == [
        "config.yaml", "heatmap.png", "manifest.json", "metrics"]


@pytest.mark.parametrize("number", range(1, 5))
def test_a_disk_that_fills_at_any_file_leaves_the_run_as_it_was(number: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(run)
    monkeypatch.setattr(storage.os, "fsync", failing(os.fsync, number, OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="No space left"):
        renew(run)
    assert snapshot(run) == before


@pytest.mark.parametrize("number", range(1, 5))
def test_a_kill_while_files_are_put_in_place_is_made_good_by_whoever_reads_next(
    number: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = values(run)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing_in_place(number))
        with pytest.raises(KeyboardInterrupt):
            renew(run)
    assert (run / STAGE / "manifest.json").is_file()
    assert values(run) == [value + 1.0 for value in before]
    assert not (run / STAGE).exists()


def failing_in_place(number: int) -> Callable[[Path, Path], Path]:
    """`Path.replace` that is interrupted at the n-th file that leaves the stage."""
    real, calls = Path.replace, [0]

    def replace(source: Path, target: Path) -> Path:
        if STAGE in source.parts and STAGE not in Path(target).parts:
            calls[0] += 1
            if calls[0] == number:
                raise KeyboardInterrupt
        return real(source, target)

    return replace


def test_a_log_that_begins_while_files_are_put_in_place_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "run.log").unlink(missing_ok=True)
    monkeypatch.setattr(renewing_module, "settle", lambda folder: (folder.file("log").write_text("it began"), settle(folder)))
    renew(run)
    assert (run / "run.log").read_text() == "it began"


def test_what_waits_without_a_manifest_is_of_a_process_that_was_killed_and_counts_for_nothing(run: Path) -> None:
    before = values(run)
    (run / STAGE / "metrics").mkdir(parents=True)
    shutil.copy(run / "metrics/head_impact.parquet", run / STAGE / "metrics")
    settle(RunFolder(run))
    assert values(run) == before
    RunFolder(run).tidy()
    assert not (run / STAGE).exists()


@pytest.mark.parametrize("number", [2, 5])
def test_an_overwrite_on_a_full_disk_leaves_a_complete_run(
    number: int, tinylab: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*SHORT) == 0
    run = only(Path("outputs"), "runs/*")
    before = {path: state for path, state in snapshot(run).items() if path != "run.log"}
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", failing(os.fsync, number, OSError(28, "No space left on device")))
        assert tinylab(*SHORT, "overwrite=true") == 2
    assert "No space left" in capsys.readouterr().err
    assert {path: state for path, state in snapshot(run).items() if path != "run.log"} == before
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"


def test_an_overwrite_that_fails_while_it_is_reckoned_leaves_a_complete_run(
    tinylab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no summary")

    assert tinylab(*SHORT) == 0
    run = only(Path("outputs"), "runs/*")
    before = load_run(run)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no summary"):
        patch.setattr(experiment, "summarise", broken)
        tinylab(*SHORT, "overwrite=true")
    assert load_run(run).impact.equals(before.impact)


def test_two_processes_that_end_one_change_do_not_fail_each_other(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(run)
    content = folder.read()
    assert content is not None
    monkeypatch.setattr(renewing_module, "settle", lambda _: None)  # killed before the end
    with renewing(folder) as new:
        write_text(new.file("summary"), folder.file("summary").read_text())
        put_in_place(folder, content)
    monkeypatch.undo()
    assert folder.stage.manifest.is_file()
    artifacts = RunFolder.artifacts

    def ended_by_another(self: RunFolder, told: dict[str, Any]) -> list[str]:
        monkeypatch.undo()
        settle(RunFolder(run))
        return artifacts(self, told)

    monkeypatch.setattr(RunFolder, "artifacts", ended_by_another)
    settle(folder)
    assert load_run(run).summary["run_id"] == content["run_id"] and not folder.stage.path.exists()
