"""What another sample would rank highest, against loops that draw and count."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tinylab.statistics.estimates import Estimate
from tinylab.statistics.power import examples_to_decide
from tinylab.statistics.ranking import BLOCK, split_half, stability, top_k
from tinylab.statistics.strata import Groups

GIVEN = Groups(np.array([0, 1, 0, 1, 1, 0, 2, 2, 0]))


def changes(cells: int = 6, given: Groups = GIVEN) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (cells, 1)) + rng.normal(0, 1.0, (cells, len(given.codes))) + given.codes


def test_p_top_k_equals_a_loop_that_writes_every_resample_out() -> None:
    """Draws within templates; a deviation drawn stands for √(n_t/(n_t − 1)) of itself, about its template's mean."""
    d, k, draws = changes(), 2, 300
    rng = np.random.default_rng(4)
    counts = np.zeros(6)
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        drawn = [rng.multinomial(n, np.full(n, 1 / n), size=size) for n in GIVEN.sizes]
        for one in range(size):
            means = np.zeros(6)
            for g, n in enumerate(GIVEN.sizes):
                own = d[:, GIVEN.codes == g]
                sample = np.repeat(own, drawn[g][one], axis=1)
                centre = own.mean(axis=1, keepdims=True)
                means += (centre + (sample - centre) * np.sqrt(n / (n - 1))).sum(axis=1) / 9
            counts[np.argsort(-np.abs(means))[:k]] += 1
    found = top_k(d, GIVEN, k, draws=draws, seed=4)
    np.testing.assert_array_equal(found.probability, counts / draws)
    assert found.probability.sum() == pytest.approx(k)
    assert found.stability == stability(counts / draws, k, draws)


def test_resampled_means_vary_as_much_as_standard_errors_say() -> None:
    """Of two cells one is first where their difference, normal to a good approximation, is positive."""
    given, rng = Groups(np.repeat(np.arange(5), 40)), np.random.default_rng(1)
    noise = rng.normal(size=(2, 200))
    d = noise - given.means(noise).mean(axis=1, keepdims=True) + 5 + np.array([[0.1], [0.0]])
    difference = d[0] - d[1]
    se = np.sqrt(sum(difference[given.codes == g].var(ddof=1) / 40 for g in range(5)) / 25)
    from scipy import stats

    assert top_k(d, given, 1).probability[0] == pytest.approx(stats.norm.cdf(difference.mean() / se), abs=0.04)


def test_nogueiras_stability_is_the_mean_chance_corrected_overlap_of_pairs_of_lists() -> None:
    """Lists of one length: Kuncheva's (|A∩B| − k²/V) / (k − k²/V), averaged over pairs (Nogueira et al. 2018, theorem 4); and the
    definition, by the variance of each cell's membership."""
    rng, lists, cells, k = np.random.default_rng(0), 12, 9, 4
    weights = np.linspace(3, 0.1, cells)
    chosen = np.zeros((lists, cells))
    for one in chosen:
        one[rng.choice(cells, k, replace=False, p=weights / weights.sum())] = 1
    found = stability(chosen.mean(axis=0), k, lists)
    pairs = [(a @ b - k * k / cells) / (k - k * k / cells) for a, b in combinations(chosen, 2)]
    assert found == pytest.approx(float(np.mean(pairs)), rel=1e-12)
    assert found == pytest.approx(1 - chosen.var(axis=0, ddof=1).mean() / (k / cells * (1 - k / cells)), rel=1e-12)


def test_lists_that_chance_chose_have_no_stability_and_equal_ones_all() -> None:
    rng = np.random.default_rng(0)
    chosen = np.array([rng.permutation(20) < 5 for _ in range(2000)])
    assert stability(chosen.mean(axis=0), 5, 2000) == pytest.approx(0.0, abs=0.01)
    assert stability(chosen[0].astype(float), 5, 2000) == 1.0


