"""Would another sample have the same strongest effects, and by how much are those of the strongest exaggerated?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinylab.statistics.strata import Parts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from tinylab.statistics.strata import Groups

DRAWS = 2000
BLOCK = 250
SPLITS = 20


@dataclass(frozen=True)
class TopK:
    """How the list of the k strongest varies from sample to sample."""

    probability: Float64[np.ndarray, " V"]
    """How often each cell is among the k strongest; NaN where examples are too few."""
    stability: float
    """Of the lists (`stability`); NaN where examples are too few."""


def top_k(
    d: Float64[np.ndarray, "V B"], templates: Groups, k: int, *, items: Groups | None = None, draws: int = DRAWS, seed: int = 0
) -> TopK:
    """Bootstrap of the k largest |mean change|: examples are resampled within their templates, or items. Seeded.

    Deviations are stretched by √(n_t/(n_t − 1)), so that they vary as much as a sample's do (Rao & Wu 1988). Examples that reuse
    an item are drawn together, whatever their templates.

    Args:
        d: changes of V cells on B examples.
        templates: of the examples; with a single example (or item) in one the result is undefined.
        k: how many are the strongest; with k ≥ V each is.
        items: what several examples reuse, such as a word; None where each has its own.
        draws: how many samples.
        seed: of the draws.
    """
    cells = len(d)
    strata = _drawn_together(d, templates, items)
    if strata is None:
        return TopK(np.full(cells, np.nan), float("nan"))
    if k >= cells:
        return TopK(np.ones(cells), 1.0)
    rng = np.random.default_rng(seed)
    counts = np.zeros(cells)
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        means = np.tile(d.mean(axis=1), (size, 1))
        for own in strata:
            units = own.shape[1]
            means += rng.multinomial(units, np.full(units, 1 / units), size=size) @ own.T
        strongest = np.argpartition(-np.abs(means), k - 1, axis=1)[:, :k]
        counts += np.bincount(strongest.ravel(), minlength=cells)
    return TopK(counts / draws, stability(counts / draws, k, draws))


def _drawn_together(
    d: Float64[np.ndarray, "V B"], templates: Groups, items: Groups | None
) -> list[Float64[np.ndarray, "V units"]] | None:
    """What each unit adds to the means where it is drawn once, by stratum: examples of each template, or all items.

    None where examples are too few.
    """
    n_t, n = templates.sizes, d.shape[1]
    if items is not None and len(items.sizes) < n:
        parts = Parts.of(templates, items)
        sums = parts.items.sums(parts.stretched(d)) / n
        return None if parts.alone else [sums - sums.mean(axis=1, keepdims=True)]
    if (n_t < 2).any():
        return None
    deviations = templates.centred(d) * np.sqrt(n_t / (n_t - 1))[templates.codes] / n
    return [deviations[:, own] for own in templates.each]


def stability(probability: Float64[np.ndarray, " V"], k: int, lists: int) -> float:
    """How alike several lists of k among V are: 1 where they are the same, 0 on average where chance chose them.

    Source: Nogueira, Sechidis & Brown 2018, Φ.

    Args:
        probability: how often each cell is on a list.
        k: the length of each list, less than V.
        lists: how many there are, at least 2.
    """
    share = k / len(probability)
    spread = lists / (lists - 1) * probability * (1 - probability)
    return float(1 - spread.mean() / (share * (1 - share)))


@dataclass(frozen=True)
class Exaggeration:
    """The mean size of the selected effects, on the examples that selected them and on others."""

    naive: float
    held_out: float
    """With the sign that the selecting half gave it."""


def split_half(
    d: Float64[np.ndarray, "V B"], templates: Groups, k: int, *, items: Groups | None = None, splits: int = SPLITS, seed: int = 0
) -> Exaggeration:
    """The winner's curse of the k strongest: chosen on one half of the examples, measured on the other, both ways. Seeded.

    Halves are drawn within templates; all examples of an item are in one half. Undefined where a template has one example, or all
    of one item.

    Args:
        d: changes of V cells on B examples.
        templates: of the examples.
        k: how many of the strongest are chosen.
        items: what several examples reuse, such as a word; None where each has its own.
        splits: how often.
        seed: of the splits.
    """
    if Parts.of(templates, items).alone:
        return Exaggeration(float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    reused = items is not None and len(items.sizes) < d.shape[1]
    naive, held_out = [], []
    for _ in range(splits):
        half = _half_of_items(templates, items, rng) if reused and items is not None else _half(templates, rng)
        for chosen in (half, ~half):
            means, others = d[:, chosen].mean(axis=1), d[:, ~chosen].mean(axis=1)
            strongest = np.argsort(-np.abs(means), kind="stable")[:k]
            naive.append(np.abs(means[strongest]).mean())
            held_out.append((np.sign(means[strongest]) * others[strongest]).mean())
    return Exaggeration(float(np.mean(naive)), float(np.mean(held_out)))


def _half(templates: Groups, rng: np.random.Generator) -> Bool[np.ndarray, " B"]:
    """One half of each template's examples, drawn; of an odd number, either side gets the one more."""
    half = np.zeros(len(templates.codes), dtype=bool)
    for g, size in enumerate(templates.sizes):
        own = rng.permutation(np.flatnonzero(templates.codes == g))
        half[own[: size // 2 + (size % 2) * int(rng.integers(2))]] = True
    return half


def _half_of_items(templates: Groups, items: Groups, rng: np.random.Generator) -> Bool[np.ndarray, " B"]:
    """About one half of each template's examples, drawn so that none of the other half shares an item with them.

    Items in a random order, large ones first, each go where their templates have less so far; either side where they have not.
    """
    sizes = items.members.T @ templates.members  # [I, G] examples
    order = rng.permutation(len(sizes))
    more, side = np.zeros(sizes.shape[1]), np.zeros(len(sizes))  # how many more examples the one half has, of each template
    for item in order[np.argsort(-sizes[order].sum(axis=1), kind="stable")]:
        side[item] = -np.sign(more @ sizes[item]) or rng.choice([-1.0, 1.0])
        more += side[item] * sizes[item]
    half: Bool[np.ndarray, " B"] = side[items.codes] > 0
    return half
