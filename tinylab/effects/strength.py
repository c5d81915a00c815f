"""The strength of effects: change from the unmodified run, its interval, and rank. They are computed here and nowhere else.

Change is value − baseline, where the baseline is the unmodified target run. Ranking by `magnitude` goes by |change|, `highest`
and `lowest` go by the level itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from tinylab.effects.impact import Impact
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import named
from tinylab.statistics.bootstrap import bootstrap_interval

NOISE = 1e-6
"""A change at most this large, as a fraction of levels over 1, is none: float32 and the forked engine round as much."""


def change_of_cells(table: pd.DataFrame, kind: TableKind, baselines: dict[str, Any], metric: str) -> pd.DataFrame:
    """The cells of an impact table averaged over seeds: a row each, its metrics, and the `change` of one of them.

    Args:
        table: an impact table.
        kind: of the table.
        baselines: metric → {"mean": …} of the unmodified target run.
        metric: whose change.
    """
    wide = table.groupby([*kind.keys, "metric"], sort=False)["value"].mean().unstack("metric").sort_index()
    return wide.assign(change=wide[metric] - baselines[metric]["mean"]).reset_index()


def strongest(table: pd.DataFrame, kind: TableKind, baselines: dict[str, Any], metric: str) -> pd.DataFrame:
    """The cells as `change_of_cells` gives them, by |change|, largest first; ties in the order of the table's keys."""
    cells = change_of_cells(table, kind, baselines, metric)
    ordered = cells.assign(size=cells["change"].abs().to_numpy())
    return ordered.sort_values(["size", *kind.keys], ascending=[False] + [True] * len(kind.keys)).drop(columns="size")


def share_of_largest(change: Float64[np.ndarray, "cells metrics"]) -> Float64[np.ndarray, "cells metrics"]:
    """|change| [cells, metrics] as a fraction of each metric's largest; 0 where nothing changes."""
    size = np.abs(change)
    largest = np.nanmax(size, axis=0)
    shares: Float64[np.ndarray, "cells metrics"] = size / np.where(largest == 0, 1.0, largest)
    return shares


def interval(impact: Impact, metric: str) -> tuple[list[float] | None, str]:
    """The interval of a metric's mean over cells, and its method: each example's own mean over cells is resampled."""
    weights = np.zeros(len(impact.pairs))
    for examples in impact.seeds.values():
        weights[examples] += 1
    clusters = [pair.template for pair in impact.pairs]
    declared = named(metric)
    if declared.pooled and (relative := declared.relative) is not None:
        columns = np.stack([impact.base(declared)[impact.real].mean(axis=0), *impact.ends(declared)], axis=1)
        if impact.cell_value(metric, impact.real[0], list(range(len(impact.pairs)))) is None:
            return None, "undefined"
        return bootstrap_interval(columns, lambda means: relative(*means.T), clusters=clusters, weights=weights)
    column = impact.of(metric)[impact.real].mean(axis=0)
    defined = ~np.isnan(column)
    return bootstrap_interval(
        column[defined, None],
        lambda means: means[:, 0],
        clusters=[cluster for cluster, d in zip(clusters, defined, strict=True) if d],
        weights=weights[defined],
    )


# Many runs


@dataclass(frozen=True)
class Ranking:
    """A run's components by one metric."""

    top: list[tuple[int, ...]]  # the strongest first, as many as were asked for and have an effect
    components: int  # how many there are in all
    tied: int = 0  # how many more are exactly as strong as the last of the top
    layers: dict[int, int] = field(default_factory=dict)  # how many there are in each layer


