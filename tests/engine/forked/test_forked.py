"""The forked engine gives the reference's numbers: every cell, every order, every size of a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from both_engines import CELLS, DTYPES, LOGITS, PAIRS, ROUNDING, SCORER, everything, gap, h1_cells, logits_gap, variants_of
from conftest import Within
from families import ALIGNED, FAMILIES, HEADS, LAYERS, answered, family, make
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forked_equals_reference_in_every_cell_example_and_metric(name: str, dtype: torch.dtype, within: Within) -> None:
    both = everything(name, dtype)
    assert both.forked.values.shape == both.plain.values.shape
    different = np.abs(both.forked.values - both.plain.values).max(axis=(1, 2))
    wrong = [(CELLS[v].key, CELLS[v].variant, d) for v, d in enumerate(different) if not d <= ROUNDING[dtype]]
    assert wrong == []
    within(f"every cell, {dtype}".replace("torch.", ""), gap(both.forked, both.plain), ROUNDING[dtype])


def test_interventions_show_so_that_agreement_means_something(name: str) -> None:
    both = everything(name, torch.float32)
    kl = np.abs(both.plain.values[:, :, SCORER.names.index("kl_div")]).max(axis=1)
    in_clean_runs = [v for v, cell in enumerate(CELLS) if cell.variant.target == "clean" and cell.control == "none"]
    assert np.median(kl[in_clean_runs]) > 1e-3
    assert (kl[in_clean_runs] > 1e-6).all()  # rounding alone gives about 1e-8
    assert 0 < both.plain.values[:, :, SCORER.names.index("acc_flip_rate")].mean() < 1


def test_forked_wraps_the_models_own_eager_attention_too(name: str) -> None:
    assert family(name).model.config._attn_implementation == "sdpa"
    if name == "gpt2" and transformers.__version__.startswith("5.0."):
        pytest.skip("GPT-2's eager attention masks by itself in transformers 5.0: the self-check refuses it")
    model = make(FAMILIES[name], attn_implementation="eager")
    assert model.model.config._attn_implementation == "eager"
    pairs = answered(model, ALIGNED[2:8])
    found = ForkedEngine(model).evaluate(pairs, variants_of(h1_cells()[::4]), LOGITS)
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]
    assert gap(found, ReferenceEngine(model).evaluate(pairs, variants_of(h1_cells()[::4]), LOGITS)) <= ROUNDING[torch.float32]


def test_a_pass_that_begins_behind_an_mlp_returns_what_its_block_expects() -> None:
    """Llama 4's experts return their router's logits beside the hidden states; here no row goes through them in layer 1."""
    model = family("llama4")
    pairs = answered(model, ALIGNED[2:8])
    variants = [Variant((Intervention(MLP_OUT, layer, Patch()),), "corrupt", Own("clean"), "all") for layer in range(LAYERS)]
    for chosen in ([variant] for variant in variants):
        found, expected = (engine.evaluate(pairs, chosen, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model)))
        assert gap(found, expected) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_prompts_agree_too(name: str, length: int) -> None:
    model = family(name)
    pairs = answered(model, tuple((clean[-length:], corrupt[-length:]) for clean, corrupt in ALIGNED[2:4]))
    chosen = [cell for cell in h1_cells() if cell.key["scale"] == 0]
    found, expected = (one.evaluate(pairs, variants_of(chosen), LOGITS) for one in (ForkedEngine(model), ReferenceEngine(model)))
    assert gap(found, expected) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("max_states", [1, 12, 40])
def test_many_small_passes_give_the_numbers_of_one_large_pass(name: str, max_states: int, within: Within) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    chosen = CELLS[::8]
    whole, cut = (ForkedEngine(model, states).evaluate(pairs, variants_of(chosen), SCORER) for states in (100_000, max_states))
    assert cut.forwards > whole.forwards
    within("small passes", gap(cut, whole), ROUNDING[torch.float32])


def test_variants_that_act_in_several_layers_agree(name: str, within: Within) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    patch, zero, half = Patch(), Scale(0.0), Scale(0.5)
    variants = [
        Variant((Intervention(HEAD_OUT, 2, zero, 1), Intervention(HEAD_OUT, 0, zero, 3)), "clean"),  # deepest first
        Variant((Intervention(HEAD_OUT, 1, half, 0), Intervention(HEAD_OUT, 1, zero, 2)), "clean"),  # two heads
        Variant((Intervention(RESID_POST, 0, patch), Intervention(MLP_OUT, 2, patch)), "corrupt", Own("clean"), "last"),
        Variant((Intervention(MLP_OUT, 0, half), Intervention(RESID_POST, 1, patch)), "corrupt", Own("clean"), (1, 2)),
        Variant((Intervention(MLP_OUT, 2, patch), Intervention(HEAD_OUT, 0, patch, 2)), "clean", Own("corrupt"), "all"),
        Variant((Intervention(RESID_POST, 1, half), Intervention(RESID_POST, 1, half)), "clean", None, "last"),  # twice
        Variant((Intervention(HEAD_OUT, 2, zero),), "clean", None, (0,)),
    ]
    for order in (variants, variants[::-1]):  # the engine sorts by where each forks
        both = [engine.evaluate(pairs, order, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model))]
        within("several layers", gap(*both), ROUNDING[torch.float32])


@pytest.mark.parametrize("positions", ["last", "all", (2,)])
def test_a_patch_of_a_single_head_agrees_and_differs_between_heads(name: str, positions: Any) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    variants = [
        Variant((Intervention(HEAD_OUT, layer, Patch(), head),), "corrupt", Own("clean"), positions)
        for layer in range(LAYERS)
        for head in range(HEADS)
    ]
    forked, plain = (engine.evaluate(pairs, variants, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model)))
    assert gap(forked, plain) <= ROUNDING[torch.float32]
    distinct = np.abs(plain.values[:, None] - plain.values[None]).max(axis=(2, 3))
    late = slice((LAYERS - 1) * HEADS, None) if positions == (2,) else slice(None)
    pairs_of_heads = ~np.eye(len(variants[late]), dtype=bool)
    assert positions == (2,) or (distinct[late, late][pairs_of_heads] > 1e-4).all()


def test_the_order_of_variants_and_pairs_does_not_matter(name: str) -> None:
    model = family(name)
    pairs = answered(model, PAIRS[torch.float32])
    shuffled = np.random.default_rng(0).permutation(len(CELLS)).tolist()
    found = ForkedEngine(model, 2000).evaluate(pairs[::-1], [CELLS[v].variant for v in shuffled], SCORER)
    expected = everything(name, torch.float32).plain
    assert np.abs(found.values[:, ::-1] - expected.values[shuffled]).max() <= ROUNDING[torch.float32]


def test_progress_counts_every_variant_of_every_example_once() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    for engine in (ForkedEngine(model, 300), ReferenceEngine(model)):
        seen: list[int] = []
        engine.evaluate(pairs, variants_of(h1_cells()), SCORER, seen.append)
        assert sum(seen) == len(pairs) * len(h1_cells())


def test_metrics_of_a_bfloat16_model_are_computed_in_float32() -> None:
    model = make(FAMILIES["gpt2"], torch.bfloat16)
    pairs = answered(model, ALIGNED)
    found = ForkedEngine(model).evaluate(pairs, [], SCORER).baselines["clean"][:, 0]
    logits = ForkedEngine(model).evaluate(pairs, [], LOGITS).baselines["clean"]
    expected = [row[pair.target] - row[pair.foil] for row, pair in zip(logits, pairs, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)  # a bfloat16 difference would be off by about 1e-3
