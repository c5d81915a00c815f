"""What chance alone gives where lists of the strongest are intersected: the mean, and the exact distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod

from tinylab.effects.strength import Ranking
from tinylab.statistics import overlap

NOTHING = {"expected": None, "p": None, "expected_within_layers": None, "p_within_layers": None}


def by_chance(sizes: Sequence[int], components: int) -> float:
    """Expected size of the intersection of random sets of these sizes among `components`: Π kᵢ / N^(m−1)."""
    return float(prod(sizes) / components ** (len(sizes) - 1))


def overlap_by_chance(shared: int, rankings: Sequence[Ranking]) -> dict[str, float | None]:
    """How many components independent lists of these sizes share by chance, and the probability of as many as were found.

    Uniformly among all components, and within layers: with as many of each layer as each list has (null where a layer has one
    component only, and so nothing is left to chance).

    Args:
        shared: how many were found in all of them.
        rankings: one list for each of two conditions or more.
    """
    tops = [ranking.top for ranking in rankings]
    layers = rankings[0].layers
    if len(tops) < 2 or any(ranking.layers != layers for ranking in rankings) or not layers:
        return dict(NOTHING)
    uniform = overlap.shared_by_chance([len(top) for top in tops], sum(layers.values()))
    told: dict[str, float | None] = {
        **NOTHING, "expected": overlap.expected(uniform), "p": overlap.at_least(shared, uniform),
    }
    if max(layers.values()) > 1:
        counts = [Counter(component[0] for component in top) for top in tops]
        within = overlap.shared_within_layers([[own[layer] for layer in layers] for own in counts], [*layers.values()])
        told.update(expected_within_layers=overlap.expected(within), p_within_layers=overlap.at_least(shared, within))
    return told
