"""Controls of runs whose every number is known: random sets of heads do what the closed forms say, by both engines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command, only
from planted import Typed, levels, scaled
from tinylab.checks import random_sets
from tinylab.effects.random_sets import draw
from tinylab.planted import closed_forms as known
from tinylab.planted.closed_forms import Component
from tinylab.records.storage import read_json

SETS = "controls.random_sets=true"
ASKED = ("model=planted", "condition=planted_a", "plots=false", "threads=1", "engine=forked", "metrics=[logit_diff]")
GRIDS = {"planted_a": (2, 4), "planted_b": (2, 4), "planted_c": (5, 5)}
CIRCUITS: dict[str, list[Component]] = {
    "planted_a": [(0, 0), (1, 0), (1, 1)],
    "planted_b": list(known.AND_INPUTS),
    "planted_c": sorted(known.twin_gains("c")),
}


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("controls"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ledger_damage(zeroed: Sequence[Component]) -> float:
    """|change| of the ledger's level: what the induction head and the suppressor still read, and at how many tokens they look."""
    g, h = (0.0 if head in zeroed else gain for head, gain in (((1, 0), known.INDUCTION), ((1, 1), known.SUPPRESSION)))
    seen = 1 / known.LEDGER_TOKENS if (0, 0) in zeroed else 1.0
    return abs((g - h) * seen - known.LEDGER_LEVEL)


def gates_damage(zeroed: Sequence[Component]) -> float:
    lost = known.AND * bool({*known.AND_INPUTS} & {*zeroed}) + known.OR * ({*known.OR_INPUTS} <= {*zeroed})
    return lost


def twins_damage(zeroed: Sequence[Component]) -> float:
    gains = known.twin_gains("c")
    return abs(sum(gains.get(head, 0.0) for head in zeroed))


DAMAGE = {"planted_a": ledger_damage, "planted_b": gates_damage, "planted_c": twins_damage}


@pytest.mark.parametrize(("condition", "engine", "draws"), [
    ("planted_a", "forked", 100), ("planted_b", "forked", 100), ("planted_c", "forked", 100), ("planted_a", "reference", 10),
])
def test_random_sets_do_the_damage_of_the_closed_forms(typed: Typed, condition: str, engine: str, draws: int) -> None:
    told = typed.run(condition, engine, SETS, f"controls.draws={draws}", "metrics=[logit_diff]").summary["random_sets"]
    layers, heads = GRIDS[condition]
    grid = [(layer, head) for layer in range(layers) for head in range(heads)]
    circuit = CIRCUITS[condition]
    assert [(one["layer"], one["head"]) for one in told["circuit"]] == circuit
    assert (told["at"], told["n"], told["draws"], told["notes"]) == ({"scale": 0.0}, told["of"], draws, [])
    own = DAMAGE[condition](circuit)
    assert told["damage"] == pytest.approx(own, abs=1e-8)
    drawn = draw(tuple(grid.index(head) for head in circuit), [layer for layer, _ in grid], draws, seed=0)
    for kind, sets in drawn.items():
        damage = np.array([DAMAGE[condition]([grid[place] for place in one]) for one in sets])
        as_much = int((damage >= own - 1e-6).sum())
        assert told[kind] == {"as_much": as_much, "share": as_much / draws, "p": (1 + as_much) / (1 + draws),
                              "median": pytest.approx(float(np.median(damage)) / own, abs=1e-8)}


@pytest.mark.parametrize("condition", DAMAGE)
def test_joint_zeroing_is_what_the_closed_forms_say(engine: str, condition: str) -> None:
    """What the test above holds the control to, by the engines' own calls."""
    sets = [CIRCUITS[condition], CIRCUITS[condition][:2], [(0, 0), (1, 1)], [(0, 1), (0, 2)], [(0, 2), (0, 3), (1, 0)]]
    found = levels(condition, engine, [scaled(*heads) for heads in sets])
    unmodified = {"planted_a": known.LEDGER_LEVEL, "planted_b": known.GATES_LEVEL, "planted_c": sum(known.ROLES)}[condition]
    for heads, values in zip(sets, found, strict=True):
        assert np.abs(values - unmodified) == pytest.approx(np.full(values.shape, DAMAGE[condition](heads)), abs=1e-8)


def test_on_the_ledger_a_set_does_as_much_exactly_if_it_has_the_induction_head(typed: Typed) -> None:
    """Together its three heads cost 3; 1.0 alone costs 5. By chance a set has it in 3 of 8 draws, within layers in 1 of 2."""
    told = typed.run("planted_a", "forked", SETS, "controls.draws=100", "metrics=[logit_diff]").summary["random_sets"]
    assert told["uniform"]["share"] == pytest.approx(3 / 8, abs=0.2)
    assert told["same_layers"]["share"] == pytest.approx(1 / 2, abs=0.2)


