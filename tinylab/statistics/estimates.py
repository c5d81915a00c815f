"""Effects of V cells with their uncertainty: for the templates that were used, and for new ones.

Two questions, two intervals. *These templates, new words*: templates are fixed strata, examples within them are a sample
(a stratified mean; Satterthwaite 1946 for its degrees of freedom). *New templates*: templates are the sample, each counts
once. Given the baseline, an effect is a ratio of sums, R = Σd/Σb, linearised for its variance (Cochran 1977, section 6.3).

Letters: V cells, B examples, G templates; d [V, B] changes, b [B] what they are a fraction of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinylab.statistics.strata import Groups, Parts

if TYPE_CHECKING:
    from jaxtyping import Float64

    from tinylab.arrays import FloatArray

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """V estimates, their standard errors and degrees of freedom; NaN where undefined."""

    value: Float64[np.ndarray, " V"]
    se: Float64[np.ndarray, " V"]
    df: Float64[np.ndarray, " V"]

    def interval(self, level: float = LEVEL) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds of t intervals, [V] each."""
        from scipy import special

        half = special.stdtrit(self.df, (1 + level) / 2) * self.se
        return self.value - half, self.value + half

    def beyond(self, margin: float) -> tuple[FloatArray, FloatArray]:
        """One-sided p-values that the effect is over +margin, and that it is under −margin, [V] each."""
        from scipy import special

        above = special.stdtr(self.df, -quotient(self.value - margin, self.se))
        below = special.stdtr(self.df, quotient(self.value + margin, self.se))
        return above, below

    def nonzero(self) -> FloatArray:
        """Two-sided p-values of no effect, [V]."""
        both: FloatArray = 2 * np.minimum(*self.beyond(0.0))
        return np.minimum(1.0, both)


def quotient(numbers: FloatArray, se: FloatArray) -> FloatArray:
    """Numbers in standard errors; where those are 0, an infinity of the number's sign, and 0 for 0."""
    exact = np.where(numbers == 0, 0.0, np.copysign(np.inf, numbers))
    return np.divide(numbers, se, out=np.where(np.isnan(se), np.nan, exact), where=se > 0)


def ratio(d: Float64[np.ndarray, "V B"], b: Float64[np.ndarray, " B"] | None) -> tuple[FloatArray, FloatArray]:
    """R = Σd/Σb [V], and e = (d − R·b)/b̄ [V, B] whose mean is 0 and whose spread is R's; without b the means and d itself.

    Args:
        d: changes.
        b: what they are a fraction of; its mean is not 0.
    """
    if b is None:
        return d.mean(axis=1), d
    found = d.sum(axis=1) / b.sum()
    return found, (d - found[:, None] * b) / b.mean()


def fixed_templates(
    d: Float64[np.ndarray, "V B"], b: Float64[np.ndarray, " B"] | None, templates: Groups, items: Groups | None = None
) -> Estimate:
    """These templates, new words: the mean (or ratio of sums) over all examples.

    se² = Σ w_t²·s_t²/n_t with w_t = n_t/n, which is HC2 with a dummy for each template, and Satterthwaite's degrees of freedom
    (with one template the one-sample t, with two Welch's). Undefined where a template has one example: nothing shows how it
    varies. Assumes examples of a template are independent; with `items`, that items are: then se² is CR2, which is HC2 for
    clusters, with the degrees of freedom of Bell & McCaffrey 2002 for equal variances; undefined where all examples of a
    template are of one item.

    Args:
        d: changes.
        b: what they are a fraction of, None for the changes themselves.
        templates: of the examples.
        items: what several examples reuse, such as a word; None where each has its own.
    """
    value, e = ratio(d, b)
    n_t, n = templates.sizes, len(templates.codes)
    parts = Parts.of(templates, items)
    if n < 2 or parts.alone:
        return Estimate(value, np.full(len(d), np.nan), np.full(len(d), np.nan))
    if len(parts.items.sizes) < n:
        variance = (parts.items.sums(parts.stretched(e)) ** 2).sum(axis=1) / n**2
        return Estimate(value, np.sqrt(variance), np.full(len(d), parts.df))
    pieces = (n_t / n) ** 2 * templates.sums(templates.centred(e) ** 2) / (n_t - 1) / n_t  # [V, G]
    variance = pieces.sum(axis=1)
    with np.errstate(invalid="ignore"):
        df = variance**2 / (pieces**2 / (n_t - 1)).sum(axis=1)
    return Estimate(value, np.sqrt(variance), np.where(variance > 0, df, n - len(n_t)))


