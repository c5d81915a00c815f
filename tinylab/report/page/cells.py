"""The cells of runs as rows for charts: what they are called, where they are drawn, what was found of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from tinylab.effects.strength import change_of_cells
from tinylab.interventions.components import TableKind
from tinylab.report.names import COLUMNS, with_names
from tinylab.statistics.labels import MATTERS, MIXED

NO, SIGN = "·", "±"
"""A cell that the corrected test does not find to matter, and one whose sign depends on the template."""
TOLD = ("n", "effect", "ci_low", "ci_high", "effect_logits", "examples_opposite", "label", "p_holm", "q_bh")
ADJUSTED = {"bh": "q_bh"}
"""The adjusted p of a correction; of any other `p_holm`."""


def cells_of(
    impact: pd.DataFrame, effects: pd.DataFrame | None, kind: TableKind, baselines: dict[str, Any], *, alpha: float = 0.05,
    correction: str = "holm", tokens: Sequence[str | None] = (),
) -> pd.DataFrame:
    """A row for each cell and metric of a run: name, place, effect with its interval, n, rank, label, mark.

    Args:
        impact: the run's impact table.
        effects: the run's effects; None for runs of versions that did not tell, which then have no intervals.
        kind: of the impact table.
        baselines: metric → {"mean": …} of the unmodified target run.
        alpha: the error that labels allow.
        correction: how p-values are corrected.
        tokens: what is at each position, where all prompts have the same.
    """
    keys = list(kind.keys)
    cells = impact[keys].drop_duplicates().sort_values(keys, ignore_index=True)
    cells = pd.concat([cells, _places(cells, kind, tokens)], axis=1).assign(cell=range(len(cells)))
    told = _changes(impact, kind, baselines) if effects is None else effects[[*keys, "metric", *TOLD]]
    rows = cells.merge(told, on=keys, validate="one_to_many")
    rows["effect"] = rows["effect"].fillna(rows["effect_logits"])
    rows["rank"] = rows["effect"].abs().groupby(rows["metric"]).rank(method="first", ascending=False)
    adjusted = rows[ADJUSTED.get(correction, "p_holm")]
    marks = {MATTERS: "", MIXED: SIGN}
    rows["mark"] = [marks.get(label, NO) if isinstance(label, str) else NO if p > alpha else ""
                    for label, p in zip(rows["label"], adjusted, strict=True)]
    return rows.drop(columns=["p_holm", "q_bh"])


def _changes(impact: pd.DataFrame, kind: TableKind, baselines: dict[str, Any]) -> pd.DataFrame:
    """Changes without intervals, for runs that have no effects."""
    metrics = [name for name in dict.fromkeys(impact["metric"]) if name in baselines]
    parts = [change_of_cells(impact, kind, baselines, name)[[*kind.keys, "change"]].assign(metric=name) for name in metrics]
    changes = pd.concat(parts, ignore_index=True).rename(columns={"change": "effect"})
    return changes.reindex(columns=[*kind.keys, "metric", *TOLD])


def _places(cells: pd.DataFrame, kind: TableKind, tokens: Sequence[str | None]) -> pd.DataFrame:
    """What each cell is called, its place to the right and upwards, and the panel that it is in."""
    named, columns = with_names(cells, kind)
    apart = [name for name in (*kind.apart, *kind.varied) if cells[name].nunique() > 1]
    if kind.members:
        x, y = COLUMNS[1], COLUMNS[0]
        name = named[list(columns)].agg(" + ".join, axis=1)
    elif "layer" in columns and len(columns) > 1:
        x, y = "position" if "position" in columns else columns[1], "layer"
        units = named[list(columns)].astype(str)
        name = units[columns[0]] + "." + units[columns[1]] if columns[1] != "position" else "layer " + units["layer"]
        if "position" in columns:
            name = name + " at " + pd.Series(positions(named["position"].tolist(), tokens), index=name.index)
        apart = [*(one for one in columns[1:] if one not in (x, "position")), *apart]
    else:
        x, y = kind.apart[0] if kind.apart else columns[0], columns[0]
        name = columns[0] + " " + named[columns[0]].astype(str)
        apart = [one for one in apart if one != x]
        if kind.apart and named[x].nunique() > 1:
            name = name + " " + named[x]
    panel = pd.Series("", index=cells.index)
    for one in apart:
        panel = panel + ("" if one == apart[0] else ", ") + one + " " + [f"{value:g}" if isinstance(value, float) else str(value)
                                                                          for value in named[one]]
    right = pd.Series(positions(named[x].tolist(), tokens), index=cells.index) if x == "position" else named[x]
    return pd.DataFrame({"name": name, "x": right, "y": named[y], "panel": panel})


def positions(at: Sequence[int], tokens: Sequence[str | None]) -> list[str]:
    """Positions as they are written on an axis, such as `3: France`, or `3` where prompts differ."""
    told = dict(enumerate(tokens))
    return [f"{one}: {token}" if (token := told.get(one)) is not None else str(one) for one in at]


def place_of(name: Any) -> tuple[list[float], str]:
    """By what places on an axis are in order: numbers as numbers, also those in names such as `10.2` and `3: France`."""
    words = str(name).partition(":")[0].split(".")
    return [float(word) if word.isdigit() else float("inf") for word in words], str(name)


def axes_of(kind: TableKind) -> tuple[str, str]:
    """What is drawn to the right and upwards."""
    if kind.members:
        return "second", "first"
    if kind.component[0] == "layer" and len(kind.component) > 1:
        return "position" if "position" in kind.component else kind.component[1], "layer"
    return kind.apart[0] if kind.apart else kind.plural, kind.component[0]
