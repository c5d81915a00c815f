"""Join the tables of a sweep's runs into a matrix on disk; no more than a few runs are in memory at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinylab.errors import OutputError
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import labelled
from tinylab.records.choosing import answer_of
from tinylab.records.identity import digest
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import ADVICE, read_effects, read_impact, read_synergy
from tinylab.records.storage import writing_table
from tinylab.records.tables import impact_columns, matrix_columns, schema, synergy_columns, synergy_matrix_columns

GROUP_ROWS = 2**18
"""A row group of a matrix is closed once it has so many rows."""
CHOOSE_ROWS = ("tag", "n_examples", "single_token", "answer", "first_tokens", "strict", "template_field", "item_field")
"""Settings of a condition that make no other corpus of it: its name, what of it counts, and what is told of its rows."""


@dataclass(frozen=True)
class Child:
    """A complete run of a sweep."""

    folder: RunFolder
    manifest: dict[str, Any]
    summary: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)  # what the sweep varied, as this run has it

    @property
    def kind(self) -> TableKind:
        """The kind of its impact table."""
        return TableKind.of_manifest(self.manifest)

    @property
    def battery_digest(self) -> str:
        """Of the battery's settings as they count for its identity; equal for runs that made the same interventions."""
        return str(self.manifest.get("battery_digest") or digest(self.manifest["battery"]))

    @property
    def corpus(self) -> str:
        """What its prompt pairs are, under whatever tag: equal for the same fields and split of one corpus; empty if unknown."""
        condition = self.manifest["provenance"].get("identity", {}).get("condition", {})
        return corpus_of(condition) if "sha256" in condition else ""

    @property
    def screened(self) -> frozenset[tuple[int, int]]:
        """The components that its own screen chose, (layer, unit) each; none where they were named."""
        screen = self.manifest["provenance"].get("screen") or {"chosen": []}
        return frozenset((one["layer"], one["unit"]) for one in screen["chosen"])

    @property
    def answer(self) -> str:
        """What counts as the answer, see `condition.answer`."""
        return answer_of(self.manifest)

    @property
    def labelled(self) -> str:
        """The metric by which its effects are labelled."""
        return labelled(self.answer)

    @property
    def labels(self) -> dict[str, str]:
        """What the matrices say about each row's run."""
        manifest, provenance = self.manifest, self.manifest["provenance"]
        return {
            "condition": manifest["condition"],
            "model": provenance["model"]["name"],
            "battery": manifest["battery"]["name"],
            "device": provenance["device"],
            "dtype": " ".join(filter(None, (provenance["dtype"], provenance.get("quantize")))),
            "direction": manifest["direction"],
            "positions": manifest["positions"],
        }

    @property
    def baselines(self) -> dict[str, float]:
        """Each metric's mean in the unmodified target run."""
        return {name: entry["mean"] for name, entry in self.summary["baselines"][self.manifest["target_run"]].items()}

    def table(self) -> pa.Table:
        """The impact table with the labels appended.

        Raises:
            Unreadable: it cannot be read, or is none of ours.
        """
        try:
            table = read_impact(self.folder, self.manifest).select(impact_columns(self.kind))
            unknown = {*pc.unique(table["metric"]).to_pylist()} - {*self.baselines}
            if unknown:
                raise OutputError(f"{self.folder.file('summary')}: has no baseline of {', '.join(map(str, unknown))}; {ADVICE}.")
            return self._labelled(table, matrix_columns(self.kind, list(self.settings)))
        except (OutputError, ValueError, pa.ArrowException) as error:
            told = str(error) if isinstance(error, OutputError) else f"{self.folder.table(self.manifest)}: {error}; {ADVICE}."
            raise Unreadable(told, self) from error

    def synergy(self) -> pa.Table | None:
        """How far its pairs are from the sum of their singles, with the labels appended; None of other components.

        Raises:
            Unreadable: the table cannot be read, or is none of ours.
        """
        try:
            if (table := read_synergy(self.folder, self.manifest)) is None:
                return None
            return self._labelled(table.select(synergy_columns(self.kind)),
                                  synergy_matrix_columns(self.kind, list(self.settings)))
        except (OutputError, ValueError, pa.ArrowException) as error:
            told = str(error) if isinstance(error, OutputError) else f"{self.folder.file('synergy')}: {error}; {ADVICE}."
            raise Unreadable(told, self) from error

    def _labelled(self, table: pa.Table, columns: list[str]) -> pa.Table:
        """A table of its cells with the labels appended, as a matrix has these columns."""
        for name, label in (self.labels | self.settings).items():
            table = table.append_column(name, pa.repeat(label, len(table)))
        return table.cast(schema(columns, self.kind))

    def effects(self, columns: Sequence[str]) -> pa.Table | None:
        """Some columns of what it says of its metric of labels, behind those of a cell; None where it says nothing of any metric.

        Raises:
            Unreadable: the table cannot be read, or is none of ours.
        """
        try:
            table = read_effects(self.folder, self.manifest, ["metric", *columns])
        except OutputError as error:
            raise Unreadable(str(error), self) from error
        if table is None:
            return None
        if (missing := [name for name in self.kind.keys if table[name].null_count]):
            raise Unreadable(f"{self.folder.file('effects')}: column '{missing[0]}' has missing values; {ADVICE}.", self)
        return table.filter(pc.equal(table["metric"], self.labelled)).drop_columns(["metric"])


