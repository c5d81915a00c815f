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
