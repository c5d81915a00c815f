"""The bootstrap against a literal loop, against known coverage, and its promises."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest

from conftest import Within
from tinylab.statistics.bootstrap import RESAMPLES, bootstrap_interval


def first(means: np.ndarray) -> np.ndarray:
    return means[:, 0]


def ratio(means: np.ndarray) -> np.ndarray:
    return means[:, 0] / means[:, 1]


def interval(column: Any, clusters: Any = None, **options: Any) -> list[float]:
    column = np.asarray(column, dtype=float)
    found, _ = bootstrap_interval(column[:, None], first, clusters=clusters or [None] * len(column), **options)
    assert found is not None
    return found


def literal(columns: np.ndarray, statistic: Any, units: list[list[int]], weights: np.ndarray) -> list[float]:
    """The same resampling with every example written out: units drawn with replacement, weighted means taken."""
    count = len(units)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    values = []
    for draw in draws:
        rows = [b for unit, times in zip(units, draw, strict=True) for _ in range(times) for b in unit]
        means = np.average(columns[rows], axis=0, weights=weights[rows])
        values.append(statistic(means[None])[0])
    return np.quantile(values, [0.025, 0.975]).tolist()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("statistic", [first, ratio])
def test_the_interval_equals_a_literal_loop(weighted: bool, clustered: bool, statistic: Any, within: Within) -> None:
    random = np.random.default_rng(1)
    columns = random.normal(2.0, 0.3, size=(12, 2))
    weights = random.integers(1, 4, size=12).astype(float) if weighted else np.ones(12)
    names = ["a", "b", "a", "c", "b", "d", "a", "d", "e", "e", "c", "a"]
    units = [[b for b in range(12) if names[b] == name] for name in "abcde"] if clustered else [[b] for b in range(12)]
    found, method = bootstrap_interval(
        columns, statistic, clusters=names if clustered else [None] * 12, weights=weights if weighted else None
    )
    assert re.fullmatch(rf"bootstrap over \d+ {'templates' if clustered else 'examples'}", method)
    assert found is not None
    within("bootstrap literal", np.abs(np.subtract(found, literal(columns, statistic, units, weights))).max(), 1e-12)


def test_a_95_percent_interval_covers_the_true_mean_95_percent_of_the_time() -> None:
    """400 data sets of 40 normal numbers; the percentile bootstrap of 40 covers about 94 %.

    Three binomial standard deviations around it (1.2 % each) leave 90 % to 98 %.
    """
    random = np.random.default_rng(7)
    covered = [low <= 3.0 <= high for low, high in (interval(random.normal(3.0, 2.0, size=40)) for _ in range(400))]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_interval_has_the_width_that_theory_gives() -> None:
    column = np.random.default_rng(3).normal(size=400)
    low, high = interval(column)
    assert (high - low) == pytest.approx(2 * 1.96 * column.std() / 20, rel=0.08)
    assert (low + high) / 2 == pytest.approx(column.mean(), abs=0.02)


def test_another_level_gives_another_width() -> None:
    column = np.random.default_rng(3).normal(size=200)
    half, wide = interval(column, level=0.5), interval(column, level=0.99)
    assert wide[0] < half[0] < half[1] < wide[1]
    assert (half[1] - half[0]) == pytest.approx(2 * 0.6745 * column.std() / np.sqrt(200), rel=0.15)


def test_clusters_whose_examples_agree_widen_the_interval() -> None:
    """10 templates of 20 near-equal examples are 10 observations, not 200: the interval is about √20 wider."""
    random = np.random.default_rng(5)
    column = np.repeat(random.normal(size=10), 20) + 0.01 * random.normal(size=200)
    names = [f"t{b // 20}" for b in range(200)]
    by_example, by_cluster = interval(column), interval(column, names)
    widths = [high - low for low, high in (by_example, by_cluster)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(20), rel=0.2)


def test_a_cluster_for_every_example_is_the_same_as_none() -> None:
    column = np.random.default_rng(5).normal(size=30)
    assert interval(column, [str(b) for b in range(30)]) == interval(column)


@pytest.mark.parametrize("names", [["a", "b", None, "a"], ["a", "a", "a", "a"]])
def test_without_a_template_for_each_or_with_one_for_all_examples_are_resampled(names: list[str | None]) -> None:
    column = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = bootstrap_interval(column, first, clusters=names)
    assert found == bootstrap_interval(column, first, clusters=[None] * 4)
    assert found[1].endswith(" examples")


def test_the_same_data_give_the_same_interval() -> None:
    column = np.random.default_rng(0).normal(size=25)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert interval(column) == interval(column.copy())
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_units_have_no_interval(count: int) -> None:
    assert bootstrap_interval(np.ones((count, 1)), first, clusters=[None] * count) == (None, f"bootstrap over {count} examples")


def test_a_constant_has_an_interval_of_no_width() -> None:
    assert interval([2.0] * 10) == pytest.approx([2.0, 2.0], abs=1e-14)


def test_equal_weights_are_no_weights() -> None:
    column = np.random.default_rng(2).normal(size=15)
    assert interval(column, weights=np.full(15, 3.0)) == pytest.approx(interval(column), abs=1e-12)


def test_weights_pull_the_interval_towards_heavy_examples() -> None:
    column = np.array([0.0] * 10 + [1.0] * 10)
    low, high = interval(column, weights=np.array([9.0] * 10 + [1.0] * 10))
    assert low < 0.1 < high < 0.5


def test_memory_does_not_grow_with_examples_times_resamples() -> None:
    """4,000 examples × 2,000 resamples are 64 MB of counts, and as much again as float64, if drawn at once."""
    column = np.random.default_rng(0).normal(size=4000)
    tracemalloc.start()
    interval(column)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
