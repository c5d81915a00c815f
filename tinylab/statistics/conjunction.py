"""Does an effect hold in every condition, or in at least r of m? Partial conjunctions (Benjamini & Heller 2008).

The p-value that at least r of m hypotheses are false is (m − r + 1) times the r-th smallest of their p-values: with r = m
the largest. It needs no k and no independence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64


def partial_conjunction(p: Float64[np.ndarray, "m V"], at_least: int) -> Float64[np.ndarray, " V"]:
    """p-values that a component has an effect in at least r of m conditions; NaN where any condition has none.

    Args:
        p: of each condition and component.
        at_least: r, from 1 to m.

    Raises:
        ValueError: r is not among 1 … m.
    """
    conditions = len(p)
    if not 1 <= at_least <= conditions:
        raise ValueError(f"at_least={at_least}: expected 1 to {conditions}, the number of conditions")
    ordered = np.sort(p, axis=0)  # NaN last
    found = np.minimum(1.0, (conditions - at_least + 1) * ordered[at_least - 1])
    return np.where(np.isnan(p).any(axis=0), np.nan, found)


def with_one_sign(
    above: Float64[np.ndarray, "m V"], below: Float64[np.ndarray, "m V"], at_least: int
) -> Float64[np.ndarray, " V"]:
    """p-values that a component has an effect of the same sign in at least r of m conditions: twice the better sign's.

    Args:
        above: one-sided p-values that it is over +margin, of each condition and component.
        below: that it is under −margin.
        at_least: r, from 1 to m.
    """
    signs = [partial_conjunction(p, at_least) for p in (above, below)]
    p: Float64[np.ndarray, " V"] = np.minimum(1.0, 2 * np.minimum(*signs))
    return p
