"""How many examples it takes to decide an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

    from tinylab.arrays import FloatArray
    from tinylab.statistics.estimates import Estimate

POWER = 0.8


def examples_to_decide(
    estimate: Estimate, critical: FloatArray, smallest: float, n: int, power: float = POWER
) -> Float64[np.ndarray, " V"]:
    """About how many examples of the same kind would decide each cell, if its effect and spread are as they were found.

    Standard errors fall with √n; the critical value is taken as it is, so it is an estimate from above. Infinite where an
    effect is the smallest one exactly.

    Args:
        estimate: of V cells from n examples.
        critical: of each cell's simultaneous interval (`tinylab.statistics.labels.critical`).
        smallest: the smallest effect of interest, in the estimate's unit.
        n: examples.
        power: how surely.
    """
    from scipy import stats

    distance = np.abs(np.abs(estimate.value) - smallest)
    wanted = (critical + stats.norm.ppf(power)) * estimate.se
    with np.errstate(divide="ignore", invalid="ignore"):
        needed: FloatArray = np.ceil(n * (wanted / distance) ** 2)
    return needed


def resolvable(n: int, templates: int, cells: int, alpha: float, power: float = POWER) -> float:
    """How far from the smallest effect one must be to be decided, in standard deviations of examples within templates.

    Before anything is measured; infinite where nothing could be: n is not more than the templates.

    Args:
        n: examples.
        templates: that they are of.
        cells: that are decided together.
        alpha: the error that is allowed.
        power: how surely.
    """
    from scipy import stats

    df = n - templates
    if df < 1:
        return float("inf")
    return float((stats.t.isf(alpha / cells / 2, df) + stats.t.ppf(power, df)) / np.sqrt(n))
