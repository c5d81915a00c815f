"""Finished work is neither lost nor passed off as what it is not, whatever is typed next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import Command, only
from tinylab import computing, experiment
from tinylab.errors import OutputError
from tinylab.results import load_run
from tinylab.sweep import finished as sweep_finished
from typed import SHORT, snapshot, type_in

TINY = Path(__file__).parent.parent.parent / "tinylab/assets/tiny"


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


@pytest.fixture
def run(tinylab: Command, tmp_path: Path) -> Path:
    """A finished run."""
    assert tinylab(*SHORT) == 0
    return only(tmp_path, "outputs/runs/*")


@pytest.mark.parametrize("lost", ["run.log", "heatmap.png"])
def test_a_run_without_its_log_or_picture_is_still_finished(run: Path, tinylab: Command, lost: str) -> None:
    (run / lost).unlink(missing_ok=True)
    before = (run / "metrics/head_impact.parquet").stat().st_mtime_ns
    assert tinylab(*SHORT[:-1]) == 0, "with plots, which the first time it had not"
    assert (run / "metrics/head_impact.parquet").stat().st_mtime_ns == before
    assert (run / "heatmap.png").is_file()
    assert load_run(run).manifest["status"] == "complete"


def test_an_overwrite_that_is_interrupted_leaves_the_finished_run(
    run: Path, tinylab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = manifest(run)
    monkeypatch.setattr(computing, "_evaluate", interrupted)
    assert tinylab(*SHORT, "overwrite=true") == 130
    assert manifest(run) == before


def test_an_overwrite_that_fails_in_a_sweep_is_named_and_forgiven_by_the_next_command(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", "condition=cond_a,cond_b", *SHORT]
    assert tinylab(*sweep) == 0

    def broken(*_: object) -> None:
        raise RuntimeError("the accelerator fell off")

    with monkeypatch.context() as patch:
        patch.setattr(computing, "kept_model", broken)
        assert tinylab(*sweep, "overwrite=true") == 3
    found = manifest(only(tmp_path, "outputs/sweeps/*"))
    assert [failure["error"]["message"] for failure in found["failures"]] == ["the accelerator fell off"] * 2
    assert tinylab(*sweep) == 0
    assert manifest(only(tmp_path, "outputs/sweeps/*"))["status"] == "complete"


def test_a_mistake_after_another_process_finished_the_run_takes_nothing_of_it(
    run: Path, tinylab: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: state for path, state in snapshot(run).items() if path != "run.log"}
    run.rename(tmp_path / "finished")

    @contextmanager
    def waited(*_: object) -> Iterator[None]:
        for path in (tmp_path / "finished").iterdir():
            if path.name != "run.log":
                path.rename(run / path.name)
        yield

    def full(*_: object, **__: object) -> None:
        raise OutputError("no room for a verify slice")

    monkeypatch.setattr(sweep_finished, "run_lock", waited)
    monkeypatch.setattr(experiment, "add_verify_slice", full)
    run.mkdir()
    assert tinylab(*SHORT, "+verify_slice.n_examples=2") == 2
    assert "no room for a verify slice" in capsys.readouterr().err
    assert {path: state for path, state in snapshot(run).items() if path != "run.log"} == before


def test_what_a_killed_process_was_writing_is_gone_when_the_run_is_finished(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*SHORT) == 0
    run = only(tmp_path, "outputs/runs/*")
    run.joinpath("metrics/summary.json").unlink()
    half = [run / "metrics/.head_impact.parquet.x7_f.parquet", run / ".checkpoint.npz.ab12.npz", run / ".manifest.json.q.json"]
    for file in half:
        file.write_text("half")
    mine = run / ".notes.txt"
    mine.write_text("a person's own")
    assert tinylab(*SHORT) == 0
    assert not any(file.exists() for file in half)
    assert mine.exists()


def test_a_folder_that_holds_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert type_in(tmp_path, *SHORT, "hydra.run.dir=mine") == 0
    before = (tmp_path / "mine/manifest.json").read_text()
    assert type_in(tmp_path, "battery=h2", *SHORT, "hydra.run.dir=mine") == 2
    assert "holds the finished run" in capsys.readouterr().err
    assert (tmp_path / "mine/manifest.json").read_text() == before
    assert not (tmp_path / "mine/metrics/layer_impact.parquet").exists()


def test_a_sweeps_folder_that_holds_another_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert type_in(tmp_path, "-m", "condition=cond_a", *SHORT, "hydra.sweep.dir=mine") == 0
    assert type_in(tmp_path, "-m", "condition=cond_b", *SHORT, "hydra.sweep.dir=mine") == 2
    assert "holds another sweep" in capsys.readouterr().err


def test_a_verify_slice_or_other_invariants_belong_to_the_same_sweep(tinylab: Command, tmp_path: Path) -> None:
    sweep = ["-m", "condition=cond_a", *SHORT]
    for more in ([], ["invariants.k=3"], ["+verify_slice.n_examples=2"]):
        assert tinylab(*sweep, *more) == 0
    only(tmp_path, "outputs/sweeps/*")
    assert manifest(only(tmp_path, "outputs/sweeps/*/h1*"))["verify_slice"]["verdict"] == "pass"


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A model whose numbers fit float32 and overflow in float16."""
    folder = tmp_path / "big"
    shutil.copytree(TINY, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[0] = 1e5
    model.save_pretrained(folder)
    return folder


def test_a_model_that_overflows_is_one_sentence_and_no_table(
    overflowing: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*SHORT, "model=local", f"model.path={overflowing}", "model.dtype=float16", "engine=reference") == 1
    assert "not finite" in capsys.readouterr().err
    assert not list(Path("outputs").glob("**/*.parquet"))


def test_a_verify_slice_without_numbers_fails(overflowing: Path, tinylab: Command) -> None:
    command = [*SHORT, "model=local", f"model.path={overflowing}", "verify_slice.dtype=float16", "verify_slice.strict=true"]
    assert tinylab(*command) == 4
    found = json.loads(only(Path("outputs"), "runs/*/metrics/verify.json").read_text())
    assert found["verdict"] == "fail"
    assert found["metrics"]["logit_diff"]["missing"] > 0


def test_load_run_refuses_a_run_without_its_table(run: Path) -> None:
    (run / "metrics/head_impact.parquet").unlink()
    with pytest.raises(OutputError, match="not a complete run any more: .*head_impact.parquet is missing"):
        load_run(run)
