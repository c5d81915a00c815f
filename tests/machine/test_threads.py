"""Torch threads: the same for every launcher, and never more than the cores unless asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from conftest import Command, has_ray, only
from tinylab.config.composing import Composer
from tinylab.config.groups import ModelConfig
from tinylab.config.hydra_internals import flags_parser
from tinylab.machine import threads
from tinylab.machine.threads import job_threads, workers
from tinylab.models.loading import kept_model
from tinylab.models.weights import loaded_bytes
from tinylab.sweep.plan import Plan, make_plan
from tinylab.sweep.room import BESIDE_WEIGHTS, job_bytes
from typed import SHORT, type_in_shell

JOBLIB = "hydra/launcher=joblib"


def planned(*overrides: str) -> Plan:
    args = flags_parser().parse_args(["-m", "condition=cond_a,cond_b", "device=cpu", *overrides])
    with Composer(args) as composer:
        return make_plan(composer, args.overrides, args.multirun)


@pytest.mark.parametrize("n_jobs", [-3, -2, -1, 1, 2, 3, 4, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 15, 16])
def test_workers_times_threads_are_never_more_than_the_cores(count: int, n_jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: count)
    for asked in (None, 1, 2):
        each = job_threads(asked, multirun=True)
        found = workers(n_jobs, [asked, None])
        assert found >= 1
        assert found * max(each, job_threads(None, multirun=True)) <= max(count, each)
        if n_jobs < 0:
            assert workers(n_jobs, [asked]) * each <= max(count, each)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["hydra.launcher.n_jobs=2"], 2),
        (["hydra.launcher.n_jobs=1"], 1),
        (["hydra.launcher.n_jobs=8"], 2),
        ([], 2),
        (["threads=1"], 8),
        (["threads=8"], 1),
        (["threads=8", "hydra.launcher.n_jobs=-1"], 1),
        (["threads=8", "hydra.launcher.n_jobs=16"], 16),
    ],
)
def test_how_many_jobs_run_at_once_on_eight_cores(overrides: list[str], found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    assert planned(JOBLIB, *overrides).workers == found


@pytest.mark.parametrize(
    ("fit", "overrides", "found"),
    [
        (100, ["threads=1"], 8),
        (3, ["threads=1"], 3),
        (3, ["threads=1", "hydra.launcher.n_jobs=2"], 2),
        (3, ["threads=1", "hydra.launcher.n_jobs=8"], 8),
        (3, ["hydra.launcher.n_jobs=8"], 2),
        (0, ["threads=1"], 1),
    ],
)
def test_no_more_jobs_at_once_than_the_free_memory_holds(
    fit: int, overrides: list[str], found: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_bytes(planned().first)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=job * fit + job // 2))
    assert planned(JOBLIB, *overrides).workers == found
    assert ("do not fit into the free memory" in caplog.text) == (found < 8 and found == max(1, fit))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float64", 8)])
def test_the_weights_size_in_memory_is_that_of_the_loaded_model(dtype: str, size: int) -> None:
    config = ModelConfig(path="pkg://tinylab/assets/tiny", dtype=dtype)
    model = kept_model(ModelConfig(path="pkg://tinylab/assets/tiny"), "cpu").model
    assert loaded_bytes(config) == size * sum(parameter.numel() for parameter in model.parameters())


def test_weights_that_cannot_be_read_count_nothing_and_the_job_tells(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("no tensors")
    assert loaded_bytes(ModelConfig(path=str(tmp_path))) == 0
    config = planned("model=local", f"model.path={tmp_path}/gone").first
    assert job_bytes(config) == BESIDE_WEIGHTS


@pytest.mark.skipif(has_ray, reason="the Ray launcher is installed here")
def test_a_launcher_that_is_not_installed_is_exit_code_2(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("-m", "condition=cond_a,cond_b", "hydra/launcher=ray") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install -e '.[ray]'" in said
    assert list(tmp_path.iterdir()) == []


def test_the_basic_launcher_has_no_workers() -> None:
    assert planned().workers is None


def test_no_jobs_at_once_is_exit_code_2(tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("-m", "condition=cond_a,cond_b", JOBLIB, "hydra.launcher.n_jobs=0") == 2
    said = capsys.readouterr().err
    assert said.startswith("tinylab: hydra.launcher.n_jobs=0: expected") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("asked", [None, 3])
def test_a_joblib_sweep_uses_the_threads_that_its_manifests_tell(asked: int | None, tmp_path: Path) -> None:
    line = [JOBLIB, "hydra.launcher.n_jobs=4", *([] if asked is None else [f"threads={asked}"])]
    line += [*SHORT, "hydra.verbose=true"]
    done = type_in_shell(tmp_path, "-m", "tinylab", "-m", "condition=cond_a,cond_b", *line, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    each = job_threads(asked, multirun=True)
    expected = workers(4, [asked])
    assert f"Parallel(n_jobs={expected}," in done.stdout
    assert ("only" in done.stderr and "give threads=" in done.stderr) == (expected < 4)
    for condition in ("cond_a", "cond_b"):
        manifest = json.loads((only(tmp_path, f"outputs/sweeps/*/h1_{condition}_*") / "manifest.json").read_text())
        assert manifest["provenance"]["threads"] == each
