"""Random tiny models of several architecture families, and prompts made to catch an engine that shares too much.

Weights are seeded and large enough that every intervention shows, while logits stay of order 1. Biases and norm
weights, which the stock classes start at 0 and 1, are random too, so that forgetting one cannot hide.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity
from tinylab.task.tokens import TokenPair

LAYERS, HEADS, WIDTH, VOCABULARY, CONTEXT, WINDOW, LIMIT = 3, 4, 32, 61, 32, 4, 8
Builder = Callable[..., Any]

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_SLIDING = {**_GROUPED, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2}
_ROUTED = {  # a first layer without experts; then half of 2 groups of 2 experts, and one shared by all
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
}
_GPT2_NAMES = {  # what GPT-2 and its relatives call the same
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
    "initializer_range": 0.15,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def _stock(stem: str, config: dict[str, Any], suffixes: tuple[str, str] = ("ForCausalLM", "Config"), **own: Any) -> Builder:
    """A family by the stem of its classes' names, which are looked up only when a model is made."""

    def build(**changes: Any) -> Any:
        model, settings = (getattr(transformers, stem + suffix) for suffix in suffixes)
        return model(settings(**{**config, **own, **changes}))

    return build


_GPT2 = _stock("GPT2", _GPT2_NAMES, ("LMHeadModel", "Config"))


