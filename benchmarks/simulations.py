"""Data sets of which the truth is known, and how often the statistics of `tinylab.statistics` are right about them.

`make statistics` runs them at length and writes docs/statistics.md (`benchmarks.statistics_document`); the tests run them in
short. Each function is seeded and returns shares of data sets. A data set is G templates with so many examples each (`sizes`);
an example is its template's effect and a deviation, both of one of `SHAPES`. Where a claim is about cells, a set has V of them
whose deviations correlate.

Letters: S sets, V cells, B examples, G templates, m conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tinylab.statistics import estimates
from tinylab.statistics.bootstrap import bootstrap_interval
from tinylab.statistics.conjunction import with_one_sign
from tinylab.statistics.families import benjamini_hochberg, holm, max_t
from tinylab.statistics.labels import MATTERS, MIXED, UNDECIDED, Correction, critical, decide
from tinylab.statistics.power import examples_to_decide
from tinylab.statistics.ranking import split_half, top_k
from tinylab.statistics.strata import Groups

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from tinylab.arrays import FloatArray

ALPHA = 0.05
SKEW, STRONG_SKEW = 0.5, 1.0
"""σ of lognormals: a skewness of 1.75, and of 6.18."""
CORRELATION = 0.3
"""Of the deviations of two cells."""
BALANCED = (8, 8, 8, 8)


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> FloatArray:
    """The shape that t intervals are made for."""
    return rng.standard_normal(size)


def skew(rng: np.random.Generator, size: tuple[int, ...], sigma: float = SKEW) -> FloatArray:
    """Lognormal, centred, of variance 1."""
    square = np.exp(sigma**2)
    return (rng.lognormal(0.0, sigma, size) - np.sqrt(square)) / np.sqrt(square * (square - 1))


def t3(rng: np.random.Generator, size: tuple[int, ...]) -> FloatArray:
    """Student's t with 3 degrees of freedom: heavy tails, of variance 1."""
    return rng.standard_t(3, size) / np.sqrt(3)


def bimodal(rng: np.random.Generator, size: tuple[int, ...]) -> FloatArray:
    """Two narrow heaps, of variance 1."""
    return rng.choice([-0.9, 0.9], size) + np.sqrt(1 - 0.81) * rng.standard_normal(size)


SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], FloatArray]] = {
    "normal": normal, "skew": skew, "t3": t3, "bimodal": bimodal, "strong skew": partial(skew, sigma=STRONG_SKEW)}


def of_sizes(sizes: Sequence[int]) -> Groups:
    """Templates of so many examples each."""
    return Groups(np.repeat(np.arange(len(sizes)), sizes))


def correlated(
    shape: str, rng: np.random.Generator, sets: int, cells: int, n: int
) -> Float64[np.ndarray, "S V B"]:
    """Deviations of variance 1, of which cells of a set have a part in common."""
    common, own = SHAPES[shape](rng, (sets, 1, n)), SHAPES[shape](rng, (sets, cells, n))
    return np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * own


def covered(bounds: tuple[FloatArray, FloatArray], truth: FloatArray | float) -> float:
    """The share of intervals that hold the truth."""
    return float(((bounds[0] <= truth) & (truth <= bounds[1])).mean())


# One cell: intervals


@dataclass(frozen=True)
class Coverage:
    """The share of 95 % intervals that hold the truth, for these templates and for new ones."""

    fixed: float
    new: float


def drawn(shape: str, sizes: Sequence[int], sets: int, seed: int) -> tuple[FloatArray, FloatArray, Groups]:
    """Changes [S, B], the templates' effects [S, G], whose mean is 0 and spread 1, and the templates."""
    rng, templates = np.random.default_rng(seed), of_sizes(sizes)
    effects = SHAPES[shape](rng, (sets, len(sizes)))
    return effects[:, templates.codes] + SHAPES[shape](rng, (sets, sum(sizes))), effects, templates


