"""Check tables and JSON documents against their contracts. Each function returns None or raises `SchemaError`.

They accept what this program writes, read with pandas 2 or 3, and tables read by polars or pyarrow and converted
to pandas. Documents are checked by their models in `tinylab.records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from tinylab.errors import SchemaError
from tinylab.interventions.components import (
    HEAD_IMPACT,
    HEAD_POSITION_IMPACT,
    LAYER_IMPACT,
    LAYER_PAIR_IMPACT,
    LAYER_SUBSET_IMPACT,
    NEURON_IMPACT,
    PAIR_IMPACT,
    POSITION_IMPACT,
    SUBSET_IMPACT,
    TableKind,
)
from tinylab.interventions.sites import MLP_NEURONS, RESID_POST, SITES
from tinylab.interventions.sources import RUNS
from tinylab.records.checking import check_read
from tinylab.records.documents import Verify
from tinylab.records.examples import MAY_LACK as EXAMPLES_MAY_LACK
from tinylab.records.examples import SCHEMA as EXAMPLES
from tinylab.records.frames import check_columns, check_frame
from tinylab.records.invariants import Invariants
from tinylab.records.tables import (
    effects_columns,
    impact_columns,
    matrix_columns,
    schema,
    synergy_columns,
    synergy_matrix_columns,
)
from tinylab.statistics.labels import LABELS

GRANULARITIES = ("layer_resid", *(name for name, site in SITES.items() if site not in (RESID_POST, MLP_NEURONS)))

INTERVALS = (("ci_low", "effect", "ci_high"), ("new_templates_low", "new_templates_effect", "new_templates_high"),
             ("simultaneous_low", "effect", "simultaneous_high"))
SHARES = ("p", "p_holm", "q_bh", "heterogeneity_p", "p_top_k", "examples_opposite", "share_beyond", "share_low", "share_high")

__all__ = [
    "validate_cross_condition_matrix",
    "validate_effects_schema",
    "validate_examples_schema",
    "validate_head_impact_schema",
    "validate_invariants_json",
    "validate_layer_impact_schema",
    "validate_pair_impact_schema",
    "validate_position_impact_schema",
    "validate_subset_impact_schema",
    "validate_synergy_matrix",
    "validate_synergy_schema",
    "validate_verify_json",
]


def validate_head_impact_schema(df: pd.DataFrame) -> None:
    """Check a `head_impact` table.

    Raises:
        SchemaError: a column missing, in excess, out of order or of the wrong type, a missing value, a negative
            index, a cell that is there twice, an empty table.
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


def validate_pair_impact_schema(df: pd.DataFrame) -> None:
    """Check a `pair_impact` table, of heads or of layers.

    Raises:
        SchemaError: as for `validate_layer_impact_schema`, and a pair whose first member is not before its second.
    """
    kind = _of(df, "pair_impact", PAIR_IMPACT, LAYER_PAIR_IMPACT)
    _table(df, impact_columns(kind), "pair_impact", kind)
    _keys(df, kind, [])
    _ordered(df, kind, "pair_impact")


def validate_subset_impact_schema(df: pd.DataFrame) -> None:
    """Check a `subset_impact` table, of heads or of layers.

    Raises:
        SchemaError: as for `validate_layer_impact_schema`.
    """
    kind = _of(df, "subset_impact", SUBSET_IMPACT, LAYER_SUBSET_IMPACT)
    _table(df, impact_columns(kind), "subset_impact", kind)
    _keys(df, kind, [])


def validate_synergy_schema(df: pd.DataFrame) -> None:
    """Check a `synergy` table, which goes with a `pair_impact` table.

    Raises:
        SchemaError: as for `validate_pair_impact_schema`; a synergy that is not joint − (single1 + single2), or not within its
            interval; no examples.
    """
    kind = _of(df, "synergy", PAIR_IMPACT, LAYER_PAIR_IMPACT)
    _table(df, synergy_columns(kind), "synergy", kind, may_lack=["ci_low", "ci_high"])
    _keys(df, kind, [])
    _synergies(df, kind)