def test_all_cells_are_among_as_many_and_one_example_tells_nothing() -> None:
    d = changes()
    for k in (6, 9):
        found = top_k(d, GIVEN, k)
        assert (found.probability.tolist(), found.stability) == ([1.0] * 6, 1.0)
    alone = Groups(np.array([0] * 8 + [1]))
    assert np.isnan(top_k(d, alone, 2).probability).all()
    assert np.isnan([split_half(d, alone, 2).naive, split_half(d, alone, 2).held_out, top_k(d, alone, 2).stability]).all()


def test_the_same_examples_give_the_same_ranks() -> None:
    d = changes()
    assert top_k(d, GIVEN, 2).probability.tolist() == top_k(d.copy(), GIVEN, 2).probability.tolist()
    assert split_half(d, GIVEN, 2) == split_half(d.copy(), GIVEN, 2)
    assert split_half(d, GIVEN, 2) != split_half(d, GIVEN, 2, seed=1)


def test_a_cell_of_either_sign_is_strong() -> None:
    given = Groups(np.repeat([0, 1], 5))
    d = np.array([[-9.0], [3.0], [0.0]]) + 0.1 * np.random.default_rng(0).normal(size=(3, 10))
    assert top_k(d, given, 1).probability.tolist() == [1, 0, 0]
    told = split_half(d, given, 1)
    assert (told.naive, told.held_out) == (pytest.approx(9, abs=0.2), pytest.approx(9, abs=0.2))


def test_an_effect_that_changes_its_sign_between_halves_counts_against() -> None:
    """Two examples, one in each half: what one half calls 2 the other calls −1, and the other way round."""
    told = split_half(np.array([[2.0, -1.0], [0.0, 0.0]]), Groups(np.zeros(2, dtype=int)), 1)
    assert (told.naive, told.held_out) == (1.5, -1.5)


def test_halves_are_of_every_template() -> None:
    """Cells that tell only to which template an example belongs have the same mean in every half."""
    given = Groups(np.repeat(np.arange(3), [4, 6, 2]))
    d = np.stack([given.members[:, g] for g in range(3)])
    told = split_half(d, given, 1)
    assert (told.naive, told.held_out) == (pytest.approx(0.5), pytest.approx(0.5))


# Reused items


def test_examples_that_are_said_twice_are_drawn_as_if_said_once() -> None:
    """The same draws of items as of examples, to the digit: what is repeated tells nothing more."""
    d = changes(given=Groups(np.zeros(9, dtype=int)))
    given, twice = Groups(np.zeros(18, dtype=int)), Groups(np.repeat(np.arange(9), 2))
    once, again = top_k(d, Groups(np.zeros(9, dtype=int)), 2), np.repeat(d, 2, axis=1)
    assert 0.2 < once.probability.max() < 0.99
    assert top_k(again, given, 2, items=twice).probability.tolist() == once.probability.tolist()
    assert top_k(again, given, 2).probability.tolist() != once.probability.tolist()


def test_items_that_are_in_every_template_are_drawn_whole() -> None:
    """Each word once in each template: what is drawn is the mean of a word's examples."""
    given, items = Groups(np.repeat(np.arange(3), 8)), Groups(np.tile(np.arange(8), 3))
    d = changes(given=given) + np.random.default_rng(7).normal(0, 1, (6, 8))[:, items.codes]
    expected = top_k(items.means(d), Groups(np.zeros(8, dtype=int)), 2)
    assert top_k(d, given, 2, items=items).probability.tolist() == expected.probability.tolist()
    assert top_k(d, given, 2, items=items).stability < top_k(d, given, 2).stability