def scores(rows: pd.DataFrame, component: Sequence[str], unmodified: dict[int, float], rank: str) -> pd.DataFrame:
    """Every component of every run: its `score`, higher is stronger, and whether it has an `effect`; by run and component.

    Args:
        rows: of one metric: `run`, the columns of a component, others that tell its cells apart (a scale); `value`.
        component: columns of the table that make a component.
        unmodified: the metric in each run's unmodified target run.
        rank: `magnitude`, `highest` or `lowest`.
    """
    cells = ["run", *component, *(name for name in rows if name not in ("run", "value", *component))]
    values = rows.groupby(cells)["value"].mean()
    level = pd.Series(unmodified).reindex(values.index.get_level_values("run")).to_numpy()
    size = (values - level).abs()
    score = size if rank == "magnitude" else -values if rank == "lowest" else values
    told = pd.DataFrame({"score": score, "effect": size > NOISE * np.maximum(1, np.abs(level))})
    return told.groupby(level=["run", *component]).max()


def strongest_components(scored: pd.DataFrame, k: int) -> dict[int, Ranking]:
    """Every run's k strongest components, of those that have an effect at all; ties in the order of the components.

    Args:
        scored: as `scores` returns it.
        k: how many.
    """
    run, *component = (scored.index.get_level_values(level).to_numpy() for level in range(scored.index.nlevels))
    score, effect = scored["score"].to_numpy(), scored["effect"].to_numpy()
    order = np.lexsort((-score, ~effect, run))  # a stable sort: ties stay in order
    components, score = np.stack(component, axis=1)[order], score[order]
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    found = {}
    for start, stop in pairwise([*starts.tolist(), len(run)]):
        own = slice(start, start + int(effect[start:stop].sum()))
        top = [tuple(one) for one in components[own][:k].tolist()]
        tied = int((score[own][k:] == score[own][k - 1 : k]).sum())
        layers, counts = np.unique(components[start:stop, 0], return_counts=True)
        found[int(run[start])] = Ranking(top, stop - start, tied, dict(zip(layers.tolist(), counts.tolist(), strict=True)))
    return found


# Two computations of the same cells


@dataclass(frozen=True)
class Side:
    """One metric as one of two computations has it, NaN where undefined: of every cell, and of the unmodified run."""

    values: Float64[np.ndarray, "cells examples"]
    baseline: Float64[np.ndarray, " examples"]

    @property
    def change(self) -> Float64[np.ndarray, " cells"]:
        """Each cell's mean change from the unmodified run, over the examples where it is defined."""
        defined = ~np.isnan(self.values)
        total = np.where(defined, self.values - self.baseline, 0.0).sum(axis=1)
        means = np.full(len(total), np.nan)
        np.divide(total, defined.sum(axis=1), out=means, where=defined.any(axis=1))
        return means


def compare(main: Side, verify: Side) -> dict[str, Any]:
    """One metric on both sides.

    A sign flip is a cell whose change from its own side's unmodified run has the other sign; `missing` counts the
    numbers that only one side has, or neither.
    """
    both = ~np.isnan(main.values) & ~np.isnan(verify.values)
    missing = int((~both).sum())
    if not both.any():
        return {"main": None, "verify": None, "abs_diff": None, "max_abs_diff": 0.0, "sign_flips": 0, "missing": missing}
    flips = (np.sign(main.change) * np.sign(verify.change) < 0) & (np.fmin(np.abs(main.change), np.abs(verify.change)) > NOISE)
    means = [float(side.values[both].mean()) for side in (main, verify)]
    return {
        "main": means[0],
        "verify": means[1],
        "abs_diff": abs(means[0] - means[1]),
        "max_abs_diff": float(np.abs(main.values - verify.values)[both].max()),
        "sign_flips": int(flips.sum()),
        "missing": missing,
    }


def top_k_agreement(main: Side, verify: Side, k: int) -> float:
    """The fraction of the k strongest cells, by |change|, that both sides name."""
    tops = []
    for side in (main, verify):
        order = np.argsort(-np.abs(side.change), kind="stable")  # NaN last
        tops.append({int(v) for v in order[:k] if not np.isnan(side.change[v])})
    return len(tops[0] & tops[1]) / k
