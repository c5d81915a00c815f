"""What an evaluation costs: each state is computed once, and the plan says so before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from both_engines import CELLS, SCORER, h1_cells, variants_of
from families import ALIGNED, HEADS, LAYERS, UNALIGNED, answered, family
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.measures.metrics import Scorer
from tinylab.measures.readings import CleanRun


def test_duplicated_pairs_cost_no_forward_and_no_state(name: str) -> None:
    model = family(name)
    pairs = answered(model, tuple(dict.fromkeys(ALIGNED)))
    once, thrice = (ForkedEngine(model).evaluate(many, variants_of(CELLS), SCORER) for many in (pairs, pairs * 3))
    assert (thrice.forwards, thrice.states) == (once.forwards, once.states)
    np.testing.assert_array_equal(thrice.values, np.concatenate([once.values] * 3, axis=1))


def test_h1_computes_each_distinct_prefix_once_per_variant_and_no_more() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    found = ForkedEngine(model).evaluate(pairs, variants_of(h1_cells()), SCORER)
    clean = {pair.clean[: end + 1] for pair in pairs for end in range(len(pair.clean))}
    corrupt = {pair.corrupt[: end + 1] for pair in pairs for end in range(len(pair.corrupt))}
    whole = {pair.clean for pair in pairs}
    unmodified = (LAYERS - 1) * len(clean | corrupt) + len(whole | {pair.corrupt for pair in pairs})
    behind = [LAYERS - 1 - int(cell.key["layer"]) for cell in h1_cells()]  # full blocks from the head's own to the last but one
    assert found.states == unmodified + sum(blocks * len(clean) + len(whole) for blocks in behind)
    assert found.forwards == 2


def test_patches_at_the_last_position_compute_one_row_per_distinct_pair_and_layer() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    cells = ActivationPatch(name="h2", positions="last").cells(LAYERS, HEADS)
    unmodified = ForkedEngine(model).evaluate(pairs, [], SCORER).states
    found = ForkedEngine(model).evaluate(pairs, variants_of(cells), SCORER)
    changed = {(pair.clean, pair.corrupt) for pair in pairs if pair.clean != pair.corrupt}
    assert found.states == unmodified + len(changed) * sum(LAYERS - 1 - int(cell.key["layer"]) for cell in cells)


@pytest.mark.parametrize("max_states", [None, 30])
def test_the_plan_is_what_happens(name: str, max_states: int | None) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    engine = ForkedEngine(model, max_states)
    plan, found = engine.plan(pairs, variants_of(CELLS[::3])), engine.evaluate(pairs, variants_of(CELLS[::3]), SCORER)
    assert (plan.forwards, plan.states) == (found.forwards, found.states)
    assert plan.weights == sum(p.numel() * p.element_size() for p in model.model.parameters())


def test_the_references_plan_is_what_happens() -> None:
    model = family("gpt2")
    pairs = answered(model, UNALIGNED)
    engine, variants = ReferenceEngine(model), variants_of(h1_cells()[:5])
    plan, found = engine.plan(pairs, variants), engine.evaluate(pairs, variants, SCORER)
    assert (plan.forwards, plan.states) == (found.forwards, found.states)


class RowCount(Scorer):
    """Remembers how many rows of logits it was ever given at once."""

    seen: list[int] = []

    def score(self, logits: torch.Tensor, clean_run: CleanRun) -> torch.Tensor:
        self.seen.append(len(logits))
        return super().score(logits, clean_run)


def test_rows_of_logits_held_at_once_are_bounded_by_the_budget_however_many_duplicates() -> None:
    """A templated corpus repeats prompts thousands of times; [examples, vocabulary] logits must not grow with it."""
    model = family("gpt2")
    pairs = answered(model, ALIGNED[:2]) * 500
    scorer = RowCount(("logit_diff",))
    ForkedEngine(model, max_states=256).evaluate(pairs, variants_of(h1_cells()[:2]), scorer)
    assert max(scorer.seen) <= 256
