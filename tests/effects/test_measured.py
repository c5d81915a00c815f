"""A metric's rows become arrays, and conclusions follow from them: the same as a literal loop over rows gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tinylab.arrays import FloatArray
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.effects.measured import Measured
from tinylab.interventions.components import TableKind
from tinylab.records.tables import per_example_table
from tinylab.task.corpus import PromptPair

BATTERIES: dict[str, Battery] = {
    "heads": HeadsZero(name="h1", scales=[0.0, 0.5]),
    "layers and shams": ActivationPatch(name="h2", positions="last", sham_control=True),
}
Numbers = tuple[FloatArray, FloatArray, FloatArray | None]


def table(battery: Battery, templates: Sequence[str | None], items: Sequence[str | None]) -> pa.Table:
    """Two seeds that share examples, rows out of order, a number that is undefined in places, corpus rows that descend."""
    cells = battery.cells(3, 2)
    count = len(templates)
    pairs = [PromptPair(90 - 7 * b, "", "", "", "", *both) for b, both in enumerate(zip(templates, items, strict=True))]
    rng = np.random.default_rng(3)
    level = rng.normal(size=(len(cells), count))
    holes = np.where(np.arange(count) == 1, np.nan, level + 1)
    own = rng.normal(size=count)
    source = rng.normal(size=count) if battery.source is not None else None
    metrics: dict[str, Numbers] = {"logit_diff": (level, own, source), "recovery_mean": (holes, own, source)}
    made = per_example_table(battery.table, "r", cells, pairs, seeds={4: [0, 1, 2, 4], 2: [3, 4, 1]}, metrics=metrics)
    return made.take(rng.permutation(len(made)))


def literally(made: pa.Table, kind: TableKind, metric: str) -> tuple[list[tuple[Any, ...]], list[int], dict[Any, Any]]:
    """The cells as they come, the examples in order, and by cell and example its number; the first row of several counts."""
    cells: list[tuple[Any, ...]] = []
    numbers: dict[Any, Any] = {}
    of: dict[int, dict[str, Any]] = {}
    for row in made.to_pylist():
        if row["metric"] == metric and row["control"] == "none":
            cell = tuple(row[key] for key in kind.keys)
            cells += [] if cell in cells else [cell]
            numbers.setdefault((cell, row["example"]), row["value"])
            of.setdefault(row["example"], row)
    return cells, sorted(of), {"numbers": numbers, "of": of}


@pytest.mark.parametrize("metric", ["logit_diff", "recovery_mean"])
@pytest.mark.parametrize("battery", BATTERIES.values(), ids=BATTERIES)
@pytest.mark.parametrize(
    ("templates", "items"),
    [([*"aabba"], [None] * 5), ([None, *"abab"], ["x", "y", None, "x", "y"]), ([None] * 5, ["w"] * 5)],
    ids=["templates", "some without, items", "none, one item"],
)
def test_it_is_what_a_loop_over_rows_reads(
    metric: str, battery: Battery, templates: Sequence[str | None], items: Sequence[str | None]
) -> None:
    made = table(battery, templates, items)
    found = Measured.read(made, battery.table, metric)
    cells, examples, told = literally(made, battery.table, metric)
    assert [tuple(row) for row in found.keys.itertuples(index=False)] == cells
    assert list(found.keys.columns) == list(battery.table.keys)
    expected = [[told["numbers"].get((cell, example), np.nan) for example in examples] for cell in cells]
    np.testing.assert_array_equal(found.values, np.array(expected))
    rows = [told["of"][example] for example in examples]
    np.testing.assert_array_equal(found.baseline, [row["baseline"] for row in rows])
    assert (found.source is None) == (battery.source is None)
    if found.source is not None:
        np.testing.assert_array_equal(found.source, [row["source"] for row in rows])
    assert list(found.names) == [row["template"] for row in rows]
    words = [row["item"] for row in rows]
    assert (found.items is None) == (set(words) == {None})
    if found.items is not None:
        same = [[a == b or words[a] == words[b] is not None for b in range(len(words))] for a in range(len(words))]
        np.testing.assert_array_equal(found.items.codes[:, None] == found.items.codes, same)


def test_of_several_seeds_rows_the_first_counts() -> None:
    made = table(BATTERIES["heads"], [*"aabba"], [None] * 5)
    twice = pa.concat_tables([made, made.set_column(made.column_names.index("value"), "value", pa.array(np.zeros(len(made))))])
    once, again = (Measured.read(one, BATTERIES["heads"].table, "logit_diff") for one in (made, twice))
    np.testing.assert_array_equal(once.values, again.values)
