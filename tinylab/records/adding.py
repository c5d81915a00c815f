"""Adding metrics to a finished run: its files with what was computed later, in the order of a run that computed all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def merged_table(there: pa.Table, added: pa.Table, seeds: Sequence[int], metrics: Sequence[str]) -> pa.Table:
    """An impact or per-example table with the rows of further metrics.

    Args:
        there: the table of the finished run.
        added: rows of metrics that it lacks; where it has some of them already, from an attempt that was cut off, these count.
        seeds: of the run.
        metrics: every metric, in the order in which they stand in a table.
    """
    parts = []
    for seed in seeds:
        for metric in metrics:
            found = [rows for table in (added, there) if len(rows := _rows(table, seed, metric))]
            parts += found[:1]
    return pa.concat_tables(parts, promote_options="default")  # those of earlier versions lack columns


def _rows(table: pa.Table, seed: int, metric: str) -> pa.Table:
    return table.filter(pc.and_(pc.equal(table["seed"], seed), pc.equal(table["metric"], metric)))


def merged_summary(there: dict[str, Any], added: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """A summary with further metrics.

    Args:
        there: of the finished run.
        added: of the metrics that it lacks.
        metrics: every metric, in order.
    """
    def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        both = {**second, **first}
        return {name: both[name] for name in metrics if name in both}

    return {
        **there,
        "baselines": {run: merged(one, added["baselines"][run]) for run, one in there["baselines"].items()},
        "metrics": merged(there["metrics"], added["metrics"]),
        "controls": {control: merged(there["controls"].get(control, {}), added["controls"].get(control, {}))
                     for control in dict.fromkeys([*there["controls"], *added["controls"]])},
        **({} if "ability" in there else {"ability": added["ability"]}),
    }
