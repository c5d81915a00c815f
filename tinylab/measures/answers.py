"""Answers that are more than one first token: which rows of which runs are read for them, and their probabilities.

An answer is a set of alternatives, each a sequence of tokens; a whole answer is a set of one. The probability of an alternative
is the product over its tokens, each after the prompt and the tokens before it (teacher forcing); an answer's is the sum over its
alternatives. None of them begins another, so that what they stand for is counted once.

Letters: B examples, Q rows that are read, A alternatives of an answer at most, T tokens of an alternative at most, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

PROMPT = ((),)
"""What follows a prompt where the first token alone is looked for: nothing."""
NONE = -1
"""Behind the end of an alternative in a padded array."""
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Answers:
    """What counts as the right and the wrong answer to a pair."""

    target: tuple[Tokens, ...]
    foil: tuple[Tokens, ...]

    @cached_property
    def stems(self) -> tuple[Tokens, ...]:
        """What has to follow a prompt so that every token of every alternative is looked for: all tokens but the last.

        None begins another, which is read on the way.
        """
        every = sorted({alternative[:-1] for alternative in (*self.target, *self.foil)})
        return tuple(stem for stem, after in zip(every, [*every[1:], None], strict=True)
                     if after is None or after[: len(stem)] != stem)

    @cached_property
    def _numbers(self) -> dict[Tokens, int]:
        """The number of the row that is read after a prompt and these tokens; the prompt's own last row is the first."""
        found: dict[Tokens, int] = {(): 0}
        for stem in self.stems:
            for end in range(1, len(stem) + 1):
                found.setdefault(stem[:end], len(found))
        return found

    @cached_property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """The rows that are read, each once: of the run with which stem, and behind how many tokens of it."""
        places = {stem[:end]: (number, end) for number, stem in reversed([*enumerate(self.stems)])
                  for end in range(len(stem) + 1)}
        return tuple(places[tokens] for tokens in self._numbers)

    def looked_for(self) -> tuple[list[list[tuple[int, int]]], list[list[tuple[int, int]]]]:
        """For each alternative of target and foil its tokens, each with the number of the row in which it is looked for."""
        numbers = self._numbers
        target, foil = ([[(numbers[one[:place]], token) for place, token in enumerate(one)] for one in answer]
                        for answer in (self.target, self.foil))
        return target, foil


@dataclass(frozen=True)
class Asked:
    """What B examples' answers are, as arrays: which token is looked for in which of an example's rows."""

    counts: Int[Tensor, " B"]  # rows of each example
    rows: Int[Tensor, "B 2 A T"]  # counted from the example's first, for target and foil
    tokens: Int[Tensor, "B 2 A T"]  # NONE behind the end of an alternative, and where there is none

    @classmethod
    def of(cls, answers: Sequence[Answers], device: torch.device) -> Asked:
        """Lay out the answers of B examples."""
        import torch

        every = [one.looked_for() for one in answers]
        most = max(len(alternatives) for both in every for alternatives in both)
        longest = max(len(one) for both in every for alternatives in both for one in alternatives)
        rows, tokens = (np.full((len(answers), 2, most, longest), fill, dtype=np.int64) for fill in (0, NONE))
        for b, both in enumerate(every):
            for which, alternatives in enumerate(both):
                for a, one in enumerate(alternatives):
                    rows[b, which, a, : len(one)], tokens[b, which, a, : len(one)] = zip(*one, strict=True)
        counts = np.array([len(one.rows) for one in answers], dtype=np.int64)
        return cls(*(torch.from_numpy(array).to(device) for array in (counts, rows, tokens)))

    def part(self, examples: Int[Tensor, " C"]) -> Asked:
        """Of some of the examples."""
        return Asked(*(getattr(self, field.name)[examples] for field in fields(self)))

    @cached_property
    def first(self) -> Int[Tensor, " B"]:
        """Of each example the first of its rows among all Q: that of its prompt's last token."""
        first: Int[Tensor, " B"] = self.counts.cumsum(dim=0) - self.counts
        return first

    def found(self, logits: Float[Tensor, "Q W"], log_probs: Float[Tensor, "Q W"]) -> Found:
        """What a run's rows say of the answers.

        Args:
            logits: of the rows that are read, example by example.
            log_probs: the same as log-probabilities.
        """
        rows, there = self.rows + self.first[:, None, None, None], self.tokens != NONE
        found = log_probs[rows, self.tokens.clamp(min=0)].masked_fill(~there, 0.0)
        total = found[..., 0]
        for place in range(1, found.shape[-1]):  # one after the other: the same however far others reach
            total = total + found[..., place]
        whole = total.masked_fill(~there[..., 0], -float("inf")).logsumexp(dim=-1)
        likeliest = (logits.argmax(dim=-1)[rows] == self.tokens) | ~there
        return Found(whole, (likeliest.all(dim=-1) & there[..., 0]).any(dim=-1))


@dataclass(frozen=True)
class Found:
    """What a run says of B examples' target and foil."""

    log_probs: Float[Tensor, "B 2"]
    greedy: Bool[Tensor, "B 2"]  # whether the likeliest token, and then the likeliest after it …, give one of the alternatives
