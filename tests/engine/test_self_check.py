"""The self-check and the choice: a model that the forked engine would get wrong is run by the reference."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from both_engines import DTYPES, LOGITS, ROUNDING, h1_cells, logits_gap, variants_of, without_head
from families import (
    ALIGNED,
    FAMILIES,
    FIXED_BATCH,
    HEADS,
    LAYERS,
    UNALIGNED,
    UNSUPPORTED,
    VOCABULARY,
    answered,
    family,
    make,
    plain_logits,
)
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import EngineConfig
from tinylab.engine.choose import LONG, check_prompts, check_variants, choose_engine, self_check
from tinylab.engine.forked import hooks
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.forked.passes import Pass
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import EngineUnsupported
from tinylab.interventions.sites import COMMON
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair


def test_the_self_check_passes_and_tells_a_small_difference(name: str) -> None:
    for dtype in DTYPES:
        model = family(name, dtype)
        assert self_check(model, answered(model, ALIGNED)) <= ROUNDING[dtype]


def test_a_supported_family_gets_the_forked_engine(name: str) -> None:
    model = family(name)
    choice = choose_engine(model, EngineConfig(name="auto"), answered(model, UNALIGNED))
    assert (choice.engine.name, choice.reason) == ("forked", None)
    assert choice.max_difference is not None


@pytest.mark.parametrize("unsupported", [*UNSUPPORTED, *FIXED_BATCH])
def test_a_family_that_cannot_be_forked_falls_back_with_a_warning(
    unsupported: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = family(unsupported)
    pairs = answered(model, ALIGNED)
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        choice = choose_engine(model, EngineConfig(name="auto"), pairs)
    assert choice.engine.name == "reference"
    assert choice.reason is not None
    assert any("reference engine" in record.getMessage() for record in caplog.records if record.name.startswith("tinylab"))
    found = choice.engine.evaluate(pairs[:2], variants_of(h1_cells()[:2]), LOGITS)
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs[:2]]) <= 1e-6  # one row of logits at a time
    with pytest.raises(EngineUnsupported, match="engine=auto or engine=reference"):
        choose_engine(model, EngineConfig(name="forked"), pairs)


@pytest.mark.parametrize("unsupported", UNSUPPORTED)
def test_the_reference_scales_heads_of_unsupported_families_too(unsupported: str) -> None:
    model = family(unsupported)
    pairs = answered(model, ALIGNED[3:6])
    cells = HeadsZero(name="h1", scales=[0.0], layers=[1]).cells(LAYERS, HEADS)
    found = ReferenceEngine(model).evaluate(pairs, variants_of(cells), LOGITS).values
    for v, cell in enumerate(cells):
        changed = without_head(model, 1, int(cell.key["head"]), 0.0)
        assert logits_gap(found[v], changed, [pair.clean for pair in pairs]) <= 1e-6


def test_asking_for_the_reference_runs_no_self_check() -> None:
    choice = choose_engine(family("gpt2"), EngineConfig(name="reference"), [])
    assert (choice.engine.name, choice.max_difference, choice.reason) == ("reference", None, None)


def test_the_self_check_acts_in_one_layer_of_each_type_and_in_the_last() -> None:
    layers = {i.layer for variant in check_variants(family("gemma3")) for i in variant.interventions}
    assert layers == {0, 1, 2}
    assert {i.layer for variant in check_variants(family("gpt2")) for i in variant.interventions} == {0, 2}


def test_any_two_of_layer_site_operation_and_positions_stand_together_in_few_variants() -> None:
    for name, most in (("gemma3", 9), ("gpt2", 8)):
        variants = check_variants(family(name))
        rows = [(i.layer, i.site, i.operation, v.positions) for v in variants for i in v.interventions]
        choices = [set(column) for column in zip(*rows, strict=True)]
        for one, other in combinations(range(4), 2):
            assert {(row[one], row[other]) for row in rows} == set(product(choices[one], choices[other]))
        assert [len(choice) for choice in choices[1:]] == [len(COMMON), 2, 2]
        assert len(variants) <= most


def test_the_self_check_makes_few_passes() -> None:
    """Of the reference engine: one for each variant, and two for each pair of prompts; 114 when all was tried with all."""
    model = make(FAMILIES["gemma3"])
    pairs, forked = answered(model, ALIGNED), list[bool]()
    count = lambda _module, _args, kwargs: forked.append("position_ids" in kwargs)  # noqa: E731
    model.model.register_forward_pre_hook(count, with_kwargs=True)
    self_check(model, pairs)
    assert forked.count(False) == len(check_variants(model)) + 4
    assert forked.count(True) <= 6


def test_the_self_check_lets_two_variants_stand_in_one_pass_that_must_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    monkeypatch.setattr(np, "eye", lambda count, dtype: np.ones((count, count), dtype=dtype))
    with pytest.raises(EngineUnsupported, match="differ"):
        self_check(model, pairs)


def test_long_prompts_are_acted_on_in_their_whole_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that only a long prompt reaches, forgotten where rows are acted on, but not where they are as they were."""
    model = make(FAMILIES["mistral"], sliding_window=LONG + 6, max_position_embeddings=4 * LONG)
    pairs = [TokenPair(prompt(LONG + 40), prompt(LONG + 40, 7), 1, 2)]
    assert self_check(model, pairs) <= ROUNDING[torch.float32]
    right = Pass.attend

    def forgetful(this: Pass, compute: Any, query: Any, kept: Any, window: int | None) -> Any:
        return right(this, compute, query, kept, window if this.whole else None)

    monkeypatch.setattr(Pass, "attend", forgetful)
    with pytest.raises(EngineUnsupported, match="differ"):
        self_check(model, pairs)
    assert self_check(model, [TokenPair(prompt(LONG), prompt(LONG, 7), 1, 2)]) <= ROUNDING[torch.float32]


