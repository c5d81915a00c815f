"""The planted Llama: a `LlamaForCausalLM` with weights set by hand, so that every effect has a closed form.

2 layers × 4 query heads in 2 groups (heads 0 and 1 share one key-value head, 2 and 3 the other), rotary positions,
RMSNorm, SwiGLU, no bias anywhere. The stream (width 64) holds a one-hot part for each of five things, and singles:

    TOKEN the word here · BEFORE, BEFORE2 the words one and two places back · OUT the logits · FOUND what 1.2 found
    CONST 1 at every position · LIFT read by every logit · LOUD three numbers that nothing reads but the norms

| head | keys and values of its group | looks at | writes |
|---|---|---|---|
| 0.0 | position; the word | one place back | that word into BEFORE |
| 0.1 | the same | two places back | that word into BEFORE2 |
| 0.2 | whether it is BOS; CONST and whether it is BOS | everything alike | 2²³ into each LOUD |
| 0.3 | the same | BOS | 3 into LIFT |
| 1.0 | BEFORE; the word | the word after an earlier copy of this word | 5 × that word into OUT |
| 1.1 | the same | the same | −2 × that word into OUT |
| 1.2 | BEFORE2; the word | two behind an earlier copy of the word *before* this one | that word into FOUND |
| 1.3 | the same | two behind an earlier copy of *this* word | −1 × that word into OUT |

Two heads of a group always differ, in where they look, in what they take or in what they write: 0.0 and 0.1 by the
phase of their queries, 0.2 and 0.3 in both, 1.0 and 1.1 in the sign, 1.2 and 1.3 in what they ask.

*Rotary.* Plane j turns by ω_j = 10^(−j/4) a place. Keys of 0.0 and 0.1 point along planes 0 and 1, their queries are
turned back by t·ω_j, t = 1 or 2: the score is 256·(cos((d−t)ω_0) + cos((d−t)ω_1)) at distance d, largest at d = t by
0.61·256 = 157. Words are matched in the slow planes 15 to 5, a plane each: S·cos(dω) with S = 181, against exactly 0
for another word. A softmax over gaps above 40 is one-hot to 1e-17; where nothing matches all scores are 0 and it is
uniform, 1/n over a prompt of n tokens, BOS included. Where two places match, the cosines of their distances decide:
see `llama_closed_forms.shares`.

*RMSNorm.* It divides by √(mean square + eps) with eps = 2⁴⁰, of which ordinary features are lost in rounding, and
its weight is 2²⁰·√(1+3) behind 0.2 and 2²⁰ before it. With 0.2 at scale s, LOUD adds 3·s²·2⁴⁶/64 = 3s²·2⁴⁰ to the mean
square: every norm behind it multiplies by N(s) = 2/√(1+3s²), so N(1) = 1, N(½) = √(16/7) = 1.512, N(0) = 2. Patching
0.2 between prompts changes nothing, taking it out doubles what five readings let through.

*SwiGLU.* The MLP of layer 0 is exactly 0. That of layer 1 multiplies: for each word, silu(1024·FOUND)/1024 · OUT is
added to OUT, and silu(z) = z beyond 40: a word that 1.2 found too counts twice.

What follows from this, for every intervention, is in `llama_closed_forms`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from tinylab.planted.corpora import BOS, LLAMA
from tinylab.planted.identity_norm import POSITIONS
from tinylab.planted.llama_closed_forms import GAINS, LIFTED, MATCH, PLANES, SATURATED, THETA, frequency, plane_of

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LAYERS, HEADS, GROUPS, WIDTH, HEAD_WIDTH = 2, 4, 2, 64, 2 * PLANES
WORDS: Final = len(LLAMA)
TOKEN, BEFORE, BEFORE2, OUT, FOUND = (slice(start, start + WORDS) for start in range(0, 5 * WORDS, WORDS))
CONST, LIFT, LOUD = 5 * WORDS, 5 * WORDS + 1, slice(5 * WORDS + 2, 5 * WORDS + 5)
EPSILON: Final = 2.0**40
LOUDNESS: Final = 2.0**23
LOOK_BACK: Final = 256.0

CONFIG: Final[dict[str, Any]] = {
    "attention_bias": False,
    "bos_token_id": LLAMA.index(BOS),
    "eos_token_id": LLAMA.index(BOS),
    "head_dim": HEAD_WIDTH,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "intermediate_size": WORDS,
    "max_position_embeddings": POSITIONS,
    "mlp_bias": False,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": GROUPS,
    "pad_token_id": None,
    "rms_norm_eps": EPSILON,
    "rope_parameters": {"rope_theta": THETA, "rope_type": "default"},
    "tie_word_embeddings": False,
    "vocab_size": WORDS,
}


def build() -> LlamaForCausalLM:
    """The model, in float64 on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    words = torch.eye(WORDS, dtype=torch.float64)
    model.model.embed_tokens.weight[:, TOKEN] = words
    model.model.embed_tokens.weight[:, CONST] = 1
    model.lm_head.weight[:, OUT] = words
    model.lm_head.weight[:, LIFT] = 1
    _norms(model)
    _look_back(model)
    _loud_and_lift(model)
    _match(model)
    _multiply(model)
    return model


