"""Answers of several tokens and sets of answers as one model sees them (`condition.answer`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tinylab.config.groups import FIRST
from tinylab.errors import ConfigError
from tinylab.interventions.sources import Mean
from tinylab.interventions.variants import Variant
from tinylab.measures.answers import PROMPT, Answers, Tokens
from tinylab.measures.readings import READOUT
from tinylab.task.notes import EXTENDS, TWICE

SAME, OVERLAP = "target and foil begin with the same token", "target and foil share an answer, or one begins with the other"
"""Why a pair cannot be used: what follows a prompt would count for both."""


@dataclass(frozen=True)
class Kind:
    """What counts as an answer: `condition.answer`, and whether the answers of a set are their first tokens."""

    name: str = FIRST
    first_tokens: bool = False


FIRST_TOKEN = Kind()
"""An answer's first token."""


def gathered(
    answers: Sequence[Sequence[int]], count: int, kind: Kind
) -> tuple[tuple[int, int], Answers | None, list[str], str | None]:
    """The answers of a pair as it needs them.

    Args:
        answers: the alternatives of the right answer, then those of the wrong one.
        count: how many are of the right one.
        kind: what counts as an answer.

    Returns:
        The first token of either; all of their tokens where these count; what is to be known of them; and why they are the same.
    """
    if not all(answers):
        return (0, 0), None, [], None  # an empty answer, whose pair is not used
    firsts = READOUT.answer(answers[0]), READOUT.answer(answers[count])
    if kind.name == FIRST:
        return firsts, None, [], SAME if firsts[0] == firsts[1] else None
    cut = 1 if kind.first_tokens else None
    (target, told), (foil, more) = (_distinct([tuple(one[:cut]) for one in some]) for some in (answers[:count], answers[count:]))
    if _beginnings(target) & {*foil} or _beginnings(foil) & {*target}:
        return firsts, None, [], OVERLAP
    return firsts, Answers(target, foil), list(dict.fromkeys([*told, *more])), None


def _distinct(alternatives: Sequence[Tokens]) -> tuple[tuple[Tokens, ...], list[str]]:
    """The alternatives, each once, without those that begin with another one: whatever begins so is counted with that one."""
    once = dict.fromkeys(alternatives)
    kept = tuple(one for one in once if not any(one[:end] in once for end in range(1, len(one))))
    return kept, [TWICE] * (len(once) < len(alternatives)) + [EXTENDS] * (len(kept) < len(once))


def _beginnings(answers: Iterable[Tokens]) -> set[Tokens]:
    """All that some answers begin with, to the whole of each."""
    return {one[:end] for one in answers for end in range(1, len(one) + 1)}


def described(kind: str, answers: Iterable[Answers | None]) -> dict[str, Any] | None:
    """What the manifest says of answers that are more than their first tokens."""
    every = [one for own in answers if own is not None for one in (own.target, own.foil)]
    if not every:
        return None
    return {"kind": kind, "alternatives": max(map(len, every)), "tokens": max(len(one) for answer in every for one in answer)}


def check_means(variants: Iterable[Variant], answers: Iterable[Answers | None]) -> None:
    """Refuse means by position where an intervention reaches an answer's tokens: reference prompts have none there.

    Raises:
        ConfigError: a variant acts at all positions and takes such a mean.
    """
    if not any(answer is not None and answer.stems != PROMPT for answer in answers):
        return
    for variant in variants:
        if variant.positions == "all" and isinstance(variant.source, Mean) and variant.source.by_position:
            raise ConfigError("battery.mean_by=position: an intervention at all positions reaches the tokens of an answer, where "
                              "the reference prompts have none; use battery.mean_by=all, other positions, or "
                              "condition.answer=first.")
