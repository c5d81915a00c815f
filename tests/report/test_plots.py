"""Pictures and reports by their data: a transposed or sign-flipped heat map, or a number of another cell, is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.records.manifest import RunFolder
from tinylab.report.plots import draw
from tinylab.report.views import run_view

BASELINES = {"logit_diff": {"mean": 3.0}, "kl_div": {"mean": 0.0}}


def heads_table(values: dict[tuple[int, int, float], float]) -> pd.DataFrame:
    """Two seeds whose mean is the value of each (layer, head, scale)."""
    return pd.DataFrame([
        {"run_id": "x", "seed": seed, "layer": layer, "head": head, "scale": scale, "metric": "logit_diff",
         "value": value + shift}
        for seed, shift in ((0, -0.5), (1, 0.5)) for (layer, head, scale), value in values.items()
    ])


def test_heads_are_drawn_layer_upwards_head_to_the_right_by_their_change() -> None:
    values = {(layer, head, 0.0): 3.0 + 10 * layer - head for layer in range(2) for head in range(3)}
    figure = draw(heads_table(values), HEAD_IMPACT, BASELINES, "a title")
    (axis,) = [axis for axis in figure.axes if axis.images]
    (image,) = axis.images
    np.testing.assert_allclose(np.asarray(image.get_array()), [[0, -1, -2], [10, 9, 8]], atol=1e-12)
    assert (image.origin, image.get_clim()) == ("lower", (-10.0, 10.0))
    lowest, highest = image.cmap(0.0), image.cmap(1.0)
    assert lowest[0] > lowest[2] and highest[2] > highest[0], "red where it falls, blue where it rises"
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == ("head", "layer", "head × 0")


def test_each_scale_has_a_panel_and_all_share_their_colours() -> None:
    figure = draw(heads_table({(0, 0, 0.0): 1.0, (0, 0, 0.5): 2.0}), HEAD_IMPACT, BASELINES, "a title")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["head × 0", "head × 0.5"]
    assert [np.asarray(axis.images[0].get_array()).item() for axis in panels] == [-2.0, -1.0]
    assert {axis.images[0].get_clim() for axis in panels} == {(-2.0, 2.0)}


def test_layers_show_each_metrics_number_coloured_by_its_share_of_the_largest_change() -> None:
    table = pd.DataFrame([
        {"run_id": "x", "seed": 0, "layer": layer, "granularity": "mlp_out", "metric": metric, "value": value}
        for metric, column in (("logit_diff", (3.0, 5.0)), ("kl_div", (0.5, 0.25))) for layer, value in enumerate(column)
    ])
    figure = draw(table, LAYER_IMPACT, BASELINES, "a title")
    axis = figure.axes[0]
    np.testing.assert_allclose(np.asarray(axis.images[0].get_array()), [[0, 1], [1, 0.5]])
    assert {(int(t.get_position()[0]), int(t.get_position()[1])): t.get_text() for t in axis.texts} == {
        (0, 0): "3", (0, 1): "5", (1, 0): "0.5", (1, 1): "0.25"}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["logit_diff", "kl_div"]


def test_further_columns_of_a_component_and_of_a_layer_are_panels_and_rows() -> None:
    """A kind of one's own: heads at positions, and layers at scales."""
    places = ("layer", "head", "position")
    three = TableKind("x", tuple((name, "int64") for name in places), "x_matrix", places, "xs")
    rows = [{"run_id": "x", "seed": 0, "layer": 0, "head": head, "position": position, "metric": "logit_diff",
             "value": head + 10 * position} for head in range(2) for position in (4, 7)]
    panels = [axis for axis in draw(pd.DataFrame(rows), three, BASELINES, "a title").axes if axis.images]
    assert {axis.get_title(): np.asarray(axis.images[0].get_array()).tolist() for axis in panels} == {
        "head 0": [[37.0, 67.0]], "head 1": [[38.0, 68.0]]}
    scaled = TableKind("y", (("layer", "int64"), ("scale", "float64")), "y_matrix", ("layer",), "ys")
    rows = [{"run_id": "x", "seed": 0, "layer": layer, "scale": scale, "metric": "logit_diff", "value": layer + scale}
            for layer in range(2) for scale in (0.0, 0.5)]
    axis = draw(pd.DataFrame(rows), scaled, BASELINES, "a title").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0", "0.5", "1", "1.5"]
    assert axis.get_ylabel() == "layer, scale"


@pytest.mark.parametrize("battery", [("battery=h1", "battery.scales=[0.0,0.5]"), ("battery=h2", "battery.granularity=mlp_out")],
                         ids=["h1", "h2"])
def test_the_report_has_the_tables_numbers_strongest_first(battery: tuple[str, ...], tinylab: Callable[..., int]) -> None:
    assert tinylab(*battery, "condition.n_examples=4", "seeds=[0,1]", "plots=false") == 0
    (path,) = Path("outputs/runs").glob("*")
    manifest = json.loads((path / "manifest.json").read_text())
    view = run_view(RunFolder(path), manifest)
    table = pd.read_parquet(path / f"metrics/{manifest['table']}.parquet")
    summary = json.loads((path / "metrics/summary.json").read_text())
    unmodified = summary["baselines"][manifest["target_run"]]["logit_diff"]["mean"]
    keys = [name for name in ("layer", "head", "scale") if name in table]
    means = {(*key, metric): rows["value"].mean() for (*key, metric), rows in table.groupby([*keys, "metric"])}
    changes = {key[:-1]: value - unmodified for key, value in means.items() if key[-1] == "logit_diff"}
    expected = sorted(changes, key=lambda key: (-abs(changes[key]), key))[:10]
    shown = [dict(zip(view.columns, row, strict=True)) for row in view.rows]
    assert [tuple(row[name] for name in keys) for row in shown] == expected
    for row, key in zip(shown, expected, strict=True):
        assert row["change"] == pytest.approx(changes[key], abs=1e-12)
        for metric in view.metrics:
            assert row[metric] == pytest.approx(means[(*key, metric)], abs=1e-12)
    assert view.title == (f"{manifest['described']} on cond_a, tiny: strongest by change of logit_diff "
                          f"(unmodified {manifest['target_run']} run: {unmodified:.3f})")
