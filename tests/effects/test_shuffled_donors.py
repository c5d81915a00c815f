"""Shuffled donors: who gets which, how much of an effect survives, and when that is said."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from tinylab.effects.shuffled_donors import Examples, is_alarming, survival
from tinylab.report.views import shuffled_donors_sentence
from tinylab.statistics.strata import Groups

RNG = np.random.default_rng(5)
TEMPLATES = ["a"] * 9 + ["b"] * 6 + ["c"] * 2 + ["d"]
ANSWERS = [int(answer) for answer in RNG.integers(0, 4, len(TEMPLATES))]
SOME = Examples(Groups.of(TEMPLATES), [f"prompt {number}" for number in range(len(TEMPLATES))], ANSWERS)
EVERY = range(len(TEMPLATES))


def test_everyone_gives_once_within_a_template_and_nobody_to_itself() -> None:
    for seed in range(20):
        found = SOME.deranged(EVERY, seed)
        assert found.examples == [*range(17)]  # d is alone
        assert sorted(found.donors) == found.examples
        for own, donor in zip(found.examples, found.donors, strict=True):
            assert own != donor and TEMPLATES[own] == TEMPLATES[donor]


def test_the_seed_decides() -> None:
    drawn = {tuple(SOME.deranged(EVERY, seed).donors) for seed in range(20)}
    assert len(drawn) > 15
    assert SOME.deranged(EVERY, 3) == SOME.deranged(EVERY, 3)


def test_a_donor_is_among_the_examples_that_are_asked_for() -> None:
    found = SOME.deranged([0, 3, 4, 10, 15, 16, 17], seed=0)
    assert found.examples == [0, 3, 4, 15, 16] and sorted(found.donors) == found.examples


@pytest.mark.parametrize("answers", [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 1, 2, 0, 1], [7] * 5])
def test_no_derangement_has_fewer_donors_with_the_same_answer(answers: list[int]) -> None:
    of = Examples(Groups.of(["a"] * 5), [*"vwxyz"], answers)
    fewest = min(sum(answers[b] == answers[d] for b, d in enumerate(order)) for order in permutations(range(5))
                 if all(b != d for b, d in enumerate(order)))
    for seed in range(10):
        assert of.deranged(range(5), seed).same_answer == fewest


def test_every_donor_of_another_answer_is_drawn() -> None:
    of = Examples(Groups.of(["a"] * 4), [*"wxyz"], [0, 1, 2, 0])
    drawn = Counter(of.deranged(range(4), seed).donors[0] for seed in range(200))
    assert set(drawn) == {1, 2} and min(drawn.values()) > 60


def test_the_same_prompt_is_no_donor() -> None:
    twice = Examples(Groups.of(["a"] * 4), ["p", "p", "q", "r"], [0, 0, 1, 2])
    for seed in range(10):
        found = twice.deranged(range(4), seed)
        assert found.examples == [0, 1, 2, 3]
        assert dict(zip(found.examples, found.donors, strict=True))[0] in (2, 3)
    mostly = Examples(Groups.of(["a"] * 3), ["p", "p", "p"], [0, 0, 0])
    assert mostly.deranged(range(3), 0).examples == []


def test_large_groups_are_cut_and_nobody_is_left_over() -> None:
    count = 1001  # in three parts
    of = Examples(Groups.of(["a"] * count), [*range(count)], [number % 5 for number in range(count)])
    found = of.deranged(range(count), 0)
    assert found.examples == sorted(found.donors) == [*range(count)]
    assert found.same_answer == 0 and all(own != donor for own, donor in zip(found.examples, found.donors, strict=True))


def test_a_beginning_has_pairs_of_unlike_answers() -> None:
    templates = [name for name in "abcdef" for _ in range(10)]
    answers = [0] * 5 + [1] * 5
    of = Examples(Groups.of([*templates, "alone"]), [*range(61)], answers * 6 + [0])
    order, least = of.in_order(seed=2)
    assert sorted(order) == [*range(60)] and least == 8
    for start in range(0, 12, 2):
        one, other = order[start], order[start + 1]
        assert templates[one] == templates[other] and of.answers[one] != of.answers[other]
    assert len({templates[place] for place in order[:12]}) == 6
    for size in range(12, 61):
        counts = Counter(templates[place] for place in order[:size])
        assert max(counts.values()) - min(counts.values()) <= 2
    assert of.in_order(seed=3)[0] != order
    assert Examples(Groups.of([*"aab"]), [*range(3)], [0, 0, 0]).in_order(0)[1] == 2


def test_what_survives_is_a_ratio_of_means_with_a_t_interval() -> None:
    own = np.full(12, 4.0)
    shuffled = RNG.normal(1.0, 0.5, 12)
    one = survival(shuffled[None], own[None], Groups.of(["a"] * 12))
    low, high = stats.t.interval(0.95, 11, loc=(shuffled / 4).mean(), scale=stats.sem(shuffled / 4))
    assert one["survives"] == pytest.approx(shuffled.mean() / 4)
    assert one["ci95"] == pytest.approx([low, high])
    assert one["of_cells"] == [{"own": 4.0, "shuffled": pytest.approx(shuffled.mean()), "survives": one["survives"],
                                "ci95": one["ci95"]}]


def test_cells_are_joined_by_the_sign_of_their_effect() -> None:
    own = np.array([[4.0, 6.0], [-1.0, -1.0], [2.0, 2.0]])
    shuffled = np.array([[1.0, 1.0], [-1.0, -1.0], [0.5, 1.5]])
    found = survival(shuffled, own, Groups.of(["a", "a"]))
    assert [one["survives"] for one in found["of_cells"]] == pytest.approx([0.2, 1.0, 0.5])
    assert found["survives"] == pytest.approx((1 + 1 + 1) / (5 + 1 + 2))
    assert found["median"] == pytest.approx(0.5)


def test_where_nothing_can_be_said_it_is_null() -> None:
    nothing = survival(np.ones((1, 3)), np.array([[1.0, -1.0, 0.0]]), Groups.of(["a"] * 3))
    assert (nothing["survives"], nothing["ci95"], nothing["median"]) == (None, None, None)
    single = survival(np.ones((1, 3)), np.full((1, 3), 2.0), Groups.of(["a", "a", "b"]))
    assert (single["survives"], single["ci95"]) == (0.5, None)


def told(survives: float | None, cells: list[float], half: float = 0.1, **others: object) -> dict[str, object]:
    def one(number: float | None) -> dict[str, object]:
        return {"survives": number, "ci95": None if number is None else [number - half, number + half]}

    return {"n": 12, "of": 12, "same_answer": 0, "cells": [one(number) for number in cells], **one(survives), **others}


def test_it_is_said_when_most_of_the_effect_survives() -> None:
    assert shuffled_donors_sentence(told(0.9, [0.9, 0.95]), "layers") == (
        "patched from another example of the same template, 2 layers that matter keep 90 % of their effect (80 to 100 %), most "
        "of which is not the pair's own (12 of 12 examples)")
    assert shuffled_donors_sentence(told(0.5, [0.4, 0.8], of=120, same_answer=3), "heads") == (
        "patched from another example of the same template, 2 heads that matter keep 50 % of their effect (40 to 60 %), 1 of "
        "them 75 % or more, most of which is not the pair's own (12 of 120 examples; 3 of these donors have the same answer)")
    assert shuffled_donors_sentence(told(0.5, [0.5, 0.74]), "layers") is None
    assert shuffled_donors_sentence(told(0.9, [0.9], n=None), "layers") is None
    assert shuffled_donors_sentence(None, "layers") is None


def test_what_may_be_half_is_no_alarm() -> None:
    assert shuffled_donors_sentence(told(0.9, [0.9, 0.8], half=0.41), "layers") is None
    assert not is_alarming({"survives": None, "ci95": None})
    assert is_alarming({"survives": 0.75, "ci95": None}) and not is_alarming({"survives": 0.74, "ci95": None})
