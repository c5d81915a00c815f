"""One metric of a run as arrays, from its `per_example` table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tinylab.arrays import FloatArray
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import Metric, named
from tinylab.statistics.strata import Groups, templates

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Measured:
    """One metric of a battery's V cells on B examples, each once however many seeds use it."""

    metric: Metric
    keys: pd.DataFrame  # V rows
    values: FloatArray  # [V, B], NaN where undefined
    baseline: FloatArray  # [B], of the unmodified target run
    source: FloatArray | None  # [B], of the unmodified source run, if there is one
    names: Sequence[str | None]  # [B], the templates
    items: Groups | None  # [B], what several examples reuse

    @classmethod
    def read(cls, table: pa.Table, kind: TableKind, metric: str) -> Measured:
        """From the rows of a `per_example` table that are no controls.

        Of several seeds' rows the first counts; where they are draws of what is random, their mean. A cell at a position that
        some examples do not have is left out.
        """
        columns = [*kind.keys, "example", "template", "value", "baseline", "source", "item", "draw"]
        kept = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["control"], "none"))
        rows = table.select(columns).filter(kept)
        v, cells = pd.factorize(_numbered([rows[key] for key in kind.keys]))
        example, first, b = np.unique(rows["example"].to_numpy(), return_index=True, return_inverse=True)
        values = np.full((len(cells), len(example)), np.nan)
        once, place = np.unique(v * len(example) + b, return_index=True, return_inverse=True)[1:]
        drawn = rows["draw"].null_count < len(rows)
        numbers = rows["value"].to_numpy()
        values[v[once], b[once]] = np.bincount(place, numbers) / np.bincount(place) if drawn else numbers[once]
        whole = ~np.isnan(values).any(axis=1) if "position" in kind.keys else np.ones(len(cells), dtype=bool)
        of_cells = rows.select(kind.keys).take(np.unique(v, return_index=True)[1][whole])
        of_examples = rows.take(first)
        source, items = of_examples["source"].to_numpy(), of_examples["item"].to_pylist()
        return cls(
            named(metric), of_cells.to_pandas(), values[whole], of_examples["baseline"].to_numpy(),
            None if np.isnan(source).any() else source, of_examples["template"].to_pylist(),
            None if all(item is None for item in items) else Groups.of(items),
        )

    @cached_property
    def templates(self) -> Groups:
        """Of the examples; one for all where any has none."""
        return templates(self.names)

    @cached_property
    def change(self) -> FloatArray:
        """[V, B]."""
        return self.values - self.baseline

    @cached_property
    def whole(self) -> FloatArray:
        """[B] what changes are a fraction of: the unmodified run's number, or for patching the way from target to source."""
        return self.baseline if self.source is None else self.source - self.baseline

    def where(self, kept: Bool[np.ndarray, " B"]) -> Measured:
        """Some examples alone."""
        items = None if self.items is None else Groups.of(self.items.codes[kept].tolist())
        return Measured(self.metric, self.keys, self.values[:, kept], self.baseline[kept],
                        None if self.source is None else self.source[kept],
                        [name for name, keep in zip(self.names, kept, strict=True) if keep], items)


def _numbered(columns: Sequence[pa.ChunkedArray]) -> Int[np.ndarray, " rows"]:
    """A number for each row, equal where all columns are."""
    number = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        encoded = column.combine_chunks().dictionary_encode()
        number = number * len(encoded.dictionary) + encoded.indices.to_numpy()
    return number
