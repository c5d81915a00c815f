"""What an interval says of an effect: it matters, it is negligible, its sign depends on the template, or it is undecided.

An effect matters if all of its interval is beyond a smallest effect of interest, and is negligible if all of it is within
(Lakens, Scheel & Isager 2018); everything else is undecided, not absent. The intervals hold for all cells together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from tinylab.statistics.estimates import quotient
from tinylab.statistics.families import benjamini_hochberg, holm, max_t

if TYPE_CHECKING:
    from jaxtyping import Float64

    from tinylab.arrays import FloatArray
    from tinylab.statistics.estimates import Estimate
    from tinylab.statistics.strata import Groups

MATTERS, NEGLIGIBLE, MIXED, UNDECIDED = "matters", "negligible", "mixed", "undecided"
LABELS = (MATTERS, MIXED, NEGLIGIBLE, UNDECIDED)
Correction = Literal["holm", "bh", "maxt"]
CORRECTIONS: tuple[Correction, ...] = ("holm", "bh", "maxt")


def critical(  # noqa: PLR0917
    estimate: Estimate, smallest: float, alpha: float, correction: Correction, e: FloatArray, templates: Groups
) -> FloatArray:
    """How many standard errors wide each cell's side of its simultaneous interval is, [V].

    `holm`: t at 1 − alpha/(2V), so that all V intervals hold with probability 1 − alpha. `maxt`: one number for all cells, from
    flips (`max_t`); NaN where it is infinite. `bh`: t at 1 − R·alpha/(2V), where R cells are decided at that level: of the
    intervals of decided cells a share of alpha is wrong on average (Benjamini & Yekutieli 2005).

    Args:
        estimate: of V cells; those that are undefined are in no family.
        smallest: the smallest effect of interest, in the estimate's unit.
        alpha: the error that is allowed.
        correction: which kind of error.
        e: [V, B] the numbers that `max_t` flips.
        templates: of the B examples.
    """
    from scipy import special

    defined = ~np.isnan(estimate.se)
    count = max(1, int(defined.sum()))
    if correction == "maxt":
        found = max_t(e[defined], templates, alpha=alpha) if defined.any() else np.nan
        return np.where(defined & np.isfinite(found), found, np.nan)
    level = alpha / count
    if correction == "bh":
        distance = np.abs(np.abs(estimate.value) - smallest)
        p = 2 * special.stdtr(estimate.df, -quotient(distance, estimate.se))  # that a cell is decided, on either side
        level *= max(1, int((benjamini_hochberg(p) <= alpha).sum()))
    width: FloatArray = -special.stdtrit(estimate.df, level / 2)
    return width


def decide(  # noqa: PLR0917
    estimate: Estimate, critical: FloatArray, smallest: float, crossover: FloatArray, alpha: float, correction: Correction
) -> list[str | None]:
    """Each cell's label; None where it has no interval.

    Args:
        estimate: of V cells.
        critical: of `critical`.
        smallest: the smallest effect of interest, in the estimate's unit.
        crossover: p-values that templates have opposite signs (`tinylab.statistics.estimates.crossover`).
        alpha: the error that is allowed.
        correction: whether `crossover` is corrected by Benjamini & Hochberg (`bh`), or by Holm.
    """
    size, half = np.abs(estimate.value), critical * estimate.se
    crossed = (benjamini_hochberg if correction == "bh" else holm)(crossover)
    label = np.where(size - half > smallest, MATTERS, np.where(size + half < smallest, NEGLIGIBLE, UNDECIDED))
    label = np.where(crossed <= alpha, MIXED, label)
    return [None if np.isnan(se) else str(one) for one, se in zip(label, estimate.se, strict=True)]


def hold_for_new_templates(
    estimate: Estimate, smallest: float, labels: list[str | None], alpha: float
) -> list[bool | None]:
    """Which effects matter for new templates too, [V]: tested beyond the smallest effect, by Holm among those that matter.

    Args:
        estimate: with templates as the sample (`tinylab.statistics.estimates.new_templates`).
        smallest: the smallest effect of interest, in the estimate's unit.
        labels: of the cells; if there is none, nothing is decided.
        alpha: the error that is allowed.
    """
    candidates = np.array([label == MATTERS for label in labels])
    p = np.where(candidates, np.minimum(1.0, 2 * np.minimum(*estimate.beyond(smallest))), np.nan)
    adjusted: Float64[np.ndarray, " V"] = holm(p)
    return [None if label is None or np.isnan(se) else bool(one <= alpha)
            for label, one, se in zip(labels, adjusted, estimate.se, strict=True)]
