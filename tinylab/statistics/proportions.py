"""Intervals of shares: exact ones of counts, and of examples that are not independent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

    from tinylab.arrays import FloatArray
    from tinylab.statistics.estimates import Estimate


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


def of_clusters(share: Estimate, n: int, clusters: int, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Bounds of a share of n examples that come in clusters: the exact ones of as many independent examples as these are worth.

    They are worth share·(1 − share)/se², times the squared ratio of the quantiles of t with n − 1 and with the share's degrees of
    freedom, and at most n (Korn & Graubard 1998); where the clusters do not vary, as many as there are clusters.

    Args:
        share: estimated with clusters (`tinylab.statistics.estimates.fixed_templates`).
        n: examples.
        clusters: how many clusters they come in.
        level: the intervals' coverage.
    """
    from scipy import special

    beyond = 0.5 - level / 2
    varies = share.se > 0
    ratio = special.stdtrit(n - 1, beyond) / special.stdtrit(np.where(varies, share.df, n - 1), beyond)
    worth = np.full(len(share.value), float(clusters))
    np.divide(share.value * (1 - share.value) * ratio**2, share.se**2, out=worth, where=varies)
    worth = np.minimum(worth, n)
    count = share.value * worth
    low = np.where(share.value > 0, special.betaincinv(np.where(count > 0, count, 1.0), worth - count + 1, beyond), 0.0)
    high = np.where(share.value < 1, special.betaincinv(count + 1, np.where(worth > count, worth - count, 1.0), 1 - beyond), 1.0)
    return low, high
