"""`python -m tinylab.selftest`: a sound model passes every check; each kind of unsoundness fails the check that is about it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from families import ALIGNED, EVERY, FAMILIES, LAYERS, answered, family, make
from tinylab.checks import soundness
from tinylab.engine.base import Evaluation
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.sources import Own
from tinylab.models import loading as models
from tinylab.models.network import CausalModel
from tinylab.paths import locate
from tinylab.selftest import main
from typed import type_in_shell

SMALL = ("condition.n_examples=6", "device=cpu", "battery.layers=[1]", "threads=1")
CHECKS = ["self-check", "determinism", "batch invariance", "sham, reference", "sham, forked", "sites", "last block",
          "sum over heads", "sum of patches", "all heads"]
METRICS = ["logit_diff", "kl_div", "acc_flip_rate", "p_drop"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def verdicts(shown: str) -> dict[str, str]:
    """The verdict of each check and of each metric's noise floor, as shown."""
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    return {row[0]: next(cell for cell in row if cell in ("pass", "FAIL", "–")) if row[0] not in METRICS else row[4]
            for row in rows if row[0]}


def failing(shown: str) -> set[str]:
    return {check for check, verdict in verdicts(shown).items() if verdict == "FAIL"}


def test_the_embedded_model_passes_every_check_and_nothing_is_written(here: Path) -> None:
    done = type_in_shell(here, "-m", "tinylab.selftest", "device=cpu", "threads=1", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    expected = {**dict.fromkeys([*CHECKS, *METRICS], "pass"), "acc_flip_rate": "–"}
    assert verdicts(done.stdout) == expected
    assert "every check passes" in done.stdout and "selftest of tiny, float32 on cpu: 4 pairs of cond_a" in done.stdout
    assert list(here.iterdir()) == []


def test_overrides_are_those_of_the_main_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(locate("pkg://tinylab/assets/tiny"), here / "mine")
    asked = ("model=local", "model.path=mine", "model.dtype=bfloat16", "condition=facts", "battery=h2", "metrics=[p_drop]")
    assert main([*asked, "device=cpu", "threads=1"]) == 0
    shown = capsys.readouterr().out
    assert "mine, bfloat16 on cpu: 4 pairs of facts" in shown
    assert set(verdicts(shown)) == {*CHECKS, "p_drop", "logit_diff"}
    assert re.search(r"logit_diff.*│ +0.2 │", shown)  # the tolerance of bfloat16


def test_the_reference_engine_is_checked_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "engine=reference"]) == 0
    assert set(verdicts(capsys.readouterr().out)) == {*CHECKS, *METRICS} - {"sham, forked"}


@pytest.mark.parametrize(("asked", "told"), {
    "unknown key": (["battery.layrs=[0]"], "did you mean 'layers'"),
    "unknown option": (["condition=nope"], "cond_a"),
    "added key": (["+nonsense=1"], "nonsense"),
    "no such model": (["model=local", "model.path=nowhere"], "nowhere"),
    "wrong value": (["model.dtype=float8"], "float32"),
    "a layer too many": (["battery.layers=[9]"], "out of range"),
    "several values": (["condition=cond_a,cond_b"], "several values"),
    "a scan": (["experiment=scan_h1"], "one run"),
}.values(), ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_mistake_is_one_sentence_and_exit_code_2(asked: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith("tinylab.selftest: ") and told in errors[0]


# Each kind of unsoundness


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[CausalModel], object]], None]:
    """Makes the selftest get a model that is spoilt in some way."""
    loaded = models.load_model

    def spoil(how: Callable[[CausalModel], object]) -> None:
        def kept(*asked: Any) -> CausalModel:
            model = loaded(*asked)
            how(model)
            return model

        monkeypatch.setattr(models, "kept_model", kept)

    return spoil


