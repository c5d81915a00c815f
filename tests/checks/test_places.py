"""Whole layers: the last block patched everywhere is the source run, and a layer without its heads writes a bias."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from families import ALIGNED, EVERY, LAYERS, answered, family, make
from strange import around, strange
from tinylab.checks import places
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.sites import MLP_OUT, RESID_POST
from tinylab.models.network import CausalModel
from tinylab.paths import locate
from tinylab.selftest import main

CORE = ("gpt2", "gpt_neox", "llama", "opt", "gemma3", "mixtral", "gptj", "bloom")


def some(model: CausalModel) -> list:
    return answered(model, ALIGNED[6:8])


@pytest.mark.parametrize("name", CORE)
def test_a_sound_model_passes(name: str) -> None:
    model = family(name)
    verdict = places.last_block(model, ReferenceEngine(model), some(model))
    assert (verdict.found, verdict.allowed, verdict.passes) == ("0", "0", True)
    assert places.all_heads(model, some(model)[0]).passes is True
    tried, unsound = places.sites(model, some(model)[0])
    assert (tried.found, tried.passes, unsound) == (f"0 of {3 * LAYERS} unsound", True, set())


def test_the_forked_engine_passes_to_rounding() -> None:
    model = family("llama")
    assert places.last_block(model, ForkedEngine(model), some(model)).passes is True


def test_several_residual_streams_fail() -> None:
    model = strange("Gemma3n")
    verdict = places.last_block(model, ReferenceEngine(model), some(model))
    assert verdict.passes is False and float(verdict.found) > 0.1
    tried, unsound = places.sites(model, some(model)[0])
    assert (tried.passes, unsound) == (False, {MLP_OUT, RESID_POST})


def test_modules_that_are_not_called_fail() -> None:
    model = make(EVERY["llama"])
    with around(model, "projection"):
        verdict = places.all_heads(model, some(model)[0])
    assert (verdict.found, verdict.passes) == ("not made", False) and "head 0 was made 0 times" in verdict.note
    model.__dict__["blocks"] = [*model.blocks[:-1], torch.nn.Identity()]
    verdict = places.last_block(model, ReferenceEngine(model), some(model))
    assert (verdict.found, verdict.passes) == ("not made", False) and "was seen 0 times" in verdict.note


@pytest.mark.parametrize(("name", "failing"), [("GraniteMoeShared", {"sites"}), ("Gemma3n", {"sites", "last block"})])
def test_the_command_says_which_check_fails(
    name: str, failing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"vocab_size_per_layer_input": 2048} if name == "Gemma3n" else {}
    shutil.copytree(locate("pkg://tinylab/assets/tiny"), tmp_path / "own")
    strange(name, vocab_size=2048, max_position_embeddings=128, **more).model.save_pretrained(tmp_path / "own")
    monkeypatch.setenv("COLUMNS", "200")
    asked = ("model=local", f"model.path={tmp_path / 'own'}", "condition.n_examples=4", "device=cpu", "threads=1")
    assert main([*asked, "battery.layers=[1]", "battery.heads=[0]"]) == 1
    assert {line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "FAIL " in line} == failing
