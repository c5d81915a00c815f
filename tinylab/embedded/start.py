"""The embedded model before training: a GPT-2 in which four heads already have a task.

Heads that complete a repeated sequence ("induction heads") did not appear from random weights within ten minutes
on two cores. The construction of such heads is well known, so the model starts from it:

- two heads of layer 0 attend to the token before and to the one before that, and copy what they find there into
  a part of the stream of their own;
- two heads of layer 1 look for the places whose word before is the word at hand: the current token (lists
  with spaces) or the one before it (lists with commas and the like).

For this the width is divided: ``[waves | before | two before | words]``. The positions are waves, of which a
fixed distance is a rotation, and stay as they are; all other weights are trained, those of these heads too. What
the other 28 heads and the MLPs do is learned from random weights, and so is what the four heads copy and
what is made of it.
"""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import GPT2Config, GPT2LMHeadModel

LAYERS: Final = 4
HEADS: Final = 8
WIDTH: Final = 128
POSITIONS: Final = 128
HEAD_WIDTH: Final = WIDTH // HEADS

WAVES: Final = 32
BEFORE: Final = slice(WAVES, WAVES + HEAD_WIDTH)
TWO_BEFORE: Final = slice(BEFORE.stop, BEFORE.stop + HEAD_WIDTH)
WORDS: Final = slice(TWO_BEFORE.stop, WIDTH)

WAVE_SIZE: Final = 0.15
WORD_SIZE: Final = 0.1
MATRIX_SIZE: Final = 0.04
LOOK_BACK: Final = 2.0
MATCH: Final = 1.5
COPY: Final = 0.1


def new_model(vocabulary: int, end: int, seed: int) -> GPT2LMHeadModel:
    """Return the model before training; float32, without dropout.

    Args:
        vocabulary: Number of tokens.
        end: The token that begins and ends a document.
        seed: Of the random weights.
    """
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=MATRIX_SIZE,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        _embed(model)
        _wire(model)
    return model


def _embed(model: GPT2LMHeadModel) -> None:
    """Give words and positions their parts of the width; the positions are not trained."""
    words = model.transformer.wte.weight
    words.mul_(WORD_SIZE / MATRIX_SIZE)
    words[:, : WORDS.start] = 0
    positions = torch.zeros(POSITIONS, WIDTH)
    angles = torch.arange(POSITIONS)[:, None] * frequencies()
    positions[:, :WAVES] = WAVE_SIZE * torch.cat([angles.sin(), angles.cos()], dim=1)
    model.transformer.wpe.weight = Parameter(positions, requires_grad=False)


def frequencies() -> Tensor:
    """Return the angle per token of each wave, (WAVES / 2,): wavelengths from 2 tokens to 220."""
    return math.pi * 150.0 ** -(torch.arange(WAVES // 2) / (WAVES // 2))


def _wire(model: GPT2LMHeadModel) -> None:
    """Set the two heads that look back and the two that match what those found."""
    words = torch.zeros(WIDTH, HEAD_WIDTH)
    words[WORDS] = MATCH * torch.randn(WORDS.stop - WORDS.start, HEAD_WIDTH) / math.sqrt(WORDS.stop - WORDS.start)
    first, second = model.transformer.h[0].attn, model.transformer.h[1].attn
    for head, part in enumerate((BEFORE, TWO_BEFORE)):
        query, key = looking_back(head + 1)
        _set_head(first.c_attn.weight, head, query=query, key=key, value=words)
        output = torch.zeros(HEAD_WIDTH, WIDTH)
        output[:, part] = COPY * torch.eye(HEAD_WIDTH)
        first.c_proj.weight[head * HEAD_WIDTH : (head + 1) * HEAD_WIDTH] = output
    _set_head(second.c_attn.weight, 0, query=words, key=_reading(BEFORE))
    _set_head(second.c_attn.weight, 1, query=_reading(BEFORE), key=_reading(TWO_BEFORE))


def looking_back(distance: int) -> tuple[Tensor, Tensor]:
    """Return query and key weights, each (WIDTH, HEAD_WIDTH), of a head that attends so many tokens back."""
    query, key = torch.zeros(WIDTH, HEAD_WIDTH), torch.zeros(WIDTH, HEAD_WIDTH)
    for wave, angle in enumerate((frequencies() * distance)[: HEAD_WIDTH // 2].tolist()):
        sine, cosine, one, other = wave, WAVES // 2 + wave, 2 * wave, 2 * wave + 1
        key[sine, one] = key[cosine, other] = LOOK_BACK
        query[sine, one] = query[cosine, other] = LOOK_BACK * math.cos(angle)
        query[cosine, one] = -LOOK_BACK * math.sin(angle)
        query[sine, other] = LOOK_BACK * math.sin(angle)
    return query, key


def _reading(part: slice) -> Tensor:
    """Return weights, (WIDTH, HEAD_WIDTH), that read what a head of layer 0 has written to its part."""
    weights = torch.zeros(WIDTH, HEAD_WIDTH)
    weights[part] = MATCH * torch.eye(HEAD_WIDTH)
    return weights


def _set_head(weights: Tensor, head: int, query: Tensor, key: Tensor, value: Tensor | None = None) -> None:
    """Set one head in the joint weights (WIDTH, 3 x WIDTH) for queries, keys and values."""
    for place, part in enumerate((query, key, value)):
        if part is not None:
            start = place * WIDTH + head * HEAD_WIDTH
            weights[:, start : start + HEAD_WIDTH] = part
