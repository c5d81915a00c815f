"""What the runs of a group say of each component, many runs at a time: tests, effects and labels, from their effects.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
OF_BEFORE = ("it was computed by a version without effects; the same command again works them out, or computes the run again "
             "with overwrite=true")
NOT_MEASURED = "was not measured; add it to metrics"
NO_FRACTION = "its unmodified logit difference is too small for effects as fractions of it"
NO_INTERVAL = "it has too few examples for intervals, which need two of each template"


@dataclass(frozen=True)
class Judged:
    """By what the effects of a group are tested."""

    smallest: float
    alpha: float
    correction: Literal["holm", "bh"]
    notes: tuple[str, ...] = ()  # where runs were judged in several ways


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
    lacking: dict[str, list[int]]  # why runs say nothing, and which


def effects_of(children: Sequence[Child]) -> Effects:
    """The effects of runs that may be compared.

    Raises:
        Unreadable: a run's table is none of ours.
    """
    tables, lacking = _tables(children)
    judged = _judged(children)
    if not tables:
        none = np.full((len(children), 0), np.nan)
        return Effects([], none, none, none, none, none, none > 0, none > 0, judged, lacking)
    cells = Cells.of(tables, children[0].kind, len(children))
    strongest = cells.strongest("effect_logits")
    above, below = cells.tests(judged.smallest)
    effect, half, logits = (np.take_along_axis(cells.grid(column), strongest, axis=1)
                            for column in ("effect", "half", "effect_logits"))
    matters, mixed = (cells.labelled(label) for label in (MATTERS, MIXED))
    return Effects(cells.components, above, below, effect, half, logits, matters, mixed, judged, lacking)


def _tables(children: Sequence[Child]) -> tuple[dict[int, pa.Table], dict[str, list[int]]]:
    """The tables by the places of their runs, and of the others why they say nothing."""
    tables: dict[int, pa.Table] = {}
    lacking: dict[str, list[int]] = {}
    for place, child in enumerate(children):
        table = child.effects(COLUMNS)
        if table is not None and len(table):
            tables[place] = table
        if (why := _silent(table, child.labelled)) is not None:
            lacking.setdefault(why, []).append(place)
    return tables, lacking


def _silent(table: pa.Table | None, by: str) -> str | None:
    """Why a run's effects cannot be tested; None if they can. `by`: the metric by which they are labelled."""
    if table is None:
        return OF_BEFORE
    if not len(table):
        return f"{by} {NOT_MEASURED}"
    if table["effect"].null_count == len(table):
        return NO_FRACTION
    return NO_INTERVAL if table["se"].null_count == len(table) else None


def _judged(children: Sequence[Child]) -> Judged:
    """What the runs were judged by; where they differ the strictest counts."""
    usual = EffectsConfig()
    told = [child.manifest["judged"] for child in children if child.manifest.get("judged")]
    values = {name: sorted({one[name] for one in told} or {getattr(usual, name)}) for name in ("smallest", "alpha", "correction")}
    judged = Judged(values["smallest"][-1], values["alpha"][0], "bh" if values["correction"] == ["bh"] else "holm")
    return replace(judged, notes=tuple(
        f"runs were judged by effects.{name}={' and '.join(map(str, found))}: {getattr(judged, name)} counts here"
        for name, found in values.items() if len(found) > 1))


@dataclass(frozen=True)
class Cells:
    """Rows of m runs: each of V cells, which are those of C components, one after the other."""

    rows: pd.DataFrame
    places: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # each row's run and cell
    shape: tuple[int, int]  # m and V
    components: list[tuple[int, ...]]  # C, in order
    starts: np.ndarray[Any, Any]  # each component's first cell, [C]

    @classmethod
    def of(cls, tables: Mapping[int, pa.Table], kind: TableKind, count: int) -> Cells:
        """The cells of some of so many runs.

        Args:
            tables: by the run's place.
            kind: of their tables.
            count: m, how many runs there are.
        """
        rows = pa.concat_tables(tables.values()).to_pandas()
        rows = rows.assign(half=(rows["ci_high"] - rows["ci_low"]) / 2)
        keys = [*kind.component, *(name for name in kind.keys if name not in kind.component)]
        run = np.repeat(list(tables), [len(table) for table in tables.values()])
        cell = rows.groupby(keys, sort=True, dropna=False).ngroup().to_numpy()
        component = rows[keys].drop_duplicates().sort_values(keys)[list(kind.component)].to_numpy()
        starts = np.flatnonzero(np.r_[True, (component[1:] != component[:-1]).any(axis=1)])
        return cls(rows, (run, cell), (count, len(component)), [tuple(one) for one in component[starts].tolist()], starts)

    @property
    def several(self) -> np.ndarray[Any, Any]:
        """How many cells each component has, [C]."""
        return np.diff(np.r_[self.starts, self.shape[1]])

    def grid(self, column: str) -> FloatArray:
        """A column of numbers, [m, V]; NaN where a run has none."""
        found = np.full(self.shape, np.nan)
        found[self.places] = self.rows[column]
        return found

    def tests(self, smallest: float) -> tuple[FloatArray, FloatArray]:
        """One-sided p-values of each component in each run, over the smallest effect and under its negative, [m, C]."""
        estimate = Estimate(*(self.grid(name).ravel() for name in ("effect", "se", "df")))
        above, below = (np.minimum(1.0, np.minimum.reduceat(p.reshape(self.shape), self.starts, axis=1) * self.several)
                        for p in estimate.beyond(smallest))
        return above, below

    def labelled(self, label: str) -> np.ndarray[Any, Any]:
        """Whether any of a component's cells has a label, [m, C]."""
        found = np.zeros(self.shape, dtype=bool)
        found[self.places] = self.rows["label"] == label
        return np.logical_or.reduceat(found, self.starts, axis=1)

    def strongest(self, column: str) -> np.ndarray[Any, Any]:
        """The place of each component's largest cell, [m, C]; of equals the first, as where none is defined."""
        size = np.nan_to_num(np.abs(self.grid(column)), nan=-1.0)
        largest = np.repeat(np.maximum.reduceat(size, self.starts, axis=1), self.several, axis=1)
        places = np.where(size == largest, np.arange(self.shape[1]), self.shape[1])
        first: np.ndarray[Any, Any] = np.minimum.reduceat(places, self.starts, axis=1)
        return first
