"""Variants that go on from another one: the numbers of the reference, and no state of that one twice."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bound import lower_bound
from both_engines import CELLS, LOGITS, PAIRS, ROUNDING, gap, variants_of
from families import LAYERS, answered, family
from tinylab.engine.base import Evaluation
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.forked.trunks import Families, Family
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Positions, Variant

Act = tuple[Site, int, Operation, int | None]
A: Act = (HEAD_OUT, 0, Scale(0.0), 1)
B: Act = (HEAD_OUT, 1, Scale(0.0), 3)
C: Act = (HEAD_OUT, 2, Scale(0.0), 0)
HALF: Act = (HEAD_OUT, 0, Scale(0.5), 1)
MLP: Act = (MLP_OUT, 1, Patch(), None)
BLOCK: Act = (RESID_POST, 1, Patch(), None)
LAST: Act = (RESID_POST, LAYERS - 1, Scale(0.5), None)


def variant(*acts: Act, positions: Positions = "all") -> Variant:
    return Variant(tuple(Intervention(*act) for act in acts), "clean", Own("corrupt"), positions)


def scaled(*acts: Act) -> Variant:
    return Variant(tuple(Intervention(*act) for act in acts), "clean")


def several(positions: Positions = "all") -> list[Variant]:
    sets = ((A,), (C, A), (A, B), (B,), (A, MLP), (A, BLOCK), (A, LAST), (B, C), (HALF, C), (A, B, C), (HALF,), (MLP,), (MLP, C))
    return [variant(*acts, positions=positions) for acts in sets]


def evaluated(engine: Any, pairs: Any, variants: list[Variant]) -> Evaluation:
    found: Evaluation = engine.evaluate(pairs, variants, LOGITS)
    return found


@pytest.mark.parametrize("positions", ["all", "last", (0, 2)], ids=str)
def test_numbers_are_the_references_wherever_others_go_on(name: str, positions: Positions) -> None:
    model = family(name)
    pairs = answered(model, PAIRS[torch.float32])
    plain = evaluated(ReferenceEngine(model), pairs, several(positions))
    for max_states in (None, 30):
        engine = ForkedEngine(model, max_states)
        plan, found = engine.plan(pairs, several(positions)), evaluated(engine, pairs, several(positions))
        assert gap(found, plain) <= ROUNDING[torch.float32]
        assert (plan.forwards, plan.states) == (found.forwards, found.states)


def test_in_float64_they_are_so_to_its_own_rounding() -> None:
    model = family("llama", torch.float64)
    pairs = answered(model, PAIRS[torch.float64])
    plain = evaluated(ReferenceEngine(model), pairs, several())
    assert gap(evaluated(ForkedEngine(model), pairs, several()), plain) <= ROUNDING[torch.float64]


def test_a_pair_costs_the_blocks_from_its_upper_head_on() -> None:
    model = family("gpt2")
    pairs = answered(model, PAIRS[torch.float32])
    states = [evaluated(ForkedEngine(model), pairs, variants).states
              for variants in ([scaled(A)], [scaled(A), scaled(A, C)], [scaled(A, C)])]
    whole = len({pair.clean for pair in pairs})
    every = len({pair.clean[: end + 1] for pair in pairs for end in range(len(pair.clean))})
    assert states[1] - states[0] == whole
    assert states[2] == states[0], "nothing to go on from"
    assert states[2] - evaluated(ForkedEngine(model), pairs, []).states == 2 * every + whole


@pytest.mark.parametrize("acts", [((A,), (A, B), (A, C)), ((A,), (B,), (C,), (A, B), (A, C), (B, C)), ((A,), (HALF, B))],
                         ids=["one trunk", "all pairs", "none"])
def test_states_are_the_bounds_however_passes_are_cut(acts: tuple[tuple[Act, ...], ...]) -> None:
    model = family("llama")
    pairs = answered(model, PAIRS[torch.float32])
    variants = [scaled(*some) for some in acts]
    assert evaluated(ForkedEngine(model), pairs, variants).states == lower_bound(pairs, variants, LAYERS)
    one_tree = pairs[:2]
    counts = {evaluated(ForkedEngine(model, size), one_tree, variants).states for size in (5, 10, None)}
    assert counts == {lower_bound(one_tree, variants, LAYERS)}


def test_each_goes_on_from_the_longest_part_that_starts_from_the_unmodified_run() -> None:
    beside: Act = (HEAD_OUT, 0, Scale(0.0), 2)
    variants = [variant(A), variant(A, B), variant(B, A, C), variant(C), variant(A, beside), variant(HALF, C)]
    found = Families.of(variants)
    ((first, second),) = found.by_setting.values()
    assert first == Family(None, [4, 5, 3])
    assert second == Family(0, [1, 2])
    rests = [tuple(i.component.unit for i in rest.interventions) for rest in found.remaining]
    assert rests == [(1,), (3,), (3, 0), (0,), (1, 2), (1, 0)]


def test_another_setting_or_scale_is_nothing_to_go_on_from() -> None:
    others = [variant(HALF), variant(A, positions="last"), Variant(variant(A).interventions, "corrupt", Own("clean"))]
    assert all(family.trunk is None for family in sum(Families.of([variant(A, C), *others]).by_setting.values(), []))


def test_large_sets_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 random sets of 123 of 1,200 heads, as controls plan them again and again: a name for each head, not for each layer."""
    rng, asked = np.random.default_rng(0), []
    sets = [[(int(head) // 25, int(head) % 25) for head in rng.choice(1200, 123, replace=False)] for _ in range(30)]
    variants = [scaled(*((HEAD_OUT, layer, Scale(0.0), head) for layer, head in one)) for one in sets]
    component = Intervention.component.fget
    monkeypatch.setattr(Intervention, "component", property(lambda self: asked.append(self) or component(self)))
    low = [head for head in sets[3] if head[0] < 20]
    families = Families.of([*variants, scaled(*((HEAD_OUT, layer, Scale(0.0), head) for layer, head in low))])
    assert len(asked) == 30 * 123 + len(low)
    left = [len(rest.interventions) for rest in families.remaining]
    assert left == [123] * 3 + [123 - len(low)] + [123] * 26 + [len(low)]


def test_single_interventions_are_cut_into_passes_as_ever() -> None:
    variants = variants_of(CELLS)
    families = Families.of(variants)
    assert families.cache_plan is None and families.remaining == variants
    assert all(len(own) == 1 and own[0].trunk is None for own in families.by_setting.values())
    for (own,) in families.by_setting.values():
        assert own.members == sorted(sorted(own.members), key=lambda v: variants[v].fork)
    assert sorted(v for (own,) in families.by_setting.values() for v in own.members) == list(range(len(variants)))


def test_a_pair_of_equal_prompts_changes_nothing_and_costs_nothing() -> None:
    model = family("gpt2")
    pairs = answered(model, (((5, 7, 9), (5, 7, 9)),))
    patches = [variant((MLP_OUT, 0, Patch(), None)), variant((MLP_OUT, 0, Patch(), None), MLP)]
    found = evaluated(ForkedEngine(model), pairs, patches)
    np.testing.assert_array_equal(found.values, np.broadcast_to(found.baselines["clean"], found.values.shape))


class Stops:
    """A checkpointer whose process is cut off when it has kept so many parts; the next attempt finds what it kept last."""

    def __init__(self, after: int) -> None:
        self._left, self._kept = after, None

    def restore(self, state: Any) -> Any:
        return state if self._kept is None else copy.deepcopy(self._kept)

    def keep(self, state: Any) -> None:
        self._kept, self._left = copy.deepcopy(state), self._left - 1
        if self._left == 0:
            raise KeyboardInterrupt


def test_an_attempt_that_was_cut_off_between_a_run_and_what_goes_on_from_it_ends_with_the_same_numbers() -> None:
    model = family("gpt2")
    pairs = answered(model, PAIRS[torch.float32])
    variants = [scaled(A), scaled(B), scaled(C), scaled(A, B), scaled(A, C), scaled(B, C)]
    whole = evaluated(ForkedEngine(model), pairs, variants)
    cuts = 0
    for after in range(1, 20):
        checkpointer = Stops(after)
        try:
            ForkedEngine(model).evaluate(pairs, variants, LOGITS, checkpointer=checkpointer)
        except KeyboardInterrupt:
            cuts += 1
            found = ForkedEngine(model).evaluate(pairs, variants, LOGITS, checkpointer=checkpointer)
            np.testing.assert_array_equal(found.values, whole.values)
    assert cuts >= 4
