"""Estimates, standard errors and p-values against scipy, statsmodels, and formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from tinylab.statistics import estimates
from tinylab.statistics.proportions import clopper_pearson, of_clusters
from tinylab.statistics.strata import Groups, templates

SIZES = [(6, 6), (3, 9), (2, 5, 4), (7, 2, 3, 8)]
TINY = 1e-12


def groups(sizes: Sequence[int], seed: int = 5) -> Groups:
    """Templates of these sizes, their examples mixed."""
    return Groups(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)))


def changes(sizes: Sequence[int], cells: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(-1.0, 0.5, (cells, sum(sizes))) * rng.uniform(0.5, 3.0, sum(sizes))


def close(found: object, expected: object, rel: float = TINY) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=float), np.asarray(expected, dtype=float), rtol=rel, atol=1e-14)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_one_template_is_the_one_sample_t_test(n: int) -> None:
    d = changes([n])
    found = estimates.fixed_templates(d, None, groups([n]))
    expected = stats.ttest_1samp(d, 0.0, axis=1)
    close(found.value / found.se, expected.statistic)
    close(found.df, expected.df)
    close(found.nonzero(), expected.pvalue)
    close(found.interval(), [*expected.confidence_interval(0.95)])
    close(found.interval(0.8), [*expected.confidence_interval(0.8)])


@pytest.mark.parametrize("sizes", [(6, 6), (3, 9), (2, 2)])
def test_two_templates_are_welchs_test_of_the_weighted_halves(sizes: tuple[int, int]) -> None:
    """The mean over all is w₁·x̄₁ + w₂·x̄₂ = x̄(w₁x₁) − x̄(−w₂x₂), a difference of two samples; weights cancel where sizes agree."""
    d, given = changes(sizes), groups(sizes)
    found = estimates.fixed_templates(d, None, given)
    first, second = (size / sum(sizes) * d[:, given.codes == g] for g, size in enumerate(sizes))
    expected = stats.ttest_ind(first, -second, equal_var=False, axis=1)
    close(found.value / found.se, expected.statistic)
    close(found.df, expected.df)
    close(found.nonzero(), expected.pvalue)
    if sizes[0] == sizes[1]:
        alike = stats.ttest_ind(d[:, given.codes == 0], -d[:, given.codes == 1], equal_var=False, axis=1)
        close(found.value / found.se, alike.statistic)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_standard_error_is_hc2_with_a_dummy_for_each_template(sizes: tuple[int, ...]) -> None:
    d, given = changes(sizes), groups(sizes)
    found = estimates.fixed_templates(d, None, given)
    for row, value, se in zip(d, found.value, found.se, strict=True):
        fitted = sm.OLS(row, given.members).fit(cov_type="HC2")
        contrast = fitted.t_test(np.array(sizes) / sum(sizes))
        close(value, contrast.effect[0])
        close(se, contrast.sd[0, 0])


def test_satterthwaites_degrees_of_freedom_written_out() -> None:
    sizes = (7, 2, 3, 8)
    d, given = changes(sizes), groups(sizes)
    for row, df in zip(d, estimates.fixed_templates(d, None, given).df, strict=True):
        parts = [(n / 20) ** 2 * row[given.codes == g].var(ddof=1) / n for g, n in enumerate(sizes)]
        close(df, sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True)))


def test_new_templates_are_a_one_sample_t_test_of_template_means_each_once() -> None:
    sizes = (7, 1, 3, 8)
    d, given = changes(sizes), groups(sizes)
    means = np.stack([d[:, given.codes == g].mean(axis=1) for g in range(4)], axis=1)
    found, expected = estimates.new_templates(d, None, given), stats.ttest_1samp(means, 0.0, axis=1)
    close(found.value, means.mean(axis=1))
    close(found.value / found.se, expected.statistic)
    close(found.df, expected.df)
    close(found.interval(), [*expected.confidence_interval(0.95)])


def test_a_ratio_is_of_sums_and_its_parts_sum_to_nothing() -> None:
    d, b = changes([12]), np.random.default_rng(1).normal(10.0, 2.0, 12)
    found, e = estimates.ratio(d, b)
    close(found, d.sum(axis=1) / b.sum())
    close(e, (d - np.outer(d.sum(axis=1) / b.sum(), b)) / b.mean())
    np.testing.assert_allclose(e.sum(axis=1), 0, atol=1e-13)


@pytest.mark.parametrize("sizes", [(40,), (20, 30, 50)])
def test_the_ratios_standard_error_is_that_of_the_jackknife(sizes: tuple[int, ...]) -> None:
    """Leaving one example out at a time, (n_t − 1)/n_t·Σ(R₋ᵦ − R̄₋)² summed over templates with weights of their own; both are
    linear to order 1/n_t, so they agree to about that (Cochran 1977, section 6.3; Jones 1974 for strata)."""
    given, rng = groups(sizes), np.random.default_rng(3)
    b = rng.normal(10.0, 2.0, sum(sizes)) + given.codes
    d = -0.4 * b * (1 + given.codes) + rng.normal(0, 1.0, (3, sum(sizes)))
    weights = np.array(sizes) / sum(sizes)

    def whole(kept: np.ndarray) -> np.ndarray:
        own = Groups(given.codes[kept])
        return (own.means(d[:, kept]) @ weights) / (own.means(b[kept]) @ weights)

    variance = np.zeros(3)
    for g, size in enumerate(sizes):
        left = np.stack([whole(np.arange(sum(sizes)) != one) for one in np.flatnonzero(given.codes == g)])
        variance += (size - 1) / size * ((left - left.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(estimates.fixed_templates(d, b, given).se, np.sqrt(variance), rtol=0.02)


def test_the_new_templates_ratio_is_that_of_template_means() -> None:
    sizes = (7, 2, 3, 8)
    d, b, given = changes(sizes), np.random.default_rng(1).normal(10.0, 2.0, 20), groups(sizes)
    means, whole = given.means(d), given.means(b)
    value = means.mean(axis=1) / whole.mean()
    parts = (means - value[:, None] * whole) / whole.mean()
    found = estimates.new_templates(d, b, given)
    close(found.value, value)
    close(found.se, parts.std(axis=1, ddof=1) / 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_p_values_are_scipys_beyond_a_margin(sign: int) -> None:
    d = sign * changes([9])
    sides = estimates.fixed_templates(d, None, groups([9])).beyond(0.7)
    close(sides[0], stats.ttest_1samp(d, 0.7, axis=1, alternative="greater").pvalue)
    close(sides[1], stats.ttest_1samp(d, -0.7, axis=1, alternative="less").pvalue)


def test_where_nothing_varies_the_number_decides() -> None:
    d = np.array([[2.0] * 6, [-2.0] * 6, [0.0] * 6])
    found = estimates.fixed_templates(d, None, groups([3, 3]))
    assert found.se.tolist() == [0, 0, 0]
    assert found.df.tolist() == [4, 4, 4]
    assert found.nonzero().tolist() == [0, 0, 1]
    assert [bounds.tolist() for bounds in found.interval()] == [[2, -2, 0]] * 2
    assert [side.tolist() for side in found.beyond(2.0)] == [[0.5, 1, 1], [1, 0.5, 1]]


@pytest.mark.parametrize(("sizes", "fixed", "new"), [
    ((1,), False, False), ((5,), True, False), ((1, 1, 1), False, True), ((4, 1), False, True), ((4, 4), True, True),
])
def test_what_examples_cannot_tell_is_undefined(sizes: tuple[int, ...], fixed: bool, new: bool) -> None:
    d, given = changes(sizes), groups(sizes)
    told = estimates.fixed_templates(d, None, given), estimates.new_templates(d, None, given)
    for estimate, defined in zip(told, (fixed, new), strict=True):
        assert np.isfinite(estimate.value).all()
        for numbers in (estimate.se, estimate.df, estimate.nonzero(), *estimate.interval(), *estimate.beyond(0.1)):
            assert np.isfinite(numbers).all() == np.isfinite(numbers).any() == defined


def test_examples_without_a_template_are_all_of_one() -> None:
    assert templates(["a", "b", None, "b"]).sizes.tolist() == [4]
    assert templates([None, None]).sizes.tolist() == [2]
    assert templates(["b", "a", "b"]).codes.tolist() == [0, 1, 0]
    assert Groups.of(["x", None, "x", None]).codes.tolist() == [0, 1, 0, 2]


# Reused items

CROSSED = Groups(np.tile(np.arange(6), 4)), Groups(np.repeat(np.arange(4), 6))
UNEVEN = Groups(np.array([0, 0, 1, 2, 0, 1, 1, 3, 4, 0, 2, 2, 2, 5])), Groups(np.array([0] * 4 + [1] * 5 + [2] * 5))


def cr2(e: np.ndarray, given: Groups, items: Groups) -> tuple[float, float]:
    """The standard error of the mean and its degrees of freedom, from matrices (Bell & McCaffrey 2002; Imbens & Kolesár 2016)."""
    x, n = given.members, len(e)
    inverse = np.linalg.inv(x.T @ x)
    hat = x @ inverse @ x.T
    residuals = e - hat @ e
    contrast = given.sizes / n
    variance, columns = 0.0, []
    for item in range(len(items.sizes)):
        own = items.codes == item
        values, vectors = np.linalg.eigh(np.eye(own.sum()) - hat[np.ix_(own, own)])
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        pull = root @ x[own] @ inverse @ contrast
        variance += float(pull @ residuals[own]) ** 2
        columns.append((np.eye(n) - hat)[:, own] @ pull)
    eigenvalues = np.linalg.eigvalsh(np.stack(columns) @ np.stack(columns).T)
    return float(np.sqrt(variance)), float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


@pytest.mark.parametrize(("items", "given"), [CROSSED, UNEVEN], ids=["crossed", "uneven"])
def test_with_reused_items_the_standard_error_is_cr2(items: Groups, given: Groups) -> None:
    d = changes([len(given.codes)])
    found = estimates.fixed_templates(d, None, given, items)
    expected = [cr2(row, given, items) for row in d]
    close(found.se, [se for se, _ in expected], 1e-11)
    close(found.df, [df for _, df in expected], 1e-11)


def test_items_in_every_template_once_are_a_one_sample_t_test_of_their_means() -> None:
    items, given = CROSSED
    d = changes([24])
    found, means = estimates.fixed_templates(d, None, given, items), np.stack([items.means(row) for row in d])
    expected = stats.ttest_1samp(means, 0.0, axis=1)
    close(found.value / found.se, expected.statistic)
    close(found.df, expected.df)


def test_an_item_for_each_example_is_none() -> None:
    given, d = groups((4, 6)), changes((4, 6))
    for estimate in (estimates.fixed_templates, estimates.new_templates):
        alone, without = estimate(d, None, given, Groups(np.arange(10))), estimate(d, None, given)
        assert [getattr(alone, name).tolist() for name in ("value", "se", "df")] == [
            getattr(without, name).tolist() for name in ("value", "se", "df")]


def test_a_template_of_one_item_tells_nothing_of_its_words() -> None:
    given, items = Groups(np.array([0, 0, 0, 1, 1])), Groups(np.array([0, 0, 0, 1, 2]))
    assert np.isnan(estimates.fixed_templates(changes([5]), None, given, items).se).all()


@pytest.mark.parametrize(("items", "given"), [CROSSED, UNEVEN], ids=["crossed", "uneven"])
def test_new_templates_and_reused_items_are_two_way_clustering(items: Groups, given: Groups) -> None:
    """What items add is statsmodels' two-way covariance about template means, where nothing is left of the templates' own."""
    d = changes([len(given.codes)], seed=2) + np.random.default_rng(4).normal(0, 2, 6)[items.codes]
    found, alone = (estimates.new_templates(d, None, given, *more) for more in ((items,), ()))
    count = len(given.sizes)
    for row, with_items, without in zip(d, found.se, alone.se, strict=True):
        fitted = sm.OLS(row, given.members).fit(
            cov_type="cluster", cov_kwds={"groups": np.stack([given.codes, items.codes], axis=1), "use_correction": False})
        added = np.full(count, 1 / count) @ fitted.cov_params() @ np.full(count, 1 / count)
        close(with_items**2, without**2 + max(0.0, added), 1e-10)
    assert (found.se > alone.se).all()
    assert set(found.df) == {min(count, len(items.sizes)) - 1}


# Differences between templates


@pytest.mark.parametrize("sizes", SIZES)
def test_heterogeneity_is_the_analysis_of_variance(sizes: tuple[int, ...]) -> None:
    d, given = changes(sizes), groups(sizes)
    expected = [stats.f_oneway(*(row[given.codes == g] for g in range(len(sizes)))).pvalue for row in d]
    close(estimates.heterogeneity(d, given), expected)


def test_the_spread_between_templates_is_that_of_moments() -> None:
    """Balanced: (MSB − MSW)/n_t; no less than 0."""
    given, rng = groups([5, 5, 5]), np.random.default_rng(0)
    d = np.stack([given.codes * 3.0 + rng.normal(size=15), rng.normal(size=15), np.tile([1.0, -1.0, 0.0], 5)])
    means = given.means(d)
    between = 5 * means.var(axis=1, ddof=1)
    within = np.mean([d[:, given.codes == g].var(axis=1, ddof=1) for g in range(3)], axis=0)
    close(estimates.between_templates(d, given), np.sqrt(np.maximum(0, (between - within) / 5)))
    many = Groups(np.repeat(np.arange(400), np.tile([2, 6], 200)))
    drawn = rng.normal(0, 1.5, 400)[many.codes] + rng.normal(0, 2.0, (1, 1600))
    assert estimates.between_templates(drawn, many)[0] == pytest.approx(1.5, rel=0.1)  # unequal sizes


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1)])
def test_differences_between_templates_are_undefined_without_any_or_within_none(sizes: tuple[int, ...]) -> None:
    for estimate in (estimates.heterogeneity, estimates.between_templates):
        assert np.isnan(estimate(changes(sizes), groups(sizes))).all()


@pytest.mark.parametrize("estimate", [estimates.heterogeneity, estimates.between_templates])
def test_between_templates_what_is_said_twice_counts_as_said_once(estimate: Callable[..., np.ndarray]) -> None:
    sizes = (6, 3, 5)
    given = Groups(np.repeat(np.arange(3), sizes))
    once = changes(sizes, seed=3) + 3.0 * given.codes
    twice, of_items = np.repeat(once, 2, axis=1), Groups(np.repeat(np.arange(14), 2))
    assert (estimate(once, given) > 0).all()
    close(estimate(twice, Groups(np.repeat(given.codes, 2)), of_items), estimate(once, given))
    assert (estimate(twice, Groups(np.repeat(given.codes, 2))) != estimate(once, given)).all()
    close(estimate(once, given, Groups(np.arange(14))), estimate(once, given))


def test_heterogeneity_is_the_analysis_of_variance_of_each_items_means() -> None:
    items, given = UNEVEN
    d = changes([len(given.codes)])
    own = [[np.array([row[(given.codes == g) & (items.codes == i)].mean() for i in np.unique(items.codes[given.codes == g])])
            for g in range(3)] for row in d]
    close(estimates.heterogeneity(d, given, items), [stats.f_oneway(*means).pvalue for means in own], 1e-11)


def test_reused_items_do_not_make_templates_differ() -> None:
    """Four templates of four words, each in three examples: 2,000 sets without a difference. Words in all templates err on the
    safe side."""
    rng, given = np.random.default_rng(0), Groups(np.repeat(np.arange(4), 12))
    nested, crossed = (Groups(np.repeat(np.arange(count), 3)[places]) for count, places in (
        (16, np.arange(48)), (4, np.tile(np.arange(12), 4))))
    for items in (nested, crossed):
        e = rng.normal(size=(2000, len(items.sizes)))[:, items.codes] + rng.normal(size=(2000, 48))
        found = [(estimates.heterogeneity(e, given, *more) <= 0.05).mean() for more in ((items,), ())]
        assert found[0] <= 0.065
        assert items is crossed or (found[0] >= 0.035 and found[1] > 0.25)


def test_a_crossover_is_the_larger_of_each_sides_bonferroni_corrected_t_tests() -> None:
    sizes, margin = (4, 1, 6, 5), 0.3  # the template of one example has no test
    given = groups(sizes)
    d = changes(sizes) + np.array([2.0, 0.0, -1.0, 1.5])[given.codes]
    for row, found in zip(d, estimates.crossover(d, margin, given), strict=True):
        own = [row[given.codes == g] for g in (0, 2, 3)]
        above = min(stats.ttest_1samp(x, margin, alternative="greater").pvalue for x in own) * 3
        below = min(stats.ttest_1samp(x, -margin, alternative="less").pvalue for x in own) * 3
        close(found, min(1.0, max(above, below)))


def test_a_crossover_of_reused_items_tests_items() -> None:
    """Each template's examples are three items, each said twice with the same outcome: as good as said once."""
    given = Groups(np.repeat([0, 1], 6))
    once = np.array([[1.0, 1.3, 0.8, -2.0, -1.2, -1.1]])
    found = estimates.crossover(np.repeat(once, 2, axis=1), 0.1, given, Groups(np.repeat(np.arange(6), 2)))
    close(found, estimates.crossover(once, 0.1, Groups(np.repeat([0, 1], 3))))
    assert found[0] > estimates.crossover(np.repeat(once, 2, axis=1), 0.1, given)[0]


