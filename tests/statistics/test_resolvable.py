"""What a number of examples can decide, against another library's power and against decisions on simulated numbers."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from tinylab.statistics.estimates import Estimate, fixed_templates, new_templates
from tinylab.statistics.labels import MATTERS, NEGLIGIBLE, critical, decide
from tinylab.statistics.power import examples_for, resolvable, templates_for_half
from tinylab.statistics.strata import Groups

SETS = 4000
ERROR = 3 * np.sqrt(0.8 * 0.2 / SETS)  # three standard errors of a share of 0.8


@pytest.mark.parametrize("n", [12, 40, 300])
@pytest.mark.parametrize("cells", [1, 36, 1200])
def test_of_one_template_it_is_the_power_of_statsmodels_one_sample_t(n: int, cells: int) -> None:
    distance = resolvable(n, 1, cells, 0.05)
    found = TTestPower().power(distance, n, 0.05 / cells / 2, df=n - 1, alternative="larger")
    assert found == pytest.approx(0.8, abs=0.012)  # three standard errors of ten thousand draws


@pytest.mark.parametrize("n", [12, 40, 300])
def test_the_number_of_examples_is_that_which_statsmodels_solves_for(n: int) -> None:
    distance = resolvable(n, 1, 36, 0.05)
    solved = TTestPower().solve_power(distance, None, 0.05 / 36 / 2, 0.8, "larger")
    assert solved == pytest.approx(n, rel=0.04)  # as 0.012 of power is
    assert examples_for(distance, 1, 36, 0.05) == pytest.approx(n, rel=0.02)


@pytest.mark.parametrize(("n", "templates"), [(12, 1), (16, 4), (32, 4), (32, 8), (120, 8)])
@pytest.mark.parametrize("side", [1, -1], ids=[MATTERS, NEGLIGIBLE])
def test_four_in_five_effects_at_the_told_distance_are_decided(n: int, templates: int, side: int) -> None:
    """Each data set is a cell here, judged at the level of 36."""
    strata, smallest, cells, alpha = Groups(np.arange(n) % templates), 40.0, 36, 0.05
    effect = smallest + side * resolvable(n, templates, cells, alpha)
    between = np.random.default_rng(0).normal(0, 3, templates)[strata.codes]  # templates differ, which is no matter
    d = effect + between - between.mean() + np.random.default_rng(1).normal(0, 1, (SETS, n))
    found = fixed_templates(d, None, strata)
    c = critical(found, smallest, alpha * SETS / cells, "holm", d, strata)  # of SETS cells
    labels = decide(found, c, smallest, np.ones(SETS), alpha, "holm")
    share = labels.count(MATTERS if side > 0 else NEGLIGIBLE) / SETS
    assert 0.8 - ERROR < share < 0.93


@pytest.mark.parametrize(("n", "templates"), [(1, 1), (8, 8), (15, 8), (3, 2)])
def test_nothing_is_decided_where_a_template_has_fewer_than_two_examples(n: int, templates: int) -> None:
    assert resolvable(n, templates, 36, 0.05) == float("inf")


def test_it_takes_less_where_more_is_known_and_more_where_more_is_asked() -> None:
    assert resolvable(64, 4, 36, 0.05) < resolvable(32, 4, 36, 0.05) < resolvable(32, 4, 360, 0.05)
    assert resolvable(32, 4, 36, 0.05) < resolvable(32, 8, 36, 0.05)
    assert examples_for(resolvable(32, 4, 36, 0.05) / 2, 4, 36, 0.05) in range(64, 129)


@pytest.mark.parametrize("cells", [1, 300, 100_000])
@pytest.mark.parametrize(("n", "templates"), [(2, 1), (3, 1), (16, 8), (4, 2), (100_000, 4)])
def test_it_is_a_number_for_few_examples_and_many_cells_too(n: int, templates: int, cells: int) -> None:
    assert 0 < resolvable(n, templates, cells, 0.05) < float("inf")
    assert 0 < resolvable(n, templates, cells, 0.001) < float("inf")


# Templates


def of_templates(value: list[float], sd: list[float], templates: int) -> Estimate:
    """Effects of which template means have these standard deviations."""
    return Estimate(np.array(value), np.array(sd) / np.sqrt(templates), np.full(len(value), templates - 1.0))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_number_of_templates_is_that_which_statsmodels_solves_for(sign: int) -> None:
    """Of three effects two are to be shown, so the second decides: .25 of which .05 do not count, .4 spread."""
    some = of_templates([sign * 0.09, sign * 0.25, sign * 0.9], [0.4] * 3, 6)
    solved = TTestPower().solve_power(0.2 / 0.4, None, 0.05 / 5 / 2, 0.8, "larger")
    assert templates_for_half(some, 0.05, 6, 5, 0.05) == pytest.approx(solved, rel=0.03)


def test_what_is_not_over_the_smallest_effect_no_number_of_templates_shows() -> None:
    assert templates_for_half(of_templates([0.05, 0.02, 0.9], [0.4] * 3, 6), 0.05, 6, 3, 0.05) == float("inf")
    assert templates_for_half(of_templates([0.02, 0.9], [0.4] * 2, 6), 0.05, 6, 2, 0.05) < 20  # of two one is half
    assert templates_for_half(of_templates([0.05 + 1e-9], [0.4], 6), 0.05, 6, 1, 0.05) == float("inf")
    assert templates_for_half(of_templates([0.9], [0.0], 6), 0.05, 6, 1, 0.05) == 2


def test_four_in_five_effects_are_shown_for_new_templates_by_as_many_as_are_said_to() -> None:
    """Each data set is an effect; it is judged at a fifth of .05, as the first of five is by Holm."""
    enough = int(templates_for_half(of_templates([0.3], [0.4], 6), 0.05, 6, 5, 0.05))
    d = np.random.default_rng(0).normal(0.3, 0.4, (SETS, enough))
    found = new_templates(d, None, Groups(np.arange(enough)))
    shown = 2 * np.minimum(*found.beyond(0.05)) <= 0.05 / 5
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
