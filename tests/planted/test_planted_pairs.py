"""Pairs and sets of heads where every number is known: gates are no sums, the ledger's heads add up unless one reads another."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from planted import Typed
from tinylab.planted import closed_forms as known
from tinylab.planted.closed_forms import GATES_LEVEL, LEDGER_LEVEL, TOLERANCE, Component
from tinylab.records.identity import run_id
from tinylab.results import Run as Finished
from typed import composed

GATES = [*known.AND_INPUTS, *known.OR_INPUTS, (1, 1)]
LEDGER = list(known.LEDGER_ZERO)
Pair = tuple[Component, Component]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(expected: object) -> object:
    return pytest.approx(expected, abs=4 * TOLERANCE, rel=0)  # a synergy is a sum of four levels


def names(heads: list[Component]) -> str:
    return f"battery.heads=[{','.join(f'{chr(39)}{layer}.{head}{chr(39)}' for layer, head in heads)}]"


def synergies(run: Finished, column: str, scale: float = 0.0) -> dict[Pair, float]:
    assert run.synergy is not None
    rows = run.synergy.query("metric == 'logit_diff' and scale == @scale")
    return {((a, b), (c, d)): value for a, b, c, d, value in
            rows[["layer1", "head1", "layer2", "head2", column]].itertuples(index=False, name=None)}


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_a_gates_inputs_have_its_synergy_and_other_pairs_none(typed: Typed, engine: str, scale: float) -> None:
    run = typed.run("planted_b", engine, "battery=pairs", names(GATES), "battery.scales=[0.0,0.25]")
    expected = {pair: known.gates_synergy(pair, scale) for pair in combinations(GATES, 2)}
    assert synergies(run, "synergy", scale) == near(expected)
    assert [value for value in expected.values() if value] == ([known.AND, -known.OR] if scale == 0 else [2.0, -1.0])
    assert synergies(run, "ci_low", scale) == near(expected)  # of all prompts alike
    assert synergies(run, "ci_high", scale) == near(expected)


def test_joint_and_single_changes_are_those_of_the_gates(typed: Typed, engine: str) -> None:
    run = typed.run("planted_b", engine, "battery=pairs", names(GATES), "battery.scales=[0.0,0.25]")
    for pair, change in known.GATES_PAIRS_ZERO.items():
        assert synergies(run, "joint")[pair] == near(change)
    for column, place in (("single1", 0), ("single2", 1)):
        assert synergies(run, column) == near({pair: known.GATES_ZERO.get(pair[place], 0.0) for pair in combinations(GATES, 2)})
    levels = run.impact.query("metric == 'logit_diff' and scale == 0")
    assert levels["value"].to_numpy() == near(np.array([*synergies(run, "joint").values()]) + GATES_LEVEL)


def test_the_ledgers_heads_add_up_but_for_those_that_read_the_previous_token_head(typed: Typed) -> None:
    run = typed.run("planted_a", "forked", "battery=pairs", names(LEDGER))
    pairs = list(combinations(LEDGER, 2))
    assert synergies(run, "synergy") == near({pair: known.LEDGER_SYNERGY.get(pair, 0.0) for pair in pairs})
    for pair, change in known.LEDGER_PAIRS.items():
        assert synergies(run, "joint")[pair] == near(change)


def test_sets_of_heads_change_the_level_by_what_the_circuit_says(typed: Typed, engine: str) -> None:
    sets = "{and: ['0.0','0.1'], or: ['0.2','0.3'], both: ['0.0','0.1','0.2','0.3'], one: ['0.3'], none: ['1.0','1.1','1.2']}"
    run = typed.run("planted_b", engine, "battery=subset", f"battery.sets={sets}")
    levels = run.impact[run.impact["metric"] == "logit_diff"]
    changes = [-known.AND, -known.OR, -known.AND - known.OR, 0.0, 0.0]
    assert list(levels["set"]) == [1, 2, 3, 4, 5]
    assert levels["value"].to_numpy() == near(np.array(changes) + GATES_LEVEL)
    assert list(run.manifest["battery"]["sets"]) == ["and", "or", "both", "one", "none"]
    assert run.synergy is None


def test_the_answers_whole_circuit_leaves_nothing_of_the_ledger(typed: Typed) -> None:
    run = typed.run("planted_a", "forked", "battery=subset", "battery.sets=[['1.0','1.1'],['1.2','0.1']]")
    levels = run.impact[run.impact["metric"] == "logit_diff"]
    assert levels["value"].to_numpy() == near(np.array([0.0, LEDGER_LEVEL]))


def test_numbers_that_can_mean_one_head_only_are_taken_for_its_name(typed: Typed) -> None:
    """The gates have four heads a layer: 0.1 is no 0.10."""
    run = typed.run("planted_b", "forked", "battery=pairs", "battery.heads=[0.1,0.0]")
    same = ("model=planted", "model.variant=gates", "condition=planted_b", "engine=forked", "battery=pairs")
    assert run.manifest["run_id"] == run_id(composed(*same, "battery.heads=['0.0','0.1']"))
    assert run.manifest["battery"]["heads"] == ["0.0", "0.1"]
