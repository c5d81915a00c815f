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
from tinylab.interventions.components import LAYER_PAIR_IMPACT, PAIR_IMPACT, TableKind
from tinylab.task.corpus import PromptPair

COLUMN_TYPES: dict[str, pa.DataType] = {  # a kind of table has columns of its own
    "run_id": pa.string(),
    "seed": pa.int64(),
    "example": pa.int64(),
    "template": pa.string(),
    "metric": pa.string(),
    "value": pa.float64(),
    "baseline": pa.float64(),
    "control": pa.string(),
    "source": pa.float64(),
    "item": pa.string(),
    "draw": pa.int64(),
    "condition": pa.string(),
    "model": pa.string(),
    "battery": pa.string(),
    "device": pa.string(),
    "dtype": pa.string(),
    "direction": pa.string(),
    "positions": pa.string(),
    "n": pa.int64(),
    "templates": pa.int64(),
    "smallest_template": pa.int64(),
    **dict.fromkeys(("effect", "se", "df", "ci_low", "ci_high", "effect_logits", "new_templates_effect", "new_templates_low",
                     "new_templates_high", "simultaneous_low", "simultaneous_high", "p", "p_holm", "q_bh"), pa.float64()),
    **dict.fromkeys(("joint", "single1", "single2", "synergy"), pa.float64()),
    "label": pa.string(),
    "nonzero": pa.bool_(),
    "new_templates": pa.bool_(),
    "templates_opposite": pa.int64(),
    **dict.fromkeys(("examples_opposite", "between_template_sd", "heterogeneity_p", "p_top_k", "share_beyond", "share_low",
                     "share_high"), pa.float64()),
}
EFFECTS_COLUMNS = (
    "metric", "n", "templates", "smallest_template", "effect", "se", "df", "ci_low", "ci_high", "effect_logits",
    "new_templates_effect", "new_templates_low", "new_templates_high", "simultaneous_low", "simultaneous_high", "p", "p_holm",
    "q_bh", "label", "nonzero", "new_templates", "templates_opposite", "examples_opposite", "between_template_sd",
    "heterogeneity_p", "p_top_k", "share_beyond", "share_low", "share_high",
)
"""What `effects` tells of a cell and metric; null where it is undefined."""
SYNERGY_COLUMNS = ("joint", "single1", "single2", "synergy", "ci_low", "ci_high", "n")
"""What `synergy` tells of a pair and metric: mean changes from the unmodified run, joint − (single1 + single2), 95 %, n."""
SYNERGY_MATRICES = {PAIR_IMPACT.matrix: "synergy_matrix", LAYER_PAIR_IMPACT.matrix: "layer_synergy_matrix"}
"""What a sweep's table of synergies is called beside the matrix of its pairs."""
MATRIX_COLUMNS = ("condition", "model", "battery", "device", "dtype", "direction", "positions")
"""What a sweep's matrix adds to the impact columns; behind them comes one for each swept setting, called as its override."""


def impact_columns(kind: TableKind) -> list[str]:
    """The columns of an impact table, in order."""
    return ["run_id", "seed", *kind.keys, "metric", "value"]


def matrix_columns(kind: TableKind, swept: Sequence[str] = ()) -> list[str]:
    """The columns of the matrix that joins impact tables, in order."""
    return [*impact_columns(kind), *MATRIX_COLUMNS, *swept]


def per_example_columns(kind: TableKind) -> list[str]:
    """The columns of `per_example` beside an impact table, in order."""
    return ["run_id", "seed", "example", "template", *kind.keys, "metric", "value", "baseline", "control", "source", "item",
            "draw"]


def effects_columns(kind: TableKind) -> list[str]:
    """The columns of `effects` beside an impact table, in order."""
    return [*kind.keys, *EFFECTS_COLUMNS]


def synergy_columns(kind: TableKind) -> list[str]:
    """The columns of `synergy` beside an impact table of pairs, in order."""
    return ["run_id", "seed", *kind.keys, "metric", *SYNERGY_COLUMNS]


def synergy_matrix_columns(kind: TableKind, swept: Sequence[str] = ()) -> list[str]:
    """The columns of a sweep's table that joins synergies, in order."""
    return [*synergy_columns(kind), *MATRIX_COLUMNS, *swept]


def schema(columns: Sequence[str], kind: TableKind) -> pa.Schema:
    """The arrow schema of some columns; swept settings, which have a name of their own, are text."""
    types = {**COLUMN_TYPES, **{name: pa.type_for_alias(told) for name, told in kind.columns}}
    return pa.schema([(name, types.get(name, pa.string())) for name in columns])


def impact_table(kind: TableKind, run_id: str, rows: Sequence[tuple[int, Key, str, float]]) -> pa.Table:
    """An impact table of rows (seed, the cell's key, metric, value)."""
    columns: dict[str, list[object]] = {name: [] for name in impact_columns(kind)}
    for seed, key, metric, value in rows:
        columns["run_id"].append(run_id)
        columns["seed"].append(seed)
        for name in kind.keys:
            columns[name].append(key[name])
        columns["metric"].append(metric)
        columns["value"].append(value)
    return pa.table(columns, schema=schema(impact_columns(kind), kind))


def per_example_table(
    kind: TableKind,
    run_id: str,
    cells: Sequence[Cell],
    pairs: Sequence[PromptPair],
    *,
    seeds: dict[int, list[int]],
    metrics: dict[str, tuple[FloatArray, FloatArray, FloatArray | None]],
) -> pa.Table:
    """One row per seed, metric, cell (each draw of it) and example; where a value is undefined (NaN) there is no row.

    Args:
        kind: of the impact table that it stands beside.
        run_id: the run.
        cells: V cells.
        pairs: B pairs.
        seeds: for each seed, the indices of the examples it uses.
        metrics: for each metric, values [V, B], the unmodified target run's [B] and, if there is one, the source run's [B].
    """
    parts = []
    for seed, chosen in seeds.items():
        for metric, (values, baseline, source) in metrics.items():
            mine = [v for v, cell in enumerate(cells) if cell.seed in (None, seed)]
            v, b = (axis.ravel() for axis in np.meshgrid(mine, chosen, indexing="ij"))
            defined = ~np.isnan(values[v, b])
            v, b = v[defined], b[defined]
            columns: dict[str, object] = {
                "run_id": [run_id] * len(v),
                "seed": np.full(len(v), seed),
                "example": np.array([pair.row for pair in pairs])[b],
                "template": np.array([pair.template for pair in pairs], dtype=object)[b],
                **{name: np.array([cell.key[name] for cell in cells])[v] for name in kind.keys},
                "metric": [metric] * len(v),
                "value": values[v, b],
                "baseline": baseline[b],
                "control": np.array([cell.control for cell in cells])[v],
                "source": [None] * len(v) if source is None else source[b],
                "item": np.array([pair.item for pair in pairs], dtype=object)[b],
                "draw": np.array([cell.draw for cell in cells], dtype=object)[v],
            }
            parts.append(pa.table(columns, schema=schema(per_example_columns(kind), kind)))
    return pa.concat_tables(parts)
