"""`battery.top_neurons`: which neurons a screen chooses, that they are then intervened on exactly, and what a run says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.bound import lower_bound
from both_engines import ROUNDING, SCORER, gap
from conftest import Command, only
from families import LAYERS, UNALIGNED, answered, family
from planted import Typed, examples, model, pairs
from tinylab.batteries.ablation import Ablation
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.neurons import with_units
from tinylab.batteries.shams import shams
from tinylab.engine import screen
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.screen import differences, screen_cost, strongest
from tinylab.errors import ConfigError
from tinylab.forecast import forecast
from tinylab.interventions.operations import Add, Patch, Scale
from tinylab.interventions.sites import MLP_NEURONS, Sizes
from tinylab.interventions.sources import Difference, Donor, Mean, Noise, Reference, Vector
from tinylab.interventions.variants import Intervention, Variant
from tinylab.planted import closed_forms as known
from tinylab.records.identity import battery_identity
from tinylab.task.tokens import Prompt
from typed import composed

SIZES = Sizes(3, 4, 2, (48, None, 48))
"""As a model whose middle layer has experts."""
FEW = ("condition.n_examples=4", "battery.layers=[0,2]", "plots=false", "controls=none")


# What a screen goes by


def test_the_gates_neurons_differ_by_what_they_hold_whichever_prompt_is_called_clean() -> None:
    """Clean they hold 1, 2 and 1, corrupt nothing: half of the pairs turned round leave |difference| what it was."""
    own = pairs("planted_b")
    turned = [replace(pair, clean=pair.corrupt, corrupt=pair.clean) if b % 2 else pair for b, pair in enumerate(own)]
    places = [(MLP_NEURONS, layer) for layer in range(2)]
    for tried in (own, turned, [*own, *own[:5]]):
        found = differences(model("gates"), tried, places)
        assert found[MLP_NEURONS, known.GATES_MLP].tolist() == pytest.approx(list(known.GATES_UNITS), abs=1e-9)
        assert found[MLP_NEURONS, 0].tolist() == pytest.approx([0.0] * 3, abs=1e-9)


def test_of_equals_the_first_are_chosen() -> None:
    assert strongest(np.array([1.0, 2.0, 1.0, 0.0]), 3) == [1, 0, 2]
    assert strongest(np.zeros(5), 2) == [0, 1]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_differences_are_those_of_plain_transformers_each_run_at_its_own_last_token(name: str) -> None:
    loaded = family(name, torch.float64)
    corpus = answered(loaded, UNALIGNED)
    corpus = [*corpus, corpus[0]]
    expected: dict[int, Any] = {}
    for layer in (0, LAYERS - 1):
        rows: list[torch.Tensor] = []
        handle = loaded.down(layer).register_forward_pre_hook(
            lambda _m, args, rows=rows: rows.append(args[0].detach().reshape(-1, args[0].shape[-1])[-1].clone()))
        with torch.no_grad():
            for pair in corpus:
                for prompt in (pair.clean, pair.corrupt):
                    loaded.model(input_ids=torch.tensor([prompt]), use_cache=False)
        handle.remove()
        expected[layer] = (torch.stack(rows[::2]) - torch.stack(rows[1::2])).abs().mean(dim=0).numpy()
    found = differences(loaded, corpus, [(MLP_NEURONS, layer) for layer in expected])
    for layer, numbers in expected.items():
        np.testing.assert_allclose(found[MLP_NEURONS, layer], numbers, rtol=0, atol=1e-10)
    distinct = {(pair.clean, pair.corrupt) for pair in corpus}
    assert screen_cost(corpus, LAYERS) == (2 * len(distinct), LAYERS * sum(len(a) + len(b) for a, b in distinct))


# What is then done to the neurons


@pytest.mark.parametrize(("name", "dtype"), [("gpt2", torch.float64), ("llama", torch.float32)])
def test_both_engines_put_the_same_into_a_neuron(name: str, dtype: torch.dtype) -> None:
    loaded = family(name, dtype)
    own = answered(loaded, (((5, 7, 9, 11), (5, 7, 2, 11)), ((5, 8, 9, 3), (5, 8, 1, 3)), ((4, 7, 9, 12), (4, 7, 3, 12))))
    own = [replace(pair, donors=(Prompt(own[b - 1].clean),), number=b) for b, pair in enumerate(own)]
    one, other = (Reference(run, tuple(getattr(pair, run) for pair in own), (0,) * len(own)) for run in ("clean", "corrupt"))
    width = loaded.sizes.n_neurons[0] or 0
    vector = Vector("v", np.random.default_rng(0).normal(size=(1, width)))
    every = [Variant((Intervention(MLP_NEURONS, layer, operation, 5),), "clean", source, where)
             for operation, source in ((Scale(0.5), None), (Patch(), Mean(one)), (Patch(), Mean(one, by_position=True)),
                                       (Patch(), Donor(0)), (Add(), Noise(2.0, one, seed=1)), (Add(0.7), Difference(one, other)),
                                       (Add(0.7), vector))
             for layer in (0, LAYERS - 1) for where in ("all", "last")]
    forked, plain = ForkedEngine(loaded), ReferenceEngine(loaded)
    found, expected = forked.evaluate(own, every, SCORER), plain.evaluate(own, every, SCORER)
    assert gap(found, expected) <= ROUNDING[dtype]
    assert found.states == lower_bound(own, every, LAYERS)
    for engine, evaluation in ((forked, found), (plain, expected)):
        told = engine.plan(own, every)
        assert (told.forwards, told.states) == (evaluation.forwards, evaluation.states)
    assert (np.abs(expected.values[:, :, 0] - expected.baselines["clean"][:, 0]).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_what_the_screen_chooses_is_ablated_exactly(engine: str, tmp_path: Path) -> None:
    run = Typed(tmp_path).run("planted_b", engine, "battery=neurons", "battery.ablation=zero", "battery.top_neurons=1",
                              "metrics=[logit_diff]", "controls=none")
    changes = examples(run).assign(change=lambda rows: rows["value"] - rows["baseline"])
    found = changes.groupby(["layer", "neuron"])["change"].agg(["min", "max"])
    expected = {(0, 0): 0.0, (known.GATES_MLP, 1): known.GATES_NEURONS_ZERO[1]}  # of equal ones the first; the largest
    for side in ("min", "max"):
        assert found[side].to_dict() == pytest.approx(expected, abs=known.TOLERANCE)
    told = run.manifest["provenance"]["screen"]
    assert [(one["layer"], one["unit"]) for one in told["chosen"]] == [*expected]
    assert [one["difference"] for one in told["chosen"]] == pytest.approx([0, 2], abs=1e-9)
    assert (told["site"], told["k"], told["pairs"], told["forwards"]) == ("mlp_neurons", 1, 16, 32)


# A run


def test_a_run_says_what_was_chosen_and_later_commands_keep_to_it(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("battery=h2", "battery.granularity=mlp_neurons", "battery.top_neurons=2", *FEW)
    _, cells, cost, *_ = forecast(composed(*asked, "metrics=[logit_diff]"))
    assert tinylab(*asked, "metrics=[logit_diff]") == 0
    folder = only(tmp_path, "outputs/runs/*")
    provenance = json.loads((folder / "manifest.json").read_text())["provenance"]
    assert (cells, cost.forwards, cost.states) == (4, provenance["forwards"], provenance["states"])
    assert "screen: 8 forward passes" in (folder / "run.log").read_text()
    chosen = {(one["layer"], one["unit"]) for one in provenance["screen"]["chosen"]}

    def neurons() -> set[tuple[int, int]]:
        table = pd.read_parquet(folder / "metrics/neuron_impact.parquet")
        return set(map(tuple, table[["layer", "neuron"]].to_numpy().tolist()))

    assert neurons() == chosen and len(chosen) == 4 and chosen != {(layer, unit) for layer in (0, 2) for unit in (0, 1)}

    def again(*_: object) -> None:
        raise AssertionError("a screen for a run that had one")

    monkeypatch.setattr(screen, "differences", again)
    assert tinylab(*asked, "metrics=[kl_div]", "+verify_slice.dtype=float64") == 0
    assert neurons() == chosen
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["metrics"] == ["logit_diff", "kl_div"] and manifest["verify_slice"]["verdict"] == "pass"
    verified = json.loads((folder / "metrics/verify.json").read_text())["metrics"]
    assert {name: one["missing"] for name, one in verified.items()} == {"kl_div": 0}  # what this command asked for
    assert manifest["provenance"]["screen"] == provenance["screen"]


def test_a_sweep_reckons_no_chance_where_each_run_chose_its_own(tinylab: Command, tmp_path: Path) -> None:
    asked = ("battery=neurons", "battery.top_neurons=2", *FEW, "metrics=[logit_diff]")
    assert tinylab("-m", *asked, "condition=cond_a,cond_b", "controls.cross=true") == 0
    told = json.loads(only(tmp_path, "outputs/sweeps/*/artifacts/cross_condition/invariants.json").read_text())
    (group,) = told["groups"]
    assert group["expected_by_chance"] is None and set(group["per_metric"]["logit_diff"]["by_chance"].values()) == {None}
    assert any("each run's screen chose components of its own" in note for note in group["notes"])
    assert not list(tmp_path.rglob("cross_controls.json"))


# Settings


def h2(**settings: Any) -> ActivationPatch:
    return ActivationPatch(**{"name": "h2", "granularity": "mlp_neurons", "positions": "last", **settings})


def ablation(**settings: Any) -> Ablation:
    return Ablation(**{"name": "neurons", "site": "mlp_neurons", **settings})


def test_cells_are_listed_by_places_and_the_number_alone_is_the_identity() -> None:
    for battery in (h2(top_neurons=2, layers=[0, 2]), ablation(top_neurons=2, layers=[0, 2])):
        cells = battery.cells_of(SIZES)
        assert [cell.key for cell in cells] == [{"layer": layer, "neuron": place} for layer in (0, 2) for place in (0, 1)]
        assert battery_identity(battery)["top_neurons"] == 2 and battery.table.name == "neuron_impact"
        assert "2 of each layer by a screen" in battery.describe()
    named = ablation(neurons=[7, 0], layers=[0])
    assert [cell.key["neuron"] for cell in named.cells_of(SIZES)] == [0, 7] and named.screen is None
    assert named.describe() == "neurons, neuron × 0, layers [0], neurons [7, 0]"


def test_the_chosen_take_the_places_by_which_cells_are_listed() -> None:
    battery = ablation(top_neurons=2, layers=[0, 2])
    assert battery.screen is not None
    cells = battery.cells_of(SIZES)
    filled = with_units([*cells, *shams(cells, True)], battery.screen, {0: [5, 9], 2: [1, 47]})
    assert [(cell.key["layer"], cell.key["neuron"]) for cell in filled[:4]] == [(0, 5), (0, 9), (2, 1), (2, 47)]
    assert {cell.control for cell in filled[4:]} == {"sham"}
    for cell in filled:
        (one,) = cell.variant.interventions
        assert (one.layer, one.head) == (cell.key["layer"], cell.key["neuron"])


@pytest.mark.parametrize(("make", "settings", "told"), [
    (h2, {}, r"expected the neurons to patch, .*battery.neurons=\[0,7\].*battery.top_neurons=10"),
    (ablation, {}, r"battery.site=mlp_neurons: expected the neurons .*battery.top_neurons=10"),
    (h2, {"neurons": [0], "top_neurons": 2}, r"battery.neurons=\[0\] and battery.top_neurons=2: .* not both"),
    (h2, {"top_neurons": 0}, "battery.top_neurons=0: expected a number of at least 1"),
    (h2, {"granularity": "mlp_out", "top_neurons": 2}, "battery.top_neurons=2 with battery.granularity=mlp_out: only MLPs"),
    (ablation, {"site": "mlp_out", "top_neurons": 2}, "battery.top_neurons=2 with battery.site=mlp_out: only MLPs have neurons"),
    (ablation, {"top_neurons": 2, "positions": "each"}, "no table of neurons by position"),
    (ablation, {"top_neurons": 2, "scales": [0.0, 0.5]}, "its table has no column for scales"),
    (ablation, {"neurons": [1, 1]}, "battery.neurons"), (ablation, {"neurons": [-1]}, "battery.neurons"),
])
def test_a_wrong_setting_is_one_sentence(make: Any, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_more_neurons_than_a_layer_has_and_no_number_are_refused(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for value, said in (("513", "this model has 512 neurons; expected at most 512."), ("few", "battery.top_neurons=few")):
        assert tinylab("battery=neurons", f"battery.top_neurons={value}", *FEW) == 2
        (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tinylab: ")]
        assert said in told
