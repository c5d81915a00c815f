"""How many examples, or templates, it takes to decide an effect."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tinylab.statistics.estimates import quotient

if TYPE_CHECKING:
    from jaxtyping import Float64

    from tinylab.arrays import FloatArray
    from tinylab.statistics.estimates import Estimate

POWER = 0.8
DRAWS = 10_000
NEAREST = 1e-4
"""Nearer to the smallest effect than so many standard deviations, no number of templates is worth naming."""


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
    from scipy import special

    distance = np.abs(np.abs(estimate.value) - smallest)
    wanted = (critical + special.ndtri(power)) * estimate.se
    with np.errstate(divide="ignore", invalid="ignore"):
        needed: FloatArray = np.ceil(n * (wanted / distance) ** 2)
    return needed


@lru_cache(maxsize=1024)
def resolvable(n: int, templates: int, cells: int, alpha: float, power: float = POWER) -> float:
    """How far from the smallest effect one must be to be decided, in standard deviations of examples within templates.

    Before anything is measured, for templates of equal size and normal numbers of equal spread. It is the quantile of a seeded
    simulation, as Satterthwaite's degrees of freedom are random; for one template it is the power of the t-test, the only case
    that statsmodels has. Infinite where nothing could be decided: a template has fewer than two examples.

    Args:
        n: examples.
        templates: that they are of.
        cells: that are decided together.
        alpha: the error that is allowed.
        power: how surely.
    """
    from scipy import special

    each = n / templates - 1
    if each < 1:
        return float("inf")
    rng = np.random.default_rng(0)
    total, squares = np.zeros(DRAWS), np.zeros(DRAWS)
    for _ in range(templates):
        variance = rng.chisquare(each, DRAWS) / each
        total += variance
        squares += variance**2
    critical = -special.stdtrit(each * total**2 / squares, alpha / cells / 2)
    needed = critical * np.sqrt(total / templates) - rng.standard_normal(DRAWS)
    return float(np.quantile(needed, power) / np.sqrt(n))


def examples_for(distance: float, templates: int, cells: int, alpha: float, power: float = POWER) -> int:
    """About the fewest examples that decide an effect so far from the smallest: the inverse of `resolvable`.

    Args:
        distance: in standard deviations of examples within templates, more than 0.
        templates: that examples are of.
        cells: that are decided together.
        alpha: the error that is allowed.
        power: how surely.
    """
    def enough(n: int) -> bool:
        return resolvable(n, templates, cells, alpha, power) <= distance

    most = 2 * templates
    while not enough(most):
        most *= 2
    return bisect_left(range(most), True, lo=most // 2, key=enough)


def templates_for_half(
    estimate: Estimate, smallest: float, templates: int, tests: int, alpha: float, *, power: float = POWER
) -> float:
    """About the fewest templates that show half of some effects to matter for new ones, if these and their spread are as found.

    Infinite where half of them are not over the smallest effect.

    Args:
        estimate: of these effects, with templates as the sample (`tinylab.statistics.estimates.new_templates`).
        smallest: the smallest effect of interest, in the estimate's unit.
        templates: that they were found with.
        tests: how many effects are tested together.
        alpha: the error that is allowed.
        power: how surely.
    """
    spread = estimate.se * np.sqrt(templates)
    distance = quotient(np.abs(estimate.value) - smallest, spread)
    half = float(np.quantile(distance, 0.5, method="higher"))
    return max(2, examples_for(half, 1, tests, alpha, power)) if half > NEAREST else float("inf")