class _TupleBlock(GPT2Block):
    """Its output, which hooks see, is (hidden, None); the model that calls it unpacks that."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs), None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)[0]


def _gpt2_tuples(**changes: Any) -> Any:
    model = _GPT2(**changes).eval()
    for block in model.transformer.h:
        if isinstance(block(torch.zeros(1, 1, WIDTH)), torch.Tensor):  # in transformers 5.0 it is a tuple already
            block.__class__ = _TupleBlock
    return model


_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.0, 1.0, 1.0],
    "long_factor": [2.0, 4.0, 6.0, 8.0],
    "original_max_position_embeddings": LIMIT,
    "partial_rotary_factor": 1.0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": LIMIT,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": LIMIT,
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
_MULTIPLIERS = {
    "embedding_multiplier": 2.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.6,
}

FAMILIES: dict[str, Builder] = {
    "gpt2": _GPT2,
    "gpt_neox": _stock("GPTNeoX", _COMMON),
    "gpt_neox_sequential": _stock("GPTNeoX", _COMMON, use_parallel_residual=False),
    "llama": _stock("Llama", _GROUPED, attention_bias=True),
    "mistral": _stock("Mistral", _GROUPED, sliding_window=WINDOW),
    "qwen2": _stock("Qwen2", _SLIDING, use_sliding_window=True),
    "qwen3": _stock("Qwen3", _GROUPED, head_dim=12),
    "gemma": _stock("Gemma", _GROUPED, head_dim=8),
    "gemma2": _stock(
        "Gemma2", _SLIDING, head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=1.5, final_logit_softcapping=2.0
    ),
    "gemma3": _stock("Gemma3", _SLIDING, ("ForCausalLM", "TextConfig"), head_dim=8, query_pre_attn_scalar=8),
    "opt": _stock("OPT", {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": WIDTH, "pad_token_id": 1, "init_std": 0.15}),
    "biogpt": _stock("BioGpt", {**_COMMON, "pad_token_id": 1}),
    "phi": _stock("Phi", _GROUPED),
    "phi_qk_layernorm": _stock("Phi", _COMMON, qk_layernorm=True),
    "phi3": _stock("Phi3", _GROUPED, sliding_window=WINDOW, pad_token_id=0),
    "olmo": _stock("Olmo", _GROUPED, clip_qkv=0.8),
    "olmo2": _stock("Olmo2", _GROUPED),
    "olmo3": _stock("Olmo3", _SLIDING),
    "stablelm": _stock("StableLm", _GROUPED, use_qkv_bias=True),
    "stablelm_parallel": _stock("StableLm", _GROUPED, use_parallel_residual=True, qk_layernorm=True),
    "starcoder2": _stock("Starcoder2", _GROUPED, sliding_window=WINDOW),
    "granite": _stock("Granite", _GROUPED, **_MULTIPLIERS),
    "cohere": _stock("Cohere", _GROUPED, logit_scale=0.7, use_qk_norm=True),
    "cohere2": _stock("Cohere2", _SLIDING, logit_scale=0.7),
    "smollm3": _stock("SmolLM3", _SLIDING, use_sliding_window=True, no_rope_layers=[1, 0, 1], pad_token_id=0),
    "glm": _stock("Glm", _GROUPED, head_dim=8, pad_token_id=0),
    "glm4": _stock("Glm4", _GROUPED, head_dim=8, pad_token_id=0),
    "nemotron": _stock("Nemotron", _GROUPED, head_dim=8),
    "helium": _stock("Helium", _GROUPED, head_dim=8),
    "exaone4": _stock("Exaone4", _SLIDING),
    "ernie4_5": _stock("Ernie4_5", _GROUPED, head_dim=8),
    "arcee": _stock("Arcee", _GROUPED, head_dim=8),
    "seed_oss": _stock("SeedOss", _GROUPED, head_dim=8),
    "hunyuan_v1_dense": _stock("HunYuanDenseV1", _GROUPED, head_dim=8),
    "persimmon": _stock("Persimmon", _COMMON),
    "apertus": _stock("Apertus", _GROUPED, rope_parameters=_LLAMA3),
    "ministral3": _stock("Ministral3", _GROUPED, head_dim=8, rope_parameters={**_YARN, "llama_4_scaling_beta": 0.5}),
    "mixtral": _stock("Mixtral", _EXPERTS, num_local_experts=4, sliding_window=WINDOW),
    "phimoe": _stock("Phimoe", _EXPERTS, num_local_experts=4),
    "olmoe": _stock("Olmoe", _EXPERTS, num_experts=4),
    "qwen2_moe": _stock(
        "Qwen2Moe", _EXPERTS, num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=24, mlp_only_layers=[1]
    ),
    "qwen3_moe": _stock("Qwen3Moe", _EXPERTS, num_experts=4, moe_intermediate_size=24, head_dim=12),
    "granitemoe": _stock("GraniteMoe", _EXPERTS, num_local_experts=4, **_MULTIPLIERS),
    "ernie4_5_moe": _stock(
        "Ernie4_5_Moe", _GROUPED, moe_k=2, moe_num_experts=4, moe_num_shared_experts=1, moe_intermediate_size=24,
        moe_layer_end_index=LAYERS - 1,
    ),
    "glm4_moe": _stock("Glm4Moe", {**_EXPERTS, **_ROUTED}, head_dim=8, use_qk_norm=True),
    "deepseek_v3": _stock(
        "DeepseekV3", {**_COMMON, **_EXPERTS, **_ROUTED}, num_key_value_heads=HEADS, kv_lora_rank=12, q_lora_rank=12,
        qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=6,
    ),
    "gpt_oss": _stock("GptOss", {**_SLIDING, **_EXPERTS}, num_local_experts=4, head_dim=8, rope_parameters=_YARN),
}
"""Families that the forked engine has to support."""

TUPLES: dict[str, Builder] = {"gpt2_tuples": _gpt2_tuples}
"""Families whose blocks return a tuple.

