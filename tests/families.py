"""Random tiny models of several architecture families, and prompts made to catch an engine that shares too much.

Weights are seeded and large enough that every intervention shows, while logits stay of order 1. Biases and norm
weights, which the stock classes start at 0 and 1, are random too, so that forgetting one cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers

from tinylab.models import CausalModel
from tinylab.prompts import TokenPair
from tinylab.weights import ModelIdentity

LAYERS, HEADS, WIDTH, VOCABULARY, CONTEXT, WINDOW = 3, 4, 32, 61, 32, 4

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GROUPED = {**_COMMON, "intermediate_size": 48, "num_key_value_heads": 2}


def _gpt2(**changes: Any) -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, initializer_range=0.15,
        bos_token_id=0, eos_token_id=0, **changes,
    )
    return transformers.GPT2LMHeadModel(config)


def _neox(**changes: Any) -> Any:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**{**_COMMON, "intermediate_size": 48, **changes}))


def _llama(**changes: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_GROUPED, "attention_bias": True, **changes}))


def _mistral(**changes: Any) -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**{**_GROUPED, "sliding_window": WINDOW, **changes}))


def _qwen3(**changes: Any) -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**_GROUPED, "head_dim": 12, **changes}))


def _opt(**changes: Any) -> Any:
    config = {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": WIDTH, "pad_token_id": 1, "init_std": 0.15, **changes}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**config))


def _gemma3(**changes: Any) -> Any:
    own = {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 8,
    }
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**{**_GROUPED, **own, **changes}))


def _phi3_longrope(**changes: Any) -> Any:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [2.0, 4.0, 6.0, 8.0],
        "original_max_position_embeddings": 8,
        "partial_rotary_factor": 1.0,
    }
    own = {"rope_parameters": rope, "original_max_position_embeddings": 8, "pad_token_id": 0}
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**{**_GROUPED, **own, **changes}))


def _gptj(**changes: Any) -> Any:
    config = transformers.GPTJConfig(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, rotary_dim=4,
        initializer_range=0.15, bos_token_id=0, eos_token_id=0, **changes,
    )
    return transformers.GPTJForCausalLM(config)


def _gpt_neo(**changes: Any) -> Any:
    own = {"num_layers": LAYERS, "num_heads": HEADS, "attention_types": [[["global"], LAYERS]]}
    shared = {key: value for key, value in _COMMON.items() if key not in ("num_hidden_layers", "num_attention_heads")}
    return transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**{**shared, **own, **changes}))


def _bloom(**changes: Any) -> Any:
    config = transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS, initializer_range=0.15, bos_token_id=0,
        eos_token_id=0, **changes,
    )
    return transformers.BloomForCausalLM(config)


def _gpt_bigcode(**changes: Any) -> Any:
    config = transformers.GPTBigCodeConfig(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, initializer_range=0.15,
        bos_token_id=0, eos_token_id=0, **changes,
    )
    return transformers.GPTBigCodeForCausalLM(config)


FAMILIES: dict[str, Callable[..., Any]] = {
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen3": _qwen3,
    "opt": _opt,
    "gemma3": _gemma3,
}
"""Families that the forked engine has to support."""

UNSUPPORTED: dict[str, Callable[..., Any]] = {"gptj": _gptj, "gpt_neo": _gpt_neo, "bloom": _bloom}
"""Families whose attention does not go through transformers' interface."""

FIXED_BATCH: dict[str, Callable[..., Any]] = {"gpt_bigcode": _gpt_bigcode}
"""Families that use the interface, but whose forward fails when the batch grows on its way through the layers."""

LENGTH_DEPENDENT: dict[str, Callable[..., Any]] = {"phi3_longrope": _phi3_longrope}
"""Families whose rotary frequencies depend on the length of the whole input."""


def make(build: Callable[..., Any], dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> CausalModel:
    """A random model; `changes` go into its config."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(**changes)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    model = model.to(dtype).eval().requires_grad_(False)
    return CausalModel(model=model, tokenizer=None, identity=ModelIdentity("random", None, None), add_bos=False)


@cache
def family(name: str, dtype: torch.dtype = torch.float32) -> CausalModel:
    """The model of a family, made once; tests must leave it as it was."""
    return make({**FAMILIES, **UNSUPPORTED, **FIXED_BATCH, **LENGTH_DEPENDENT}[name], dtype)


def plain_logits(model: CausalModel, prompt: tuple[int, ...]) -> torch.Tensor:
    """Logits [W] at a prompt's last token by plain transformers."""
    with torch.no_grad():
        logits: torch.Tensor = model.model(torch.tensor([prompt])).logits[0, -1]
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
