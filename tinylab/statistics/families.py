"""Many tests at once: adjusted p-values, and the critical value of the largest of many t statistics.

Holm (1979) bounds the chance of any false claim, Benjamini & Hochberg (1995) the expected share of false claims. Both take
NaN for a test that does not exist: it is in no family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

    from tinylab.arrays import FloatArray
    from tinylab.statistics.strata import Groups

FLIPS = 10_000
BLOCK = 500
ROUNDING = 1e-12
"""A variance that is a smaller part of what it was before a flip is none."""


def holm(p: Float64[np.ndarray, " V"]) -> FloatArray:
    """Adjusted p-values that hold for all together, whatever their dependence."""
    tested = np.flatnonzero(~np.isnan(p))  # by hand, as below: statsmodels takes most of a second to import
    order = tested[np.argsort(p[tested])]
    found = np.full(len(p), np.nan)
    found[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return found


def benjamini_hochberg(p: Float64[np.ndarray, " V"]) -> FloatArray:
    """Adjusted p-values that bound the expected share of false claims, under independence or positive dependence."""
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])][::-1]
    found = np.full(len(p), np.nan)
    found[order] = np.minimum.accumulate(p[order] / (np.arange(len(order), 0, -1) / len(order)))
    return found


def max_t(
    e: Float64[np.ndarray, "V B"], templates: Groups, *, alpha: float = 0.05, flips: int = FLIPS, seed: int = 0
) -> float:
    """The critical value of the largest |t| of V cells: what chance exceeds with probability alpha (Westfall & Young 1993).

    Signs of the deviations within templates are flipped, the same for every cell, and t is computed again; assumes that
    deviations are symmetric. Sums of squares stay, so a flip needs sums over templates alone. Seeded. Infinite where so few
    examples are flipped that too often none of their spread is left.

    Args:
        e: numbers of V cells on B examples.
        templates: of the examples, two examples each at least.
        alpha: how often chance may exceed it.
        flips: how many.
        seed: of the flips.
    """
    n_t, n = templates.sizes, len(templates.codes)
    deviations = templates.centred(e) * np.sqrt(n_t / (n_t - 1))[templates.codes]
    weights = 1 / (n_t - 1) / n**2  # of n_t·Σx² − (Σx)²: a template's part of the variance
    of_templates = templates.sums(deviations**2)  # [V, G]
    squares, spread = of_templates @ (n_t * weights), of_templates.sum(axis=1) / n**2  # [V]
    parts = [(own, np.sqrt(weight) * deviations[:, own].T) for own, weight in zip(templates.each, weights, strict=True)]
    rng = np.random.default_rng(seed)
    largest = []
    for start in range(0, flips, BLOCK):
        signs = rng.integers(0, 2, size=(min(BLOCK, flips - start), n)) * 2.0 - 1
        variance = np.tile(squares, (len(signs), 1))
        for own, scaled in parts:
            sums = signs[:, own] @ scaled  # [flips, V]
            variance -= np.square(sums, out=sums)
        total = np.square(signs @ (deviations.T / n))
        t = np.where(total > ROUNDING * spread, np.inf, 0.0)  # where nothing varies any more
        np.divide(total, variance, where=variance > ROUNDING * squares, out=t)
        largest.append(np.sqrt(t.max(axis=1)))
    return float(np.quantile(np.concatenate(largest), 1 - alpha, method="higher"))
