"""Corrections for many tests, and what labels make of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tinylab.statistics import estimates
from tinylab.statistics.conjunction import partial_conjunction, with_one_sign
from tinylab.statistics.estimates import Estimate
from tinylab.statistics.families import benjamini_hochberg, holm, max_t
from tinylab.statistics.labels import critical, decide, hold_for_new_templates
from tinylab.statistics.strata import Groups

NAN = float("nan")


def estimate(value: list[float], se: list[float], df: float = 20.0) -> Estimate:
    return Estimate(np.array(value), np.array(se), np.where(np.isnan(se), np.nan, df))


@pytest.mark.parametrize(("own", "method"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_adjusted_p_values_are_those_of_multipletests_and_what_is_undefined_is_in_no_family(own: object, method: str) -> None:
    p = np.random.default_rng(0).uniform(size=30) ** 3
    p[[3, 17]] = np.nan
    found = own(p)  # type: ignore[operator]
    defined = ~np.isnan(p)
    np.testing.assert_allclose(found[defined], multipletests(p[defined], method=method)[1], rtol=1e-12)
    assert np.isnan(found[~defined]).all()
    assert np.isnan(own(np.full(3, np.nan))).all()  # type: ignore[operator]
    assert len(own(np.zeros(0))) == 0  # type: ignore[operator]


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.04, 0.01, NAN, 0.03])
    np.testing.assert_allclose(holm(p), [0.06, 0.03, NAN, 0.06])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 0.03, NAN, 0.04])


@pytest.mark.parametrize("sizes", [(8,), (5, 3), (2, 4, 3)])
def test_max_t_from_sums_over_templates_is_t_computed_anew_of_flipped_deviations(sizes: tuple[int, ...]) -> None:
    given, rng = Groups(np.repeat(np.arange(len(sizes)), sizes)), np.random.default_rng(1)
    e = rng.normal(size=(6, sum(sizes))) + given.codes
    stretched = given.centred(e) * np.sqrt(given.sizes / (given.sizes - 1))[given.codes]
    signs = np.random.default_rng(9).integers(0, 2, size=(200, sum(sizes))) * 2.0 - 1
    flipped = [estimates.fixed_templates(stretched * one, None, given) for one in signs]
    t = [np.divide(np.abs(one.value), one.se, out=np.zeros(6), where=one.se > 1e-9) for one in flipped]
    found = max_t(e, given, alpha=0.1, flips=200, seed=9)
    assert found == pytest.approx(float(np.quantile(np.max(t, axis=1), 0.9, method="higher")), rel=1e-9)


def test_max_t_of_equal_cells_is_that_of_one_and_of_many_near_bonferroni() -> None:
    given, rng = Groups(np.repeat(np.arange(4), 10)), np.random.default_rng(0)
    one = rng.normal(size=(1, 40))
    assert max_t(np.repeat(one, 20, axis=0), given) == pytest.approx(max_t(one, given), rel=1e-9)
    assert max_t(one, given) == pytest.approx(stats.t.isf(0.025, 36), rel=0.03)
    many = max_t(rng.normal(size=(32, 40)), given)
    assert many == pytest.approx(stats.t.isf(0.025 / 32, 36), rel=0.05)


def test_too_few_examples_to_flip_have_no_critical_value() -> None:
    """Four templates of two: in one flip of sixteen both of each deviate alike, and nothing is left of their spread."""
    given, e = Groups(np.repeat(np.arange(4), 2)), np.random.default_rng(0).normal(size=(3, 8))
    assert max_t(e, given) == float("inf")
    assert np.isfinite(max_t(e, given, alpha=0.2))
    assert np.isnan(critical(estimates.fixed_templates(e, None, given), 0.05, 0.05, "maxt", e, given)).all()
    assert max_t(np.zeros((1, 8)), given) == 0.0


def test_the_same_numbers_give_the_same_critical_value() -> None:
    given, e = Groups(np.repeat(np.arange(2), 6)), np.random.default_rng(0).normal(size=(3, 12))
    assert max_t(e, given, flips=700) == max_t(e.copy(), given, flips=700)
    assert max_t(e, given, flips=700) != max_t(e, given, flips=700, seed=1)


def test_simultaneous_intervals_are_bonferronis_over_the_cells_that_have_one() -> None:
    given, e = Groups(np.zeros(8, dtype=int)), np.zeros((4, 8))
    found = critical(estimate([1.0, 2.0, 3.0, NAN], [1.0, 1.0, 0.0, NAN]), 0.05, 0.1, "holm", e, given)
    np.testing.assert_allclose(found[:3], stats.t.isf(0.1 / 3 / 2, 20), rtol=1e-12)
    assert np.isnan(found[3])


def test_intervals_of_bh_decide_the_cells_whose_p_values_it_rejects() -> None:
    """The false coverage rate: R decided cells have intervals of level 1 − R·alpha/V (Benjamini & Yekutieli 2005)."""
    rng = np.random.default_rng(2)
    given = Groups(np.zeros(5, dtype=int))
    for _ in range(30):
        one = estimate(rng.normal(0, 0.3, 25).tolist(), rng.uniform(0.01, 0.1, 25).tolist())
        c = critical(one, 0.1, 0.05, "bh", np.zeros((25, 5)), given)
        decided = np.abs(np.abs(one.value) - 0.1) > c * one.se
        p = 2 * stats.t.sf(np.abs(np.abs(one.value) - 0.1) / one.se, 20)
        np.testing.assert_array_equal(decided, multipletests(p, 0.05, method="fdr_bh")[0])
        np.testing.assert_allclose(c, stats.t.isf(0.05 * max(1, decided.sum()) / 25 / 2, 20), rtol=1e-12)
        labels = decide(one, c, 0.1, np.ones(25), 0.05, "bh")
        assert [label != "undecided" for label in labels] == decided.tolist()


def test_bh_never_decides_less_than_holm() -> None:
    one = estimate(np.linspace(-1, 1, 40).tolist(), [0.1] * 40)
    given, e = Groups(np.zeros(5, dtype=int)), np.zeros((40, 5))
    assert (critical(one, 0.1, 0.05, "bh", e, given) < critical(one, 0.1, 0.05, "holm", e, given)).all()


def test_maxt_gives_every_cell_that_has_an_interval_the_same_value() -> None:
    given, e = Groups(np.repeat([0, 1], 6)), np.random.default_rng(0).normal(size=(3, 12))
    fixed = estimates.fixed_templates(e, None, given)
    assert set(critical(fixed, 0.05, 0.05, "maxt", e, given)) == {max_t(e, given)}
    alone = Groups(np.array([0] * 11 + [1]))
    assert np.isnan(critical(estimates.fixed_templates(e, None, alone), 0.05, 0.05, "maxt", e, alone)).all()


@pytest.mark.parametrize(("value", "half", "crossed", "label"), [
    (0.30, 0.10, 1.0, "matters"), (-0.30, 0.10, 1.0, "matters"), (0.14, 0.10, 1.0, "undecided"), (0.0, 0.04, 1.0, "negligible"),
    (-0.02, 0.029, 1.0, "negligible"), (0.02, 0.04, 1.0, "undecided"), (0.30, 0.10, 0.04, "mixed"), (0.0, 0.04, 0.04, "mixed"),
    (0.30, 0.10, NAN, "matters"), (0.30, NAN, 0.01, None), (0.05, 0.0, 1.0, "undecided"), (0.06, 0.0, 1.0, "matters"),
])
def test_a_label_is_what_the_interval_says(value: float, half: float, crossed: float, label: str | None) -> None:
    one = estimate([value], [half / 2])
    assert decide(one, np.array([2.0]), 0.05, np.array([crossed]), 0.05, "holm") == [label]


def test_sign_changes_are_corrected_over_cells() -> None:
    one, crossed = estimate([0.3] * 3, [0.01] * 3), np.array([0.02, 0.04, 0.01])
    assert decide(one, np.full(3, 2.0), 0.05, crossed, 0.05, "holm") == ["mixed", "mixed", "mixed"]
    crossed[1:] = 0.2
    assert decide(one, np.full(3, 2.0), 0.05, crossed, 0.05, "holm") == ["matters"] * 3  # 3 · .02 > .05
    crossed[:2] = 0.025, 0.03
    assert decide(one, np.full(3, 2.0), 0.05, crossed, 0.05, "bh") == ["mixed", "mixed", "matters"]


def test_effects_that_cancel_between_templates_are_mixed_however_small_their_mean() -> None:
    """Half of the templates gain what the others lose: |mean| is 0, and nothing about it is negligible."""
    given, rng = Groups(np.repeat(np.arange(4), 8)), np.random.default_rng(0)
    signs = np.array([1.0, -1.0, 1.0, -1.0])[given.codes]
    b = np.full(32, 10.0)
    d = np.stack([5 * signs, 5 * np.ones(32), np.zeros(32)]) + 0.3 * rng.normal(size=(3, 32))
    fixed = estimates.fixed_templates(d, b, given)
    c = critical(fixed, 0.05, 0.05, "holm", estimates.ratio(d, b)[1], given)
    assert decide(fixed, c, 0.05, estimates.crossover(d, 0.5, given), 0.05, "holm") == ["mixed", "matters", "negligible"]
    assert np.abs(fixed.value[0]) + (c * fixed.se)[0] < 0.05  # the mean alone would call it negligible


def test_new_templates_are_tested_among_the_cells_that_matter() -> None:
    """Beyond the smallest effect, both sides, by Holm: three candidates of five."""
    new = estimate([0.3, 0.3, -0.3, 0.3, 0.06], [0.05, 0.05, 0.1, NAN, 0.01], df=4.0)
    labels = ["matters", "mixed", "matters", "matters", "matters"]
    p = np.array([2 * stats.t.sf((abs(value) - 0.05) / se, 4) for value, se in [(0.3, 0.05), (-0.3, 0.1), (0.06, 0.01)]])
    adjusted = multipletests(p, method="holm")[1]
    found = hold_for_new_templates(new, 0.05, labels, 0.05)
    assert found == [bool(adjusted[0] <= 0.05), False, bool(adjusted[1] <= 0.05), None, False]
    assert found[0] is True
    assert hold_for_new_templates(new, 0.05, labels, float(adjusted[1]) + 1e-9)[2] is True


# Several conditions


def test_a_partial_conjunction_is_the_rth_smallest_p_times_how_many_may_fail() -> None:
    p = np.array([[0.01, 0.5, 0.001], [0.02, 0.001, NAN], [0.03, 0.002, 0.001]])
    for r, expected in ((1, [0.03, 0.003]), (2, [0.04, 0.004]), (3, [0.03, 0.5])):
        found = partial_conjunction(p, r)
        np.testing.assert_allclose(found[:2], expected, rtol=1e-12)
        assert np.isnan(found[2])
    assert partial_conjunction(np.full((3, 1), 0.7), 1)[0] == 1.0


@pytest.mark.parametrize("r", [0, 4])
def test_as_many_conditions_as_there_are_is_the_most_that_can_be_asked_for(r: int) -> None:
    with pytest.raises(ValueError, match=f"at_least={r}: expected 1 to 3"):
        partial_conjunction(np.zeros((3, 2)), r)


def test_effects_of_opposite_signs_in_two_conditions_are_not_shared() -> None:
    above, below = np.array([[1e-9, 1e-9], [1e-9, 1.0]]), np.array([[1.0, 1.0], [1.0, 1e-9]])
    np.testing.assert_allclose(with_one_sign(above, below, 2), [2e-9, 1.0], rtol=1e-12)
    np.testing.assert_allclose(with_one_sign(below, above, 2), [2e-9, 1.0], rtol=1e-12)
    np.testing.assert_allclose(with_one_sign(above, below, 1), [4e-9, 4e-9], rtol=1e-12)