No stock family that uses the attention interface does so in transformers 5.23: gptj, codegen, gpt_neo, bloom, falcon and mpt
do, and in 5.0 gpt2, gpt_neox, opt and biogpt did. So here is a GPT-2 with such blocks.
"""

UNSUPPORTED: dict[str, Builder] = {
    "gptj": _stock("GPTJ", _GPT2_NAMES, rotary_dim=4),
    "codegen": _stock("CodeGen", _GPT2_NAMES, rotary_dim=4),
    "gpt_neo": _stock(
        "GPTNeo", {key: value for key, value in _COMMON.items() if key not in ("num_hidden_layers", "num_attention_heads")},
        num_layers=LAYERS, num_heads=HEADS, attention_types=[[["global", "local", "global"], 1]], window_size=WINDOW,
    ),
    "bloom": _stock("Bloom", {**_GPT2_NAMES, "hidden_size": WIDTH}),
    "falcon": _stock("Falcon", _COMMON, new_decoder_architecture=True, num_kv_heads=2, ffn_hidden_size=48, bias=True),
    "falcon_alibi": _stock("Falcon", _COMMON, alibi=True, parallel_attn=False, ffn_hidden_size=48, bias=True),
    "mpt": _stock("Mpt", {**_COMMON, "d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "max_seq_len": CONTEXT}),
    "xglm": _stock(
        "XGLM", {**_COMMON, "d_model": WIDTH, "attention_heads": HEADS, "num_layers": LAYERS, "ffn_dim": 48, "init_std": 0.15},
        pad_token_id=1,
    ),
}
"""Families whose attention does not go through transformers' interface.

In float64 transformers cannot run xglm (5.0 and 5.23), nor mpt (5.0).
"""

FIXED_BATCH: dict[str, Builder] = {"gpt_bigcode": _stock("GPTBigCode", _GPT2_NAMES)}
"""Families that use the interface, but whose forward fails when the batch grows on its way through the layers."""

_LLAMA4: dict[str, Any] = {
    "head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 48, "attention_chunk_size": WINDOW,
    "no_rope_layers": [1, 0, 1], "moe_layers": [0, 2],
}
CHUNKED: dict[str, Builder] = {"llama4": _stock("Llama4", _EXPERTS, ("ForCausalLM", "TextConfig"), **_LLAMA4)}
"""Families whose attention is cut into chunks of positions; the layer without rotary positions has full attention."""

BY_PLACE: dict[str, Builder] = {
    "llama4_tuned": _stock("Llama4", _EXPERTS, ("ForCausalLM", "TextConfig"), **_LLAMA4, floor_scale=2),
}
"""Families that count a token's place in the input instead of reading its position id: Llama 4 beyond `floor_scale` tokens."""

LENGTH_DEPENDENT: dict[str, Builder] = {
    "phi3_longrope": _stock(
        "Phi3", _GROUPED, rope_parameters=_LONGROPE, original_max_position_embeddings=LIMIT, pad_token_id=0
    ),
    "llama_longrope": _stock("Llama", _GROUPED, rope_parameters=_LONGROPE),
    "llama_dynamic": _stock("Llama", _GROUPED, rope_parameters=_DYNAMIC, max_position_embeddings=LIMIT),
}
"""Families whose rotary frequencies depend on the length of the whole input; they change beyond LIMIT tokens."""

EVERY = {**FAMILIES, **TUPLES, **UNSUPPORTED, **FIXED_BATCH, **CHUNKED, **BY_PLACE, **LENGTH_DEPENDENT}


_EVERY_LAYER = tuple(range(LAYERS))
NO_MIDDLE = ("gpt_neox", "phi", "phi_qk_layernorm", "stablelm_parallel", "cohere", "cohere2", "gptj", "codegen", "falcon")
"""Families whose attention and MLP stand side by side: there is no `resid_mid`."""
NO_NEURONS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("mixtral", "phimoe", "olmoe", "qwen3_moe", "granitemoe", "gpt_oss"), _EVERY_LAYER),
    **dict.fromkeys(("qwen2_moe", "llama4", "llama4_tuned"), (0, 2)),
    **dict.fromkeys(("ernie4_5_moe", "glm4_moe", "deepseek_v3"), (1, 2)),
}
"""Families with layers whose MLP is a mixture of experts, and the layers: there are no `mlp_neurons`."""


def lacking(name: str) -> dict[str, tuple[int, ...]]:
    """The sites that a family has not in each layer, by name, and the layers without."""
    found = {"resid_mid": _EVERY_LAYER} if name in NO_MIDDLE else {}
    found |= {"mlp_neurons": NO_NEURONS[name]} if name in NO_NEURONS else {}
    return found | (dict.fromkeys(("q", "k", "v"), _EVERY_LAYER) if name in UNSUPPORTED else {})


