"""Which components are among the strongest everywhere: worked by hand on small tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conftest import Within
from tinylab.effects.strength import Ranking, scores, strongest_components
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.sweep import invariants
from tinylab.sweep.chance import by_chance, overlap_by_chance
from tinylab.sweep.invariants import ConditionRun, Settings

Table = dict[tuple[int, int], float]


@dataclass(frozen=True)
class Run:
    """A run's impact table, and its unmodified target run's metrics."""

    condition: str
    table: pd.DataFrame
    baselines: dict[str, float]
    corpus: str = ""

    def scored(self, metric: str, rank: str) -> pd.DataFrame:
        kind = HEAD_IMPACT if "head" in self.table else LAYER_IMPACT
        rows = self.table[self.table["metric"] == metric].assign(run=0)[["run", *kind.component, *kind.varied, "value"]]
        return scores(rows, kind.component, {0: self.baselines[metric]}, rank)

    def scores(self, metric: str, rank: str) -> pd.Series[float]:
        return self.scored(metric, rank)["score"]

    def ranking(self, metric: str, rank: str, k: int) -> Ranking:
        return strongest_components(self.scored(metric, rank), k)[0]

    def ranked(self, settings: Settings) -> ConditionRun:
        metrics = [metric for metric in settings.metrics if metric in set(self.table["metric"])]
        rankings = {metric: self.ranking(metric, settings.rank, settings.k) for metric in metrics}
        return ConditionRun(self.condition, rankings, corpus=self.corpus)


@dataclass(frozen=True)
class Group:
    """Runs that may be compared."""

    kind: TableKind
    describe: dict[str, str]
    runs: Sequence[Run]


def find_invariants(groups: Sequence[Group], settings: Settings, missing: Sequence[str]) -> dict[str, Any]:
    """What the lists of the strongest give, with no effects beside them."""
    ranked = [invariants.Group(group.kind, group.describe, [run.ranked(settings) for run in group.runs]) for group in groups]
    found = invariants.find_invariants(ranked, replace(settings, set="intersection"), missing)
    assert {kind: found[kind] for kind in ("heads", "layers")} == found["intersection"]
    assert all(group["intersection"] == {group["kind"]: group[group["kind"]]} for group in found["groups"])
    claimed = invariants.find_invariants(ranked, settings, missing)
    changed = ("set", "heads", "layers", "groups")
    assert {key: value for key, value in claimed.items() if key not in changed} == {
        key: value for key, value in found.items() if key not in changed}
    assert claimed["heads"] == claimed["layers"] == []
    return found


def heads_run(condition: str, values: Table, *, baseline: float = 10.0, **more: Table) -> Run:
    """A run of one scale and seed; `more` are tables of other metrics, whose baseline is 0."""
    rows = [
        {"run_id": "r", "seed": 0, "layer": layer, "head": head, "scale": 0.0, "metric": metric, "value": value}
        for metric, table in {"logit_diff": values, **more}.items()
        for (layer, head), value in table.items()
    ]
    return Run(condition, pd.DataFrame(rows), {"logit_diff": baseline, **dict.fromkeys(more, 0.0)})


def layers_run(condition: str, values: list[float], *, baseline: float = 0.0) -> Run:
    rows = [
        {"run_id": "r", "seed": 0, "layer": layer, "granularity": "layer_resid", "metric": "logit_diff", "value": value}
        for layer, value in enumerate(values)
    ]
    return Run(condition, pd.DataFrame(rows), {"logit_diff": baseline})


def heads(*runs: Run, **describe: str) -> Group:
    return Group(HEAD_IMPACT, {"model": "tiny", **describe}, runs)


def listed(*components: tuple[int, int]) -> list[dict[str, int]]:
    return [{"layer": layer, "head": head} for layer, head in components]


A = heads_run("a", {(0, 0): 9.0, (0, 1): 4.0, (1, 0): 17.0, (1, 1): 10.5})  # changes -1, -6, +7, +0.5
B = heads_run("b", {(0, 0): 3.0, (0, 1): 1.0, (1, 0): 2.5, (1, 1): 2.0}, baseline=2.0)  # changes +1, -1, +0.5, 0


@pytest.mark.parametrize(
    ("rank", "order"),
    [
        ("magnitude", [(1, 0), (0, 1), (0, 0), (1, 1)]),
        ("highest", [(1, 0), (1, 1), (0, 0), (0, 1)]),
        ("lowest", [(0, 1), (0, 0), (1, 1), (1, 0)]),
    ],
)
def test_each_rank_orders_by_its_own_rule(rank: str, order: list[tuple[int, int]]) -> None:
    for k in range(1, 5):
        assert A.ranking("logit_diff", rank, k).top == order[:k]


@pytest.mark.parametrize(
    ("rank", "k", "shared"),
    [
        ("magnitude", 1, []),
        ("magnitude", 2, [(0, 1)]),
        ("magnitude", 3, [(0, 0), (0, 1), (1, 0)]),
        ("highest", 2, [(1, 0)]),
        ("lowest", 1, [(0, 1)]),
        ("lowest", 2, [(0, 1)]),
    ],
)
def test_the_invariants_are_the_intersection_of_the_top_k(rank: str, k: int, shared: list[tuple[int, int]]) -> None:
    found = find_invariants([heads(A, B)], Settings(k=k, rank=rank), [])
    assert found["heads"] == listed(*shared)
    assert (found["k"], found["rank"], found["metrics"], found["set"], found["layers"]) == (
        k,
        rank,
        ["logit_diff"],
        "intersection",
        [],
    )
    assert found["conditions"] == ["a", "b"]


def test_magnitude_is_from_each_conditions_own_unmodified_run() -> None:
    assert B.scores("logit_diff", "magnitude").droplevel("run").to_dict() == {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 0.5, (1, 1): 0.0}


def test_values_are_averaged_over_seeds_before_the_change_is_taken() -> None:
    frame = pd.concat([A.table, A.table.assign(seed=1, value=20 - A.table["value"])])  # the mirror image: no change on average
    assert Run("a", frame, A.baselines).scores("logit_diff", "magnitude").tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        ("magnitude", {(0, 0): 6.0, (0, 1): 3.0}),
        ("highest", {(0, 0): 16.0, (0, 1): 13.0}),
        ("lowest", {(0, 0): -9.0, (0, 1): -8.0}),
    ],
)
def test_a_head_of_several_scales_counts_with_its_strongest(rank: str, expected: dict[tuple[int, int], float]) -> None:
    frame = pd.concat(
        [
            heads_run("a", {(0, 0): 9.0, (0, 1): 8.0}).table,
            heads_run("a", {(0, 0): 16.0, (0, 1): 13.0}).table.assign(scale=2.0),
        ]
    )
    assert Run("a", frame, {"logit_diff": 10.0}).scores("logit_diff", rank).droplevel("run").to_dict() == expected


def test_ties_break_by_layer_and_head_whatever_the_order_of_the_rows() -> None:
    values = {place: 5.0 for place in product(range(3), range(3))}
    shuffled = heads_run("a", values).table.sample(frac=1, random_state=3)
    assert Run("a", shuffled, {"logit_diff": 10.0}).ranking("logit_diff", "magnitude", 4).top == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_several_metrics_are_intersected_and_listed_one_by_one() -> None:
    runs = [
        heads_run("a", {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 10.0}, kl_div={(0, 0): 0.1, (0, 1): 3.0, (1, 0): 2.0}),
        heads_run("b", {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 10.0}, kl_div={(0, 0): 0.1, (0, 1): 2.0, (1, 0): 3.0}),
    ]
    found = find_invariants([heads(*runs)], Settings(k=2, metrics=("logit_diff", "kl_div")), [])
    assert found["heads"] == listed((0, 1))
    assert found["per_metric"]["heads"]["logit_diff"]["heads"] == listed((0, 0), (0, 1))
    assert found["per_metric"]["heads"]["kl_div"]["heads"] == listed((0, 1), (1, 0))
    assert found["per_metric"]["heads"]["kl_div"]["top_k"] == {"a": listed((0, 1), (1, 0)), "b": listed((1, 0), (0, 1))}


def test_fewer_components_than_k_is_said() -> None:
    found = find_invariants([heads(A, B)], Settings(k=10), [])
    assert found["heads"] == listed((0, 0), (0, 1), (1, 0))
    assert "a has 4 components, fewer than k=10" in found["note"]
    assert "b: 3 of 4 components change logit_diff at all" in found["note"]
    assert found["expected_by_chance"] == {"heads": 4 * 3 / 4}


@pytest.mark.parametrize("rank", ["magnitude", "highest", "lowest"])
def test_a_component_that_changes_nothing_is_never_among_the_strongest(rank: str) -> None:
    some = heads_run("a", {(0, 0): 10.0, (0, 1): 10.0, (1, 0): 9.0, (1, 1): 10.0, (2, 0): 11.0})
    others = heads_run("b", {(0, 0): 10.0, (0, 1): 12.0, (1, 0): 8.0, (1, 1): 10.0, (2, 0): 10.0})
    found = find_invariants([heads(some, others)], Settings(k=4, rank=rank), [])
    tops = found["per_metric"]["heads"]["logit_diff"]["top_k"]
    assert {name: {(one["layer"], one["head"]) for one in top} for name, top in tops.items()} == {
        "a": {(1, 0), (2, 0)}, "b": {(0, 1), (1, 0)},
    }
    assert found["heads"] == listed((1, 0))
    assert found["expected_by_chance"] == {"heads": 2 * 2 / 5}
    assert "a: 2 of 5 components change logit_diff at all, fewer than k=4" in found["note"]


def test_where_nothing_has_an_effect_nothing_is_invariant() -> None:
    still = {(0, 0): 10.0, (0, 1): 10.0}
    found = find_invariants([heads(heads_run("a", still), heads_run("b", still))], Settings(k=2), [])
    assert found["heads"] == [] and found["expected_by_chance"] == {"heads": 0.0}
    assert found["per_metric"]["heads"]["logit_diff"]["top_k"] == {"a": [], "b": []}
    assert "0 of 2 components change logit_diff at all" in found["note"]


def test_a_mean_over_seeds_that_differs_in_its_last_bit_is_no_effect_and_a_small_one_is() -> None:
    thirds = [heads_run("a", {(0, 0): value, (0, 1): value + 1e-5}).table.assign(seed=seed)
              for seed, value in enumerate((0.1, 0.2, 0.3))]
    run = Run("a", pd.concat(thirds), {"logit_diff": (0.1 + 0.2 + 0.3) / 3})  # 0.20000000000000004
    assert run.ranking("logit_diff", "magnitude", 2).top == [(0, 1)]


def test_ties_at_k_are_said_and_others_are_not() -> None:
    values = {(0, 0): 13.0, (0, 1): 7.0, (1, 0): 12.0, (1, 1): 8.0, (2, 0): 12.0}
    run = heads_run("a", values)
    assert [run.ranking("logit_diff", "magnitude", k).tied for k in (1, 2, 3, 4, 5)] == [1, 0, 2, 1, 0]
    said = "a: 2 more components are as strong by logit_diff as the last of its 3 strongest"
    assert said in find_invariants([heads(run, B)], Settings(k=3), [])["note"]
    assert "as strong" not in find_invariants([heads(A, A)], Settings(k=2), [])["note"]


def test_one_corpus_under_two_tags_is_one_condition_and_that_is_said() -> None:
    again = Run("again", A.table, A.baselines, corpus="same")
    first = Run("a", A.table, A.baselines, corpus="same")
    alone = find_invariants([heads(first, again)], Settings(k=2), [])
    note = alone.get("note", "")
    assert "a and again are one corpus under 2 tags: they count as one condition" in note
    assert "one condition only: what is listed holds for it, and is not an invariant" in note
    three = find_invariants([heads(first, again, Run("b", B.table, B.baselines, corpus="other"))], Settings(k=2), [])
    assert "one corpus under 2 tags" in three["note"] and "one condition only" not in three["note"]
    assert three["expected_by_chance"] == {"heads": 2 * 2 / 4}  # of two conditions, not three


def test_corpora_that_are_not_known_are_told_apart_by_their_tags() -> None:
    found = find_invariants([heads(A, B)], Settings(k=2), [])
    assert "one corpus" not in found.get("note", "") and found["expected_by_chance"] == {"heads": 1.0}


def test_a_missing_metric_is_said_and_nothing_is_claimed() -> None:
    with_kl = heads_run("a", {(0, 0): 1.0}, kl_div={(0, 0): 1.0})
    found = find_invariants([heads(with_kl, B)], Settings(k=1, metrics=("kl_div",)), [])
    assert found["heads"] == []
    assert "b has no metric kl_div" in found["note"]
    assert found["groups"][0]["per_metric"]["kl_div"]["top_k"] == {"a": listed((0, 0))}


def test_one_condition_alone_is_said() -> None:
    found = find_invariants([heads(A)], Settings(k=2), [])
    assert found["heads"] == listed((0, 1), (1, 0))
    assert "one condition only" in found["note"]


def test_two_runs_of_one_condition_are_both_counted_and_neither_is_lost() -> None:
    again = Run("a", B.table, B.baselines)  # as in -m condition.split=train,test
    found = find_invariants([heads(A, again)], Settings(k=2), [])
    group = found["groups"][0]
    assert group["heads"] == listed((0, 1))
    assert len(group["per_metric"]["logit_diff"]["top_k"]) == 2
    assert group["expected_by_chance"] == 2.0  # of one condition, k of k: two runs of it are not independent


def test_groups_are_never_mixed() -> None:
    found = find_invariants([heads(A, B), heads(A, model="other")], Settings(k=2), [])
    assert [group["heads"] for group in found["groups"]] == [listed((0, 1)), listed((0, 1), (1, 0))]
    assert found["heads"] == []
    assert "2 groups of heads" in found["note"]
    assert found["expected_by_chance"] == {}


def test_heads_and_layers_are_two_kinds_with_their_own_lists() -> None:
    layers = Group(LAYER_IMPACT, {"model": "tiny"}, [layers_run("a", [0.0, 5.0, -6.0]), layers_run("b", [1.0, 0.0, 9.0])])
    found = find_invariants([heads(A, B), layers], Settings(k=2), [])
    assert (found["heads"], found["layers"]) == (listed((0, 1)), [2])
    told = found["per_metric"]["layers"]["logit_diff"]
    assert (told["layers"], told["top_k"]) == ([2], {"a": [2, 1], "b": [2, 0]})
    assert told["by_chance"] == {"expected": pytest.approx(4 / 3), "p": pytest.approx(1.0), "expected_within_layers": None,
                                 "p_within_layers": None}  # two lists of two among three share one at least
    assert set(found["expected_by_chance"]) == {"heads", "layers"}


def test_patching_is_measured_from_the_unmodified_corrupt_run() -> None:
    assert layers_run("a", [-5.0, 0.0, 4.0], baseline=-5.0).ranking("logit_diff", "magnitude", 3).top == [(2,), (1,)]


def test_invariants_are_withheld_if_a_condition_is_missing() -> None:
    found = find_invariants([heads(A, B)], Settings(k=2), ["c", "d"])
    assert (found["heads"], found["layers"], found["groups"], found["per_metric"]) == ([], [], [], {})
    assert "c, d" in found["withheld"]
    assert "allow_partial" in found["withheld"]


def test_invariants_of_what_is_there_if_that_is_allowed() -> None:
    found = find_invariants([heads(A, B)], Settings(k=2, allow_partial=True), ["c"])
    assert found["heads"] == listed((0, 1))
    assert "withheld" not in found
    assert "without c" in found["note"]


def test_nothing_at_all_is_an_empty_document() -> None:
    found: dict[str, Any] = find_invariants([], Settings(), [])
    assert (found["heads"], found["layers"], found["groups"], found["conditions"]) == ([], [], [], [])


@pytest.mark.parametrize(("k", "components", "conditions"), [(5, 16, 2), (5, 16, 3), (10, 32, 2), (3, 4, 4), (1, 6, 2)])
def test_by_chance_agrees_with_drawing_at_random(k: int, components: int, conditions: int, within: Within) -> None:
    rng = np.random.default_rng(1)
    order = rng.random((20_000, conditions, components)).argsort(axis=-1).argsort(axis=-1)
    sizes = (order < k).all(axis=1).sum(axis=-1)
    error = sizes.std() / np.sqrt(len(sizes))
    within("chance drawn", abs(by_chance([k] * conditions, components) - sizes.mean()) / error, 4.0)


def test_by_chance_of_whole_sets_is_all_of_them_and_of_an_empty_one_none() -> None:
    assert by_chance([4, 4, 4], 4) == 4.0
    assert by_chance([0, 4], 4) == 0.0


# The exact distribution of what lists share by chance

DEMO = {  # of the README's sweep, `-m condition=cond_a,cond_b`: four layers of eight heads
    "cond_a": [(0, 1), (1, 5), (1, 1), (0, 4), (1, 0), (0, 0), (0, 3), (0, 6), (0, 5), (2, 3)],
    "cond_b": [(0, 0), (0, 1), (1, 1), (1, 0), (0, 4), (0, 6), (0, 5), (0, 3), (0, 7), (0, 2)],
}


def lists(tops: Sequence[Sequence[tuple[int, int]]], layers: dict[int, int]) -> list[Ranking]:
    return [Ranking(list(top), sum(layers.values()), layers=layers) for top in tops]


def test_the_demos_eight_shared_heads_are_no_more_than_its_layers_give() -> None:
    """1.6e-4 if heads were drawn among all; but all that is left once the layers are granted is 6.75 expected, p = .11."""
    shared = {*DEMO["cond_a"]} & {*DEMO["cond_b"]}
    found = overlap_by_chance(len(shared), lists([*DEMO.values()], dict.fromkeys(range(4), 8)))
    assert len(shared) == 8
    assert found["expected"] == pytest.approx(100 / 32, abs=1e-12)
    assert found["p"] == pytest.approx(stats.hypergeom.sf(7, 32, 10, 10), abs=1e-12) == pytest.approx(1.6e-4, abs=5e-6)
    assert found["expected_within_layers"] == pytest.approx(6 * 8 / 8 + 3 * 2 / 8, abs=1e-12)
    assert found["p_within_layers"] == pytest.approx(3 / 28, abs=1e-12)  # both of two among three of eight, layer 0 being full


def test_what_is_shared_within_layers_agrees_with_every_possible_draw() -> None:
    """Two layers of three heads: lists with (2, 1) and (1, 2) of them, all 81 pairs of draws."""
    layers = {0: 3, 3: 3}
    some = lists([[(0, 0), (0, 1), (3, 0)], [(0, 1), (3, 0), (3, 2)]], layers)
    sizes = [len({*a, *b} & {*c, *d}) for a, b, c, d in product(
        [{(0, x), (0, y)} for x, y in ((0, 1), (0, 2), (1, 2))], [{(3, x)} for x in range(3)],
        [{(0, x)} for x in range(3)], [{(3, x), (3, y)} for x, y in ((0, 1), (0, 2), (1, 2))])]
    found = overlap_by_chance(2, some)
    assert found["expected_within_layers"] == pytest.approx(np.mean(sizes), abs=1e-12)
    assert found["p_within_layers"] == pytest.approx(np.mean([size >= 2 for size in sizes]), abs=1e-12)


@pytest.mark.parametrize("shared", range(6))
def test_of_two_lists_it_is_the_hypergeometric_distribution(shared: int) -> None:
    """Five of 25 each, as the planted twins have: three or more in 3.77 % of cases."""
    layers = dict.fromkeys(range(5), 5)
    found = overlap_by_chance(shared, lists([[(0, head) for head in range(5)], [(layer, 0) for layer in range(5)]], layers))
    assert found["expected"] == pytest.approx(1.0, abs=1e-12)
    assert found["p"] == pytest.approx(stats.hypergeom.sf(shared - 1, 25, 5, 5), abs=1e-12)
    if shared == 3:
        assert found["p"] == pytest.approx(0.0377, abs=1e-4)


def test_of_several_lists_it_agrees_with_drawing_at_random(within: Within) -> None:
    rng = np.random.default_rng(2)
    sizes = (4, 7, 5)
    order = rng.random((20_000, 3, 12)).argsort(axis=-1).argsort(axis=-1)
    drawn = (order < np.array(sizes)[:, None]).all(axis=1).sum(axis=-1)
    tops = [[(0, head) for head in range(size)] for size in sizes]
    for shared in range(4):
        found, here = overlap_by_chance(shared, lists(tops, {0: 12})), (drawn >= shared).mean()
        assert found["p"] is not None
        within("chance drawn", abs(found["p"] - here) / max(1e-9, np.sqrt(here * (1 - here) / len(drawn))), 4.0)


def test_one_run_of_each_condition_has_a_p_and_several_have_none() -> None:
    both = find_invariants([heads(A, B)], Settings(k=2), [])["per_metric"]["heads"]["logit_diff"]["by_chance"]
    assert both["p"] == pytest.approx(stats.hypergeom.sf(0, 4, 2, 2)) and both["expected"] == 1.0
    for runs in ([A], [A, Run("a", B.table, B.baselines)], [A, Run("a", B.table, B.baselines), B]):
        told = find_invariants([heads(*runs)], Settings(k=2), [])["per_metric"]["heads"]["logit_diff"]["by_chance"]
        assert set(told.values()) == {None}


def test_a_metric_that_a_run_lacks_has_no_p() -> None:
    with_kl = heads_run("a", {(0, 0): 1.0}, kl_div={(0, 0): 1.0})
    told = find_invariants([heads(with_kl, B)], Settings(k=1, metrics=("kl_div",)), [])["per_metric"]["heads"]["kl_div"]
    assert set(told["by_chance"].values()) == {None}