def validate_synergy_matrix(df: pd.DataFrame, conditions: Sequence[str]) -> None:
    """Check a sweep's `synergy_matrix`, or `layer_synergy_matrix`.

    Args:
        df: the matrix.
        conditions: the conditions it has to hold, no more and no fewer.

    Raises:
        SchemaError: as for `validate_synergy_schema`, and a condition missing or not expected.
    """
    kind = _of(df, "synergy matrix", PAIR_IMPACT, LAYER_PAIR_IMPACT)
    columns = synergy_matrix_columns(kind)
    swept = [str(name) for name in df.columns[len(columns):]]
    _table(df, [*columns, *swept], "synergy matrix", kind, may_lack=["ci_low", "ci_high"])
    _same_conditions(df, conditions, "synergy matrix")
    _keys(df, kind, ["condition"])
    _synergies(df, kind)


def _same_conditions(df: pd.DataFrame, conditions: Sequence[str], name: str) -> None:
    found, expected = set(df["condition"]), set(conditions)
    if found != expected:
        raise SchemaError(f"{name}: got conditions {sorted(found)}, expected {sorted(expected, key=str)}.")


def _synergies(df: pd.DataFrame, kind: TableKind) -> None:
    """Pairs in order, each with a synergy that is what it is made of, within its interval, of some examples."""
    _ordered(df, kind, "synergy")
    sizes = df[["joint", "single1", "single2"]].abs().sum(axis=1)
    wrong = (df["joint"] - df["single1"] - df["single2"] - df["synergy"]).abs() > 1e-9 * (1 + sizes)
    if wrong.any():
        raise SchemaError(f"synergy: {int(wrong.sum())} rows whose synergy is not joint − (single1 + single2).")
    if ((df["ci_low"] > df["synergy"]) | (df["synergy"] > df["ci_high"])).any():
        raise SchemaError("synergy: synergy is not between ci_low and ci_high in some row.")
    if (df["n"] < 1).any():
        raise SchemaError("synergy: column 'n' has a number below 1.")


def validate_position_impact_schema(df: pd.DataFrame) -> None:
    """Check a `position_impact` table, of layers or of heads.

    Raises:
        SchemaError: as for `validate_layer_impact_schema`.
    """
    check_frame(df, "position_impact")
    kind = _kind(df) if "position" in df.columns else POSITION_IMPACT
    _table(df, impact_columns(kind), "position_impact", kind)
    _keys(df, kind, [])


def validate_cross_condition_matrix(df: pd.DataFrame, conditions: Sequence[str]) -> None:
    """Check a matrix of one of the shipped impact tables, such as `head_matrix`.

    Args:
        df: the matrix.
        conditions: the conditions it has to hold, no more and no fewer.

    Raises:
        SchemaError: as for the impact tables, and a condition missing or not expected.
    """
    check_frame(df, "matrix")
    if "condition" not in df.columns:
        raise SchemaError(f"matrix: no column 'condition'; got {list(df.columns)}.")
    kind = _kind(df)
    swept = [str(name) for name in df.columns[len(matrix_columns(kind)):]]
    _table(df, matrix_columns(kind, swept), "matrix", kind)
    _same_conditions(df, conditions, "matrix")
    _keys(df, kind, ["condition"])


def validate_effects_schema(df: pd.DataFrame) -> None:
    """Check an `effects` table that goes with one of the shipped impact tables.

    Raises:
        SchemaError: a column missing, in excess, out of order or of the wrong type; a number that is not finite (what is
            undefined is null); an unknown label; an interval that does not hold its effect; a probability beyond 0 and 1; a row
            that is there twice; an empty table.
    """
    check_frame(df, "effects")
    kind = _kind(df)
    told = [*kind.keys, "metric", "n", "templates", "smallest_template"]
    _table(df, effects_columns(kind), "effects", kind, may_lack=[name for name in effects_columns(kind) if name not in told])
    if unknown := set(df["label"].dropna()) - set(LABELS):
        raise SchemaError(f"effects: label {sorted(unknown)}, expected {', '.join(LABELS)} or null.")
    for low, inside, high in INTERVALS:
        if ((df[low] > df[inside]) | (df[inside] > df[high])).any():
            raise SchemaError(f"effects: {inside} is not between {low} and {high} in some row.")
    for name in SHARES:
        if ((df[name] < 0) | (df[name] > 1)).any():
            raise SchemaError(f"effects: column '{name}' has a number that is not from 0 to 1.")
    if df.duplicated([*kind.keys, "metric"]).any():
        raise SchemaError("effects: a cell is there twice with one metric.")


