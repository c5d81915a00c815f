"""The tables: declared once, built from an evaluation, read back.

Every table is in long format, one number per row (`value`). Column names, order and types are a contract that
notebooks and other programs rely on; `tinylab.validate` checks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tinylab.arrays import FloatArray
from tinylab.batteries.base import Cell, Key
from tinylab.task.corpus import PromptPair

COLUMN_TYPES: dict[str, pa.DataType] = {
    "run_id": pa.string(),
    "seed": pa.int64(),
    "example": pa.int64(),
    "template": pa.string(),
    "layer": pa.int64(),
    "head": pa.int64(),
    "granularity": pa.string(),
    "scale": pa.float64(),
    "metric": pa.string(),
    "value": pa.float64(),
    "baseline": pa.float64(),
    "control": pa.string(),
    "condition": pa.string(),
    "model": pa.string(),
    "battery": pa.string(),
    "device": pa.string(),
    "dtype": pa.string(),
    "direction": pa.string(),
    "positions": pa.string(),
}
KEYS = {"head_impact": ("layer", "head", "scale"), "layer_impact": ("layer", "granularity")}
"""What identifies a cell in each impact table."""
MATRIX_COLUMNS = ("condition", "model", "battery", "device", "dtype", "direction", "positions")
"""What a sweep's matrix adds to the impact columns."""
MATRICES = {"head_impact": "head_matrix", "layer_impact": "layer_matrix"}


def impact_columns(table: str) -> list[str]:
    """The columns of an impact table, in order."""
    return ["run_id", "seed", *KEYS[table], "metric", "value"]


def matrix_columns(table: str) -> list[str]:
    """The columns of the matrix that joins impact tables, in order."""
    return [*impact_columns(table), *MATRIX_COLUMNS]


def per_example_columns(table: str) -> list[str]:
    """The columns of `per_example` beside an impact table, in order."""
    return ["run_id", "seed", "example", "template", *KEYS[table], "metric", "value", "baseline", "control"]


def schema(columns: Sequence[str]) -> pa.Schema:
    """The arrow schema of some columns."""
    return pa.schema([(name, COLUMN_TYPES[name]) for name in columns])


def impact_table(table: str, run_id: str, rows: Sequence[tuple[int, Key, str, float]]) -> pa.Table:
    """An impact table of rows (seed, the cell's key, metric, value)."""
    columns: dict[str, list[object]] = {name: [] for name in impact_columns(table)}
    for seed, key, metric, value in rows:
        columns["run_id"].append(run_id)
        columns["seed"].append(seed)
        for name in KEYS[table]:
            columns[name].append(key[name])
        columns["metric"].append(metric)
        columns["value"].append(value)
    return pa.table(columns, schema=schema(impact_columns(table)))


def per_example_table(
    table: str,
    run_id: str,
    cells: Sequence[Cell],
    pairs: Sequence[PromptPair],
    *,
    seeds: dict[int, list[int]],
    metrics: dict[str, tuple[FloatArray, FloatArray]],
) -> pa.Table:
    """One row per seed, metric, cell and example; where a value is undefined (NaN) there is no row.

    Args:
        table: the impact table that it stands beside.
        run_id: the run.
        cells: V cells.
        pairs: B pairs.
        seeds: for each seed, the indices of the examples it uses.
        metrics: for each metric, values [V, B] and the unmodified target run's [B].
    """
    parts = []
    for seed, chosen in seeds.items():
        for metric, (values, baseline) in metrics.items():
            v, b = (axis.ravel() for axis in np.meshgrid(np.arange(len(cells)), chosen, indexing="ij"))
            defined = ~np.isnan(values[v, b])
            v, b = v[defined], b[defined]
            columns: dict[str, object] = {
                "run_id": [run_id] * len(v),
                "seed": np.full(len(v), seed),
                "example": np.array([pair.row for pair in pairs])[b],
                "template": np.array([pair.template for pair in pairs], dtype=object)[b],
                **{name: np.array([cell.key[name] for cell in cells])[v] for name in KEYS[table]},
                "metric": [metric] * len(v),
                "value": values[v, b],
                "baseline": baseline[b],
                "control": np.array([cell.control for cell in cells])[v],
            }
            parts.append(pa.table(columns, schema=schema(per_example_columns(table))))
    return pa.concat_tables(parts)
