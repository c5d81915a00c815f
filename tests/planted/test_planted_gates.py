"""Model B, gates: denoising and noising find different heads, and a single ablation misses an OR."""

from __future__ import annotations

import numpy as np
import pytest

from planted import Typed, examples, heads, layers, levels, patched, recovered, scaled
from tinylab.interventions.sources import RunName
from tinylab.planted import closed_forms as known
from tinylab.planted.closed_forms import AND_INPUTS, GATES_LEVEL, OR_INPUTS, TOLERANCE
from tinylab.results import Run as Finished

INPUTS = [*AND_INPUTS, *OR_INPUTS]
SINGLES: dict[RunName, dict[known.Component, float]] = {"clean": dict(known.GATES_DENOISED), "corrupt": dict(known.GATES_NOISED)}
DIRECTIONS = ("clean->corrupt", "corrupt->clean")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("gates"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(expected: object) -> object:
    return pytest.approx(expected, abs=TOLERANCE, rel=0)


def h1(typed: Typed, engine: str) -> Finished:
    return typed.run("planted_b", engine, "battery.scales=[0.0,0.5]")


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_zeroing_one_input_shows_the_and_gate_and_misses_the_or_gate(typed: Typed, engine: str, scale: float) -> None:
    run = h1(typed, engine)
    expected = {**dict.fromkeys(heads(run), GATES_LEVEL), **{head: known.gates_scaled(head, scale) for head in INPUTS}}
    assert heads(run, scale=scale) == near(expected)
    assert len(expected) == 8
    baselines = run.summary["baselines"]
    assert [baselines[name]["logit_diff"]["mean"] for name in ("clean", "corrupt")] == near([GATES_LEVEL, -GATES_LEVEL])


def test_so_it_is_on_every_single_prompt(typed: Typed, engine: str) -> None:
    rows = examples(h1(typed, engine))
    rows = rows[rows["scale"] == 0]
    expected = [GATES_LEVEL + known.GATES_ZERO.get((layer, head), 0.0) for layer, head in rows[["layer", "head"]].to_numpy()]
    assert len(rows) == 8 * 16
    assert rows["value"].to_numpy() == near(np.array(expected))


@pytest.mark.parametrize("both", known.GATES_PAIRS_ZERO, ids=["and", "or"])
def test_zeroing_both_inputs_shows_all_of_either_gate(engine: str, both: tuple[known.Component, known.Component]) -> None:
    together, *singles = levels("planted_b", engine, [scaled(*both), *(scaled(head) for head in both)]) - GATES_LEVEL
    assert together == near(known.GATES_PAIRS_ZERO[both])
    assert singles == [near(known.GATES_ZERO[head]) for head in both]
    assert abs(sum(singles) - together).min() > 1, "neither gate is the sum of its inputs"


@pytest.mark.parametrize("source", SINGLES)
def test_denoising_finds_each_or_input_alone_and_noising_each_and_input(typed: Typed, engine: str, source: RunName) -> None:
    direction = "clean->corrupt" if source == "clean" else "corrupt->clean"
    asked = ("battery.granularity=head_out", "battery.per_head=true", f"battery.patch_direction='{direction}'")
    run = typed.run("planted_b", engine, "battery=h2", *asked)
    expected = {(layer, head): SINGLES[source].get((layer, head), 0.0) for layer in range(2) for head in range(4)}
    assert heads(run, "recovery", scale=1.0) == near(expected)
    assert examples(run, "recovery")["value"].to_numpy() == near(np.repeat([*expected.values()], 16))


def test_the_two_directions_never_find_the_same_input() -> None:
    assert all((known.GATES_DENOISED[head] == 0) != (known.GATES_NOISED[head] == 0) for head in INPUTS)


@pytest.mark.parametrize("source", SINGLES)
@pytest.mark.parametrize("both", known.GATES_PAIRS_RECOVERY, ids=["and", "or"])
def test_both_inputs_of_a_gate_give_all_of_it_in_either_direction(
    engine: str, source: RunName, both: tuple[known.Component, known.Component]
) -> None:
    assert recovered("planted_b", engine, [patched(*both, source=source)]) == near(known.GATES_PAIRS_RECOVERY[both])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("head_out", {0: 1.0, 1: 0.0}),
        ("mlp_out", {layer: float(layer == known.GATES_MLP) for layer in range(2)}),
        ("layer_resid", {0: 1.0, 1: 1.0}),
    ],
)
def test_layers_are_found_where_the_inputs_and_the_gates_are(
    typed: Typed, engine: str, direction: str, granularity: str, expected: dict[int, float]
) -> None:
    asked = (f"battery.granularity={granularity}", f"battery.patch_direction='{direction}'")
    assert layers(typed.run("planted_b", engine, "battery=h2", *asked), "recovery") == near(expected)
