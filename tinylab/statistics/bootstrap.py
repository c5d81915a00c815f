"""Uncertainty: intervals over examples, never over repetitions of a deterministic forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinylab.arrays import FloatArray

RESAMPLES = 2000
BLOCK = 100
MOSTLY_DEFINED = 0.05


def bootstrap_interval(
    columns: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    clusters: Sequence[str | None],
    weights: FloatArray | None = None,
    level: float = 0.95,
) -> tuple[list[float] | None, str]:
    """Percentile bootstrap interval of a statistic of column means (Efron & Tibshirani 1993, chapter 13).

    Whole clusters are resampled where every example names one and there are at least two; else examples are.
    Resampling is seeded: the same data give the same interval.

    Args:
        columns: [B, C], C numbers per example.
        statistic: from resampled column means [R, C] to R values; means and ratios of means are of this form.
        clusters: [B] what examples have in common, such as their template.
        weights: [B] how often each example counts, None for once.
        level: the interval's coverage.

    Returns:
        The lower and upper bound, and what was resampled. There are none for fewer than two units, or where the
        statistic is undefined (NaN) in more than one resample in twenty.
    """
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    by_cluster = None not in names and len(names) > 1
    unit = np.array([names[cluster] for cluster in clusters]) if by_cluster else np.arange(len(columns))
    count = int(unit.max()) + 1 if len(unit) else 0
    method = f"bootstrap over {count} {'templates' if by_cluster else 'examples'}"
    if count < 2:
        return None, method
    w = np.ones(len(columns)) if weights is None else weights
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, unit, columns * w[:, None])
    sizes = np.bincount(unit, weights=w, minlength=count)
    rng = np.random.default_rng(0)
    blocks = []
    for _ in range(0, RESAMPLES, BLOCK):  # memory stays bounded, whatever the number of examples
        draws = rng.multinomial(count, np.full(count, 1 / count), size=BLOCK)
        blocks.append(statistic((draws @ sums) / (draws @ sizes)[:, None]))
    values = np.concatenate(blocks)
    undefined = float(np.isnan(values).mean())
    if undefined > MOSTLY_DEFINED:
        return None, f"{method}, undefined in {undefined:.0%} of them"
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return [float(low), float(high)], method
