"""The strongest components of every run of a matrix, many runs at a time.

A component's score is its value averaged over seeds; by `magnitude` |value − unmodified target run|, largest over
scales (`tinylab.effects.strength`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from tinylab.effects.strength import Ranking, scores, strongest_components
from tinylab.interventions.components import TableKind
from tinylab.sweep.joining import Matrix


def rank_matrix(
    matrix: Matrix, kind: TableKind, baselines: Sequence[dict[str, float]], *, metrics: Sequence[str], rank: str, k: int
) -> list[dict[str, Ranking]]:
    """Every run's ranking by each metric; one that it lacks is not there.

    Args:
        matrix: R runs.
        kind: of the impact tables that it joins.
        baselines: of each run, its unmodified target run's metrics.
        metrics: by which metrics.
        rank: `magnitude`, `highest` or `lowest`.
        k: how many of the strongest to keep.
    """
    found: list[dict[str, Ranking]] = [{} for _ in baselines]
    for part in matrix.parts([*kind.component, *kind.varied, "metric", "value"]):
        for metric in metrics:
            rows = part.filter(pc.equal(part["metric"], metric)).drop_columns(["metric"]).to_pandas()
            unmodified = {run: baselines[run][metric] for run in rows["run"].unique()}
            for run, ranking in strongest_components(scores(rows, kind.component, unmodified, rank), k).items():
                found[run][metric] = ranking
    return found
