"""Model C, twins: invariants are exactly the planted common heads, and on a planted null what chance gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest

from conftest import only
from planted import Typed, heads
from tinylab.aggregate import main as aggregate
from tinylab.app import main
from tinylab.planted.closed_forms import GRID, NULL_LINES, TOLERANCE, TWIN_COMMON, Component, line, twin_gains

RANKS = list(TWIN_COMMON)
NULL = list(NULL_LINES)
Swept = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("twins"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep of some conditions (computed once), its invariants looked for by a rule of ranking."""
    folder = tmp_path_factory.mktemp("sweeps")
    done: dict[tuple[str, str], Path] = {}

    def sweep(names: str, engine: str, rank: str, *more: str) -> dict[str, Any]:
        if (names, engine) not in done:
            out = folder / engine  # runs are shared by the sweeps of an engine
            conditions = ",".join(f"planted_{name}" for name in names)
            asked = ("model=planted", "model.variant=twins", f"condition={conditions}", f"engine={engine}", "plots=false")
            assert main(["-m", *asked, f"invariants.k={GRID}", f"sweep_name={names}", f"output_dir={out}"]) == 0
            done[names, engine] = only(out, f"sweeps/{names}_*")
        told = ("--k", str(GRID), "--rank", rank, "--set", "partial_conjunction", *more)
        assert aggregate([str(done[names, engine]), *told]) == 0
        found: dict[str, Any] = json.loads((done[names, engine] / "artifacts/cross_condition/invariants.json").read_text())
        assert found["rank"] == rank
        return found

    return sweep


def components(found: dict[str, Any]) -> tuple[Component, ...]:
    """Those that are among the strongest of every condition."""
    return tuple((head["layer"], head["head"]) for head in found["intersection"]["heads"])


def claimed(found: dict[str, Any]) -> list[Component]:
    """Those that are claimed: whose effects are tested."""
    return [(head["layer"], head["head"]) for head in found["heads"]]


@pytest.mark.parametrize("condition", ["c", "d", *NULL])
def test_zeroing_a_head_takes_its_own_gain_and_nothing_else(typed: Typed, engine: str, condition: str) -> None:
    gains = twin_gains(condition)
    level = sum(gains.values())
    found = heads(typed.run(f"planted_{condition}", engine))
    expected = {(layer, head): level - gains.get((layer, head), 0.0) for layer in range(GRID) for head in range(GRID)}
    assert found == pytest.approx(expected, abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("rank", RANKS)
def test_the_invariants_of_the_twins_are_exactly_the_planted_common_heads(swept: Swept, engine: str, rank: str) -> None:
    found = swept("cd", engine, rank)
    assert components(found) == TWIN_COMMON[rank]
    assert found["expected_by_chance"] == {"heads": 1.0}


def test_every_rule_has_its_own_answer_so_that_none_can_pass_for_another() -> None:
    assert len(set(TWIN_COMMON.values())) == len(RANKS) == 3


def test_as_many_as_the_twins_share_is_rare_by_chance() -> None:
    of_three_or_more = sum(comb(GRID, m) * comb(GRID**2 - GRID, GRID - m) for m in range(3, GRID + 1)) / comb(GRID**2, GRID)
    assert of_three_or_more == pytest.approx(0.0377, abs=1e-4)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("two", ["".join(pair) for pair in combinations(NULL, 2)])
def test_two_conditions_of_the_null_share_what_chance_gives_by_every_rule(swept: Swept, two: str, rank: str) -> None:
    found = swept(two, "forked", rank)
    assert len(components(found)) == found["expected_by_chance"]["heads"] == 1
    at = 1 if rank == "highest" else 0  # the suppressors' line, or the helpers'
    lines = [set(line(slope, intercepts[at])) for slope, *intercepts in (NULL_LINES[name] for name in two)]
    assert set(components(found)) == lines[0] & lines[1]


@pytest.mark.parametrize("rank", RANKS)
def test_all_of_the_null_share_nothing(swept: Swept, engine: str, rank: str) -> None:
    found = swept("".join(NULL), engine, rank)
    assert components(found) == ()
    assert found["expected_by_chance"]["heads"] == pytest.approx(0.2)


@pytest.mark.parametrize("rank", RANKS)
def test_a_twin_beside_the_null_shares_no_more_than_the_null_allows(swept: Swept, rank: str) -> None:
    assert components(swept("cdefg", "forked", rank)) == ()


# What is claimed: effects of one sign beyond 5 % of the level, whatever their rank. Every head's own gain is certain here.


def of_one_sign(*conditions: str) -> list[Component]:
    """Heads that have gains of one sign in all of these conditions."""
    gains = [twin_gains(condition) for condition in conditions]
    shared = set.intersection(*map(set, gains))
    return sorted(head for head in shared if len({own[head] > 0 for own in gains}) == 1)


def test_the_claimed_heads_of_the_twins_are_all_that_both_have_with_one_sign(swept: Swept, engine: str) -> None:
    """Six roles are played by the same head; two have changed places, and so the sign."""
    found = swept("cd", engine, "magnitude")
    assert claimed(found) == of_one_sign("c", "d") and len(claimed(found)) == 6
    told = found["groups"][0]["conjunction"]["components"]
    assert {(one["layer"], one["head"]) for one in told} == {*twin_gains("c"), *twin_gains("d")}
    both = {(one["layer"], one["head"]): one for one in told if one["count"] == 2}
    assert both.keys() == twin_gains("c").keys() & twin_gains("d").keys() and len(both) == 8
    for head, one in both.items():
        assert one["effects"] == pytest.approx(
            {f"planted_{name}": -twin_gains(name)[head] / sum(twin_gains(name).values()) for name in "cd"}, abs=TOLERANCE)
        assert (one["p_adjusted"] < 1e-99) == (head in claimed(found))
    assert found["groups"][0]["sign_agreement"] == {"shared": 3, "same_sign": 3}


@pytest.mark.parametrize("names", ["efg", "cdefg"])
def test_conditions_that_share_no_head_claim_none(swept: Swept, names: str) -> None:
    found = swept(names, "forked", "magnitude")
    assert claimed(found) == of_one_sign(*names) == []
    assert found["groups"][0]["conjunction"]["of"] == len(names)


@pytest.mark.parametrize("two", ["".join(pair) for pair in combinations(NULL, 2)])
def test_two_conditions_of_the_null_claim_the_heads_that_both_have(swept: Swept, two: str) -> None:
    """One that helps both and one that hinders both, where the lines meet: no chance, but what was planted."""
    assert claimed(swept(two, "forked", "magnitude")) == of_one_sign(*two)
    assert len(of_one_sign(*two)) == 2


@pytest.mark.parametrize("at_least", [1, 2, 3])
def test_in_at_least_so_many_of_five_conditions(swept: Swept, at_least: int) -> None:
    found = swept("cdefg", "forked", "magnitude", "--at-least", str(at_least))
    signs = Counter((head, gain > 0) for name in "cdefg" for head, gain in twin_gains(name).items())
    assert claimed(found) == sorted({head for (head, _), conditions in signs.items() if conditions >= at_least})
    assert claimed(found) or at_least > max(signs.values())
