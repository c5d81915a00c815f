"""Small random models that are not built as others are, and what is wrong with their sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers

from families import _EXPERTS, _GROUPED, _stock, make
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.models.network import CausalModel

_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
           "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_GEMMA = {**_GROUPED, "layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 4,
          "head_dim": 8, "vocab_size_per_layer_input": 61, "num_kv_shared_layers": 0}
_TEXT = ("ForCausalLM", "TextConfig")
STRANGE: dict[str, tuple[Callable[..., Any], dict[Site, tuple[list[int], str]]]] = {
    "Laguna": (
        _stock("Laguna", _EXPERTS, num_experts=4, head_dim=8, moe_intermediate_size=24, shared_expert_intermediate_size=24,
               num_attention_heads_per_layer=[4, 8, 4], layer_types=["full_attention"] * 3,
               mlp_layer_types=["dense", "sparse", "sparse"]),
        {HEAD_OUT: ([1], "has 8 attention heads of width 8 and an output projection that takes 64, expected num_attention")}),
    "DiffLlama": (_stock("DiffLlama", _GROUPED), {HEAD_OUT: ([0, 1, 2], "(DiffLlama")}),
    "Qwen3Next": (
        _stock("Qwen3Next", _EXPERTS, num_experts=4, head_dim=8, moe_intermediate_size=24, shared_expert_intermediate_size=24,
               **_LINEAR),
        {HEAD_OUT: ([0, 2], "no attention weights, so no heads (linear attention")}),
    "OlmoHybrid": (_stock("OlmoHybrid", _GROUPED, pad_token_id=0, **_LINEAR),
                   {HEAD_OUT: ([0, 2], "no attention weights, so no heads (linear attention")}),
    "GraniteMoeShared": (_stock("GraniteMoeShared", _EXPERTS, num_local_experts=4, shared_intermediate_size=24),
                         {MLP_OUT: ([0, 1, 2], "and its GraniteMoeSharedMoE write (shared_mlp)")}),
    "Gemma4": (
        _stock("Gemma4", _GEMMA, _TEXT, global_head_dim=16, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=4,
               top_k_experts=2, moe_intermediate_size=24),
        {MLP_OUT: ([0, 1, 2], "and its Gemma4TextMLP write (router, experts)")}),
    "Gemma3n": (
        _stock("Gemma3n", _GEMMA, _TEXT, hidden_size_per_layer_input=8, activation_sparsity_pattern=[0.0] * 3, laurel_rank=4,
               intermediate_size=[48] * 3),
        {MLP_OUT: ([0, 1, 2], "laurel"),
         RESID_POST: ([0, 1, 2], "returns [4, 1, 7, 32], expected one residual stream [1, 7, 32]")}),
}
HYBRIDS: dict[str, Callable[..., Any]] = {
    "Lfm2": _stock("Lfm2", _GROUPED, layer_types=["full_attention", "conv", "conv"]),
    "Jamba": _stock("Jamba", _EXPERTS, num_experts=2, attn_layer_period=2, attn_layer_offset=0, use_mamba_kernels=False,
                    mamba_d_state=4),
}


def strange(name: str, **changes: Any) -> CausalModel:
    """A model of a family by the stem of its classes' names; `changes` go into its config."""
    builds = {**HYBRIDS, **{known: build for known, (build, _) in STRANGE.items()}}
    if not hasattr(transformers, f"{name}ForCausalLM"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return make(builds[name], **changes)


@contextmanager
def around(model: CausalModel, module: str) -> Iterator[None]:
    """While open, a module of layer 1 is not called: another one does its work."""
    model.__dict__["blocks"] = list(model.blocks)  # as they were found
    reached = {"block": model.blocks[1], "attention": model.attention(1), "projection": model.projection(1)}[module]
    parent, name = next((parent, name) for parent in model.modules for name, child in parent.named_children() if child is reached)

    class Other(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return type(reached).forward(reached, *args, **kwargs)

    parent._modules[name] = Other()
    try:
        yield
    finally:
        parent._modules[name] = reached
