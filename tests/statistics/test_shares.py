"""How many of a draw each group gets."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylab.statistics.strata import shares


@st.composite
def draws(draw: st.DrawFn) -> tuple[list[int], int]:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=9))
    return sizes, draw(st.integers(1, sum(sizes)))


@given(draws())
def test_each_group_gets_its_share_and_two_at_least_where_the_number_allows(drawn: tuple[list[int], int]) -> None:
    sizes, n = drawn
    found = shares(sizes, n)
    assert sum(found) == n
    assert all(0 <= got <= size for got, size in zip(found, sizes, strict=True))
    floors = [min(2, size) for size in sizes]
    if n >= sum(floors):
        assert all(got >= floor for got, floor in zip(found, floors, strict=True))
    quotas = [Fraction(n * size, sum(sizes)) for size in sizes]
    if all(quota >= 2 for quota in quotas) or n < sum(floors):
        assert all(abs(got - quota) < 1 for got, quota in zip(found, quotas, strict=True))
    for got, size in zip(found, sizes, strict=True):  # a larger group never gets less
        assert all(got >= less for less, smaller in zip(found, sizes, strict=True) if smaller < size)


@pytest.mark.parametrize(
    ("sizes", "n", "expected"),
    [
        ([15] * 8, 32, [4] * 8),
        ([30] * 4, 10, [3, 3, 2, 2]),  # of equal remainders the first get what is left over
        ([10, 20, 30], 7, [2, 2, 3]),  # quotas 1.17, 2.33, 3.5: the first is raised to 2, the others share 5 as 2 to 3
        ([60, 30, 1], 9, [5, 3, 1]),  # a group of one has no two: the other 8 are shared as 60 to 30
        ([30] * 8, 10, [2, 2, 1, 1, 1, 1, 1, 1]),  # fewer than two of each
        ([30] * 4, 3, [1, 1, 1, 0]),
        ([7], 3, [3]),
    ],
)
def test_shares_worked_by_hand(sizes: list[int], n: int, expected: list[int]) -> None:
    assert shares(sizes, n) == expected