def test_it_is_said_on_the_screen(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab(*ASKED, SETS) == 0
    told = read_json(only(Path("outputs/runs"), "*/metrics/summary.json"))["random_sets"]
    share, within = (round(100 * told[kind]["share"]) for kind in ("uniform", "same_layers"))
    assert (f"the 3 that matter or are mixed, taken together: random sets of this size do as much damage in {share} % of draws; "
            f"random sets with as many in each layer do as much damage in {within} % of draws "
            "(100 draws)") in capsys.readouterr().out


def sets(folder: str = "outputs") -> dict[str, Any]:
    found: dict[str, Any] = read_json(only(Path(folder), "runs/*/metrics/summary.json"))["random_sets"]
    return found



def test_what_is_too_costly_is_not_done_and_says_how_to_get_it(tinylab: Command) -> None:
    assert tinylab(*ASKED) == 0
    told = sets()
    assert (told["n"], told["damage"], told["uniform"], told["same_layers"]) == (None, None, None, None)
    log = only(Path("outputs/runs"), "*/run.log").read_text()
    (line,) = [line for line in log.splitlines() if "random sets" in line]
    assert line.startswith("INFO") and "controls.random_sets=true" in line


def test_what_costs_little_is_done_on_a_part_of_the_examples(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab(*ASKED, "battery.scales=[0,0.5,2,-1,-2,3]", "controls.draws=1") == 0
    told, states = sets(), read_json(only(Path("outputs/runs"), "*/manifest.json"))["provenance"]["states"]
    assert 8 <= told["n"] < told["of"] == 21
    assert 0 < told["states"] <= states / 10
    assert f"on {told['n']} of 21 examples" in capsys.readouterr().out
    assert tinylab(*ASKED, "battery.scales=[0,0.5,2,-1,-2,3]", "controls.draws=1", SETS) == 0
    assert sets()["n"] == 21
    whole = sets()
    assert tinylab(*ASKED, "battery.scales=[0,0.5,2,-1,-2,3]", "controls.draws=1") == 0
    assert sets() == whole, "one of more examples stays"


def test_a_finished_run_gets_it_added_and_is_not_computed_again(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tinylab(*ASKED, "controls.random_sets=false") == 0
    summary = only(Path("outputs/runs"), "*/metrics/summary.json")
    assert "random_sets" not in read_json(summary)
    table = only(Path("outputs/runs"), "*/metrics/head_impact.parquet")
    before = table.stat().st_mtime_ns
    assert tinylab(*ASKED, SETS, "controls.draws=10") == 0
    assert sets()["uniform"] is not None and table.stat().st_mtime_ns == before
    assert tinylab(*ASKED, SETS, "output_dir=fresh", "controls.draws=10") == 0
    assert json.dumps(sets()) == json.dumps(sets("fresh"))
    monkeypatch.setattr(random_sets, "_evaluated", None)  # nothing may be computed
    assert tinylab(*ASKED, SETS, "controls.draws=10") == 0


def test_other_labels_are_another_circuit(tinylab: Command) -> None:
    assert tinylab(*ASKED, SETS, "controls.draws=10") == 0
    assert len(sets()["circuit"]) == 3
    assert tinylab(*ASKED, SETS, "controls.draws=10", "effects.smallest=0.8") == 0  # 2.5/3, 5/3, 2/3 of the level
    assert sets()["circuit"] == [{"layer": 0, "head": 0}, {"layer": 1, "head": 0}]
    assert sets()["damage"] == pytest.approx(known.LEDGER_LEVEL + known.SUPPRESSION / known.LEDGER_TOKENS, abs=1e-8)


@pytest.mark.parametrize(("overrides", "note"), [
    (("metrics=[kl_div]",), "no labels say which matter"),
    (("battery.layers=[1]", "battery.heads=[2,3]"), "none of the 2 heads matters or is mixed"),
    (("battery.layers=[1]", "battery.heads=[0,1]"), "all 2 heads matter or are mixed: any set of as many is the same"),
])
def test_where_there_is_nothing_to_draw_that_is_noted(tinylab: Command, overrides: tuple[str, ...], note: str) -> None:
    assert tinylab(*ASKED, SETS, *overrides) == 0
    assert (sets()["n"], sets()["notes"]) == (None, [note])


def test_layers_have_no_sets(tinylab: Command) -> None:
    assert tinylab(*ASKED, "battery=h2", SETS) == 0
    assert "random_sets" not in read_json(only(Path("outputs/runs"), "*/metrics/summary.json"))


def test_heads_that_are_patched_have(tinylab: Command) -> None:
    """0.0 does nothing at the last token; patching 1.0 and 1.1 together brings the clean run: all of the way, 6 logits."""
    asked = ("battery=h2", "battery.granularity=head_out", "battery.per_head=true", "battery.positions=last", "controls.draws=20")
    assert tinylab(*ASKED, *asked, SETS) == 0
    assert [(one["layer"], one["head"]) for one in sets()["circuit"]] == [(1, 0), (1, 1)]
    assert (sets()["at"], sets()["damage"]) == ({"scale": 1.0}, pytest.approx(2 * known.LEDGER_LEVEL, abs=1e-8))


def test_an_interruption_leaves_the_run_complete_and_the_same_command_ends_it(
    tinylab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(random_sets, "_changes", interrupted)
        assert tinylab(*ASKED, SETS, "controls.draws=10") == 130
    manifest = only(Path("outputs/runs"), "*/manifest.json")
    assert read_json(manifest)["status"] == "complete"
    assert tinylab(*ASKED, SETS, "controls.draws=10") == 0
    assert sets()["uniform"] is not None
