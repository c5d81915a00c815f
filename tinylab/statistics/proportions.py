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
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, n, alpha=1 - level, method="beta")
    return np.asarray(low, dtype=float), np.asarray(high, dtype=float)
