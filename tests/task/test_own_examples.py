"""What is random by a seed is computed on that seed's examples alone: the same numbers as of one seed at a time, fewer states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bound import lower_bound
from conftest import Command, only
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.measures.metrics import Scorer
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import Prepared, prepare
from typed import composed

SEEDS = (0, 1, 2)
RANDOM = {
    "resample": ("battery=heads", "battery.heads=[1]", "battery.ablation=resample", "battery.donors=2"),
    "resample at last": ("battery=blocks",),
    "noise": ("battery=mlps", "battery.ablation=noise"),
}


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return load_model(composed().model, "cpu")


def ready(model: CausalModel, what: str, seeds: tuple[int, ...]) -> Prepared:
    config = composed(*RANDOM[what], "battery.layers=[0,3]", "condition.n_examples=4", f"seeds=[{','.join(map(str, seeds))}]",
                      "controls=none")
    return prepare(config, load_condition(config.condition), model)


def evaluated(engine: Any, prepared: Prepared) -> Any:
    return engine.evaluate(prepared.tokens, [cell.variant for cell in prepared.cells], Scorer(("logit_diff",)))


@pytest.mark.parametrize("what", RANDOM)
def test_a_seeds_numbers_are_those_of_a_run_of_that_seed_alone(model: CausalModel, what: str) -> None:
    together = ready(model, what, SEEDS)
    found, plain = (evaluated(engine(model), together) for engine in (ForkedEngine, ReferenceEngine))
    assert np.abs(found.values - plain.values).max() < 1e-4  # the embedded model's logits are of order 10
    rows = [pair.row for pair in together.condition.pairs]
    for seed in SEEDS[:2]:
        alone = ready(model, what, (seed,))
        own = evaluated(ForkedEngine(model), alone)
        values = own.values[:, :, 0]
        mine = [v for v, cell in enumerate(together.cells) if cell.seed == seed]
        places = [rows.index(pair.row) for pair in alone.condition.pairs]
        assert len(mine) == len(alone.cells) and len(places) == 4
        np.testing.assert_allclose(found.values[np.ix_(mine, places)][:, :, 0], values, atol=1e-4)
        others = sorted({*range(len(rows))} - {*places})
        unmodified = plain.baselines["clean"][others, 0]
        assert np.abs(values - own.baselines["clean"][:, 0]).max() > 0.01
        np.testing.assert_allclose(plain.values[np.ix_(mine, others)][:, :, 0], np.tile(unmodified, (len(mine), 1)), atol=1e-4)
        assert together.spared[np.ix_(mine, others)].all() and not together.spared[np.ix_(mine, places)].any()


@pytest.mark.parametrize("what", RANDOM)
def test_states_are_those_of_each_seeds_examples_as_predicted(model: CausalModel, what: str) -> None:
    together, engine = ready(model, what, SEEDS), ForkedEngine(model, max_states=10**5)  # one tree
    variants = [cell.variant for cell in together.cells]
    found = evaluated(engine, together)
    assert engine.plan(together.tokens, variants).states == found.states
    assert found.states == lower_bound(together.tokens, variants, model.n_layers)
    apart = sum(evaluated(engine, ready(model, what, (seed,))).states for seed in SEEDS)
    assert found.states <= apart  # the unmodified runs, and a reference set's, are there once


def test_seeds_that_use_all_examples_are_as_they_were(model: CausalModel) -> None:
    config = composed(*RANDOM["noise"], "condition.split=val", "seeds=[0,1]", "controls=none", "battery.layers=[0]")
    found = prepare(config, load_condition(config.condition), model)
    assert not found.spared.any()
    assert [cell.variant.source.examples for cell in found.cells] == [None, None]  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["resample", "noise"])
def test_a_verify_slice_asks_for_no_number_that_no_seed_has(what: str, tinylab: Command, tmp_path: Path) -> None:
    line = ("battery.layers=[0]", "condition.n_examples=4", "seeds=[0,1]", "plots=false", "controls=none", "threads=1")
    assert tinylab(*RANDOM[what], *line, "+verify_slice.device=cpu") == 0
    told = json.loads((only(tmp_path, "outputs/runs/*") / "metrics/verify.json").read_text())
    assert told["verdict"] == "pass" and {entry["missing"] for entry in told["metrics"].values()} == {0}
