"""Pictures: a heat map of a run's impact table, and one of the runs of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tinylab.arrays import FloatArray
from tinylab.effects.strength import change_of_cells, share_of_largest
from tinylab.interventions.components import TableKind
from tinylab.records.storage import replacing
from tinylab.report.names import joined_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MARKS = {"matters": "", "mixed": "±"}
"""How a cell is marked by its label; any other is a cell that does not matter, as far as was found."""
NOT = "·"
IN_A_ROW = 6
"""So many panels, at most."""


def heatmap(
    path: Path, impacts: pa.Table, kind: TableKind, baselines: dict[str, Any], title: str, *, patched: bool = False,
    labels: pd.DataFrame | None = None, limit: float | None = None, tokens: Sequence[str | None] = (),
) -> None:
    """Draw a run: layer × unit (one panel for each scale or its like) by one metric, or cell × metric where layers have no units.

    Units are coloured by the change of the first metric from the unmodified run: red where it falls, blue where it
    rises. Layers show each metric's own numbers, coloured by |change| as a fraction of the metric's largest.

    Args:
        path: the PNG to write.
        impacts: the run's impact table.
        kind: of the table.
        baselines: metric → {"mean": …} of the unmodified target run.
        title: what the picture shows.
        patched: whether activations were replaced by the source's.
        labels: the label of each cell by the first metric, in `label` next to the table's keys; None where there are none.
        limit: the change at which colours end, so that pictures can be compared; None for the largest of this one.
        tokens: at each position, where all prompts have the same.
    """
    save(path, draw(impacts.to_pandas(), kind, baselines, title, patched=patched, labels=labels, limit=limit, tokens=tokens))


@dataclass(frozen=True)
class Drawn:
    """A run in the picture of a sweep."""

    impacts: pa.Table
    baselines: dict[str, Any]  # metric → {"mean": …} of the unmodified target run
    labels: pd.DataFrame | None  # as `heatmap` takes them


def heatmap_of_runs(path: Path, runs: Mapping[str, Drawn], kind: TableKind, metric: str, title: str) -> None:
    """Draw several runs with one colour scale: a panel for each run (and scale), or where layers have no units a column.

    Args:
        path: the PNG to write.
        runs: by what they are called.
        kind: of their tables.
        metric: whose change from the unmodified run is shown.
        title: what the picture shows.
    """
    save(path, draw_runs(runs, kind, metric, title))


def draw_runs(runs: Mapping[str, Drawn], kind: TableKind, metric: str, title: str) -> Figure:
    """The picture itself; see `heatmap_of_runs`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained", dpi=120)
    cells = pd.concat([
        _marked(change_of_cells(run.impacts.to_pandas(), kind, run.baselines, metric), kind, run.labels).assign(run=name)
        for name, run in runs.items()
    ])
    if kind.members:  # each component is a row of its own
        cells = cells.assign(**{kind.plural: joined_names(cells, kind)})
    layer, *units = (kind.plural,) if kind.members else _axes(kind)
    others = [name for name in (*units[1:], *kind.varied) if cells[name].nunique() > 1]
    columns = (layer, units[0], ["run", *others]) if units else (layer, "run", others)
    _units(figure, cells, columns, metric, patched=False, limit=None)
    figure.suptitle(_titled(title, any(run.labels is not None for run in runs.values())), fontsize=11)
    return figure


def save(path: Path, figure: Figure) -> None:
    """Write a picture in one step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _marked(cells: pd.DataFrame, kind: TableKind, labels: pd.DataFrame | None) -> pd.DataFrame:
    """The cells, and in `mark` what their labels show."""
    if labels is None:
        return cells
    cells = cells.merge(labels, how="left", on=list(kind.keys), validate="one_to_one")
    return cells.assign(mark=[MARKS.get(label, NOT) for label in cells["label"]])


def _titled(title: str, marked: bool) -> str:
    return f"{title}\n{NOT} not found to matter, ± mixed by template" if marked else title


def draw(
    table: pd.DataFrame, kind: TableKind, baselines: dict[str, Any], title: str, *, patched: bool = False,
    labels: pd.DataFrame | None = None, limit: float | None = None, tokens: Sequence[str | None] = (),
) -> Figure:
    """The picture itself; see `heatmap`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained", dpi=120)
    metric = str(table["metric"].iloc[0])
    cells = _marked(change_of_cells(table, kind, baselines, metric), kind, labels)
    if kind.component[0] == "layer" and len(kind.component) > 1:
        layer, unit, *others = _axes(kind)
        _units(figure, cells, (layer, unit, [*others, *kind.varied]), metric, patched=patched, limit=limit, tokens=tokens)
    else:
        metrics = list(dict.fromkeys(table["metric"]))
        rows = [*kind.component, *kind.varied]
        indexed = cells.set_index(rows if kind.varied else rows[0])
        _layers(figure, indexed[metrics], baselines, None if labels is None else list(indexed["mark"]))
    figure.suptitle(_titled(title, labels is not None), fontsize=11)
    return figure


