"""Do random sets of components do as much damage as those that matter? A circuit that any other would replace is none.

The components that matter or are mixed (the circuit) are intervened on jointly, and so are random sets of as many: drawn from all
of the battery's components, and drawn so that each layer has as many as in the circuit (layers may matter more than heads do).
Damage is the size of the mean change of logit_diff (of logprob_diff where whole answers count).
p = (1 + sets with as much damage) / (1 + sets), which is exact for a circuit that was drawn like them
(Phipson & Smyth 2010). It is not that of a circuit which was chosen on the same examples,
and whose joint damage may be less than what its components do alone: it says how far a random choice would have come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from tinylab.arrays import FloatArray
from tinylab.batteries.base import Cell
from tinylab.interventions.components import TableKind
from tinylab.interventions.variants import Variant
from tinylab.measures.metrics import LOGIT_DIFF
from tinylab.statistics.labels import MATTERS, MIXED
from tinylab.statistics.strata import Groups

NOISE = 1e-6
"""Damage counts as much as the circuit's from so much below it on, as a fraction of levels over 1: rounding decides nothing."""
PART = 10
"""A control is done by itself where it costs at most one part in so many of the states of what it controls."""
FEWEST, OF_EACH = 8, 2
"""Examples, and examples of each template, below which no part of a condition stands for it."""

Set = tuple[int, ...]
"""Places of components in a list, ascending."""


@dataclass(frozen=True)
class Circuit:
    """The components of a run that matter or are mixed, of all those that one value of what varies (a scale) was tried on."""

    at: dict[str, Any]  # that value, by column
    components: list[tuple[int, ...]]  # all of them, in the order of the table
    members: Set  # places in it
    judged: bool  # whether components have labels at all

    @staticmethod
    def of(effects: pa.Table, kind: TableKind, by: str = LOGIT_DIFF) -> Circuit:
        """From a run's effects on the metric of labels; of several values the one that is 0 counts, else the first.

        Args:
            effects: the run's `effects`.
            kind: of its impact table.
            by: the metric.
        """
        rows = effects.filter(pc.equal(effects["metric"], by)).to_pylist()
        others = (*kind.apart, *kind.varied)
        values = list(dict.fromkeys(tuple(row[name] for name in others) for row in rows))
        value = next((value for value in values if value and set(value) == {0}), values[0] if values else ())
        rows = [row for row in rows if tuple(row[name] for name in others) == value]
        members = tuple(place for place, row in enumerate(rows) if row["label"] in (MATTERS, MIXED))
        return Circuit(dict(zip(others, value, strict=False)), [tuple(row[name] for name in kind.component) for row in rows],
                       members, any(row["label"] is not None for row in rows))

    @property
    def layers(self) -> list[int]:
        """The layer of each component."""
        return [component[0] for component in self.components]

    def cells_among(self, cells: Sequence[Cell], kind: TableKind) -> list[Cell] | None:
        """The battery's cells of these components, by their first draws; None where they are not of one unit (a head) each."""
        keyed: dict[tuple[Any, ...], Cell] = {}
        for cell in cells:
            if cell.control == "none":
                keyed.setdefault(tuple(cell.key[name] for name in kind.keys), cell)
        found = [keyed[self._key(component, kind)] for component in self.components]
        single = all(len(cell.variant.interventions) == 1 and cell.variant.interventions[0].head is not None for cell in found)
        return found if single else None

    def _key(self, component: tuple[int, ...], kind: TableKind) -> tuple[Any, ...]:
        told = {**dict(zip(kind.component, component, strict=True)), **self.at}
        return tuple(told[name] for name in kind.keys)


def together(cells: Sequence[Cell]) -> Variant:
    """The interventions of several cells in one run."""
    return replace(cells[0].variant, interventions=tuple(i for cell in cells for i in cell.variant.interventions))


def draw(members: Set, layers: Sequence[int], draws: int, seed: int) -> dict[str, list[Set]]:
    """Random sets as large as the circuit: `uniform`, of all components; `same_layers`, as many in each layer as it has.

    Args:
        members: of the circuit.
        layers: of each of V components.
        draws: sets of either kind.
        seed: what they depend on.
    """
    rng = np.random.default_rng(seed)
    of_layer = {layer: np.flatnonzero(np.array(layers) == layer) for layer in dict.fromkeys(layers)}
    wanted = Counter(layers[place] for place in members)
    uniform = [rng.choice(len(layers), len(members), replace=False) for _ in range(draws)]
    within = [np.concatenate([rng.choice(of_layer[layer], count, replace=False) for layer, count in wanted.items()])
              for _ in range(draws)]
    return {"uniform": [_sorted(places) for places in uniform], "same_layers": [_sorted(places) for places in within]}


def _sorted(places: Int[np.ndarray, " k"]) -> Set:
    return tuple(sorted(int(place) for place in places))


def compared(circuit: float, random: FloatArray, level: float) -> dict[str, Any]:
    """How often random sets do as much damage as the circuit.

    Args:
        circuit: its damage.
        random: each set's.
        level: of the unmodified run.
    """
    as_much = int((random >= circuit - NOISE * max(1.0, abs(level))).sum())
    return {
        "as_much": as_much,
        "share": as_much / len(random),
        "p": (1 + as_much) / (1 + len(random)),
        "median": float(np.median(random)) / circuit if circuit > 0 else None,
    }


def in_strata(templates: Sequence[str | None], seed: int) -> tuple[list[int], int]:
    """All examples in an order of which any beginning has about as much of each template as the whole; and the least of it.

    The least beginning has two of each template (or all of it), and eight (or all).

    Args:
        templates: of the examples.
        seed: what the order within a template depends on.
    """
    rng = np.random.default_rng(seed)
    groups = Groups.of(["" if name is None else name for name in templates])
    parts = [rng.permutation(np.flatnonzero(groups.codes == group)) for group in range(len(groups.sizes))]
    order = beginnings(parts)
    return order, min(len(order), max(FEWEST, sum(len(part[:OF_EACH]) for part in parts)))


def beginnings(parts: Sequence[Int[np.ndarray, " n"]]) -> list[int]:
    """Two of each part, one part after the other, then what is left so that any beginning has about as much of each."""
    first = [int(place) for part in parts for place in part[:OF_EACH]]
    rest = [((number + 0.5) / len(part), int(place)) for part in parts for number, place in enumerate(part) if number >= OF_EACH]
    return first + [place for _, place in sorted(rest)]


def affordable(templates: Sequence[str | None], seed: int, cost: Callable[[list[int]], int], most: float) -> list[int] | None:
    """The largest stratified part of the examples that costs no more than allowed, ascending; None if even the least does.

    Args:
        templates: of the examples.
        seed: what is drawn depends on it.
        cost: of some examples; more cost more.
        most: what is allowed.
    """
    order, least = in_strata(templates, seed)
    return most_of(order, least, cost, most)


def most_of(order: Sequence[int], least: int, cost: Callable[[list[int]], int], most: float) -> list[int] | None:
    """The longest beginning of an order that costs no more than allowed, ascending; None if even the least does.

    Args:
        order: of examples.
        least: how many of them there have to be.
        cost: of some examples; more cost more.
        most: what is allowed.
    """
    if cost(sorted(order[:least])) > most:
        return None
    low, high = least, len(order)
    while low < high:  # the beginnings up to `low` are cheap enough
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(sorted(order[:middle])) <= most else (low, middle - 1)
    return sorted(order[:low])
