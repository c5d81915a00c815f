"""A sham goes the way of a cell and changes nothing: in every battery, by both engines, and it tells when something is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from both_engines import ROUNDING, SCORER
from conftest import Command, only
from families import ALIGNED, HEADS, LAYERS, answered, family
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Cell
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.batteries.shams import SHAM, shams, without_sham
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.forked.trunks import Families
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Given, Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.records.storage import read_json

BATTERIES = {
    "h1": HeadsZero(name="h1", scales=[0.0, 0.5]),
    "h1, value bias kept": HeadsZero(name="h1", keep_value_bias=True),
    "h2": ActivationPatch(name="h2", positions="last"),
    "h2 of one head": ActivationPatch(name="h2", granularity="head_out", per_head=True, positions="all"),
    "h2 at positions": ActivationPatch(name="h2", granularity="mlp_out", positions=[0, 2], patch_direction="corrupt->clean"),
}


@dataclass(frozen=True)
class Clamp(Operation):
    largest: float = 1.0

    def apply(self, rows: Any, given: Given) -> Any:
        return rows.clamp(-self.largest, self.largest)


@pytest.mark.parametrize("battery", BATTERIES)
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_it_is_exactly_nothing_in_the_reference_and_below_rounding_in_the_forked_engine(shape: str, battery: str) -> None:
    model = family(shape, torch.float32)
    pairs = answered(model, ALIGNED[:3])
    cells = BATTERIES[battery].cells(LAYERS, HEADS)
    added = shams(cells, True)
    assert [cell.variant.fork[0] for cell in added] == list(range(LAYERS))
    for engine, allowed in ((ReferenceEngine(model), 0.0), (ForkedEngine(model), ROUNDING[torch.float32])):
        alone = engine.evaluate(pairs, [], SCORER)
        found = engine.evaluate(pairs, [cell.variant for cell in added], SCORER)
        assert np.abs(found.values - found.baselines[BATTERIES[battery].target]).max() <= allowed
        assert found.states >= alone.states + LAYERS, "it was computed, not taken for nothing"


@pytest.mark.parametrize(("layers", "heads", "expected"), [
    (3, 4, [0]),  # 12 cells
    (2, 2, [0]),  # four: one all the same
    (4, 8, [0, 2, 3]),  # 32
    (12, 12, list(range(12))),  # 144: no more than one in a layer
    (30, 9, [round(n * 29 / 26) for n in range(27)]),  # 270
])
def test_by_itself_a_tenth_of_the_cells_has_one_the_lowest_first(layers: int, heads: int, expected: list[int]) -> None:
    cells = HeadsZero(name="h1").cells(layers, heads)
    added = shams(cells, "auto")
    assert [cell.variant.fork[0] for cell in added] == expected
    assert len(added) <= max(1, len(cells) / 10)
    assert added[0].key == cells[0].key
    assert {cell.control for cell in added} == {SHAM}
    assert len({cell.key["head"] for cell in added}) == min(len(added), heads), "not the same head everywhere"


def test_it_has_the_key_and_the_places_of_the_cell_that_it_shams() -> None:
    cells = BATTERIES["h2 of one head"].cells(LAYERS, HEADS)
    by_key = {tuple(cell.key.values()): cell.variant for cell in cells}
    for sham in shams(cells, True):
        cell = by_key[tuple(sham.key.values())]
        assert [i.component for i in sham.variant.interventions] == [i.component for i in cell.interventions]
        assert (sham.variant.target, sham.variant.source, sham.variant.positions) == ("corrupt", Own("corrupt"), "all")


def test_none_is_added_where_none_is_wanted_or_the_battery_has_its_own() -> None:
    own = ActivationPatch(name="h2", positions="last", sham_control=True).cells(LAYERS, HEADS)
    assert Counter(cell.control for cell in own) == {"none": LAYERS, SHAM: LAYERS}
    assert shams(own, True) == shams(own, "auto") == []
    assert shams(HeadsZero(name="h1").cells(LAYERS, HEADS), False) == []


def test_an_operation_that_declares_none_has_none_and_is_named() -> None:
    def cell(*operations: Operation) -> Cell:
        acts = tuple(Intervention(MLP_OUT, layer, operation) for layer, operation in enumerate(operations))
        return Cell(Variant(acts, "clean"), {"layer": 0, "granularity": "mlp_out"})

    cells = [cell(Clamp()), cell(Scale(0.0)), cell(Scale(0.0), Clamp())]
    assert [one.variant.interventions[0].operation for one in shams(cells, True)] == [Scale(1.0)]
    assert without_sham(cells) == ["Clamp"]
    assert shams(cells[:1], True) == []


def test_the_sham_of_several_interventions_is_all_of_theirs() -> None:
    both = Variant((Intervention(HEAD_OUT, 0, Scale(0.0, keep_bias=True), 1), Intervention(HEAD_OUT, 2, Patch(), 0)), "clean",
                   Own("corrupt"), "last")
    sham = both.sham()
    assert sham is not None
    assert [i.operation for i in sham.interventions] == [Scale(1.0, keep_bias=True), Patch()]
    assert (sham.source, sham.positions, sham.apart) == (Own("clean"), "last", True)


def test_the_cells_are_what_they_are_without_shams_bit_for_bit() -> None:
    """Shams are never in a pass with cells, which would change how many rows a matmul has."""
    model = family("llama", torch.float32)
    pairs = answered(model, ALIGNED)
    cells = HeadsZero(name="h1", scales=[0.0, 0.5]).cells(LAYERS, HEADS)
    variants, added = ([cell.variant for cell in some] for some in (cells, shams(cells, True)))
    ours, *_ = Families.of([*variants, *added]).by_setting.values()
    assert ours == next(iter(Families.of(variants).by_setting.values()))
    alone, found = (ForkedEngine(model, max_states=300).evaluate(pairs, some, SCORER)
                    for some in (variants, [*variants, *added]))
    assert (found.values[: len(cells)] == alone.values).all()
    assert all((found.baselines[run] == alone.baselines[run]).all() for run in ("clean", "corrupt"))
    assert found.states > alone.states


SMALL = ("condition.n_examples=4", "plots=false", "metrics=[logit_diff,kl_div]", "threads=1")


def run_of(folder: Path) -> Path:
    return only(folder, "outputs/runs/*")


def test_a_run_has_shams_and_counts_none_of_them_as_a_cell(tinylab: Command, tmp_path: Path) -> None:
    """The embedded model has 4 layers of 8 heads."""
    assert tinylab(*SMALL) == 0
    run = run_of(tmp_path)
    table, examples = (pd.read_parquet(run / f"metrics/{name}.parquet") for name in ("head_impact", "per_example"))
    effects, summary = pd.read_parquet(run / "metrics/effects.parquet"), read_json(run / "metrics/summary.json")
    sham = examples[examples["control"] == SHAM]
    assert len(sham) == 3 * 4 * 2 and set(sham["layer"]) == {0, 2, 3}
    assert len(table) == len(effects) == 32 * 2
    assert summary["effects"]["cells"] == 32
    assert summary["metrics"]["logit_diff"]["mean"] == pytest.approx(table[table["metric"] == "logit_diff"]["value"].mean())
    change = (sham["value"] - sham["baseline"]).abs().groupby(sham["metric"]).max()
    assert summary["controls"] == {SHAM: {name: pytest.approx(size) for name, size in change.items()}}
    assert summary["controls"][SHAM]["logit_diff"] < 1e-4


def test_shams_are_in_no_identity_and_a_finished_run_says_how_to_get_them(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*SMALL, "controls=none") == 0
    run = run_of(tmp_path)
    before = pd.read_parquet(run / "metrics/head_impact.parquet")
    assert read_json(run / "metrics/summary.json")["controls"] == {}
    capsys.readouterr()
    assert tinylab(*SMALL, "controls.sham=true") == 0
    said = capsys.readouterr()
    assert "has shams in 0 of 4 layers; overwrite=true" in said.out + said.err
    assert tinylab(*SMALL, "controls.sham=true", "overwrite=true") == 0
    assert run_of(tmp_path) == run
    examples = pd.read_parquet(run / "metrics/per_example.parquet")
    assert set(examples[examples["control"] == SHAM]["layer"]) == {0, 1, 2, 3}
    pd.testing.assert_frame_equal(pd.read_parquet(run / "metrics/head_impact.parquet"), before, check_exact=True)


def test_an_operation_that_is_wrong_in_both_engines_is_noticed_by_its_sham_alone(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both engines call it, so that the self-check finds them in perfect agreement."""
    monkeypatch.setattr(Scale, "apply", lambda self, rows, given: rows * (self.factor - 0.1))
    assert tinylab(*SMALL, "engine=forked", "engine.self_check=always") == 0
    said = capsys.readouterr()
    assert "SHAM FAILED: interventions that should change nothing change " in said.out + said.err
    assert read_json(run_of(tmp_path) / "metrics/summary.json")["controls"][SHAM]["logit_diff"] > 0.01


def test_a_right_run_says_nothing_of_its_sham(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab(*SMALL, "engine=reference", "battery.layers=[0]", "battery.heads=[0,1]") == 0
    said = capsys.readouterr()
    assert "SHAM" not in said.out + said.err
