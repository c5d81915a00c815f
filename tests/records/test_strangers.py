"""A folder with other things than a run is refused before anything is written, and a mistake takes nothing that was there."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Command, only
from tinylab import computing
from tinylab.errors import OutputError
from tinylab.records.manifest import RunFolder
from typed import SHORT, snapshot

MISTAKE = ("battery.heads=[98]", *SHORT)
OWN = {
    "a project's files": {"config.yaml": "mine: 1\n", "run.log": "mine\n", "heatmap.png": "mine", "checkpoint.npz": "mine",
                          "metrics/mine.parquet": "mine", "metrics/summary.json": "{}"},
    "a program's manifest": {"manifest.json": '{"name": "my web app"}', "config.yaml": "mine: 1\n"},
    "a manifest that is no JSON": {"manifest.json": "Manifest-Version: 1.0", "notes.txt": "mine"},
    "a log of somebody": {"run.log": "my own diary\n"},
    "notes": {"notes.txt": "mine"},
}


def make(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("where", [".", "mine"])
@pytest.mark.parametrize("files", OWN)
def test_a_folder_of_somebody_is_refused_and_left_as_it_is(
    files: str, where: str, tinylab: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Path(where), OWN[files])
    before = snapshot(Path("."))
    for typed in (SHORT, MISTAKE):
        assert tinylab(*typed, f"hydra.run.dir={where}") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"tinylab: {where} holds files that are no run of tinylab's (") and said.count("\n") == 1
        assert snapshot(Path(".")) == before


@pytest.mark.parametrize(
    "names", [("manifest.json",), ("multirun.yaml", "notes.txt"), ("artifacts/cross_condition/summary.json",)]
)
def test_a_folder_of_somebody_is_no_sweeps_either(names: tuple[str, ...], tinylab: Command) -> None:
    make(Path("mine"), dict.fromkeys(names, "{}"))
    before = snapshot(Path("."))
    assert tinylab("-m", "condition=cond_a", *SHORT, "hydra.sweep.dir=mine") == 2
    assert snapshot(Path(".")) == before


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["run", "sweep"])
def test_a_log_is_not_written_through_a_link(
    flags: tuple[str, ...], tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*flags, *SHORT, "condition=cond_a") == 0
    log = only(Path("outputs"), "*/**/h1_*/run.log")
    Path("precious").write_text("mine")
    log.unlink()
    log.symlink_to(Path("precious").resolve())
    assert tinylab(*flags, *SHORT, "condition=cond_a", "overwrite=true") == 2
    assert "run.log is a link" in capsys.readouterr().err
    assert Path("precious").read_text() == "mine"


def test_a_mistake_takes_only_what_the_run_itself_wrote(tinylab: Command) -> None:
    Path("empty").mkdir()
    assert tinylab(*MISTAKE, "hydra.run.dir=empty") == 2
    assert tinylab(*MISTAKE, "hydra.run.dir=new") == 2
    assert [path.name for path in Path(".").iterdir()] == ["empty"] and not list(Path("empty").iterdir())


def test_a_run_that_was_killed_before_its_manifest_goes_on_in_the_folder_that_was_chosen(
    tinylab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Path("mine"), {"run.log": "INFO tinylab.computing: forked engine: 12 forward passes\n"})
    assert tinylab(*MISTAKE, "hydra.run.dir=mine") == 2
    assert Path("mine/run.log").is_file(), "it was there before"
    assert Path("mine/run.log").read_text().startswith("INFO tinylab.computing: forked")
    assert tinylab(*SHORT, "hydra.run.dir=mine") == 0
    make(Path("mine"), {"notes.txt": "a person's own", "manifest.json.damaged": "old"})
    assert tinylab(*SHORT, "hydra.run.dir=mine") == 0


def test_an_attempt_that_was_cut_off_is_no_stranger(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(computing, "_evaluate", cut_off)
        assert tinylab(*SHORT, "hydra.run.dir=mine") == 130
    assert tinylab(*SHORT, "hydra.run.dir=mine") == 0


NUMBERED = ("-m", "condition=cond_a,cond_b", *SHORT, "hydra.sweep.dir=mine", "hydra.sweep.subdir=${hydra.job.num}")


def test_a_sweep_in_a_chosen_folder_goes_on_whatever_became_of_its_jobs(tinylab: Command) -> None:
    """A job that was killed while it loaded its model, one whose manifest was removed."""
    assert tinylab(*NUMBERED) == 0
    for file in Path("mine/0").rglob("*"):
        if file.is_file() and file.name != "run.log":
            file.unlink()
    Path("mine/0/.attempts").write_text('{"command": "another", "pid": 1}\n')
    Path("mine/1/manifest.json").unlink()
    assert tinylab(*NUMBERED) == 0
    assert all(json.loads(Path(f"mine/{job}/manifest.json").read_text())["status"] == "complete" for job in (0, 1))


@pytest.mark.parametrize("jobs", [None, ["x"], [{"folder": "0"}], [{"folder": 0, "run_id": "a"}]])
def test_a_manifest_of_a_sweep_that_is_damaged_is_one_sentence(
    jobs: Any, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    make(Path("mine"), {"manifest.json": json.dumps({"status": "running", "jobs": jobs})})
    assert tinylab(*NUMBERED) == 2
    said = capsys.readouterr().err
    assert said.startswith("tinylab: mine/manifest.json: jobs") and said.count("\n") == 1


def test_a_chosen_folder_stays_the_runs(tinylab: Command) -> None:
    """After a mistake, where Hydra keeps its own files in it, and after the manifest was removed."""
    chosen = (*SHORT, "hydra.run.dir=exp1", "hydra.output_subdir=.hydra")
    assert tinylab("battery.heads=[98]", *chosen) == 2
    assert tinylab(*chosen) == 0
    Path("exp1/manifest.json").unlink()
    assert tinylab(*chosen) == 0
    assert json.loads(Path("exp1/manifest.json").read_text())["status"] == "complete"


def test_hidden_files_of_a_prepared_folder_are_no_strangers(tinylab: Command) -> None:
    make(Path("exp1"), {".gitkeep": "", ".DS_Store": "x"})
    assert tinylab(*SHORT, "hydra.run.dir=exp1") == 0


def test_a_disk_that_cannot_be_read_for_now_damages_no_manifest(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tinylab(*SHORT) == 0
    folder = RunFolder(only(Path("outputs"), "runs/*"))

    def fails(*_: object, **__: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fails)
        with pytest.raises(OutputError, match="Input/output error"):
            folder.set_aside()
    assert folder.manifest.is_file() and not folder.damaged.exists()


def test_a_folder_that_a_preset_names_by_the_time_is_one_folder(tinylab: Command) -> None:
    make(Path("conf/experiment"), {"dated.yaml": "# @package _global_\nhydra: {run: {dir: 'dated/${now:%f}'}}\n"})
    assert tinylab("--config-dir", "conf", "experiment=dated", *SHORT) == 0
    assert (only(Path("dated"), "*") / "manifest.json").is_file()