def make(build: Builder, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> CausalModel:
    """A random model; `changes` go into its config."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # gpt_bigcode of transformers 5.0 scripts its functions
        torch.manual_seed(seed)
        model = build(**changes)
        for parameter in model.parameters():
            if parameter.dim() == 1 or parameter.min() == parameter.max():
                parameter.data += 0.2 * torch.randn_like(parameter)
    if dtype == torch.float64:
        model.set_experts_implementation("eager")  # the grouped matmul for mixtures of experts has no float64
    model = model.to(dtype).eval().requires_grad_(False)
    return CausalModel(model=model, tokenizer=None, identity=ModelIdentity("random", None, None), add_bos=False)


@cache
def family(name: str, dtype: torch.dtype = torch.float32) -> CausalModel:
    """The model of a family, made once; tests must leave it as it was."""
    return make(EVERY[name], dtype)


def fresh_logits(name: str, prompt: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`plain_logits` of a model that has seen no other prompt, since `dynamic` rotary embeddings remember longer ones."""
    return plain_logits(make(EVERY[name], dtype), prompt)


def plain_logits(model: CausalModel, prompt: tuple[int, ...]) -> torch.Tensor:
    """Logits [W] at a prompt's last token by plain transformers."""
    with torch.no_grad():
        logits: torch.Tensor = model.model(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    return logits


ALIGNED = (
    ((5, 7, 9), (5, 8, 9)),  # short
    ((5, 7, 9), (5, 8, 9)),  # a duplicate of it
    ((5, 7, 9, 11), (5, 8, 9, 11)),  # the first pair is a prefix of this one
    ((5, 7, 9, 12, 13, 14), (5, 8, 9, 12, 13, 14)),  # branches off the third
    ((5, 8, 9), (5, 7, 9)),  # the first pair the other way round
    ((5, 7, 9), (6, 7, 9)),  # its clean prompt with another corrupt one
    ((5, 5, 5, 5, 5, 5, 5, 5), (5, 5, 5, 5, 6, 5, 5, 5)),  # one token again and again
    ((20, 21, 22, 23, 24, 25, 26, 27, 28, 29), (20, 21, 30, 23, 24, 25, 26, 27, 28, 29)),  # longer than any window
    ((20, 21, 22, 23, 24, 25, 26, 27, 31, 32), (20, 21, 30, 23, 24, 25, 33, 27, 31, 32)),  # differs at two places
    ((40, 41, 42, 43, 44), (50, 51, 52, 53, 54)),  # nothing in common
    ((40, 41, 42, 43, 44), (40, 41, 42, 43, 44)),  # both prompts equal
    ((20, 21, 22, 23, 24, 25, 26, 27, 28, 29), (20, 21, 30, 23, 24, 25, 26, 27, 28, 29)),  # a long duplicate
)
"""Pairs of equal length, of at least 3 tokens."""

UNALIGNED = (
    ((5, 7, 9), (5, 7, 9, 11, 12)),  # clean is a prefix of corrupt
    ((5, 7, 9, 11, 12), (5, 7, 9)),  # and the other way round
    ((20, 21, 22, 23, 24, 25, 26, 27, 28), (20, 21)),
    ((20, 21), (20, 21, 22, 23, 24, 25, 26, 27, 28)),
    ((20, 21), (20, 21, 22, 23, 24, 25, 26, 27, 28)),
    ((3,), (5, 7, 9)),  # a single token
)
"""Pairs of unequal length."""


def answered(model: CausalModel, prompts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]) -> list[TokenPair]:
    """Pairs with answers: every other example is right in the clean run, so that flips and drops can happen."""
    pairs = []
    for number, (clean, corrupt) in enumerate(prompts):
        order = plain_logits(model, clean).argsort(descending=True).tolist()
        pairs.append(TokenPair(clean, corrupt, *(order[:2] if number % 2 == 0 else order[4:2:-1])))
    return pairs
