"""The strongest components of every run of a matrix, many runs at a time.

A component's score is its value averaged over seeds; by `magnitude` |value − unmodified target run|, largest over
scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from tinylab.records.tables import KEYS
from tinylab.sweep.joining import Matrix

Component = tuple[int, ...]


@dataclass(frozen=True)
class Ranking:
    """A run's components by one metric."""

    top: list[Component]  # the strongest first, as many as were asked for
    components: int  # how many there are in all


def rank_matrix(
    matrix: Matrix, table: str, baselines: Sequence[dict[str, float]], *, metrics: Sequence[str], rank: str, k: int
) -> list[dict[str, Ranking]]:
    """Every run's ranking by each metric; one that it lacks is not there.

    Args:
        matrix: R runs.
        table: the impact table that it joins.
        baselines: of each run, its unmodified target run's metrics.
        metrics: by which metrics.
        rank: `magnitude`, `highest` or `lowest`.
        k: how many of the strongest to keep.
    """
    found: list[dict[str, Ranking]] = [{} for _ in baselines]
    keys = [key for key in KEYS[table] if key != "granularity"]
    for part in matrix.parts([*keys, "metric", "value"]):
        for metric in metrics:
            rows = part.filter(pc.equal(part["metric"], metric)).drop_columns(["metric"]).to_pandas()
            unmodified = {run: baselines[run][metric] for run in rows["run"].unique()}
            for run, ranking in strongest(scores(rows, unmodified, rank), k).items():
                found[run][metric] = ranking
    return found


def scores(rows: pd.DataFrame, unmodified: dict[int, float], rank: str) -> pd.Series[float]:
    """The score of every component of every run, higher is stronger, in the order of (run, layer, head).

    Args:
        rows: of one metric: `run`, `layer`, and where there are heads `head` and `scale`; `value`.
        unmodified: the metric in each run's unmodified target run.
        rank: `magnitude`, `highest` or `lowest`.
    """
    component = ["run", "layer", "head"] if "head" in rows else ["run", "layer"]
    cells = [*component, "scale"] if "scale" in rows else component
    values = rows.groupby(cells)["value"].mean()
    if rank == "magnitude":
        values = (values - pd.Series(unmodified).reindex(values.index.get_level_values("run")).to_numpy()).abs()
    elif rank == "lowest":
        values = -values
    return values.groupby(level=component).max()


def strongest(score: pd.Series[float], k: int) -> dict[int, Ranking]:
    """Every run's k strongest components, ties broken by (layer, head).

    Args:
        score: as `scores` returns it.
        k: how many.
    """
    run, *component = (score.index.get_level_values(level).to_numpy() for level in range(score.index.nlevels))
    order = np.lexsort((-score.to_numpy(), run))  # a stable sort: ties stay in the order of (layer, head)
    components = np.stack(component, axis=1)[order]
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    return {
        int(run[start]): Ranking([tuple(one) for one in components[start:stop][:k].tolist()], stop - start)
        for start, stop in pairwise([*starts.tolist(), len(run)])
    }
