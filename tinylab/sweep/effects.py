"""What the runs of a group say of each component, many runs at a time: tests, effects and labels, from their effects.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float64

from tinylab.arrays import FloatArray
from tinylab.config.groups import EffectsConfig
from tinylab.interventions.components import TableKind
from tinylab.statistics.estimates import Estimate
from tinylab.statistics.labels import MATTERS, MIXED
from tinylab.sweep.joining import Child

COLUMNS = ("effect", "se", "df", "ci_low", "ci_high", "effect_logits", "label")
OF_BEFORE = ("a version computed it that told no effects; the same command again works them out, or computes the run again with "
             "overwrite=true")
NO_LOGIT_DIFF = "logit_diff was not measured; add it to metrics"
NO_FRACTION = "its unmodified logit difference is too small to be a whole of which effects are fractions"
NO_INTERVAL = "it has too few examples for intervals, which take two of each template"


@dataclass(frozen=True)
class Judged:
    """By what the effects of a group are tested."""

    smallest: float
    alpha: float
    correction: Literal["holm", "bh"]


@dataclass(frozen=True)
class Effects:
    """C components in the m runs of a group, by the logit difference; NaN where a run says nothing.

    Several cells of a component, such as scales, are one test: the smallest of their p-values times their number (Bonferroni).
    Elsewhere the strongest of them counts, and a label is a component's if any of its cells has it.
    """

    components: list[tuple[int, ...]]  # C, in order
    above: Float64[np.ndarray, "m C"]  # one-sided p-values that the effect is over the smallest of interest
    below: Float64[np.ndarray, "m C"]  # that it is under its negative
    effect: Float64[np.ndarray, "m C"]  # as a fraction of the whole
    half: Float64[np.ndarray, "m C"]  # of its 95 % interval
    logits: Float64[np.ndarray, "m C"]
    matters: Bool[np.ndarray, "m C"]
    mixed: Bool[np.ndarray, "m C"]
    judged: Judged
    lacking: dict[str, list[int]] = field(default_factory=dict)  # why runs say nothing, and which
    notes: list[str] = field(default_factory=list)


def effects_of(children: Sequence[Child]) -> Effects:
    """The effects of runs that may be compared.

    Raises:
        Unreadable: a run's table is none of ours.
    """
    kind = children[0].kind
    tables, lacking = _tables(children)
    judged, notes = _judged(children)
    if not tables:
        none = np.full((len(children), 0), np.nan)
        return Effects([], none, none, none, none, none, none > 0, none > 0, judged, lacking, notes)
    runs = np.repeat(list(tables), [len(table) for table in tables.values()])
    rows = pa.concat_tables(tables.values()).to_pandas()
    return _gathered(rows, runs, len(children), kind, judged, lacking, notes)


def _tables(children: Sequence[Child]) -> tuple[dict[int, pa.Table], dict[str, list[int]]]:
    """The tables by the places of their runs, and of the others why they say nothing."""
    tables: dict[int, pa.Table] = {}
    lacking: dict[str, list[int]] = {}
    for place, child in enumerate(children):
        table = child.effects(COLUMNS)
        if table is not None and len(table):
            tables[place] = table
        if (why := _silent(table)) is not None:
            lacking.setdefault(why, []).append(place)
    return tables, lacking


def _silent(table: pa.Table | None) -> str | None:
    """Why a run's effects cannot be tested; None if they can."""
    if table is None:
        return OF_BEFORE
    if not len(table):
        return NO_LOGIT_DIFF
    if table["effect"].null_count == len(table):
        return NO_FRACTION
    return NO_INTERVAL if table["se"].null_count == len(table) else None


def _judged(children: Sequence[Child]) -> tuple[Judged, list[str]]:
    """What the runs were judged by, and notes where they differ: then the strictest counts."""
    usual = EffectsConfig()
    told = [child.manifest["judged"] for child in children if child.manifest.get("judged")]
    values = {name: sorted({one[name] for one in told} or {getattr(usual, name)}) for name in ("smallest", "alpha", "correction")}
    judged = Judged(values["smallest"][-1], values["alpha"][0], "bh" if values["correction"] == ["bh"] else "holm")
    notes = [f"runs were judged by effects.{name}={' and '.join(map(str, found))}: {getattr(judged, name)} counts here"
             for name, found in values.items() if len(found) > 1]
    return judged, notes


def _gathered(
    rows: pd.DataFrame, runs: np.ndarray[Any, Any], count: int, kind: TableKind, judged: Judged, lacking: dict[str, list[int]],
    notes: list[str],
) -> Effects:
    """Rows of all runs as arrays: first a number for each run and cell [m, V], then for each component [m, C]."""
    keys = [*kind.component, *(name for name in kind.keys if name not in kind.component)]
    cells = rows[keys].drop_duplicates().sort_values(keys)
    cell = rows.groupby(keys, sort=True, dropna=False).ngroup().to_numpy()

    def grid(column: pd.Series[Any], nothing: Any = np.nan) -> Any:
        found = np.full((count, len(cells)), nothing)
        found[runs, cell] = column
        return found

    component = cells[list(kind.component)].to_numpy()
    starts = np.flatnonzero(np.r_[True, (component[1:] != component[:-1]).any(axis=1)])
    several = np.diff(np.r_[starts, len(cells)])
    shape = (count, len(cells))
    estimate = Estimate(*(grid(rows[name]).ravel() for name in ("effect", "se", "df")))
    tests = [np.minimum(1.0, np.minimum.reduceat(p.reshape(shape), starts, axis=1) * several)
             for p in estimate.beyond(judged.smallest)]
    strongest = _strongest(np.abs(grid(rows["effect_logits"])), starts, several)
    told = [np.take_along_axis(grid(column), strongest, axis=1)
            for column in (rows["effect"], (rows["ci_high"] - rows["ci_low"]) / 2, rows["effect_logits"])]
    labels = [np.logical_or.reduceat(grid(rows["label"] == label, False), starts, axis=1) for label in (MATTERS, MIXED)]
    components = [tuple(one) for one in component[starts].tolist()]
    return Effects(components, tests[0], tests[1], told[0], told[1], told[2], labels[0], labels[1], judged, lacking, notes)


def _strongest(size: FloatArray, starts: np.ndarray[Any, Any], several: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The place of each component's largest cell in each run, [m, C]; of equals the first, as where none is defined."""
    size = np.nan_to_num(size, nan=-1.0)
    largest = np.repeat(np.maximum.reduceat(size, starts, axis=1), several, axis=1)
    places = np.where(size == largest, np.arange(size.shape[1]), size.shape[1])
    first: np.ndarray[Any, Any] = np.minimum.reduceat(places, starts, axis=1)
    return first
