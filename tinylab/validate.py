"""Check tables and JSON documents against their contracts. Each function returns None or raises `SchemaError`.

They accept what this program writes, read with pandas 2 or 3, and tables read by polars or pyarrow and converted
to pandas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from tinylab.config.groups import RANKS
from tinylab.errors import SchemaError
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.records.tables import impact_columns, matrix_columns, schema

GRANULARITIES = ("layer_resid", "mlp_out", "head_out")

__all__ = [
    "validate_cross_condition_matrix",
    "validate_head_impact_schema",
    "validate_invariants_json",
    "validate_layer_impact_schema",
    "validate_verify_json",
]


def validate_head_impact_schema(df: pd.DataFrame) -> None:
    """Check a `head_impact` table.

    Raises:
        SchemaError: a column missing, in excess, out of order or of the wrong type, a missing value, a negative
            index, a cell that stands twice, an empty table.
    """
    _table(df, impact_columns(HEAD_IMPACT), "head_impact", HEAD_IMPACT)
    _keys(df, HEAD_IMPACT, [])


def validate_layer_impact_schema(df: pd.DataFrame) -> None:
    """Check a `layer_impact` table.

    Raises:
        SchemaError: as for `validate_head_impact_schema`, and an unknown granularity.
    """
    _table(df, impact_columns(LAYER_IMPACT), "layer_impact", LAYER_IMPACT)
    _keys(df, LAYER_IMPACT, [])


def validate_cross_condition_matrix(df: pd.DataFrame, conditions: Sequence[str]) -> None:
    """Check a `head_matrix` or `layer_matrix` table.

    Args:
        df: the matrix.
        conditions: the conditions it has to hold, no more and no fewer.

    Raises:
        SchemaError: as for the impact tables, and a condition missing or not expected.
    """
    if "condition" not in df.columns:
        raise SchemaError(f"matrix: no column 'condition'; got {list(df.columns)}.")
    kind = HEAD_IMPACT if "head" in df.columns else LAYER_IMPACT
    swept = [str(name) for name in df.columns[len(matrix_columns(kind)):]]
    _table(df, matrix_columns(kind, swept), "matrix", kind)
    found, expected = set(df["condition"]), set(conditions)
    if found != expected:
        raise SchemaError(f"matrix: got conditions {sorted(found)}, expected {sorted(expected)}.")
    _keys(df, kind, ["condition"])


def validate_verify_json(data: dict[str, Any]) -> None:
    """Check the content of verify.json.

    Raises:
        SchemaError: a key missing, a number that is none, abs_diff that is not |main − verify|.
    """
    _strings(data, "verify", ("device_main", "device_verify"))
    for key in ("n_examples", "n_seeds"):
        if not _is_count(data.get(key)):
            raise SchemaError(f"verify: {key} is {data.get(key)!r}, expected a whole number of at least 1.")
    metrics = data.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise SchemaError(f"verify: metrics is {metrics!r}, expected an object with at least one metric.")
    for name, entry in metrics.items():
        _verify_metric(name, entry)
    for key in ("top_k_agreement", "tolerance"):
        if not _is_number(data.get(key)) or data[key] < 0:
            raise SchemaError(f"verify: {key} is {data.get(key)!r}, expected a number of at least 0.")
    if data.get("verdict") not in ("pass", "fail"):
        raise SchemaError(f"verify: verdict is {data.get('verdict')!r}, expected pass or fail.")


def _verify_metric(name: str, entry: Any) -> None:
    where = f"verify: metrics.{name}"
    if not isinstance(entry, dict):
        raise SchemaError(f"{where} is {entry!r}, expected an object.")
    if entry.get("main") is None and entry.get("verify") is None and "main" in entry:
        return  # undefined on this slice (a recovery without a denominator)
    for key in ("main", "verify", "abs_diff"):
        if not _is_number(entry.get(key)):
            raise SchemaError(f"{where}.{key} is {entry.get(key)!r}, expected a finite number.")
    difference = abs(entry["main"] - entry["verify"])
    if not math.isclose(entry["abs_diff"], difference, rel_tol=1e-6, abs_tol=1e-9):
        raise SchemaError(f"{where}.abs_diff is {entry['abs_diff']}, expected |main - verify| = {difference}.")


def validate_invariants_json(data: dict[str, Any]) -> None:
    """Check the content of invariants.json.

    Raises:
        SchemaError: a key missing or of the wrong type, a component that stands twice, more than k components.
    """
    if not _is_count(data.get("k")):
        raise SchemaError(f"invariants: k is {data.get('k')!r}, expected a whole number of at least 1.")
    if not isinstance(data.get("metrics"), list) or not data["metrics"]:
        raise SchemaError(f"invariants: metrics is {data.get('metrics')!r}, expected a list with at least one metric.")
    if data.get("rank") not in RANKS:
        raise SchemaError(f"invariants: rank is {data.get('rank')!r}, expected one of {', '.join(RANKS)}.")
    if data.get("set") != "intersection":
        raise SchemaError(f"invariants: set is {data.get('set')!r}, expected intersection.")
    for key, kind in (("per_metric", dict), ("expected_by_chance", dict), ("conditions", list), ("groups", list)):
        if not isinstance(data.get(key), kind):
            raise SchemaError(f"invariants: {key} is {data.get(key)!r}, expected {'an object' if kind is dict else 'a list'}.")
    heads, layers = data.get("heads"), data.get("layers")
    if not isinstance(heads, list) or not all(_is_head(head) for head in heads):
        raise SchemaError(f"invariants: heads is {heads!r}, expected a list of {{layer, head}}.")
    if not isinstance(layers, list) or not all(_is_index(layer) for layer in layers):
        raise SchemaError(f"invariants: layers is {layers!r}, expected a list of layer numbers.")
    for name, components in (("heads", [(head["layer"], head["head"]) for head in heads]), ("layers", layers)):
        if len(set(components)) != len(components):
            raise SchemaError(f"invariants: {name} has a component twice.")
        if len(components) > data["k"]:
            raise SchemaError(f"invariants: {len(components)} {name}, more than k={data['k']}.")


def _table(df: pd.DataFrame, columns: Sequence[str], name: str, kind: TableKind) -> None:
    """Columns, their order and types, no missing and no infinite value, at least one row."""
    got = [str(column) for column in df.columns]
    if got != list(columns):
        missing, excess = [c for c in columns if c not in got], [c for c in got if c not in columns]
        fault = f"missing {missing}" if missing else f"not expected {excess}" if excess else "out of order"
        raise SchemaError(f"{name}: columns {fault}; got {got}, expected {list(columns)}.")
    if df.empty:
        raise SchemaError(f"{name}: no rows.")
    types = schema(columns, kind)
    for column in columns:
        _column(df[column], name, types.field(column).type)


def _column(values: pd.Series[Any], name: str, expected: pa.DataType) -> None:
    if values.isna().any():
        raise SchemaError(f"{name}: column '{values.name}' has {int(values.isna().sum())} missing values.")
    if not _has_type(values, expected):
        raise SchemaError(f"{name}: column '{values.name}' is {values.dtype}, expected {expected}.")
    if expected == pa.float64() and not all(map(math.isfinite, values)):
        raise SchemaError(f"{name}: column '{values.name}' has values that are not finite.")


def _has_type(values: pd.Series[Any], expected: pa.DataType) -> bool:
    """Whether a column has an arrow type, in any of the ways in which pandas says so."""
    if expected == pa.string():
        return pd.api.types.infer_dtype(values) == "string"
    if expected == pa.int64():
        return str(values.dtype) in ("int64", "Int64", "int64[pyarrow]")
    return str(values.dtype) in ("float64", "Float64", "double[pyarrow]")


def _keys(df: pd.DataFrame, kind: TableKind, more: Sequence[str]) -> None:
    """Indices are not negative, granularities known, no cell twice."""
    for column in ("seed", "layer", "head"):
        if column in df and (df[column] < 0).any():
            raise SchemaError(f"{kind.name}: column '{column}' has a negative number, {int(df[column].min())}.")
    if "granularity" in df and (unknown := set(df["granularity"]) - set(GRANULARITIES)):
        raise SchemaError(f"{kind.name}: granularity {sorted(unknown)}, expected {', '.join(GRANULARITIES)}.")
    keys = [*more, "run_id", "seed", *kind.keys, "metric"]
    if df.duplicated(keys).any():
        row = df[df.duplicated(keys)].iloc[0]
        raise SchemaError(f"{kind.name}: a cell stands twice: {', '.join(f'{key}={row[key]}' for key in keys)}.")


def _strings(data: dict[str, Any], name: str, keys: Sequence[str]) -> None:
    for key in keys:
        if not isinstance(data.get(key), str) or not data[key]:
            raise SchemaError(f"{name}: {key} is {data.get(key)!r}, expected a name.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_count(value: object) -> bool:
    return _is_index(value) and value != 0


def _is_head(value: object) -> bool:
    return isinstance(value, dict) and all(_is_index(value.get(key)) for key in ("layer", "head"))