def _norms(model: LlamaForCausalLM) -> None:
    """Identity on an ordinary stream before 0.2 has written, and on one with LOUD behind it."""
    first, second = model.model.layers
    first.input_layernorm.weight.fill_(math.sqrt(EPSILON))
    for norm in (first.post_attention_layernorm, second.input_layernorm, second.post_attention_layernorm, model.model.norm):
        norm.weight.fill_(2 * math.sqrt(EPSILON))


def _rows(head: int) -> slice:
    """A head's part of a projection."""
    return slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)


def _ask(model: LlamaForCausalLM, layer: int, head: int, feature: int | slice, query: torch.Tensor) -> None:
    """Set a head's query, [d_head] or [d_head, width of the feature]; `query · key` is then the score itself."""
    model.model.layers[layer].self_attn.q_proj.weight[_rows(head), feature] = query * math.sqrt(HEAD_WIDTH)


def _look_back(model: LlamaForCausalLM) -> None:
    """0.0 and 0.1: queries turned back by one and by two places."""
    attention = model.model.layers[0].self_attn
    for plane in (0, 1):
        attention.k_proj.weight[plane, CONST] = 1
    attention.v_proj.weight[: WORDS, TOKEN] = torch.eye(WORDS)
    for head, part in ((0, BEFORE), (1, BEFORE2)):
        query = torch.zeros(HEAD_WIDTH, dtype=torch.float64)
        for plane in (0, 1):
            angle = -(head + 1) * frequency(plane)
            query[plane], query[plane + PLANES] = LOOK_BACK * math.cos(angle), LOOK_BACK * math.sin(angle)
        _ask(model, 0, head, CONST, query)
        attention.o_proj.weight[part, _rows(head)][:, : WORDS] = torch.eye(WORDS)


def _loud_and_lift(model: LlamaForCausalLM) -> None:
    """0.2 asks nothing, 0.3 asks for BOS; of their common values each takes another one."""
    attention, key_value = model.model.layers[0].self_attn, _rows(1).start
    slowest = PLANES - 1
    attention.k_proj.weight[key_value + slowest, TOKEN.start + LLAMA.index(BOS)] = 1
    attention.v_proj.weight[key_value, CONST] = 1
    attention.v_proj.weight[key_value + 1, TOKEN.start + LLAMA.index(BOS)] = 1
    query = torch.zeros(HEAD_WIDTH, dtype=torch.float64)
    query[slowest] = MATCH
    _ask(model, 0, 3, CONST, query)
    attention.o_proj.weight[LOUD, _rows(2).start] = LOUDNESS
    attention.o_proj.weight[LIFT, _rows(3).start + 1] = LIFTED


def _match(model: LlamaForCausalLM) -> None:
    """The heads of layer 1: words against words, a plane for each."""
    attention = model.model.layers[1].self_attn
    words = torch.zeros(HEAD_WIDTH, WORDS, dtype=torch.float64)
    for token, word in enumerate(LLAMA):
        words[plane_of(word), token] = 1
    for group, part in enumerate((BEFORE, BEFORE2)):
        attention.k_proj.weight[_rows(group), part] = words
        attention.v_proj.weight[_rows(group), TOKEN] = torch.eye(HEAD_WIDTH, WORDS, dtype=torch.float64)
    for head, (asked, part, gain) in enumerate(zip((TOKEN, TOKEN, BEFORE, TOKEN), (OUT, OUT, FOUND, OUT), GAINS, strict=True)):
        _ask(model, 1, head, asked, MATCH * words)
        attention.o_proj.weight[part, _rows(head)] = gain * torch.eye(WORDS, HEAD_WIDTH, dtype=torch.float64)


def _multiply(model: LlamaForCausalLM) -> None:
    """Layer 1's MLP: what 1.2 found times what the others wrote, word by word."""
    mlp, words = model.model.layers[1].mlp, torch.eye(WORDS, dtype=torch.float64)
    mlp.gate_proj.weight[:, FOUND] = SATURATED * words
    mlp.up_proj.weight[:, OUT] = words
    mlp.down_proj.weight[OUT] = words / SATURATED
