"""Every position by itself: a battery's cells at each position of the prompts, and which prompts have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from tinylab.batteries.base import Cell
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Each
from tinylab.task.tokens import TokenPair


def at_each_position(cells: Iterable[Cell], longest: int) -> list[Cell]:
    """The cells, each once for every position, in their order.

    Args:
        cells: that act at position 0.
        longest: tokens of the longest prompt.
    """
    return [replace(cell, variant=replace(cell.variant, positions=Each(position)), key={**cell.key, "position": position})
            for cell in cells for position in range(longest)]


def lacking(cells: Sequence[Cell], tokens: Sequence[TokenPair]) -> Bool[np.ndarray, "V B"]:
    """Whether an example's target run has no token where a cell acts, [V, B]."""
    length = {run: np.array([len(pair.prompt(run).tokens) for pair in tokens]) for run in {c.variant.target for c in cells}}
    position = np.array([at.position if isinstance(at := cell.variant.positions, Each) else -1 for cell in cells])
    return np.array([length[cell.variant.target] <= at for cell, at in zip(cells, position, strict=True)])


def common_tokens(
    tokens: Sequence[TokenPair], runs: Iterable[RunName], spell: Callable[[Sequence[int]], list[str]]
) -> list[str | None]:
    """The token at each position that every prompt has, None where prompts differ.

    Args:
        tokens: the pairs.
        runs: whose prompts are compared.
        spell: tokens as a person reads them.
    """
    columns = zip(*(pair.prompt(run).tokens for run in runs for pair in tokens), strict=False)  # as far as the shortest
    return [spell([column[0]])[0] if len(set(column)) == 1 else None for column in columns]
