"""The other causal language models of transformers, by type: small random ones, one config for all and what differs.

`test_other_families.py` measures what becomes of each. Sizes go by whatever name an architecture gives them; what it does
not know is ignored by its config class.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from families import _EXPERTS, _ROUTED, EVERY, HEADS, LAYERS, WIDTH, make
from strange import _GEMMA, _LINEAR
from tinylab.models.network import CausalModel

LARGEST = 6_000_000
"""Parameters of a model that is small enough to be measured."""
_ENCODERS = {f"{part}_{what}": size for part in ("encoder", "decoder")
             for what, size in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", 48))}
_MAMBA = {"mamba_d_state": 4, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "state_size": 4}
_LATENT: dict[str, Any] = {"kv_lora_rank": 12, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
COMMON: dict[str, Any] = {
    **_EXPERTS, **_ROUTED, **_LATENT, **_MAMBA, **_ENCODERS,
    **{key: value for key, value in _LINEAR.items() if key != "layer_types"},
    "num_experts": 4, "num_local_experts": 4, "shared_expert_intermediate_size": 24, "shared_intermediate_size": 24,
    "head_dim": 8, "num_heads": HEADS, "d_model": WIDTH, "ffn_dim": 48, "pad_token_id": 0, "is_decoder": True,
    "sliding_window": 4,
}
_MIXED = {"layer_types": ["full_attention", "linear_attention", "full_attention"]}
_MLA: dict[str, Any] = {"num_key_value_heads": HEADS, "head_dim": None}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3",
                     "youtu", "dots3_note", "dots3_note_text"), _MLA),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "minimax", "qwen4_exp_text"), _MIXED),
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["attention", "mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0, "num_experts": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "lfm2": {"layer_types": ["full_attention", "conv", "conv"]},
    "lfm2_moe": {"layer_types": ["full_attention", "conv", "conv"]},
    "lfm3": {"layer_types": ["full_attention", "conv", "conv"]},
    "gemma3n_text": {**_GEMMA, "hidden_size_per_layer_input": 8, "activation_sparsity_pattern": [0.0] * 3, "laurel_rank": 4,
                     "intermediate_size": [48] * 3},
    "gemma4_text": {**_GEMMA, "global_head_dim": 16, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    "zamba2": {"layer_types": ["mamba", "hybrid", "mamba"], "num_mem_blocks": 1},
    "kimi_linear": {"linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1, 3], "num_heads": HEADS, "head_dim": 8,
                                           "short_conv_kernel_size": 4}, **_MIXED, "num_key_value_heads": HEADS},
    "zaya": {"num_experts_per_tok": 1},
    "nemotron_h": {"layer_types": ["mamba", "attention", "moe"]},
    "inkling_text": {"head_dim": 8, "num_attention_heads": HEADS},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
}
"""What a type's config has instead of, or beside, COMMON; None: COMMON's key is left out."""


def named(kind: str) -> str:
    """The class of a type of model."""
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    return str(known[0] if isinstance(known, list | tuple) else known)


def others() -> list[str]:
    """The types that this version of transformers has and `tests/families.py` has no model of."""
    with torch.device("meta"):
        there = {type(build()).__name__ for name, build in EVERY.items() if name != "gpt2_tuples"}
    return sorted(kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if named(kind) not in there)


class NotBuilt(Exception):
    """A small model of a type cannot be made."""


def other(kind: str) -> CausalModel:
    """A small random model of a type.

    Raises:
        NotBuilt: it cannot be made, and why.
    """
    wanted = {key: value for key, value in {**COMMON, **OWN.get(kind, {})}.items() if value is not None}
    try:
        settings = getattr(transformers, CONFIG_MAPPING_NAMES[kind])(**wanted)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in getattr(transformers, named(kind))(settings).parameters())
        if size > LARGEST:
            raise NotBuilt(f"{size:,} parameters at these sizes: it is made of parts that have configs of their own")
        return make(lambda: getattr(transformers, named(kind))(settings))
    except NotBuilt:
        raise
    except Exception as error:  # whatever a config class or a model finds wrong
        raise NotBuilt(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error
