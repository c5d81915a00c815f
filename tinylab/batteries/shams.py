"""Shams: some of a battery's cells once more, so that nothing should change.

What they change all the same is what a way of intervening does by itself. They go through the very code of the cells: a scale
by a factor of 1, a patch of a run from itself (`Operation.sham`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinylab.batteries.base import Cell

SHAM = "sham"
"""What the tables call such a cell."""
SHARE = 10
"""One sham in so many cells, unless more are asked for."""


def shams(cells: Sequence[Cell], asked: Any) -> list[Cell]:
    """The shams of some of a battery's cells, with their keys.

    A battery that has shams of its own gets no more, and cells with an operation that declares none have none.

    Args:
        cells: the battery's.
        asked: `auto`: of a tenth of the cells, of one at least, the one that forks lowest; further ones in layers evenly above
            it. True: of one in each layer. False: of none.
    """
    if asked is False or any(cell.control == SHAM for cell in cells):
        return []
    real = [cell for cell in cells if cell.control == "none"]
    able: dict[int, list[Cell]] = {}  # by layer, the lowest first
    for cell in sorted(real, key=lambda cell: cell.variant.fork):
        if (variant := cell.variant.sham()) is not None:
            able.setdefault(variant.fork[0], []).append(Cell(variant, cell.key, SHAM))
    layers = list(able.values())
    count = len(layers) if asked is True else min(len(layers), max(1, len(real) // SHARE))
    chosen = [layers[place] for place in _evenly(len(layers), count)]
    return [members[number % len(members)] for number, members in enumerate(chosen)]  # not the same head everywhere


def _evenly(available: int, count: int) -> list[int]:
    """So many places of those that there are, the first and the last among them."""
    return [round(number * (available - 1) / max(1, count - 1)) for number in range(count)]


def without_sham(cells: Sequence[Cell]) -> list[str]:
    """The operations that declare no sham, each once, as the log calls them."""
    operations = [i.operation for cell in cells for i in cell.variant.interventions]
    return list(dict.fromkeys(type(one).__name__ for one in operations if one.sham() is None))
