"""`positions=each`: the grid of layers and positions is the single runs side by side, in both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.bound import lower_bound
from conftest import Command, only, write_jsonl
from planted import ENGINES, Typed, examples, model
from tinylab.engine.base import Evaluation
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.components import HEAD_POSITION_IMPACT, POSITION_IMPACT
from tinylab.measures.metrics import Scorer
from tinylab.planted import closed_forms as known
from tinylab.planted import ledger
from tinylab.report.plots import draw
from tinylab.results import Run as Finished
from tinylab.results import load_run, load_sweep
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import Prepared, prepare
from tinylab.validate import validate_cross_condition_matrix, validate_effects_schema, validate_position_impact_schema
from typed import composed

EACH = "battery.positions=each"
H2 = ("battery=h2", "battery.granularity=layer_resid")
HEADS = ("battery=h2", "battery.granularity=head_out", "battery.per_head=true")
BATTERIES = {
    "blocks patched": H2, "heads patched": HEADS, "MLPs patched": ("battery=h2", "battery.granularity=mlp_out"),
    "heads ablated": ("battery=h1",),
    "blocks resampled": ("battery=blocks", "battery.donors=2"), "heads by their mean": ("battery=heads",),
}
PAIR = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
LONG = {**PAIR, **{run: f"Everybody knows that t{PAIR[run][1:]}" for run in ("clean", "corrupt")}}
"""Longer than the other by some tokens."""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("each"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def numbers(rows: pd.DataFrame, keys: list[str]) -> dict[object, float]:
    return dict(zip(rows[keys].itertuples(index=False, name=None), rows["value"], strict=True))


def test_the_grid_shows_where_the_answer_passes(typed: Typed, engine: str) -> None:
    table = typed.run("planted_a", engine, *H2, EACH).impact.query("metric == 'recovery'")
    expected = {(layer, position): float(known.LEDGER_POSITIONS[layer] == position)
                for layer in range(ledger.LAYERS) for position in range(known.LEDGER_TOKENS)}
    assert numbers(table, ["layer", "position"]) == pytest.approx(expected, abs=known.TOLERANCE)


@pytest.mark.parametrize(("part", "position"), [("a1.last", 1), ("b.all", 2), ("a2.first", known.LEDGER_TOKENS - 1)])
def test_a_named_part_holds_the_answer_where_its_words_are(typed: Typed, engine: str, part: str, position: int) -> None:
    """A T B x A: the first A, T, and the A that is asked about, a word's second place."""
    table = typed.run("planted_a", engine, *H2, f"battery.positions={part}").impact.query("metric == 'recovery'")
    expected = {(layer,): float(known.LEDGER_POSITIONS[layer] == position) for layer in range(ledger.LAYERS)}
    assert numbers(table, ["layer"]) == pytest.approx(expected, abs=known.TOLERANCE)


def test_patched_by_itself_each_head_recovers_its_entry_at_the_last_position_alone(typed: Typed, engine: str) -> None:
    run = typed.run("planted_a", engine, *HEADS, EACH)
    table = run.impact.query("metric == 'recovery' and layer == 1")
    last = known.LEDGER_TOKENS - 1
    expected = {(head, position): known.LEDGER_RECOVERY[1, head] * (position == last)
                for head in range(ledger.HEADS) for position in range(known.LEDGER_TOKENS)}
    assert numbers(table, ["head", "position"]) == pytest.approx(expected, abs=known.TOLERANCE)
    assert run.summary.get("random_sets") is None  # there is no one position for several of them


def prepared(battery: str, positions: str) -> Prepared:
    config = composed("model=planted", "model.variant=ledger", "condition=planted_a", *BATTERIES[battery],
                      "condition.n_examples=3", "seeds=[1]", "controls=none", positions)
    return prepare(config, load_condition(config.condition), model("ledger"))


