"""Would another sample have the same strongest effects, and by how much are those of the strongest exaggerated?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    d: Float64[np.ndarray, "V B"], templates: Groups, k: int, *, draws: int = DRAWS, seed: int = 0
) -> TopK:
    """Bootstrap of the k largest |mean change|: examples are resampled within their templates. Seeded.

    Deviations are stretched by √(n_t/(n_t − 1)), so that they vary as much as a sample's do (Rao & Wu 1988).

    Args:
        d: changes of V cells on B examples.
        templates: of the examples; with a single example in one the result is undefined.
        k: how many are the strongest; with k ≥ V each is.
        draws: how many samples.
        seed: of the draws.
    """
    cells, n = d.shape
    n_t = templates.sizes
    if (n_t < 2).any():
        return TopK(np.full(cells, np.nan), float("nan"))
    if k >= cells:
        return TopK(np.ones(cells), 1.0)
    deviations = templates.centred(d) * np.sqrt(n_t / (n_t - 1))[templates.codes] / n
    members = [np.flatnonzero(templates.codes == g) for g in range(len(n_t))]
    rng = np.random.default_rng(seed)
    counts = np.zeros(cells)
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        means = np.tile(d.mean(axis=1), (size, 1))
        for own in members:
            means += rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=size) @ deviations[:, own].T
        strongest = np.argpartition(-np.abs(means), k - 1, axis=1)[:, :k]
        counts += np.bincount(strongest.ravel(), minlength=cells)
    return TopK(counts / draws, stability(counts / draws, k, draws))


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
    d: Float64[np.ndarray, "V B"], templates: Groups, k: int, *, splits: int = SPLITS, seed: int = 0
) -> Exaggeration:
    """The winner's curse of the k strongest: chosen on one half of the examples, measured on the other, both ways. Seeded.

    Halves are drawn within templates. Undefined where a template has one example.

    Args:
        d: changes of V cells on B examples.
        templates: of the examples.
        k: how many of the strongest are chosen.
        splits: how often.
        seed: of the splits.
    """
    if (templates.sizes < 2).any():
        return Exaggeration(float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    naive, held_out = [], []
    for _ in range(splits):
        half = _half(templates, rng)
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

