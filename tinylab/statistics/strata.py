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


@dataclass(frozen=True)
class Parts:
    """Items cut by templates: J parts, of each the examples that are of one item and of one template."""

    examples: Groups
    """Which part each of B examples is of."""
    templates: Groups
    """The template of each of J parts, as examples' templates are numbered."""
    items: Groups
    """The item of each of J parts."""
    within: Groups
    """The templates of the examples."""

    @classmethod
    def of(cls, templates: Groups, items: Groups | None) -> Parts:
        """Without items each example is one of its own."""
        item = np.arange(len(templates.codes)) if items is None else items.codes
        examples = Groups.of([*zip(item.tolist(), templates.codes.tolist(), strict=True)])
        first = np.unique(examples.codes, return_index=True)[1]
        return cls(examples, Groups(templates.codes[first]), Groups(item[first]), templates)

    @cached_property
    def share(self) -> Float64[np.ndarray, " J"]:
        """Of a part in the examples of its template."""
        share: Float64[np.ndarray, " J"] = self.examples.sizes / self.within.sizes[self.templates.codes]
        return share

    @property
    def alone(self) -> int:
        """Templates that are of one part: nothing shows how they vary."""
        return int((self.share == 1).sum())

    def stretched(self, numbers: FloatArray) -> FloatArray:
        """Each part's sum of deviations from its template's mean, [..., J] of [..., B]; 0 of a part that is all of its template.

        Stretched so that its square is unbiased for independent examples (Bell & McCaffrey 2002).
        """
        sums = self.examples.sums(self.within.centred(numbers))
        stretched: FloatArray = np.divide(sums, np.sqrt(1 - self.share), out=np.zeros_like(sums), where=self.share < 1)
        return stretched

    @cached_property
    def df(self) -> float:
        """Degrees of freedom of the sum of squares of items' stretched sums, for independent examples of equal variance.

        They are the squared trace of a matrix M over the sum of its squares, M = diag(own) − U·diag(1/n_t)·Uᵀ.
        """
        n_t, weight = self.within.sizes, self.examples.sizes / np.sqrt(1 - self.share)
        own = self.items.sums(weight / np.sqrt(1 - self.share))  # [I]
        u = self.items.members.T @ (weight[:, None] * self.templates.members)  # [I, G]
        trace = own.sum() - (u**2 / n_t).sum()
        squares = (own**2).sum() - 2 * (own[:, None] * u**2 / n_t).sum() + ((u.T @ u) ** 2 / np.outer(n_t, n_t)).sum()
        return float(trace**2 / squares)