def evaluated(battery: str, positions: str, engine: str) -> tuple[Prepared, Evaluation]:
    ready = prepared(battery, positions)
    variants = [cell.variant for cell in ready.cells]
    return ready, ENGINES[engine](model("ledger")).evaluate(ready.tokens, variants, Scorer(("logit_diff", "kl_div")))


@pytest.mark.parametrize("battery", BATTERIES)
def test_the_grid_is_the_single_runs_cell_by_cell(battery: str, engine: str) -> None:
    ready, found = evaluated(battery, EACH, engine)
    for position in (known.LEDGER_POSITIONS[0], known.LEDGER_TOKENS - 1):
        mine = [v for v, cell in enumerate(ready.cells) if cell.key["position"] == position]
        single, expected = evaluated(battery, f"battery.positions=[{position}]", engine)
        unit = [{name: cell.key[name] for name in ("layer", "head") if name in cell.key} for cell in single.cells]
        assert [{name: ready.cells[v].key[name] for name in own} for v, own in zip(mine, unit, strict=True)] == unit
        assert [ready.cells[v].draw for v in mine] == [cell.draw for cell in single.cells]
        np.testing.assert_allclose(found.values[mine], expected.values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("battery", BATTERIES)
def test_no_state_is_computed_twice(battery: str) -> None:
    ready, found = evaluated(battery, EACH, "forked")
    variants = [cell.variant for cell in ready.cells]
    assert found.states == lower_bound(ready.tokens, variants, ledger.LAYERS)
    told = ForkedEngine(model("ledger")).plan(ready.tokens, variants)
    assert (told.forwards, told.states) == (found.forwards, found.states)


def test_the_table_of_a_grid_has_the_single_runs_numbers(typed: Typed) -> None:
    asked = ("battery=heads", "condition.n_examples=6", "controls=none")
    grid = typed.run("planted_a", "forked", *asked, EACH)
    validate_position_impact_schema(grid.impact)
    assert grid.effects is not None
    validate_effects_schema(grid.effects)
    assert list(grid.impact.columns) == ["run_id", "seed", "layer", "head", "position", "metric", "value"]
    assert sorted(grid.impact["position"].unique()) == list(range(known.LEDGER_TOKENS))
    single = typed.run("planted_a", "forked", *asked, "battery.positions=[2]").impact
    own = numbers(grid.impact.query("position == 2"), ["layer", "head", "metric"])
    assert own == pytest.approx(numbers(single, ["layer", "head", "metric"]), abs=1e-10)
    assert set(zip(grid.per_example["layer"], grid.per_example["position"], strict=True)) == {
        (layer, position) for layer in range(ledger.LAYERS) for position in range(known.LEDGER_TOKENS)}


# Prompts of several lengths


def uneven(folder: Path, rows: list[dict[str, str]], engine: str, *asked: str) -> list[str]:
    path = write_jsonl(folder / "uneven.jsonl", rows)
    return ["condition=jsonl", f"condition.path={path}", "plots=false", "battery.layers=[0,1]", f"engine={engine}", *asked]


def finished(tinylab: Command, out: Path, *asked: str) -> Finished:
    assert tinylab(f"output_dir={out}", *asked) == 0
    return load_run(only(out, "runs/*"))


@pytest.mark.parametrize("battery", [("battery=h1", "battery.heads=[1]"), H2])
def test_a_prompt_without_a_position_has_no_number_there(
    battery: tuple[str, ...], engine: str, tinylab: Command, tmp_path: Path
) -> None:
    asked = (*battery, EACH, "+verify_slice.n_examples=2")
    both = finished(tinylab, tmp_path / "both", *uneven(tmp_path, [PAIR, LONG], engine, *asked))
    rows = examples(both)
    counts = rows.groupby("example")["position"].nunique()
    short, long = int(counts.min()), int(counts.max())
    assert long > short > 3
    assert (rows.groupby("position")["example"].nunique() == [2] * short + [1] * (long - short)).all()
    assert sorted(both.impact["position"].unique()) == list(range(short))  # what every prompt has
    assert both.effects is not None
    assert sorted(both.effects["position"].unique()) == list(range(short))
    assert set(both.effects["n"]) == {2}
    assert len(both.manifest["provenance"]["position_tokens"]) == short
    assert both.verify is not None
    assert both.verify["verdict"] == "pass"
    assert both.verify["metrics"]["logit_diff"]["missing"] == 0
    alone = finished(tinylab, tmp_path / "alone", *uneven(tmp_path, [LONG], engine, *asked))
    expected = examples(alone)
    found = rows[rows["example"] == 1]
    assert numbers(found, ["layer", "position"]) == pytest.approx(numbers(expected, ["layer", "position"]), abs=1e-4)
    assert (found.query("position >= @short and layer == 0")["value"] != found["baseline"].iloc[0]).any()


def test_patching_needs_pairs_of_one_length(tinylab: Command, tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "corrupt": LONG["corrupt"]}]
    run = finished(tinylab, tmp_path / "out", *uneven(tmp_path, rows, "forked", *H2, EACH))
    assert run.manifest["provenance"]["corpus"]["dropped"] == {"prompts of unequal length": 1}


