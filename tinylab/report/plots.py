"""Pictures: a heat map of a run's impact table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tinylab.arrays import FloatArray
from tinylab.records.storage import replacing


def heatmap(path: Path, impacts: pa.Table, baselines: dict[str, Any], title: str, *, patched: bool = False) -> None:
    """Draw a run: layer × head (one panel per scale) by logit_diff, or layer × metric.

    Heads are coloured by the change of the first metric from the unmodified run: red where it falls, blue where it
    rises. Layers show each metric's own numbers, coloured by |change| as a fraction of the metric's largest.

    Args:
        path: the PNG to write.
        impacts: the run's impact table.
        baselines: metric → {"mean": …} of the unmodified target run.
        title: what the picture shows.
        patched: whether heads were replaced by the source run's, not scaled.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = impacts.to_pandas()
    figure = Figure(figsize=(6.4, 4.4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    if "head" in table:
        _heads(figure, table, baselines, patched)
    else:
        _layers(figure, table, baselines)
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _heads(figure: Any, table: pd.DataFrame, baselines: dict[str, Any], patched: bool) -> None:
    metric = str(table["metric"].iloc[0])
    chosen = table[table["metric"] == metric].groupby(["scale", "layer", "head"])["value"].mean().reset_index()
    chosen["value"] -= baselines[metric]["mean"]
    scales = sorted(chosen["scale"].unique())
    limit = float(chosen["value"].abs().max()) or 1.0
    figure.set_size_inches(min(6.4 * len(scales), 24), 4.4)
    axes = figure.subplots(1, len(scales), squeeze=False)[0]
    for axis, scale in zip(axes, scales, strict=True):
        grid = chosen[chosen["scale"] == scale].pivot(index="layer", columns="head", values="value")
        image = axis.imshow(grid.to_numpy(), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
        axis.set_title("head of the source run" if patched else f"head × {scale:g}", fontsize=9)
        _ticks(axis, "head", grid.columns, "layer", grid.index)
    figure.colorbar(image, ax=list(axes), label=f"change of {metric}")


def _layers(figure: Any, table: pd.DataFrame, baselines: dict[str, Any]) -> None:
    values = table.groupby(["layer", "metric"], sort=False)["value"].mean().unstack("metric")
    change: FloatArray = np.abs(values.to_numpy() - np.array([baselines[str(name)]["mean"] for name in values.columns]))
    largest = np.nanmax(change, axis=0)
    colours = change / np.where(largest == 0, 1.0, largest)
    axis = figure.subplots()
    image = axis.imshow(colours, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=8,
                  color="white" if colours[row, column] > 0.6 else "black")
    figure.colorbar(image, ax=axis, label="|change|, fraction of the metric's largest")
    _ticks(axis, "metric", values.columns, "layer", values.index)


def _ticks(axis: Any, x: str, columns: Any, y: str, index: Any) -> None:
    for which, labels in ((axis.xaxis, list(columns)), (axis.yaxis, list(index))):
        step = max(1, len(labels) // 24)
        which.set_ticks(range(0, len(labels), step), labels[::step])
    axis.tick_params(axis="x", labelrotation=0 if all(len(str(c)) < 9 for c in columns) else 25)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