def test_a_wrong_attention_is_noticed_by_the_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that forgets the sliding window is what an unknown family would look like."""
    model = family("mistral")
    pairs = answered(model, ALIGNED)
    right = hooks._attend
    forgetful = lambda *args, **kwargs: right(*args, **{**kwargs, "sliding_window": None})  # noqa: E731
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, hooks.NAME, forgetful)
    with pytest.raises(EngineUnsupported, match="differ"):
        self_check(model, pairs)


def prompt(length: int, first: int = 5) -> tuple[int, ...]:
    return tuple((first + 3 * place) % VOCABULARY for place in range(length))


def test_the_self_check_reaches_the_longest_prompt_of_the_run() -> None:
    pairs = [TokenPair(prompt(20), prompt(4), 1, 2), TokenPair(prompt(5), prompt(6), 1, 2)]
    longest = max(max(len(pair.clean), len(pair.corrupt)) for pair in check_prompts(pairs))
    assert longest == 20


LONGROPE_CASES = {
    "aligned pairs on both sides of the switch": [(prompt(14), prompt(14, 7)), (prompt(5), prompt(5, 7))],
    "pairs of unequal length that straddle it": [(prompt(14), prompt(5, 7)), (prompt(5), prompt(5, 7))],
}


@pytest.mark.parametrize("case", LONGROPE_CASES)
def test_rotary_frequencies_that_look_at_the_length_are_noticed(case: str) -> None:
    """Phi3 with longrope takes other frequencies beyond 8 tokens; one trie takes those of its deepest token."""
    model = family("phi3_longrope")
    pairs = answered(model, tuple(LONGROPE_CASES[case]))
    choice = choose_engine(model, EngineConfig(name="auto"), pairs)
    found = choice.engine.evaluate(pairs, [], LOGITS)
    assert logits_gap(found.baselines["corrupt"], model, [pair.corrupt for pair in pairs]) <= ROUNDING[torch.float32]
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]


def test_prompts_on_one_side_of_the_switch_may_use_the_forked_engine() -> None:
    model = family("phi3_longrope")
    pairs = answered(model, ((prompt(7), prompt(7, 7)), (prompt(5), prompt(5, 7))))
    assert choose_engine(model, EngineConfig(name="auto"), pairs).engine.name == "forked"


@pytest.mark.parametrize("max_states", [None, 208])
def test_a_straddled_switch_is_noticed_whatever_the_budget(max_states: int | None) -> None:
    """A small budget puts the self-check's longest pair in a trie of its own, but the run's pairs meet in one."""
    model = family("phi3_longrope")
    prompts = ((prompt(20), prompt(20, 7)), (prompt(4), prompt(4, 7)), (prompt(9), prompt(9)), (prompt(8), prompt(8)))
    pairs = answered(model, prompts)
    choice = choose_engine(model, EngineConfig(name="auto", max_states=max_states), pairs)
    found = choice.engine.evaluate(pairs, [], LOGITS)
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]


@pytest.fixture
def dynamic() -> Iterator[CausalModel]:
    """A Llama whose rotary base grows with the length of the input beyond 8 tokens."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    yield make(FAMILIES["llama"], max_position_embeddings=8, rope_parameters=rope)


@pytest.mark.parametrize("lengths", [(14, 5), (20, 12)], ids=["straddling", "both beyond"])
def test_a_rotary_base_that_grows_with_the_length_is_noticed(dynamic: CausalModel, lengths: tuple[int, int]) -> None:
    """A fresh model judges: transformers keeps the frequencies of the longest input so far, whichever engine ran it."""
    pairs = [TokenPair(prompt(n), prompt(n, 7), 1, 2) for n in lengths]
    expected = np.stack([plain_logits(alone(dynamic), pair.clean).double().numpy() for pair in pairs])
    off = np.abs(ForkedEngine(alone(dynamic)).evaluate(pairs, [], LOGITS).baselines["clean"] - expected).max()
    assert off > 1e-3  # one trie with both lengths really is wrong
    assert choose_engine(dynamic, EngineConfig(name="auto"), pairs).engine.name == "reference"


def alone(model: CausalModel) -> CausalModel:
    """A copy, so that no buffer is shared."""
    return CausalModel(copy.deepcopy(model.model), None, model.identity, False)
