"""Random sets beside the components that matter: what is drawn, how often they do as much, and on which examples."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pyarrow as pa
import pytest

from families import ALIGNED, HEADS, LAYERS, answered, family
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.effects.random_sets import Circuit, affordable, compared, draw, in_strata, together
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.components import HEAD_IMPACT
from tinylab.records.tables import effects_columns, schema
from tinylab.report.views import random_sets_sentence

GRID = [layer for layer in range(5) for _ in range(5)]
CIRCUIT = (0, 3, 7, 8, 24)  # two of layer 0, two of 1, one of 4


def effects(labels: dict[tuple[int, int, float], str | None], metric: str = "logit_diff") -> pa.Table:
    columns = effects_columns(HEAD_IMPACT)
    rows = [{**dict.fromkeys(columns), "layer": layer, "head": head, "scale": scale, "metric": metric, "label": label}
            for (layer, head, scale), label in labels.items()]
    return pa.Table.from_pylist(rows, schema=schema(columns, HEAD_IMPACT))


def test_the_circuit_is_what_matters_or_is_mixed_where_the_scale_is_0() -> None:
    told = {(0, 1, 0.0): "matters", (1, 0, 0.0): "mixed", (0, 0, 2.0): "matters"}
    labels = {(layer, head, scale): told.get((layer, head, scale), "negligible")
              for layer in range(2) for head in range(2) for scale in (2.0, 0.0)}
    found = Circuit.of(effects(labels), HEAD_IMPACT)
    assert found.at == {"scale": 0.0}
    assert [found.components[place] for place in found.members] == [(0, 1), (1, 0)]
    assert (len(found.components), found.layers, found.judged) == (4, [0, 0, 1, 1], True)


def test_of_scales_without_0_the_first_counts() -> None:
    found = Circuit.of(effects({(0, 0, 0.5): "undecided", (0, 0, 2.0): "matters"}), HEAD_IMPACT)
    assert (found.at, found.members) == ({"scale": 0.5}, ())


def test_without_labels_there_is_no_circuit() -> None:
    assert not Circuit.of(effects({(0, 0, 0.0): None}), HEAD_IMPACT).judged
    assert not Circuit.of(effects({(0, 0, 0.0): "matters"}, metric="kl_div"), HEAD_IMPACT).judged


def test_its_cells_are_those_of_its_scale_and_go_together() -> None:
    cells = HeadsZero(name="h1", scales=[2.0, 0.0]).cells(2, 2)
    labels = {(layer, head, scale): "matters" for layer in range(2) for head in range(2) for scale in (2.0, 0.0)}
    chosen = Circuit.of(effects(labels), HEAD_IMPACT).cells_among(cells, HEAD_IMPACT)
    assert chosen is not None and [cell.key["scale"] for cell in chosen] == [0.0] * 4
    joint = together(chosen[1:])
    assert [(i.layer, i.head) for i in joint.interventions] == [(0, 1), (1, 0), (1, 1)]
    assert (joint.target, joint.source, joint.positions) == ("clean", None, "all")


def test_sets_are_as_large_as_the_circuit_and_those_of_layers_have_as_many_in_each() -> None:
    drawn = draw(CIRCUIT, GRID, 100, seed=3)
    wanted = Counter(GRID[place] for place in CIRCUIT)
    for sets in drawn.values():
        assert len(sets) == 100
        assert all(len(set(one)) == len(CIRCUIT) and list(one) == sorted(one) for one in sets)
    assert all(Counter(GRID[place] for place in one) == wanted for one in drawn["same_layers"])
    assert any(Counter(GRID[place] for place in one) != wanted for one in drawn["uniform"])
    assert drawn == draw(CIRCUIT, GRID, 100, seed=3) != draw(CIRCUIT, GRID, 100, seed=4)


def test_every_component_is_drawn_as_often_as_it_should() -> None:
    """3,000 sets of 5 of 25: each component in 600 ± 22 of them; within layer 4, which has one, in 600 too."""
    drawn = draw(CIRCUIT, GRID, 3000, seed=0)
    counts = {kind: np.bincount(np.concatenate(sets), minlength=25) for kind, sets in drawn.items()}
    assert np.abs(counts["uniform"] - 600).max() < 5 * 22
    expected = np.array([{0: 1200, 1: 1200, 4: 600}.get(layer, 0) for layer in GRID])
    assert np.abs(counts["same_layers"] - expected).max() < 5 * 27


def test_p_counts_sets_that_do_as_much_and_the_circuit_itself() -> None:
    random = np.array([0.5, 2.0, 2.0 - 1e-9, 1.9, 3.0])
    assert compared(2.0, random, level=3.0) == {"as_much": 3, "share": 0.6, "p": 4 / 6, "median": 1.0 - 0.5e-9}
    assert compared(4.0, random, level=3.0)["p"] == 1 / 6
    assert compared(0.0, random, level=3.0)["median"] is None


def test_any_beginning_has_about_as_much_of_each_template_as_the_whole() -> None:
    templates = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]
    order, least = in_strata(templates, seed=1)
    assert sorted(order) == list(range(100)) and least == 8
    assert Counter(templates[b] for b in order[:7]) == {"a": 2, "b": 2, "c": 2, "d": 1}
    for size in range(30, 101):
        part = Counter(templates[b] for b in order[:size])
        assert all(abs(part[name] - size * templates.count(name) / 100) < 3 for name in "abcd")
    assert in_strata(templates, seed=2)[0] != order
    assert in_strata(["a"] * 3, seed=0)[1] == 3
    assert in_strata([str(n // 2) for n in range(40)], seed=0)[1] == 40  # two of each of 20
    assert in_strata([None] * 20, seed=0)[1] == 8


def test_as_many_examples_are_taken_as_cost_no_more_than_allowed() -> None:
    templates = ["a", "b"] * 30
    for most in (8, 9.5, 40, 59, 60, 1000):
        found = affordable(templates, 0, len, most)
        assert found is not None and len(found) == min(60, int(most)) and found == sorted(set(found))
    assert affordable(templates, 0, len, 7.9) is None


def test_what_is_allowed_is_counted_in_states_of_the_engines_plan() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    pairs = pairs * (40 // len(pairs))
    engine, cells = ForkedEngine(model), HeadsZero(name="h1").cells(LAYERS, HEADS)
    variants = [together(cells[:3]), together(cells[5:8])]

    def cost(some: list[int]) -> int:
        return engine.plan([pairs[b] for b in some], variants).states

    order, least = in_strata([None] * len(pairs), 0)
    for size in (least, least + 5):
        most = cost(order[:size])
        found = affordable([None] * len(pairs), 0, cost, most)
        assert found is not None and cost(found) <= most
        assert len(found) == len(pairs) or cost(order[: len(found) + 1]) > most


def told(share: float, within: float, n: int | None = 20) -> dict[str, object]:
    kinds = {kind: {"as_much": round(100 * one), "share": one, "p": (1 + 100 * one) / 101, "median": 0.5}
             for kind, one in (("uniform", share), ("same_layers", within))}
    return {"n": n, "of": 20, "draws": 100, "circuit": [0, 1, 2], **kinds}


def test_it_is_said_when_random_sets_do_as_much() -> None:
    said = random_sets_sentence(told(0.21, 0.0), 0.05)
    assert said == ("the 3 that matter or are mixed, taken together: random sets of this size do as much damage in 21 % of draws "
                    "(100 draws)")
    said = random_sets_sentence(told(0.21, 0.35) | {"n": 8}, 0.05)
    assert said is not None and said.endswith("in 21 % of draws; random sets with as many in each layer do as much damage in "
                                              "35 % of draws (100 draws, on 8 of 20 examples)")
    assert random_sets_sentence(told(0.04, 0.04), 0.05) is None  # p is 5/101
    assert random_sets_sentence(told(0.05, 0.0), 0.05) is not None  # 6/101
    assert random_sets_sentence(told(0.9, 0.9, n=None), 0.05) is None
    assert random_sets_sentence(None, 0.05) is None


def test_chance_is_that_of_drawing_without_replacement() -> None:
    """Of 25 components three do everything: a set of 5 has one of them with probability 1 − C(22, 5) / C(25, 5)."""
    sets = draw(CIRCUIT, GRID, 3000, seed=0)["uniform"]
    damage = np.array([1.0 if {1, 11, 21} & set(one) else 0.0 for one in sets])
    expected = 1 - comb(22, 5) / comb(25, 5)
    assert compared(1.0, damage, 1.0)["share"] == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 3000) ** 0.5)
