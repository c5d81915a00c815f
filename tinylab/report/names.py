"""What components of several units are called for people: `0.2` for a head, `3` for a layer, `0.2 + 1.4` for a pair."""

from __future__ import annotations

import pandas as pd

from tinylab.interventions.components import TableKind

COLUMNS = ("first", "second")
"""What a pair's two units are called in place of their columns of numbers."""


def unit_names(rows: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """The unit in each row, such as `0.2`, from its columns of layer and place, or a whole layer, such as `3`."""
    return [".".join(map(str, places)) for places in rows[list(columns)].to_numpy().tolist()]


def with_names(rows: pd.DataFrame, kind: TableKind) -> tuple[pd.DataFrame, list[str]]:
    """The rows, and the columns that tell their components: those of the kind, or for components of several units their names."""
    if not kind.members:
        return rows, list(kind.component)
    names = dict(zip(COLUMNS, (unit_names(rows, columns) for columns in kind.members), strict=True))
    return rows.assign(**names), list(names)


def joined_names(rows: pd.DataFrame, kind: TableKind) -> list[str]:
    """The component of several units in each row, such as `0.2 + 1.4`."""
    return [" + ".join(names) for names in zip(*(unit_names(rows, columns) for columns in kind.members), strict=True)]
