"""Exact intervals of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

    from tinylab.arrays import FloatArray


def clopper_pearson(count: Int[np.ndarray, " V"], n: int, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Bounds of a probability of which `count` of n were seen; they cover at least `level` (Clopper & Pearson 1934).

    Args:
        count: [V] whole numbers from 0 to n.
        n: how many were looked at, at least 1.
        level: the intervals' coverage.
    """
    from scipy import special

    beyond = (1 - level) / 2
    low = np.where(count > 0, special.betaincinv(np.maximum(count, 1), n - count + 1, beyond), 0.0)
    high = np.where(count < n, special.betaincinv(count + 1, np.maximum(n - count, 1), 1 - beyond), 1.0)
    return low, high