def corpus_of(condition: dict[str, Any]) -> str:
    """Which prompt pairs a condition has, whatever it calls them.

    Args:
        condition: its settings that are not at their defaults, and the sha256 of its corpus.
    """
    return digest({key: value for key, value in condition.items() if key not in CHOOSE_ROWS})


class Unreadable(OutputError):
    """A run's table is none of ours."""

    def __init__(self, message: str, child: Child) -> None:
        """Of which run."""
        super().__init__(message)
        self.child = child


@dataclass(frozen=True)
class Matrix:
    """A matrix on disk. A run lies in one row group, whole; `rows` counts, by row group, the rows of its runs."""

    file: Path
    rows: Sequence[Sequence[int]]

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns, a row group at a time, and the number of each row's run, `run`, in the order of joining."""
        first = 0
        with pq.ParquetFile(self.file, read_dictionary=["metric"]) as stored:
            for number, rows in enumerate(self.rows):
                run = np.repeat(np.arange(first, first + len(rows)), rows)
                yield stored.read_row_group(number, columns=list(columns)).append_column("run", pa.array(run))
                first += len(rows)


def join(file: Path, children: Sequence[Child]) -> Matrix:
    """Write the matrix of runs that have the same kind of table: one after the other, as their tables are.

    Args:
        file: where to.
        children: one run or more.
    """
    rows = []
    first = children[0]
    with writing_table(file, schema(matrix_columns(first.kind, list(first.settings)), first.kind)) as writer:
        for tables in _row_groups(children):
            rows.append([len(table) for table in tables])
            writer.write_table(pa.concat_tables(tables), row_group_size=max(1, sum(rows[-1])))
    return Matrix(file, rows)


def join_synergies(file: Path, children: Sequence[Child]) -> None:
    """Write the synergies of runs of pairs that have the same kind of table, one after the other.

    Args:
        file: where to.
        children: one run or more.
    """
    first = children[0]
    with writing_table(file, schema(synergy_matrix_columns(first.kind, list(first.settings)), first.kind)) as writer:
        for child in children:
            if (table := child.synergy()) is not None:
                writer.write_table(table)


def _row_groups(children: Sequence[Child]) -> Iterator[list[pa.Table]]:
    """The tables, by the row group that they will be in; each is forgotten before the next is read."""
    tables: list[pa.Table] = []
    for child in children:
        tables.append(child.table())
        if sum(map(len, tables)) >= GROUP_ROWS:
            yield tables
            tables.clear()
    if tables:
        yield tables