def test_an_item_of_its_own_for_each_example_is_none_and_a_template_of_one_item_tells_nothing() -> None:
    d, own = changes(), Groups(np.arange(9))
    alone = Groups(np.array([0, 1, 2, 3, 4, 5, 6, 6, 7]))  # template 2 has one item
    assert top_k(d, GIVEN, 2, items=own).probability.tolist() == top_k(d, GIVEN, 2).probability.tolist()
    assert split_half(d, GIVEN, 2, items=own) == split_half(d, GIVEN, 2)
    assert np.isnan(top_k(d, GIVEN, 2, items=alone).probability).all()
    assert np.isnan([split_half(d, GIVEN, 2, items=alone).naive, split_half(d, GIVEN, 2, items=alone).held_out]).all()


def test_halves_share_no_item() -> None:
    """Two items, said twice: what the examples of one call 2 those of the other call −1."""
    d, items = np.array([[2.0, -1.0, 2.0, -1.0], [0.0] * 4]), Groups(np.array([0, 1, 0, 1]))
    told = split_half(d, Groups(np.zeros(4, dtype=int)), 1, items=items)
    assert (told.naive, told.held_out) == (1.5, -1.5)


@pytest.mark.parametrize("given", [Groups(np.repeat(np.arange(4), 8)), Groups(np.tile(np.arange(4), 8))], ids=["one", "all"])
def test_the_strongest_of_nothing_are_nothing_on_other_items(given: Groups) -> None:
    """32 cells without an effect, on four examples of each of eight items, of one template each or of all; items vary as much as
    examples. Halves that share items find again what is the items' alone."""
    items, rng = Groups(np.repeat(np.arange(8), 4)), np.random.default_rng(0)
    told = []
    for seed in range(25):
        d = rng.normal(size=(32, 8))[:, items.codes] + rng.normal(size=(32, 32))
        told.append([split_half(d, given, 8, items=items, splits=4, seed=seed).held_out,
                     split_half(d, given, 8, splits=4, seed=seed).held_out])
    held_out, shared = np.mean(told, axis=0)
    assert abs(held_out) < 0.1
    assert shared > 0.2


def test_halves_of_items_are_of_every_template() -> None:
    """Cells that tell only to which template an example belongs have the same mean in every half."""
    given, items = Groups(np.repeat(np.arange(3), [8, 12, 4])), Groups(np.arange(24) // 2)
    told = split_half(np.stack([given.members[:, g] for g in range(3)]), given, 1, items=items)
    assert (told.naive, told.held_out) == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize("items", [Groups(np.arange(48) // 4), Groups(np.tile(np.arange(12), 4))], ids=["nested", "crossed"])
def test_a_sure_place_among_the_strongest_is_one_where_words_are_reused_too(items: Groups) -> None:
    """Half of the variance is the words'. Of cells called .95 or more, .98 truly are; one in ten is not if words are ignored."""
    rng, given, told, truly = np.random.default_rng(0), Groups(np.repeat(np.arange(4), 12)), [], []
    for _ in range(100):
        effects = 0.5 * rng.standard_normal(32)
        d = effects[:, None] + 0.7 * (rng.normal(size=(32, 48)) + rng.normal(size=(32, len(items.sizes)))[:, items.codes])
        told.append([top_k(d, given, 8, items=own, draws=300).probability for own in (items, None)])
        truly.append(np.argsort(np.argsort(-np.abs(effects))) < 8)
    sure = np.concatenate(told, axis=1) >= 0.95
    clustered, ignored = (np.concatenate(truly)[calls].mean() for calls in sure)
    assert clustered >= 0.96
    assert ignored <= 0.94


# How many examples it takes


def test_examples_to_decide_by_hand() -> None:
    """se falls with √n: (c + z)·se·√(n/n′) = distance."""
    one = Estimate(np.array([0.10, -0.10, 0.05, 0.0]), np.array([0.02, 0.02, 0.02, 0.02]), np.full(4, 20.0))
    found = examples_to_decide(one, np.full(4, 3.0), 0.05, 32)
    needed = np.ceil(32 * ((3 + 0.8416212335729143) * 0.02 / 0.05) ** 2)
    assert found.tolist() == [needed, needed, float("inf"), needed]