def coverage(shape: str, sizes: Sequence[int], sets: int, seed: int = 0) -> Coverage:
    """Of `fixed_templates` about the mean of the templates that were drawn, of `new_templates` about that of all, which is 0."""
    d, effects, templates = drawn(shape, sizes, sets, seed)
    return Coverage(covered(estimates.fixed_templates(d, None, templates).interval(), effects @ np.array(sizes) / sum(sizes)),
                    covered(estimates.new_templates(d, None, templates).interval(), 0.0))


def bootstrap_coverage(shape: str, sizes: Sequence[int], sets: int, seed: int = 0) -> Coverage:
    """The same of the percentile bootstrap over whole templates."""
    d, effects, templates = drawn(shape, sizes, sets, seed)
    names = [str(code) for code in templates.codes]
    bounds = [bootstrap_interval(one[:, None], lambda means: means[:, 0], clusters=names)[0] for one in d]
    low, high = np.array(bounds, dtype=float).T
    return Coverage(covered((low, high), effects @ np.array(sizes) / sum(sizes)), covered((low, high), 0.0))


def ratio_coverage(shape: str, sizes: Sequence[int], sets: int, seed: int = 0) -> float:
    """Of the interval of R = Σd/Σb for these templates, where b varies as logit differences do: 12 ± 2, and d with it."""
    rng, templates = np.random.default_rng(seed), of_sizes(sizes)
    weights, held = np.array(sizes) / sum(sizes), 0
    for _ in range(sets):
        level, part = 12 + 2 * SHAPES[shape](rng, (len(sizes),)), -0.3 + 0.1 * SHAPES[shape](rng, (len(sizes),))
        b = level[templates.codes] + 2 * SHAPES[shape](rng, (sum(sizes),))
        d = part[templates.codes] * b + SHAPES[shape](rng, (sum(sizes),))
        low, high = estimates.fixed_templates(d[None], b, templates).interval()
        held += bool(low[0] <= weights @ (part * level) / (weights @ level) <= high[0])
    return held / sets


def false_heterogeneity(shape: str, sizes: Sequence[int], sets: int, seed: int = 0) -> float:
    """How often the F test finds templates to differ that do not."""
    e = SHAPES[shape](np.random.default_rng(seed), (sets, sum(sizes)))
    return float((estimates.heterogeneity(e, of_sizes(sizes)) <= ALPHA).mean())


# V cells: false claims