def new_templates(
    d: Float64[np.ndarray, "V B"], b: Float64[np.ndarray, " B"] | None, templates: Groups, items: Groups | None = None
) -> Estimate:
    """New templates of the same kind: the unweighted mean of template means (or the ratio of those of d and b).

    se = sd/√G with G − 1 degrees of freedom. Undefined for one template. With `items` that several templates reuse, their part
    is added: two-way clustering (Cameron, Gelbach & Miller 2011), not less than without.

    Args:
        d: changes.
        b: what they are a fraction of, None for the changes themselves.
        templates: of the examples.
        items: what several examples reuse, such as a word; None where each has its own.
    """
    count = len(templates.sizes)
    value, e = ratio(templates.means(d), None if b is None else templates.means(b))
    if count < 2:
        return Estimate(value, np.full(len(d), np.nan), np.full(len(d), np.nan))
    variance = e.var(axis=1, ddof=1) / count
    df = count - 1
    if items is not None and len(items.sizes) < len(items.codes):
        parts = Parts.of(templates, items)
        sums = parts.examples.sums(templates.centred(ratio_at(d, b, value, templates)))
        shared = (parts.items.sums(sums) ** 2).sum(axis=1) - (sums**2).sum(axis=1)
        variance = variance + np.maximum(0.0, shared)
        df = min(df, max(1, len(items.sizes) - 1))
    return Estimate(value, np.sqrt(variance), np.full(len(d), float(df)))


def ratio_at(d: FloatArray, b: FloatArray | None, value: FloatArray, templates: Groups) -> FloatArray:
    """Each example's part of the unweighted mean of template means, linearised at `value`, [V, B]; over a template e_t/G."""
    weight = (1 / templates.sizes / len(templates.sizes))[templates.codes]
    e = d if b is None else (d - value[:, None] * b) / templates.means(b).mean()
    parts: FloatArray = e * weight
    return parts


def heterogeneity(e: Float64[np.ndarray, "V B"], templates: Groups, items: Groups | None = None) -> FloatArray:
    """p-values that an effect differs between templates, [V]: one-way analysis of variance (Fisher's F).

    Undefined for one template, or as many as examples. Welch's form is too often significant with four examples a template.
    With `items` the mean of an item's examples in a template counts as one example; what items have in common in several
    templates makes p larger, not smaller.

    Args:
        e: an example's part of each effect.
        templates: of the examples.
        items: what several examples reuse, such as a word; None where each has its own.
    """
    from scipy import special

    e, templates = _of_items(e, templates, items)
    groups, n = len(templates.sizes), len(templates.codes)
    if groups < 2 or n <= groups:
        return np.full(len(e), np.nan)
    between, within = mean_squares(e, templates)
    p: FloatArray = special.fdtrc(groups - 1, n - groups, quotient(between, within))
    return p


def _of_items(e: FloatArray, templates: Groups, items: Groups | None) -> tuple[FloatArray, Groups]:
    """Means of an item's examples in a template, [V, J], and the templates of these; what came, where nothing is reused."""
    if items is None or len(items.sizes) == len(items.codes):
        return e, templates
    parts = Parts.of(templates, items)
    return parts.examples.means(e), parts.templates


def mean_squares(e: FloatArray, templates: Groups) -> tuple[FloatArray, FloatArray]:
    """Mean squares between and within templates, [V] each."""
    n_t, n = templates.sizes, len(templates.codes)
    between = (n_t * (templates.means(e) - e.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) / (len(n_t) - 1)
    return between, (templates.centred(e) ** 2).sum(axis=1) / (n - len(n_t))


def between_templates(e: Float64[np.ndarray, "V B"], templates: Groups, items: Groups | None = None) -> FloatArray:
    """The standard deviation between templates beyond that of their examples, [V]; 0 where there is none.

    By moments of one-way random effects (Searle, Casella & McCulloch 1992, section 3.6); undefined as `heterogeneity` is.

    Args:
        e: an example's part of each effect.
        templates: of the examples.
        items: what several examples reuse, such as a word; None where each has its own.
    """
    e, templates = _of_items(e, templates, items)
    n_t, n = templates.sizes, len(templates.codes)
    if len(n_t) < 2 or n <= len(n_t):
        return np.full(len(e), np.nan)
    between, within = mean_squares(e, templates)
    size = (n - (n_t**2).sum() / n) / (len(n_t) - 1)
    spread: FloatArray = np.sqrt(np.maximum(0.0, (between - within) / size))
    return spread


def crossover(
    d: Float64[np.ndarray, "V B"], margin: float, templates: Groups, items: Groups | None = None
) -> FloatArray:
    """p-values that some template is over +margin and another under −margin, [V] (Gail & Simon 1985).

    Of each side the smallest one-sided p of a template's t-test times their number, then the larger of the sides. Undefined
    where fewer than two templates have two examples (with `items`: two items).

    Args:
        d: changes.
        margin: in their unit.
        templates: of the examples.
        items: what several examples reuse, such as a word; None where each has its own.
    """
    from scipy import special

    parts = Parts.of(templates, items)
    count = parts.templates.sizes
    enough = count > 1
    if enough.sum() < 2:
        return np.full(len(d), np.nan)
    squares = parts.templates.sums(parts.stretched(d) ** 2)
    means, se = templates.means(d)[:, enough], (np.sqrt(squares) / templates.sizes)[:, enough]
    sides = [special.stdtr(count[enough] - 1, quotient(sign * means + margin, se)).min(axis=1) * enough.sum() for sign in (1, -1)]
    p: FloatArray = np.minimum(1.0, np.maximum(*sides))
    return p