def validate_examples_schema(df: pd.DataFrame) -> None:
    """Check an `examples` table.

    Raises:
        SchemaError: a column missing, in excess, out of order or of the wrong type; a missing value (but a template or item); a
            negative row number or one that is there twice; a prompt without tokens; a probability beyond 0 and 1; an empty table.
    """
    check_columns(df, EXAMPLES, "examples", EXAMPLES_MAY_LACK)
    if (df["example"] < 0).any():
        raise SchemaError(f"examples: column 'example' has a negative number, {int(df['example'].min())}.")
    if df.duplicated(["run_id", "example"]).any():
        raise SchemaError("examples: an example is there twice.")
    for run in RUNS:
        if any(len(tokens) == 0 for tokens in df[f"{run}_tokens"]):
            raise SchemaError(f"examples: column '{run}_tokens' has a prompt without tokens.")
        if not df[f"{run}_answer_probability"].between(0, 1).all():
            raise SchemaError(f"examples: column '{run}_answer_probability' has a number that is not from 0 to 1.")


def validate_verify_json(data: dict[str, Any]) -> None:
    """Check the content of verify.json.

    Raises:
        SchemaError: a key missing, a number that is none, abs_diff that is not |main − verify|.
    """
    check_read(Verify, data, "verify", SchemaError)


def validate_invariants_json(data: dict[str, Any]) -> None:
    """Check the content of invariants.json.

    Raises:
        SchemaError: a key missing or of the wrong type, a component that is there twice, more than k components.
    """
    check_read(Invariants, data, "invariants", SchemaError)


def _kind(df: pd.DataFrame) -> TableKind:
    """The kind of the impact table that a table goes with, by a column that no other kind has."""
    if "position" in df.columns:
        return HEAD_POSITION_IMPACT if "head" in df.columns else POSITION_IMPACT
    sets = LAYER_SUBSET_IMPACT if "granularity" in df.columns else SUBSET_IMPACT
    told = {"head2": PAIR_IMPACT, "layer2": LAYER_PAIR_IMPACT, "set": sets, "head": HEAD_IMPACT, "neuron": NEURON_IMPACT}
    return next((kind for name, kind in told.items() if name in df.columns), LAYER_IMPACT)


def _table(df: pd.DataFrame, columns: Sequence[str], name: str, kind: TableKind, may_lack: Sequence[str] = ()) -> None:
    """Columns, their order and types, no missing (but where they may) and no infinite value, at least one row."""
    check_columns(df, schema(columns, kind), name, may_lack)


def _keys(df: pd.DataFrame, kind: TableKind, more: Sequence[str]) -> None:
    """Indices are not negative, granularities known, no cell twice."""
    for column in ("seed", *kind.component):
        if (df[column] < 0).any():
            raise SchemaError(f"{kind.name}: column '{column}' has a negative number, {int(df[column].min())}.")
    if "granularity" in df and (unknown := set(df["granularity"]) - set(GRANULARITIES)):
        raise SchemaError(f"{kind.name}: granularity {sorted(unknown)}, expected {', '.join(GRANULARITIES)}.")
    keys = [*more, "run_id", "seed", *kind.keys, "metric"]
    if df.duplicated(keys).any():
        row = df[df.duplicated(keys)].iloc[0]
        raise SchemaError(f"{kind.name}: a cell is there twice: {', '.join(f'{key}={row[key]}' for key in keys)}.")


def _of(df: pd.DataFrame, name: str, units: TableKind, layers: TableKind) -> TableKind:
    """Which of two kinds of one name a table has: that of layers says of which part of them."""
    check_frame(df, name)
    return layers if "granularity" in df.columns else units


def _ordered(df: pd.DataFrame, kind: TableKind, name: str) -> None:
    """The first member of every pair comes before its second."""
    first, second = (df[list(side)].itertuples(index=False, name=None) for side in kind.members)
    if not all(one < other for one, other in zip(first, second, strict=True)):
        raise SchemaError(f"{name}: a pair whose first head does not come before its second, in the order of layer and head.")