def _axes(kind: TableKind) -> list[str]:
    """The columns of a component: the layer, upwards, then positions to the right where it has some, or else its unit."""
    layer, *units = kind.component
    return [layer, *sorted(units, key=lambda name: name != "position")]


def _units(
    figure: Figure, cells: pd.DataFrame, columns: tuple[str, str, list[str]], metric: str, *, patched: bool,
    limit: float | None, tokens: Sequence[str | None] = (),
) -> None:
    """Layer upwards, unit to the right; one panel for each value of the other columns (a scale, a run)."""
    layer, unit, others = columns
    panels = list(cells.groupby(others, sort="run" not in others)) if others else [((), cells)]
    limit = limit or float(cells["change"].abs().max()) or 1.0
    wide = min(len(panels), IN_A_ROW)
    deep = -(-len(panels) // wide)
    figure.set_size_inches(min(6.4 * wide, 24), min(4.4 * deep, 24))
    axes = figure.subplots(deep, wide, squeeze=False).ravel()
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    for axis, (value, rows) in zip(axes, panels, strict=False):
        grid = _grid(rows, layer, unit, "change")
        image = axis.imshow(grid.to_numpy(), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
        alone = patched and "head" not in others
        axis.set_title(f"{unit} of the source run" if alone else _panel(unit, others, value), fontsize=9)
        if "mark" in rows:
            marks = _grid(rows, layer, unit, "mark").fillna("").to_numpy()
            for (y, x), mark in np.ndenumerate(marks):
                axis.text(x, y, mark, ha="center", va="center", fontsize=11, color="dimgray")
        _ticks(axis, unit, _with_tokens(grid.columns, tokens) if unit == "position" else grid.columns, layer, grid.index)
    figure.colorbar(image, ax=list(axes), label=f"change of {metric}")


def _with_tokens(positions: Iterable[Any], tokens: Sequence[str | None]) -> list[str]:
    """Positions as they are written on an axis, such as `3: France`, or `3` where prompts differ."""
    told = dict(enumerate(tokens))
    return [str(at) if (token := told.get(at)) is None else f"{at}: {token.strip()}".replace("$", r"\$") for at in positions]


def _grid(rows: pd.DataFrame, layer: str, unit: str, values: str) -> pd.DataFrame:
    """A column, layer by unit; runs in their order."""
    grid = rows.pivot(index=layer, columns=unit, values=values)
    return grid[list(dict.fromkeys(rows["run"]))] if unit == "run" else grid


def _panel(unit: str, columns: list[str], values: Any) -> str:
    """What a panel shows: `cond_a`, `head × 0.5`, or the columns with their values."""
    if columns[:1] == ["run"]:
        return values[0] if len(columns) == 1 else f"{values[0]}, {_panel(unit, columns[1:], values[1:])}"
    if columns == ["scale"]:
        return f"{unit} × {values[0]:g}"
    return ", ".join(f"{name} {value}" for name, value in zip(columns, values, strict=True)) or unit


def _layers(figure: Figure, values: pd.DataFrame, baselines: dict[str, Any], marks: list[str] | None) -> None:
    """One row for each cell, the lowest layer at the bottom, one column for each metric."""
    change: FloatArray = values.to_numpy() - np.array([baselines[str(name)]["mean"] for name in values.columns])
    colours = share_of_largest(change)
    axis = figure.subplots()
    image = axis.imshow(colours, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        mark = f" {marks[row]}" if marks is not None and column == 0 else ""
        axis.text(column, row, f"{value:.3g}{mark}", ha="center", va="center", fontsize=8,
                  color="white" if colours[row, column] > 0.6 else "black")
    figure.colorbar(image, ax=axis, label="|change|, fraction of the metric's largest")
    _ticks(axis, "metric", values.columns, ", ".join(map(str, values.index.names)), values.index)


def _ticks(axis: Any, x: str, columns: Any, y: str, index: Any) -> None:
    for which, labels in ((axis.xaxis, list(columns)), (axis.yaxis, list(index))):
        step = max(1, len(labels) // 24)
        which.set_ticks(range(0, len(labels), step), labels[::step])
    axis.tick_params(axis="x", labelrotation=0 if all(len(str(c)) < 9 for c in columns) else 25)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
