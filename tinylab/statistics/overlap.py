"""How many components do lists of the strongest share by chance? Exact distributions, not only the mean.

Two nulls: lists drawn among all components, and lists drawn within each layer, with as many of each layer as were found.
The second says what is left once it is granted that some layers matter more than others. (A null that also keeps how
often each component is chosen fixes the overlap, and tests nothing.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tinylab.arrays import FloatArray


def shared_by_chance(sizes: Sequence[int], components: int) -> FloatArray:
    """Probabilities of 0, 1, … shared components, of random lists of these sizes: a chain of hypergeometric draws.

    Args:
        sizes: of each list, at most `components`.
        components: how many there are.
    """
    from scipy import stats

    found = np.zeros(min(sizes) + 1)
    first, *others = sorted(sizes)
    found[first] = 1.0
    shared = np.arange(len(found))
    for size, lists in Counter(others).items():
        step = stats.hypergeom.pmf(shared[:, None], components, shared, size)  # from so many shared (to the right) to so many
        for _ in range(lists):
            found = step @ found
    return found


def shared_within_layers(sizes: Sequence[Sequence[int]], components: Sequence[int]) -> FloatArray:
    """The same where each list has given numbers of each layer: the sum over layers, convolved.

    Args:
        sizes: of each list, how many of each layer.
        components: of each layer.
    """
    found = np.ones(1)
    for layer, count in enumerate(components):
        found = np.convolve(found, shared_by_chance([own[layer] for own in sizes], count))
    return found


def at_least(shared: int, probabilities: FloatArray) -> float:
    """The probability of at least so many shared components."""
    return float(min(1.0, probabilities[shared:].sum()))


def expected(probabilities: FloatArray) -> float:
    """The mean number of shared components."""
    return float(np.arange(len(probabilities)) @ probabilities)
