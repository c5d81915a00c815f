"""Pairs and sets of MLPs where every number is known: layer 1 makes up for what layer 0's MLP does.

The gates, changed: the AND gate is in layer 0, whose MLP also says that it was there, by adding 1 to what input 0 noted (so 2);
in layer 1, beside the OR gate, a unit gives relu(2 − input 0) times what AND gives: nothing while layer 0 does its part. So on
the clean prompt, where all inputs note 1, MLP 0 times s loses nothing: s·a of its own and (1 − s)·a of the other. MLP 1 times s
loses (1 − s)·o. Both times s leave s·a + s·((1 − s)·a + o), which is a·(1 − s)² less than the singles say.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import only
from tinylab.app import main
from tinylab.planted.__main__ import write_model
from tinylab.planted.closed_forms import AND, AND_INPUTS, GATES_LEVEL, LEDGER_ATTENTION, LEDGER_LEVEL, OR, OR_INPUTS, TOLERANCE
from tinylab.planted.corpora import ASK, GATES, ON, OPEN, SHUT
from tinylab.planted.gates import CONFIG, FEATURES
from tinylab.planted.identity_norm import Bed, blank
from tinylab.results import Run, load_run

A, C = ([(("input", head), 1.0) for _, head in heads] for heads in (AND_INPUTS, OR_INPUTS))


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder."""
    bed = Bed(blank(CONFIG, FEATURES, GATES), FEATURES)
    for layer, head in (*AND_INPUTS, *OR_INPUTS):
        bed.head(layer, head, query=[(0, None, 1.0)], key=[(0, ("place", head + 1), 1.0)],
                 value=[(0, ("word", word), 1.0) for word in ON], write=[(0, ("input", head), 1.0)])
    bed.unit(0, 0, read=[*A, (None, -1.0)], write=("logit", OPEN), gain=AND)
    bed.unit(0, 1, read=[*A, (None, -1.0)], write=("input", AND_INPUTS[0][1]), gain=1.0)
    bed.unit(1, 0, read=[(None, 2.0), (("input", AND_INPUTS[0][1]), -1.0)], write=("logit", OPEN), gain=AND)
    bed.unit(1, 1, read=C, write=("logit", OPEN), gain=OR)
    bed.unit(1, 2, read=[*C, (None, -1.0)], write=("logit", OPEN), gain=-OR)
    bed.logit(GATES.index(OPEN), ("logit", OPEN))
    bed.logit(GATES.index(SHUT), ("word", ASK), GATES_LEVEL)
    folder = tmp_path_factory.mktemp("backup") / "model"
    write_model(folder, bed.model, CONFIG, GATES)
    return folder


def run(model: Path, engine: str, *overrides: str) -> Run:
    out = model.parent / f"{engine}{len([*model.parent.iterdir()])}"
    settings = ("condition=planted_b", "model=local", f"model.path={model}", "model.dtype=float64", "model.add_bos=true",
                f"engine={engine}", "plots=false", "threads=1", f"output_dir={out}", "battery.site=mlp_out")
    assert main([*settings, *overrides]) == 0
    return load_run(only(out, "runs/*"))


def near(expected: object) -> object:
    return pytest.approx(expected, abs=4 * TOLERANCE, rel=0)  # a synergy is a sum of four levels


@pytest.mark.parametrize("engine", ["forked", "reference"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_synergy_of_two_mlps_is_that_of_one_that_makes_up_for_the_other(backup: Path, engine: str, positions: str) -> None:
    found = run(backup, engine, "battery=pairs", "battery.layers=[0,1]", "battery.scales=[0.0,0.25]",
                f"battery.positions={positions}")
    assert found.synergy is not None
    rows = found.synergy.query("metric == 'logit_diff'").to_dict("records")
    assert [row["scale"] for row in rows] == [0.0, 0.25]
    for row in rows:
        left = 1 - row["scale"]
        assert [row[name] for name in ("single1", "single2", "synergy")] == near([0.0, -left * OR, -left**2 * AND])
        assert row["joint"] == near(-left * OR - left**2 * AND)
    assert found.summary["baselines"]["clean"]["logit_diff"]["mean"] == near(GATES_LEVEL)


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_sets_of_mlps_change_the_level_by_what_they_hold(backup: Path, engine: str) -> None:
    found = run(backup, engine, "battery=subset", "battery.sets={both: [1,0], first: [0], second: [1]}",
                "battery.scales=[0.0,0.5]")
    levels = found.impact.query("metric == 'logit_diff'")
    assert list(zip(levels["set"], levels["scale"], strict=True)) == [(n, scale) for n in (1, 2, 3) for scale in (0.0, 0.5)]
    assert set(levels["granularity"]) == {"mlp_out"}
    changes = [-AND - OR, -OR / 2 - AND / 4, 0.0, 0.0, -OR, -OR / 2]
    assert levels["value"].to_list() == near([GATES_LEVEL + change for change in changes])


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_the_ledgers_attention_has_the_synergy_of_what_it_reads(tmp_path: Path, engine: str) -> None:
    """Without layer 1's attention nothing is left of the level, and so nothing is left for layer 0's to lose."""
    settings = ("model=planted", "condition=planted_a", f"engine={engine}", "plots=false", "threads=1", f"output_dir={tmp_path}")
    assert main([*settings, "battery=pairs", "battery.site=attn_out", "battery.layers=[0,1]"]) == 0
    found = load_run(only(tmp_path, "runs/*")).synergy
    assert found is not None
    (row,) = found.query("metric == 'logit_diff'").to_dict("records")
    assert [row[name] for name in ("joint", "single1", "single2")] == near([-LEDGER_LEVEL, *LEDGER_ATTENTION.values()])
    assert row["synergy"] == near(-LEDGER_ATTENTION[0]) and row["synergy"] > 2