@pytest.mark.parametrize("sizes", [(6,), (5, 1), (1, 1)])
def test_a_crossover_needs_two_templates_that_can_be_tested(sizes: tuple[int, ...]) -> None:
    assert np.isnan(estimates.crossover(changes(sizes), 0.1, groups(sizes))).all()


def test_the_interval_of_a_share_is_the_exact_one() -> None:
    counts = np.array([0, 1, 7, 19, 20])
    low, high = clopper_pearson(counts, 20)
    exact = [stats.binomtest(int(count), 20).proportion_ci(0.95, "exact") for count in counts]
    close(low, [one.low for one in exact])
    close(high, [one.high for one in exact])
    assert (low[0], high[-1]) == (0, 1)


def test_the_interval_of_a_share_of_clusters_is_the_exact_one_of_what_they_are_worth() -> None:
    """Korn & Graubard 1998, written out; nothing varies where none or all change, and then clusters count once each."""
    items, given = Groups(np.repeat(np.arange(10), 3)), Groups(np.zeros(30, dtype=int))
    beyond = np.stack([np.zeros(30), np.repeat([1.0] * 3 + [0.0] * 7, 3), np.tile([1.0, 0.0, 0.0], 10), np.ones(30)])
    low, high = of_clusters(estimates.fixed_templates(beyond, None, given, items), 30, 10)
    worth = 0.3 * 0.7 / (0.21 * 10 / 9 / 10) * (stats.t.ppf(0.975, 29) / stats.t.ppf(0.975, 9)) ** 2
    count = 0.3 * worth
    assert 5 < worth < 10
    close(low[1], stats.beta.ppf(0.025, count, worth - count + 1))
    close(high[1], stats.beta.ppf(0.975, count + 1, worth - count))
    none, every = (stats.binomtest(count, 10).proportion_ci(0.95, "exact") for count in (0, 10))
    close([low[0], high[0], low[3], high[3]], [none.low, none.high, every.low, every.high])
    third = stats.binomtest(10, 30).proportion_ci(0.95, "exact")  # every cluster has one of three: they do not vary
    assert low[2] < third.low and high[2] > third.high


def test_the_interval_of_a_share_covers_where_examples_of_a_word_change_together() -> None:
    """2,000 sets of 24 words in five examples each; a word's own share is .1 to .9."""
    items, given, rng = Groups(np.repeat(np.arange(24), 5)), Groups(np.zeros(120, dtype=int)), np.random.default_rng(0)
    beyond = (rng.random((2000, 120)) < rng.choice([0.1, 0.9], (2000, 24))[:, items.codes]).astype(float)
    with_items = of_clusters(estimates.fixed_templates(beyond, None, given, items), 120, 24)
    without = clopper_pearson(beyond.sum(axis=1).astype(int), 120)
    covered = [((low <= 0.5) & (high >= 0.5)).mean() for low, high in (with_items, without)]
    assert 0.94 <= covered[0] <= 0.99
    assert covered[1] < 0.8
