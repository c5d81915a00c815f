"""Ablations that cannot be made: one sentence, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import Command, write_jsonl

FILES: dict[str, dict[str, Any]] = {
    "narrow": {"x": np.ones(7, dtype=np.float32)}, "layers": {"x": np.ones((3, 128), dtype=np.float32)},
    "several": {"x": np.ones(4, dtype=np.float32), "y": np.ones(4, dtype=np.float32)}, "whole": {"x": np.ones(4, dtype=np.int64)},
    "broken": {"x": np.array([1.0, np.nan], dtype=np.float32)}, "cube": {"x": np.ones((2, 2, 2), dtype=np.float32)},
}
MISTAKES = {
    "an ablation that there is not": (["battery.ablation=median"], "battery.ablation=median: not an option"),
    "a setting of another ablation": (["battery.ablation=mean", "battery.sigma=2"], "with battery.ablation=mean"),
    "scales of a mean": (["battery.ablation=mean", "battery.scales=[0.5]"], "choose battery.ablation=zero"),
    "another reference": (["battery.ablation=mean", "battery.reference=cond_c"], "did you mean 'cond_b'? known: condition,"),
    "a template's noise": (["battery.ablation=noise", "battery.reference=template"], "use battery.reference=condition"),
    "no noise": (["battery.ablation=noise", "battery.sigma=0"], "expected a positive number"),
    "no donors": (["battery.ablation=resample", "battery.donors=0"], "at least 1"),
    "another run": (["battery.ablation=mean", "battery.over=all"], "battery.over=all: not an option"),
    "positions of no kind": (["battery.positions=subject.middle"], "a named part of the prompts such as subject.last"),
    "positions that do not align": (["battery.ablation=mean", "battery.mean_by=position"], "use battery.reference=template"),
    "a site without heads": (["battery=mlps", "battery.heads=[0]"], "only attention has heads"),
    "a value bias of no head": (["battery=mlps", "battery.ablation=zero", "battery.keep_value_bias=true"], "value bias"),
    "scales without a column": (["battery=mlps", "battery.ablation=zero", "battery.scales=[0,0.5]"], "sweep over them"),
    "a site that h1 has not": (["battery.site=mlp_out"], "battery=mlps"),
    "a part that no row has": (["battery.positions=nobody.last"], "no part 'nobody'"),
    "a vector that is not there": (["battery.ablation=vector", "battery.vector=nowhere.safetensors"], "No such file"),
    "a device for a vector": (["battery.ablation=vector", "battery.vector=/dev/zero"], "is not a file"),
    "a vector too narrow": (["battery.ablation=vector", "battery.vector=narrow.safetensors"], "7 numbers, expected [128]"),
    "a vector of other layers": (["battery.ablation=vector", "battery.vector=layers.safetensors"], "has 3 lines of 128 numbers"),
    "several vectors": (["battery.ablation=vector", "battery.vector=several.safetensors"], "has 2 tensors"),
    "whole numbers": (["battery.ablation=vector", "battery.vector=whole.safetensors"], "has int64"),
    "a cube": (["battery.ablation=vector", "battery.vector=cube.safetensors"], "of shape [2, 2, 2]"),
    "a vector of no number": (["battery.ablation=vector", "battery.vector=broken.safetensors"], "not finite"),
}


@pytest.mark.parametrize(("mistake", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(
    mistake: list[str], said: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tensors in FILES.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    assert tinylab(*mistake, "condition.n_examples=4", "plots=false") == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tinylab:")]
    assert len(told) == 1 and said in told[0]
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_pool_of_one_donor_is_refused_and_a_lonely_pair_is_dropped(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
    long = {**row, **{run: f"Everybody knows that t{row[run][1:]}" for run in ("clean", "corrupt")}}
    line = ("battery.ablation=resample", "condition=jsonl", "battery.layers=[0]", "controls=none", "plots=false")
    one = write_jsonl(tmp_path / "one.jsonl", [row])
    assert tinylab(*line, f"condition.path={one}") == 2
    assert "no other prompt to take its place: 1" in capsys.readouterr().err
    three = write_jsonl(tmp_path / "three.jsonl", [row, {**row, "clean": "The capital of Spain is", "target": " Madrid"}, long])
    assert tinylab(*line, f"condition.path={three}") == 0
    assert "1 of 3 rows dropped (no other prompt to take its place: 1)" in capsys.readouterr().out
