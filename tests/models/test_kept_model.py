"""A process keeps the model that it loaded last: the jobs of a sweep share it, and nothing else changes."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from conftest import Command, only
from tinylab.config.groups import ModelConfig
from tinylab.models import loading as models
from tinylab.models.loading import kept_model
from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity
from tinylab.paths import locate
from typed import SHORT, type_in_shell

LOADED = "loaded tiny: 4 layers"


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_kept", {})


def own_model(folder: Path, factor: float) -> Path:
    """The embedded model in a folder of one's own, its final layer norm multiplied."""
    if not folder.exists():
        shutil.copytree(locate("pkg://tinylab/assets/tiny"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.ln_f.weight"] *= factor
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def logs(folder: Path) -> str:
    """What the runs of a sweep say of themselves."""
    return "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("outputs/sweeps/*/*/run.log")))


def impact(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "metrics/head_impact.parquet")


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1")], ids=["basic", "joblib"])
def test_a_sweep_loads_a_model_once_and_gives_the_tables_of_runs_of_their_own(launcher: tuple[str, ...], tmp_path: Path) -> None:
    line = [*SHORT[::2], "battery.layers=[0,1]", "threads=1"]
    sweep = type_in_shell(tmp_path, "-m", "tinylab", "-m", "condition=cond_a,cond_b", *line, *launcher)
    assert sweep.returncode == 0, sweep.stderr
    assert logs(tmp_path).count(LOADED) == 1
    folder = only(tmp_path, "outputs/sweeps/*")
    for condition in ("cond_a", "cond_b"):
        alone = type_in_shell(tmp_path, "-m", "tinylab", f"condition={condition}", *line)
        assert alone.stdout.count(LOADED) == 1, alone.stderr
        for table in ("head_impact", "per_example"):
            expected, found = (
                pd.read_parquet(only(where, f"h1_{condition}_*") / f"metrics/{table}.parquet")
                for where in (tmp_path / "outputs/runs", folder)
            )
            pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_a_worker_of_joblib_loads_a_model_once(tmp_path: Path) -> None:
    line = ["condition=cond_a,cond_b,facts,negation", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=1"]
    done = type_in_shell(tmp_path, "-m", "tinylab", "-m", *line, *SHORT)
    assert done.returncode == 0, done.stderr
    assert logs(tmp_path).count(LOADED) <= 2
    assert logs(tmp_path).count(LOADED) + logs(tmp_path).count("kept from the last run: tiny") == 4


def test_another_model_another_dtype_or_another_bos_is_loaded(tinylab: Command, tmp_path: Path) -> None:
    one, two = (own_model(tmp_path / name, factor) for name, factor in (("one", 1.0), ("two", 2.0)))
    assert tinylab("-m", "model=local", f"model.path={one},{two}", *SHORT) == 0
    assert (loaded := logs(tmp_path).count(": loaded ")) == 2
    values = [impact(run)["value"].to_list() for run in (tmp_path / "outputs/sweeps").glob("*/h1_*")]
    assert len(values) == 2 and values[0] != values[1]
    for swept in ("model.add_bos=true,false", "model.dtype=float64,float32"):
        assert tinylab("-m", swept, "battery.heads=[0]", *SHORT, "overwrite=true") == 0
        assert (now := logs(tmp_path).count(": loaded ")) == loaded + 2
        loaded = now


def test_weights_that_changed_on_disk_are_loaded_again(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["model=local", f"model.path={own_model(tmp_path / 'own', 1.0)}", *SHORT]
    assert tinylab(*line) == 0
    first = only(tmp_path, "outputs/runs/*")
    own_model(tmp_path / "own", 2.0)
    capsys.readouterr()
    assert tinylab(*line) == 0
    assert capsys.readouterr().out.count(": loaded own") == 1
    second = next(run for run in (tmp_path / "outputs/runs").iterdir() if run != first)
    levels = [impact(run).query("metric == 'logit_diff'")["value"].abs().mean() for run in (first, second)]
    assert levels[1] > 1.5 * levels[0]


def test_the_old_model_is_gone_before_the_new_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(path="pkg://tinylab/assets/tiny")
    alive: list[weakref.ref[Any]] = []
    counts = []
    load = models.load_model

    def watched(config: ModelConfig, device: str, identity: ModelIdentity) -> CausalModel:
        counts.append(sum(ref() is not None for ref in alive))
        loaded = load(config, device, identity)
        loaded.model.hold = [loaded]  # a cycle, such as running an engine leaves
        alive.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(models, "load_model", watched)
    gc.disable()
    try:
        for dtype in ("float32", "float32", "float64", "float32"):
            assert str(kept_model(ModelConfig(path=config.path, dtype=dtype), "cpu").dtype) == f"torch.{dtype}"
    finally:
        gc.enable()
    assert counts == [0, 0, 0]


@pytest.mark.parametrize(("dtype", "loads"), [("float32", 1), ("float64", 2)])
def test_a_verify_slice_shares_the_runs_model_where_it_is_the_same(
    dtype: str, loads: int, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("+verify_slice.device=cpu", f"verify_slice.dtype={dtype}", "device=cpu", *SHORT) == 0
    assert capsys.readouterr().out.count(LOADED) == loads
    verdict = json.loads((only(tmp_path, "outputs/runs/*") / "metrics/verify.json").read_text())
    assert (verdict["verdict"], verdict["dtype_verify"]) == ("pass", dtype)


def test_a_model_that_overflows_is_told_a_wider_dtype(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["model=local", f"model.path={own_model(tmp_path / 'own', 1e38)}", *SHORT]
    assert tinylab(*line) == 1
    assert "the model overflows in float32 on cond_a; use model.dtype=float64, nothing was written" in capsys.readouterr().err
    assert tinylab(*line, "model.dtype=float64") == 0