def tested(d: Float64[np.ndarray, "S V B"], templates: Groups, margin: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """One-sided p-values that cells are over +margin and under −margin, [S, V] each; sets are independent rows."""
    sets, cells, n = d.shape
    above, below = estimates.fixed_templates(d.reshape(sets * cells, n), None, templates).beyond(margin)
    return above.reshape(sets, cells), below.reshape(sets, cells)


def two_sided(sides: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Of two one-sided p-values."""
    return np.minimum(1.0, 2 * np.minimum(*sides))


def any_claim(p: Float64[np.ndarray, "S V"], adjust: Callable[[FloatArray], FloatArray]) -> float:
    """The share of sets in which any adjusted p-value is at most alpha."""
    return float(np.mean([(adjust(one) <= ALPHA).any() for one in p]))


def false_claims(
    shape: str, sets: int, *, cells: int = 32, sizes: Sequence[int] = BALANCED, seed: int = 0, flips: int = 0
) -> dict[str, float]:
    """How often any of V cells without effect is claimed to have one; by max-T too where flips are asked for."""
    templates = of_sizes(sizes)
    d = correlated(shape, np.random.default_rng(seed), sets, cells, sum(sizes))
    p = two_sided(tested(d, templates))
    found = {"uncorrected": any_claim(p, np.asarray), "holm": any_claim(p, holm), "bh": any_claim(p, benjamini_hochberg)}
    if flips:
        flat = estimates.fixed_templates(d.reshape(-1, sum(sizes)), None, templates)
        t = np.abs(flat.value / flat.se).reshape(sets, cells)
        values = np.array([max_t(one, templates, alpha=ALPHA, flips=flips) for one in d])
        found["maxt"] = float((t.max(axis=1) > values).mean())
    return found


def wrong_labels(
    shape: str, sets: int, correction: Correction, *, cells: int = 33, sizes: Sequence[int] = BALANCED, seed: int = 0,
    smallest: float = 0.05,
) -> float:
    """How often any of V labels is wrong, where R is 0, +smallest or −smallest exactly, a third of the cells each.

    At the smallest effect itself nothing but `undecided` is right; at 0 `matters` and `mixed` are wrong.
    """
    rng, templates = np.random.default_rng(seed), of_sizes(sizes)
    truth, wrong = smallest * (np.arange(cells) % 3 - 1), 0
    for _ in range(sets):
        b = 12 + 2 * SHAPES[shape](rng, (sum(sizes),))
        d = truth[:, None] * b + correlated(shape, rng, 1, cells, sum(sizes))[0]
        labels = judged(d, b, templates, smallest, correction)
        wrong += any(label in (MATTERS, MIXED) if r == 0 else label != UNDECIDED for label, r in zip(labels, truth, strict=True))
    return wrong / sets


def judged(d: FloatArray, b: FloatArray, templates: Groups, smallest: float, correction: Correction) -> list[str | None]:
    """The labels of V cells, as a run gives them."""
    fixed = estimates.fixed_templates(d, b, templates)
    c = critical(fixed, smallest, ALPHA, correction, estimates.ratio(d, b)[1], templates)
    crossed = estimates.crossover(d, smallest * abs(float(b.mean())), templates)
    return decide(fixed, c, smallest, crossed, ALPHA, correction)


def false_mixed(shape: str, sets: int, *, cells: int = 32, sizes: Sequence[int] = BALANCED, seed: int = 0) -> float:
    """How often any of V cells is claimed to change its sign, in the worst case.

    One template is far above +margin, and the others are at −margin exactly (skew is to the right, which is the worse side).
    """
    templates, margin = of_sizes(sizes), 0.5
    level = np.where(templates.codes == 0, 5.0, -margin)
    d = level + correlated(shape, np.random.default_rng(seed), sets, cells, sum(sizes))
    p = estimates.crossover(d.reshape(-1, sum(sizes)), margin, templates).reshape(sets, cells)
    return any_claim(p, holm)


@dataclass(frozen=True)
class Found:
    """What a rule claims."""

    false: float
    """The share of false claims among its claims, on average (false discovery rate)."""
    any_false: float
    """The share of sets with a false claim (family-wise error rate)."""
    power: float
    """The share of what is there that it claims."""

    @classmethod
    def of(cls, claimed: Bool[np.ndarray, "S V"], there: Bool[np.ndarray, " V"]) -> Found:
        """Of claims in S sets, and of which cells they would be right."""
        wrong = claimed[:, ~there].sum(axis=1)
        power = float(claimed[:, there].mean()) if there.any() else float("nan")
        return cls(float((wrong / np.maximum(1, claimed.sum(axis=1))).mean()), float((wrong > 0).mean()), power)


def discoveries(
    shape: str, sets: int, *, cells: int = 270, planted: int = 20, effect: float = 1.0, sizes: Sequence[int] = BALANCED,
    seed: int = 0,
) -> dict[str, Found]:
    """What Holm and Benjamini–Hochberg claim of V cells of which a few have an effect of so many standard deviations."""
    there = np.arange(cells) < planted
    d = correlated(shape, np.random.default_rng(seed), sets, cells, sum(sizes)) + effect * there[:, None]
    p = two_sided(tested(d, of_sizes(sizes)))
    return {name: Found.of(np.array([adjust(one) <= ALPHA for one in p]), there)
            for name, adjust in (("holm", holm), ("bh", benjamini_hochberg))}


# m conditions


def conjunctions(
    shape: str, conditions: int, sets: int, *, cells: int = 40, shared: int = 0, effect: float = 2.0, margin: float = 0.0,
    sizes: Sequence[int] = BALANCED, seed: int = 0,
) -> dict[str, Found]:
    """What is claimed of V components to matter in all of m conditions, where each but the `shared` is at the margin in one.

    By the partial conjunction with one sign and Holm; by Holm in every run; and by being among the k strongest of each
    condition, where k is as many as matter there, or a quarter more. Effects are negative: skew is to the right, which is the
    worse case.
    """
    rng, templates = np.random.default_rng(seed), of_sizes(sizes)
    there = np.arange(cells) < shared
    above, below, exact, more = [], [], [], []
    for condition in range(conditions):
        absent = ~there & (np.arange(cells) % conditions == condition)
        d = -np.where(absent, margin, margin + effect)[:, None] + correlated(shape, rng, sets, cells, sum(sizes))
        over, under = tested(d, templates, margin)
        above.append(over)
        below.append(under)
        order = np.argsort(np.argsort(-np.abs(d.mean(axis=2)), axis=1), axis=1)
        exact.append(order < (~absent).sum())
        more.append(order < 1.25 * (~absent).sum())
    sides = np.array(above), np.array(below)  # [m, S, V]
    together = [holm(with_one_sign(sides[0][:, s], sides[1][:, s], conditions)) <= ALPHA for s in range(sets)]
    each = [[holm(two_sided((sides[0][c, s], sides[1][c, s]))) <= ALPHA for s in range(sets)] for c in range(conditions)]
    return {"partial conjunction": Found.of(np.array(together), there),
            "holm in every run": Found.of(np.all(each, axis=0), there), "top k": Found.of(np.all(exact, axis=0), there),
            "a quarter more": Found.of(np.all(more, axis=0), there)}


# Ranks


def top_k_calls(
    shape: str, sets: int, *, cells: int = 32, k: int = 8, spread: float = 0.5, sizes: Sequence[int] = BALANCED, seed: int = 0,
    draws: int = 500,
) -> tuple[FloatArray, Bool[np.ndarray, " n"]]:
    """P(top k) of every cell of S sets, and whether it is one of the k truly strongest; true effects are normal."""
    rng, templates = np.random.default_rng(seed), of_sizes(sizes)
    told, truly = [], []
    for _ in range(sets):
        effects = spread * rng.standard_normal(cells)
        d = effects[:, None] + correlated(shape, rng, 1, cells, sum(sizes))[0]
        told.append(top_k(d, templates, k, draws=draws).probability)
        truly.append(np.argsort(np.argsort(-np.abs(effects))) < k)
    return np.concatenate(told), np.concatenate(truly)


def exaggeration(
    shape: str, sets: int, *, cells: int = 32, k: int = 8, sizes: Sequence[int] = BALANCED, seed: int = 0
) -> tuple[float, float]:
    """The mean size, in standard deviations, of the k strongest of V cells that have no effect: naive, and held out."""
    rng, templates = np.random.default_rng(seed), of_sizes(sizes)
    found = [split_half(correlated(shape, rng, 1, cells, sum(sizes))[0], templates, k) for _ in range(sets)]
    return float(np.mean([one.naive for one in found])), float(np.mean([one.held_out for one in found]))


# Power


def decided(shape: str, sets: int, *, effect: float = 0.1, cells: int = 32, sizes: Sequence[int] = BALANCED, seed: int = 0
            ) -> tuple[int, float]:
    """How many examples are said to decide a cell of V, told from a first sample, and the share of samples of that size that do.

    Effects are `effect` of the whole, twice the smallest of interest.
    """
    rng, smallest = np.random.default_rng(seed), 0.05
    needed = []
    for _ in range(sets):
        d = effect * 12 + correlated(shape, rng, 1, cells, sum(sizes))[0]
        first = estimates.fixed_templates(d / 12, None, of_sizes(sizes))
        c = critical(first, smallest, ALPHA, "holm", d, of_sizes(sizes))
        needed.append(np.median(examples_to_decide(first, c, smallest, sum(sizes))))
    n = round(float(np.median(needed)) / len(sizes)) * len(sizes)
    larger = of_sizes([n // len(sizes)] * len(sizes))
    hits = []
    for _ in range(sets):
        d = (effect * 12 + correlated(shape, rng, 1, cells, n)[0]) / 12
        estimate = estimates.fixed_templates(d, None, larger)
        c = critical(estimate, smallest, ALPHA, "holm", d, larger)
        hits.append((np.abs(estimate.value) - c * estimate.se > smallest).mean())
    return n, float(np.mean(hits))
