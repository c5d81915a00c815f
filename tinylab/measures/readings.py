"""Readings: what is read of a run, where, and what it is compared with.

Letters: B examples, W words of the vocabulary, Q rows that are read: B of them, or more where answers have several tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from tinylab.measures.answers import Asked, Found

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
    right: Bool[Tensor, " B"]  # the argmax over the vocabulary is the target; of whole answers: see `Found.greedy`
    asked: Asked | None = None  # answers that are more than their first token

    def of(self, examples: Int[Tensor, " C"]) -> CleanRun:
        """The clean run of some of the examples."""
        own = {field.name: getattr(self, field.name)[examples] for field in fields(self) if field.name != "asked"}
        return CleanRun(**own, asked=None if self.asked is None else self.asked.part(examples))


@dataclass(frozen=True)
class Reading:
    """A run's logits at the row of each prompt's last token, with what several metrics share."""

    logits: Float[Tensor, "B W"]
    log_probs: Float[Tensor, "B W"]
    found: Found | None = None  # of answers that are more than their first token


def read(logits: Float[Tensor, "Q W"], asked: Asked | None) -> Reading:
    """A run's reading.

    Args:
        logits: of the rows that are read, in float32 or better.
        asked: what is looked for in them; None for first tokens, with one row for each example.
    """
    log_probs = logits.log_softmax(dim=-1)
    if asked is None:
        return Reading(logits, log_probs)
    return Reading(logits[asked.first], log_probs[asked.first], asked.found(logits, log_probs))


def precise(logits: Float[Tensor, "*rows W"]) -> Float[Tensor, "*rows W"]:
    """Logits in float32, or in float64 if they already are."""
    import torch

    return logits if logits.dtype == torch.float64 else logits.float()


def clean_run(
    logits: Float[Tensor, "Q W"], target: Int[Tensor, " B"], foil: Int[Tensor, " B"], asked: Asked | None = None
) -> CleanRun:
    """What the metrics need of the unmodified clean run.

    Args:
        logits: [B, W] at each clean prompt's last token; of whole answers all rows that are read.
        target: [B] first tokens of the right answers.
        foil: [B] first tokens of the wrong answers.
        asked: answers that are more than their first token.
    """
    reading = read(precise(logits), asked)
    probs = reading.log_probs.exp()
    if reading.found is None:
        p_target = probs.gather(-1, target[:, None]).squeeze(-1)
        right = reading.logits.argmax(dim=-1) == target
    else:
        p_target, right = reading.found.log_probs[:, 0].exp(), reading.found.greedy[:, 0]
    return CleanRun(reading.log_probs, probs, probs == 0, target, foil, p_target, right, asked)
