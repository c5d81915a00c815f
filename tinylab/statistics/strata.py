"""Which template, and which reused word, each example is of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

    from tinylab.arrays import FloatArray


@dataclass(frozen=True)
class Groups:
    """A partition of B examples into groups, numbered in the order in which they come."""

    codes: Int[np.ndarray, " B"]

    @classmethod
    def of(cls, names: Sequence[Hashable | None]) -> Groups:
        """Groups of equal names; an example without one is a group of its own."""
        numbers: dict[Hashable, int] = {}
        keys = [("", place) if name is None else ("named", name) for place, name in enumerate(names)]
        return cls(np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64))

    @cached_property
    def sizes(self) -> Int[np.ndarray, " G"]:
        """Examples of each group."""
        sizes: Int[np.ndarray, " G"] = np.bincount(self.codes)
        return sizes

    @cached_property
    def each(self) -> list[Int[np.ndarray, " n_t"]]:
        """The examples of each group, in order."""
        return np.split(np.argsort(self.codes, kind="stable"), np.cumsum(self.sizes)[:-1])

    @cached_property
    def members(self) -> Float64[np.ndarray, "B G"]:
        """1 where an example is of a group."""
        members: Float64[np.ndarray, "B G"] = np.eye(len(self.sizes))[self.codes]
        return members

    def sums(self, numbers: FloatArray) -> FloatArray:
        """Sums over each group, [..., G] of [..., B]."""
        sums: FloatArray = numbers @ self.members
        return sums

    def means(self, numbers: FloatArray) -> FloatArray:
        """Means of each group, [..., G] of [..., B]."""
        means: FloatArray = self.sums(numbers) / self.sizes
        return means

    def centred(self, numbers: FloatArray) -> FloatArray:
        """Deviations from each example's own group's mean, [..., B]."""
        return numbers - self.means(numbers)[..., self.codes]


def templates(names: Sequence[str | None]) -> Groups:
    """The templates of examples; where any has none, all are of one."""
    return Groups.of(["" for _ in names] if None in names else list(names))


def shares(sizes: Sequence[int], n: int, least: int = 2) -> list[int]:
    """How many of n drawn examples each group gets: in proportion to its size, but `least` (or all it has) where n allows.

    What whole numbers leave over goes to the largest remainders, of equal ones to the first (Hamilton's method).

    Args:
        sizes: of the groups.
        n: drawn in all, not more than there are.
        least: of each group; where n is less than that takes, only the proportion counts.
    """
    floors = [min(least, size) for size in sizes]
    if n < sum(floors):
        floors = [0] * len(sizes)
    raised: set[int] = set()
    while True:
        free = [g for g in range(len(sizes)) if g not in raised]
        rest, total = n - sum(floors[g] for g in raised), sum(sizes[g] for g in free)
        found = {g: rest * sizes[g] // total for g in free}
        for g in sorted(free, key=lambda g: -(rest * sizes[g] % total))[: rest - sum(found.values())]:
            found[g] += 1
        short = {g for g in free if found[g] < floors[g]}
        if not short:
            return [found.get(g, floors[g]) for g in range(len(sizes))]
        raised |= short
