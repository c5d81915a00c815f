"""How much lists share by chance: exact fractions, every outcome written out, and scipy."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from scipy import stats

from tinylab.statistics.overlap import at_least, expected, shared_by_chance, shared_within_layers


@pytest.mark.parametrize(("components", "first", "second"), [(25, 5, 5), (32, 10, 7), (6, 6, 2), (9, 0, 4)])
def test_two_lists_share_a_hypergeometric_number(components: int, first: int, second: int) -> None:
    found = shared_by_chance([first, second], components)
    np.testing.assert_allclose(found, stats.hypergeom.pmf(np.arange(len(found)), components, first, second), rtol=0, atol=1e-12)
    exact = [float(Fraction(comb(first, x) * comb(components - first, second - x), comb(components, second)))
             if second - x <= components - first else 0.0 for x in range(len(found))]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


def every_overlap(pools: list[list[tuple[int, ...]]]) -> np.ndarray:
    """Probabilities of 0, 1, … shared members where each list is drawn from its pool with equal chance."""
    shared = [len(set.intersection(*map(set, lists))) for lists in product(*pools)]
    return np.bincount(shared) / len(shared)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 3), (4, 1, 2), (2, 2, 2, 2)])
def test_several_lists_share_what_all_outcomes_say(sizes: tuple[int, ...]) -> None:
    found = shared_by_chance(sizes, 5)
    outcomes = every_overlap([list(combinations(range(5), size)) for size in sizes])
    np.testing.assert_allclose(found[: len(outcomes)], outcomes, rtol=0, atol=1e-12)
    assert found[len(outcomes):].sum() == 0
    np.testing.assert_allclose(shared_by_chance(sizes[::-1], 5), found, rtol=0, atol=1e-12)  # the order is none of it
    assert expected(found) == pytest.approx(5 * np.prod([size / 5 for size in sizes]), abs=1e-12)


def test_within_layers_each_layer_is_drawn_alone() -> None:
    """Layers of 3 and 4 heads; two lists with 2 + 1 and 1 + 3 of them, a third with 2 + 2."""
    layers = (range(3), range(3, 7))
    sizes = [(2, 1), (1, 3), (2, 2)]
    pools = [[a + b for a in combinations(layers[0], first) for b in combinations(layers[1], second)] for first, second in sizes]
    found, outcomes = shared_within_layers(sizes, (3, 4)), every_overlap(pools)
    np.testing.assert_allclose(found[: len(outcomes)], outcomes, rtol=0, atol=1e-12)
    assert expected(found) == pytest.approx(3 * (2 * 1 * 2) / 27 + 4 * (1 * 3 * 2) / 64, abs=1e-12)
    np.testing.assert_allclose(shared_within_layers([(2,), (1,), (2,)], (3,)), shared_by_chance([2, 1, 2], 3), atol=1e-12)


def test_three_or_more_of_five_among_25_are_shared_in_under_four_of_a_hundred_draws() -> None:
    found = shared_by_chance([5, 5], 25)
    exact = Fraction(sum(comb(5, x) * comb(20, 5 - x) for x in (3, 4, 5)), comb(25, 5))
    assert at_least(3, found) == pytest.approx(float(exact), abs=1e-12)
    assert at_least(3, found) == pytest.approx(0.0377, abs=5e-5)
    assert (at_least(0, found), at_least(6, found)) == (pytest.approx(1.0, abs=1e-12), 0.0)
    assert at_least(0, found) <= 1.0
