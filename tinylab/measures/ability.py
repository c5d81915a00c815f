"""Whether a model can do a task at all: how it answers unmodified prompts, of which every effect is a change.

Letters: B examples, W words of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylab.measures.answers import Asked
from tinylab.measures.readings import precise, read

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int
    from torch import Tensor

ABILITY = ("accuracy", "answer_probability")
"""The columns of `answered`."""


def answered(logits: Float[Tensor, "B W"], answer: Int[Tensor, " B"]) -> Float64[Tensor, "B 2"]:
    """Whether the right answer is the likeliest of all words (1 or 0), and its probability; [B, 2] on the CPU.

    Args:
        logits: [B, W] at the reading row of an unmodified prompt.
        answer: [B] token ids of the right answers: the targets of clean prompts, the foils of corrupt ones.
    """
    import torch

    logits = precise(logits)
    probability = (logits.gather(-1, answer[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)).exp()
    return torch.stack([(logits.argmax(dim=-1) == answer).to(probability.dtype), probability], dim=-1).double().cpu()


def answered_whole(logits: Float[Tensor, "Q W"], asked: Asked, which: int) -> Float64[Tensor, "B 2"]:
    """The same of answers that are more than their first token: whether the likeliest tokens give one of the right alternatives.

    Args:
        logits: of all rows that are read.
        asked: the answers.
        which: 0 where the targets are right, 1 where the foils are.
    """
    import torch

    found = read(precise(logits), asked).found
    assert found is not None
    probability = found.log_probs[:, which].exp()
    return torch.stack([found.greedy[:, which].to(probability.dtype), probability], dim=-1).double().cpu()
