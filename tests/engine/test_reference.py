"""The reference engine is what interventions mean: arithmetic on weights and hooks written here give its numbers."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from both_engines import CELLS, LOGITS, ROUNDING, everything, h1_cells, logits_gap, variants_of, without_head
from conftest import Within
from families import ALIGNED, EVERY, HEADS, LAYERS, WIDTH, answered, family, make, plain_logits
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.base import Engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel


def test_sham_is_exactly_nothing_in_the_reference_and_below_rounding_in_the_forked_engine(name: str, within: Within) -> None:
    both = everything(name, torch.float32)
    shams = [v for v, cell in enumerate(CELLS) if cell.control == "sham"]
    assert len(shams) == 8 * 2 * LAYERS
    for v in shams:
        target = CELLS[v].variant.target
        within("sham, reference", np.abs(both.plain.values[v] - both.plain.baselines[target]).max(), 0.0)
        within("sham, forked", np.abs(both.forked.values[v] - both.forked.baselines[target]).max(), ROUNDING[torch.float32])


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_scale_one_changes_nothing(name: str, kind: Callable[[CausalModel], Engine], within: Within) -> None:
    model = family(name)
    cells = HeadsZero(name="h1", scales=[1.0]).cells(LAYERS, HEADS)
    found = kind(model).evaluate(answered(model, ALIGNED), variants_of(cells), LOGITS)
    within("scale 1", np.abs(found.values - found.baselines["clean"]).max(), ROUNDING[torch.float32])


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_scaling_a_head_equals_scaling_its_weights_in_the_output_projection(name: str, factor: float, within: Within) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED[3:9:2])
    cells = HeadsZero(name="h1", scales=[factor]).cells(LAYERS, HEADS)
    found = ReferenceEngine(model).evaluate(pairs, variants_of(cells), LOGITS).values
    for v, cell in enumerate(cells):
        changed = without_head(model, int(cell.key["layer"]), int(cell.key["head"]), factor)
        # both factors only move exponents, so the products are the same bits; sums may be taken in another order
        within("scaled weights", logits_gap(found[v], changed, [pair.clean for pair in pairs]), 1e-6)


@pytest.mark.parametrize("only", ["gpt2", "llama", "gpt_neox"])
def test_zeroing_the_mlp_equals_zeroing_its_last_linear_map(only: str, within: Within) -> None:
    model = family(only)
    pairs = answered(model, ALIGNED[3:9:2])
    zero = Variant((Intervention(MLP_OUT, 1, Scale(0.0)),), "clean")
    found = ReferenceEngine(model).evaluate(pairs, [zero], LOGITS).values[0]
    other = copy.deepcopy(model.model)
    changed = CausalModel(other, None, model.identity, False)
    for leaf in [m for m in changed.mlp(1).modules() if hasattr(m, "weight") and not list(m.children())][-1:]:
        linear = getattr(changed.mlp(1), "down_proj", leaf)
        linear.weight.zero_()
        if getattr(linear, "bias", None) is not None:
            linear.bias.zero_()
    if only == "gpt2":
        changed.mlp(1).c_proj.weight.zero_()
        changed.mlp(1).c_proj.bias.zero_()
    within("zeroed MLP", logits_gap(found, changed, [pair.clean for pair in pairs]), 1e-6)


def test_patching_a_head_by_hand_gives_the_references_numbers(within: Within) -> None:
    """GPT-2, layer 1, head 2: the projection's input is recorded and overwritten by two hooks written here."""
    model = family("gpt2")
    pair = answered(model, ALIGNED)[8]
    here = slice(2 * WIDTH // HEADS, 3 * WIDTH // HEADS)
    projection = model.model.transformer.h[1].attn.c_proj
    kept: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _m, args: kept.append(args[0].clone()))
    plain_logits(model, pair.clean)
    handle.remove()

    def overwrite(_m: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        changed = args[0].clone()
        changed[0, -1, here] = kept[0][0, -1, here]
        return (changed,)

    handle = projection.register_forward_pre_hook(overwrite)
    expected = plain_logits(model, pair.corrupt).double().numpy()
    handle.remove()
    patch = Variant((Intervention(HEAD_OUT, 1, Patch(), 2),), "corrupt", Own("clean"), "last")
    found = ReferenceEngine(model).evaluate([pair], [patch], LOGITS)
    within("patched by hand", np.abs(found.values[0, 0] - expected).max(), 1e-6)  # one row of logits sums in another order
    assert np.abs(expected - found.baselines["corrupt"][0]).max() > 1e-3


def test_the_reading_row_alone_gets_logits(name: str) -> None:
    model = make(EVERY[name])
    pairs, rows = answered(model, ALIGNED[:2]), list[int]()
    model.model.get_output_embeddings().register_forward_pre_hook(lambda _m, args: rows.append(args[0].shape[:-1].numel()))
    found = ReferenceEngine(model).evaluate(pairs, variants_of(h1_cells()[:2]), LOGITS)
    assert rows == [1] * found.forwards


def test_an_architecture_that_gives_all_logits_is_read_at_the_same_row() -> None:
    model = make(EVERY["gpt2"])
    pairs = answered(model, ALIGNED[:4])
    expected = ReferenceEngine(model).evaluate(pairs, [], LOGITS).baselines["clean"]
    takes = type(model.model).forward

    def forward(input_ids: torch.Tensor, use_cache: bool) -> Any:
        return takes(model.model, input_ids=input_ids, use_cache=use_cache)

    other = CausalModel(model.model, None, model.identity, False)
    other.model.forward = forward
    found = ReferenceEngine(other).evaluate(pairs, [], LOGITS).baselines["clean"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert other.last_logits(1) == {}


def test_heads_are_query_heads() -> None:
    """Llama here has 4 heads of queries and 2 of keys; the projection's input is cut into the former."""
    model = family("llama")
    assert model.config.num_key_value_heads == 2
    assert (model.n_heads, model.head_width) == (HEADS, WIDTH // HEADS)


def test_a_granularity_patches_the_module_that_it_names() -> None:
    """GPT-2, layer 1: what the module put out in the clean run is put into the corrupt one by a hook written here."""
    model = family("gpt2")
    pair = answered(model, ALIGNED)[8]
    block = model.model.transformer.h[1]
    named = {"head_out": block.attn, "mlp_out": block.mlp, "layer_resid": block}  # attn: its output is linear in head_out
    for granularity, module in named.items():
        (cell,) = ActivationPatch(name="h2", granularity=granularity, positions="last", layers=[1]).cells(LAYERS, HEADS)
        kept: list[torch.Tensor] = []

        def last(_m: Any, _args: Any, output: Any, kept: list[torch.Tensor] = kept) -> Any:
            value = output if isinstance(output, torch.Tensor) else output[0]
            if kept:
                value[0, -1] = kept[0]
            else:
                kept.append(value[0, -1].clone())
            return output

        handle = module.register_forward_hook(last)
        plain_logits(model, pair.clean)
        expected = plain_logits(model, pair.corrupt).double().numpy()
        handle.remove()
        found = ReferenceEngine(model).evaluate([pair], [cell.variant], LOGITS)
        np.testing.assert_allclose(found.values[0, 0], expected, atol=1e-6)
        assert np.abs(expected - found.baselines["corrupt"][0]).max() > 1e-3


def test_the_reference_engine_shares_no_code_with_the_forked_one() -> None:
    """Their agreement says nothing otherwise."""
    code = "import sys, tinylab.engine.reference; print([name for name in sys.modules if name.startswith('tinylab.engine.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tinylab.engine.reference" in done.stdout
    assert "forked" not in done.stdout
