"""Reading a run's tables: as its manifest declares them, or one sentence on what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinylab.errors import OutputError
from tinylab.interventions.components import TableKind
from tinylab.records.examples import SCHEMA as EXAMPLES
from tinylab.records.manifest import RunFolder
from tinylab.records.tables import effects_columns, impact_columns, per_example_columns, schema, synergy_columns

LATER = ("source", "item")
"""Columns that tables of earlier versions lack."""
DRAW = "draw"
"""A later one, in which those have nothing."""
ADVICE = "expected a table written by tinylab, compute the run again with overwrite=true"


def read_impact(folder: RunFolder, manifest: dict[str, Any]) -> pa.Table:
    """The impact table of a finished run.

    Raises:
        OutputError: it cannot be read, or is none of ours.
    """
    kind = kind_of(folder, manifest)
    return read_table(folder.table(manifest), schema(impact_columns(kind), kind))


def read_per_example(folder: RunFolder, manifest: dict[str, Any]) -> pa.Table:
    """What stands beside the impact table for every single prompt pair.

    Raises:
        OutputError: it cannot be read, or is none of ours.
    """
    kind = kind_of(folder, manifest)
    columns = [name for name in per_example_columns(kind) if name not in (*LATER, DRAW)]
    table = read_table(folder.file("per_example"), schema(columns, kind))
    return table if DRAW in table.column_names else table.append_column(DRAW, pa.nulls(len(table), pa.int64()))


def read_effects(folder: RunFolder, manifest: dict[str, Any], columns: Sequence[str] | None = None) -> pa.Table | None:
    """What a run's numbers say of each cell and metric; None for runs of versions that did not tell.

    Args:
        folder: of the run.
        manifest: of the run.
        columns: which to read beside the table's keys; None for all.

    Raises:
        OutputError: it cannot be read, or is none of ours.
    """
    if "effects" not in manifest:
        return None
    kind = kind_of(folder, manifest)
    wanted = effects_columns(kind) if columns is None else [*kind.keys, *columns]
    return read_table(folder.file("effects"), schema(wanted, kind), columns and wanted)


def read_synergy(folder: RunFolder, manifest: dict[str, Any]) -> pa.Table | None:
    """How far each pair of a run is from the sum of its singles; None for runs of other components.

    Raises:
        OutputError: it cannot be read, or is none of ours.
    """
    if "synergy" not in manifest:
        return None
    kind = kind_of(folder, manifest)
    return read_table(folder.file("synergy"), schema(synergy_columns(kind), kind))


def read_examples(folder: RunFolder, manifest: dict[str, Any]) -> pa.Table | None:
    """The prompts of a run and how the model answers them unmodified; None for runs of versions that did not keep them.

    Raises:
        OutputError: it cannot be read, or is none of ours.
    """
    return read_table(folder.file("examples"), EXAMPLES) if "examples" in manifest else None


def kind_of(folder: RunFolder, manifest: dict[str, Any]) -> TableKind:
    """The kind of a finished run's table.

    Raises:
        OutputError: the manifest does not declare one.
    """
    try:
        kind = TableKind.of_manifest(manifest)
        if kind.name != manifest["table"]:
            raise ValueError(f"it declares {kind.name}")
    except (KeyError, ValueError) as error:
        raise OutputError(f"{folder.manifest}: table_kind does not declare the table {manifest['table']} "
                          f"({' '.join(str(error).split())}); {ADVICE}.") from error
    return kind


def read_table(file: Path, expected: pa.Schema | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet table.

    Args:
        file: where it lies.
        expected: columns that it has to have, others are let pass; None leaves them to whoever reads.
        columns: which to read, those that are there; None for all.

    Raises:
        OutputError: it cannot be read, or lacks a column or has it with another type.
    """
    if file.exists() and not file.is_file():
        raise OutputError(f"{file}: cannot be read (it is no file); {ADVICE}.")
    try:
        with pq.ParquetFile(file) as stored:
            table = stored.read(columns)
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise OutputError(f"{file}: cannot be read ({' '.join(str(error).split())}); {ADVICE}.") from error
    for field in expected or ():
        found = table.schema.get_all_field_indices(field.name)
        if len(found) != 1:
            raise OutputError(f"{file}: cannot be read (it has {len(found) or 'no'} columns '{field.name}'); {ADVICE}.")
        if (got := table.schema.field(found[0]).type) != field.type:
            raise OutputError(f"{file}: cannot be read (column '{field.name}' is {got} and not {field.type}); {ADVICE}.")
    return table