def test_attention_that_is_not_deterministic_fails(spoilt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is left in training mode, with dropout."""

    def dropping(model: CausalModel) -> None:
        for module in model.model.train().modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1

    spoilt(dropping)
    assert main([*SMALL, "engine=reference"]) == 1
    captured = capsys.readouterr()
    assert {"determinism", "batch invariance", "sham, reference", "sum of patches", "logit_diff"} <= failing(captured.out)
    assert "selftest FAILED: determinism, batch invariance" in captured.out


def ignore_positions(model: CausalModel) -> None:
    """Whatever positions are asked for, the model counts the place in the input."""
    forward = model.model.transformer.forward

    def ignoring(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        del position_ids
        return forward(*args, **kwargs)

    model.model.transformer.forward = ignoring


def test_position_ids_that_are_ignored_fail_the_forked_engine(spoilt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt(ignore_positions)
    assert main([*SMALL, "engine=forked"]) == 1
    assert failing(capsys.readouterr().out) == {"self-check"}
    assert main([*SMALL, "engine=auto"]) == 0  # runs use the reference engine, which asks for none
    shown = capsys.readouterr().out
    assert failing(shown) == set() and re.search("self-check +│ reference engine", shown)


def test_an_output_projection_that_is_not_linear_fails_the_sums(spoilt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It squashes what the heads write together, so single heads do not add up."""
    spoilt(lambda model: model.projection(1).register_forward_hook(lambda _module, _args, output: output.tanh()))
    assert main(SMALL) == 1
    assert failing(capsys.readouterr().out) == {"sum over heads"}  # (layer 1 is none of the patched ones)
    spoilt(lambda model: model.projection(3).register_forward_hook(lambda _module, _args, output: output.tanh()))
    assert main(SMALL) == 1
    assert failing(capsys.readouterr().out) == {"sum over heads", "sum of patches"}


class Off(ForkedEngine):
    """Its values are a little off, more so with several pairs."""

    error, per_pair, of_shams = 0.0, 0.0, 0.0

    def evaluate(self, pairs: Sequence[Any], variants: Any, scorer: Any, *args: Any, **kwargs: Any) -> Evaluation:
        found = super().evaluate(pairs, variants, scorer, *args, **kwargs)
        values = found.values + self.error + self.per_pair * (len(pairs) - 1)
        values[[v for v, variant in enumerate(variants) if variant.source == Own(variant.target)]] += self.of_shams
        baselines = {run: rows + self.error + self.per_pair * (len(pairs) - 1) for run, rows in found.baselines.items()}
        return replace(found, values=values, baselines=baselines)


@pytest.mark.parametrize(("spoil", "checks"), [
    ({}, set()),
    ({"error": 5e-4}, set()),  # within the tolerance of a float32 metric, 1e-3
    ({"error": 2e-3}, {"logit_diff", "kl_div", "p_drop"}),
    ({"per_pair": 1e-3}, {"batch invariance", "logit_diff", "kl_div", "p_drop"}),
    ({"of_shams": 2e-3}, {"sham, forked", "logit_diff", "kl_div", "p_drop"}),
], ids=["right", "within the tolerance", "off", "off by pair", "off on shams"])
def test_an_engine_that_is_off_fails_what_is_about_it(
    spoil: dict[str, float], checks: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soundness, "ForkedEngine", type("Spoilt", (Off,), spoil))
    assert main(SMALL) == (1 if checks else 0)
    assert failing(capsys.readouterr().out) == checks


def test_numbers_that_are_none_fail(spoilt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt(lambda model: model.model.transformer.ln_f.weight.fill_(float("nan")))
    assert main([*SMALL, "engine=reference"]) == 1
    assert {"determinism", "batch invariance", "sham, reference", "logit_diff"} <= failing(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral", "gptj"])
def test_the_sums_hold_in_other_families(name: str) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED[6:9])
    assert soundness.sum_over_heads(model, pairs).passes is True
    assert soundness.sum_of_patches(model, pairs[2]).passes is True


def test_heads_of_another_width_fail_the_sum_over_heads() -> None:
    """The hook of the wrong heads' activations: z shifted by half a head is another z for every head, and for their sum."""
    model = make(EVERY["llama"])
    model.projection(LAYERS - 1).register_forward_pre_hook(lambda _module, args: (args[0] * (1 + args[0]),))
    assert soundness.sum_over_heads(model, answered(model, ALIGNED[8:9])).passes is False
    assert "llama" in FAMILIES