# What is refused, the picture, a sweep


def test_several_scales_have_no_column_there(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("battery=h1", "battery.scales=[0,0.5]", EACH) == 2
    said = capsys.readouterr().err
    assert "battery.positions=each" in said
    assert "no column for scales" in said
    assert tinylab("battery=h2", "battery.positions=every") == 2
    assert "last, all, each" in capsys.readouterr().err


def test_tokens_that_all_prompts_share_stand_on_the_axis(typed: Typed) -> None:
    run = typed.run("planted_a", "forked", *H2, EACH)
    tokens = run.manifest["provenance"]["position_tokens"]
    assert [token is None for token in tokens] == [False, *[True] * (known.LEDGER_TOKENS - 1)]
    assert run.manifest["positions"] == "each"
    figure = draw(run.impact, POSITION_IMPACT, run.summary["baselines"]["corrupt"], "it", patched=True,
                  tokens=[None, " is", "$", *[None] * 3])
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1: is", r"2: \$", "3", "4", "5"]
    grid = axis.images[0].get_array()
    assert grid is not None
    moved = {(layer, position) for layer in range(2) for position in range(6) if abs(grid[layer, position]) > 1}
    assert moved == set(known.LEDGER_POSITIONS.items())
    heads = typed.run("planted_a", "forked", *HEADS, EACH)
    figure = draw(heads.impact, HEAD_POSITION_IMPACT, heads.summary["baselines"]["corrupt"], "it", patched=True)
    panels = [axis for axis in figure.axes if axis.images and axis.get_title()]
    assert [axis.get_title() for axis in panels] == [f"head {head}" for head in range(ledger.HEADS)]
    assert {axis.get_xlabel() for axis in panels} == {"position"}


def test_a_sweep_joins_grids_of_layers_and_of_heads(tinylab: Command, tmp_path: Path) -> None:
    asked = ("-m", "model=planted", "model.variant=ledger", "condition=planted_a", "condition.n_examples=4", "plots=true",
             EACH, "battery=h2", "battery.granularity=head_out", "battery.per_head=true,false")
    assert tinylab(*asked) == 0
    sweep = load_sweep(only(tmp_path, "outputs/sweeps/*"))
    assert set(sweep.matrices) == {"position_matrix", "head_position_matrix"}
    for matrix in sweep.matrices.values():
        validate_cross_condition_matrix(matrix, ["planted_a"])
        assert set(matrix["positions"]) == {"each"}
    assert {group["kind"] for group in sweep.invariants["groups"]} == {"positions", "head_positions"}
    assert {"heatmap_positions", "heatmap_head_positions"} <= set(sweep.manifest["artifacts"])
    assert [run.manifest["position_impact"] for run in sweep.runs] == ["metrics/position_impact.parquet"] * 2
    assert sweep.runs[0].manifest["table_kind"]["component"] == ["layer", "head", "position"]
