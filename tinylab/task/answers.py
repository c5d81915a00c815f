"""Answers of several tokens and sets of answers as one model sees them (`condition.answer`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinylab.config.groups import FIRST
from tinylab.errors import ConfigError
from tinylab.interventions.sources import Mean
from tinylab.interventions.variants import Variant
from tinylab.measures.answers import PROMPT, Answers, Tokens
from tinylab.measures.readings import READOUT
from tinylab.task.notes import EXTENDS, TWICE

SAME, OVERLAP = "target and foil begin with the same token", "target and foil share an answer, or one begins with the other"
"""Why a pair cannot be used: what follows a prompt would count for both."""


def gathered(
    targets: Sequence[Sequence[int]], foils: Sequence[Sequence[int]], kind: str, *, first_tokens: bool
) -> tuple[Answers | None, list[str], str | None]:
    """The answers of a pair where they are more than their first tokens; what is to be known of them; why they are the same.

    Args:
        targets: the alternatives of the right answer.
        foils: those of the wrong one.
        kind: of `condition.answer`.
        first_tokens: whether the first token stands for each of a set.
    """
    if not all((*targets, *foils)):
        return None, [], None  # an empty answer, whose pair is not used
    if kind == FIRST:
        return None, [], SAME if READOUT.answer(targets[0]) == READOUT.answer(foils[0]) else None
    cut = 1 if first_tokens else None
    (target, told), (foil, more) = (_distinct([tuple(one[:cut]) for one in answer]) for answer in (targets, foils))
    if any(_begins(one, other) or _begins(other, one) for one in target for other in foil):
        return None, [], OVERLAP
    return Answers(target, foil), list(dict.fromkeys([*told, *more])), None


def _distinct(alternatives: Sequence[Tokens]) -> tuple[tuple[Tokens, ...], list[str]]:
    """The alternatives, each once, without those that begin with another one: whatever begins so is counted with that one."""
    once = tuple(dict.fromkeys(alternatives))
    kept = tuple(one for one in once if not any(_begins(other, one) for other in once if other != one))
    return kept, [TWICE] * (len(once) < len(alternatives)) + [EXTENDS] * (len(kept) < len(once))


def _begins(one: Tokens, other: Tokens) -> bool:
    """Whether the other begins with the one."""
    return other[: len(one)] == one


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
