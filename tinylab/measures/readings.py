"""Readings: what is read of a run, where, and what it is compared with.

Letters: B examples, W words of the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class Readout(ABC):
    """Which row of a prompt is read, and which token of an answer is looked for there."""

    @abstractmethod
    def row(self, length: int) -> int:
        """The row that is read of a prompt of `length` tokens."""

    @abstractmethod
    def answer(self, tokens: Sequence[int]) -> int:
        """The token that stands for an answer."""


class FirstToken(Readout):
    """The answer's first token, after the whole prompt."""

    def row(self, length: int) -> int:
        """The last one."""
        return length - 1

    def answer(self, tokens: Sequence[int]) -> int:
        """The first one."""
        return tokens[0]


READOUT = FirstToken()
"""How runs are read."""


@dataclass(frozen=True)
class CleanRun:
    """The clean run at the reading row, for B examples."""

    log_probs: Float[Tensor, "B W"]
    probs: Float[Tensor, "B W"]
    ruled_out: Bool[Tensor, "B W"]  # words of probability 0
    target: Int[Tensor, " B"]
    foil: Int[Tensor, " B"]
    p_target: Float[Tensor, " B"]
    right: Bool[Tensor, " B"]  # the argmax over the vocabulary is the target

    def of(self, examples: Int[Tensor, " C"]) -> CleanRun:
        """The clean run of some of the examples."""
        return CleanRun(*(getattr(self, field.name)[examples] for field in fields(self)))


@dataclass(frozen=True)
class Reading:
    """A run's logits at the reading row, with what several metrics share."""

    logits: Float[Tensor, "B W"]
    log_probs: Float[Tensor, "B W"]


def precise(logits: Float[Tensor, "*rows W"]) -> Float[Tensor, "*rows W"]:
    """Logits in float32, or in float64 if they already are."""
    import torch

    return logits if logits.dtype == torch.float64 else logits.float()


def clean_run(logits: Float[Tensor, "B W"], target: Int[Tensor, " B"], foil: Int[Tensor, " B"]) -> CleanRun:
    """What the metrics need of the unmodified clean run.

    Args:
        logits: [B, W] at each clean prompt's last token.
        target: [B] token ids of the right answers.
        foil: [B] token ids of the wrong answers.
    """
    logits = precise(logits)
    log_probs = logits.log_softmax(dim=-1)
    probs = log_probs.exp()
    p_target = probs.gather(-1, target[:, None]).squeeze(-1)
    return CleanRun(log_probs, probs, probs == 0, target, foil, p_target, logits.argmax(dim=-1) == target)
