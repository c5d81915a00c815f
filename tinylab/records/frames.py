"""Whether a DataFrame has the columns that a table of ours has, whatever read it: pandas 2 or 3, polars or pyarrow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tinylab.errors import SchemaError


def check_columns(df: pd.DataFrame, types: pa.Schema, name: str, may_lack: Sequence[str]) -> None:
    """Columns, their order and types, no missing (but where they may) and no infinite value, at least one row.

    Raises:
        SchemaError: one of these is not so.
    """
    columns = types.names
    check_frame(df, name)
    got = [str(column) for column in df.columns]
    if got != list(columns):
        missing, excess = [c for c in columns if c not in got], [c for c in got if c not in columns]
        fault = f"missing {missing}" if missing else f"not expected {excess}" if excess else "out of order"
        raise SchemaError(f"{name}: columns {fault}; got {got}, expected {list(columns)}.")
    if df.empty:
        raise SchemaError(f"{name}: no rows.")
    for column in columns:
        values, expected = df[column].dropna() if column in may_lack else df[column], types.field(column).type
        if expected == pa.int64() and len(values) < len(df) and values.dtype == "float64" and (values % 1 == 0).all():
            continue  # pandas has whole numbers as floats where some are missing
        if len(values):
            _column(values, name, expected)


def check_frame(df: object, name: str) -> None:
    """A DataFrame whose columns have names of their own.

    Raises:
        SchemaError: it is none.
    """
    if not isinstance(df, pd.DataFrame):
        raise SchemaError(f"{name}: got a {type(df).__name__}, expected a pandas DataFrame.")
    if twice := [str(column) for column in df.columns[df.columns.duplicated()]]:
        raise SchemaError(f"{name}: duplicate columns, {', '.join(twice)}.")


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
    if expected == pa.bool_():
        return pd.api.types.infer_dtype(values) == "boolean"
    if pa.types.is_list(expected):  # of words
        lists = all(isinstance(one, Sequence | np.ndarray) and not isinstance(one, str) for one in values)
        return lists and all(isinstance(word, str) for one in values for word in one)
    if expected == pa.int64():
        return str(values.dtype) in ("int64", "Int64", "int64[pyarrow]")
    return str(values.dtype) in ("float64", "Float64", "double[pyarrow]")
