"""Can the model do the task at all? How often it answers unmodified prompts correctly, stored and reported before any effect.

Effects are changes of the unmodified runs; where those are wrong, changing them means little.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.engine.base import Checkpointer, EvaluationState
from tinylab.interventions.sources import RUNS, RunName
from tinylab.measures.ability import ABILITY
from tinylab.task.corpus import PromptPair

HALF = 0.5
"""The share of prompts that a model must answer correctly to count as able to do a task."""
ENOUGH = 20
"""Pairs of whose prompts the first word is told; of fewer only where there are no more."""
TEMPLATES = 12
"""How many are told to a person."""
log = logging.getLogger(__name__)


def ability(columns: Mapping[RunName, FloatArray], pairs: Sequence[PromptPair]) -> dict[str, Any]:
    """How a model answers the unmodified prompts: accuracy and mean probability of the right answer, and of how many.

    Args:
        columns: [B, 2] of each run, the columns of `ABILITY`.
        pairs: B pairs; those with a template are told by it too.
    """
    templates = dict.fromkeys(pair.template for pair in pairs if pair.template is not None)
    members = {template: [b for b, pair in enumerate(pairs) if pair.template == template] for template in templates}
    return {run: {**_over(columns[run]), "by_template": {name: _over(columns[run][rows]) for name, rows in members.items()}}
            for run in RUNS}


def _over(columns: FloatArray) -> dict[str, Any]:
    return {**{name: float(np.mean(columns[:, place])) for place, name in enumerate(ABILITY)}, "n": len(columns)}


def unable(told: Mapping[str, Any]) -> bool:
    """Whether the model answers fewer than half of the clean or of the corrupt prompts correctly."""
    return any(told[run]["accuracy"] < HALF for run in RUNS)


def sentence(told: Mapping[str, Any], of: int | None = None) -> str:
    """What `ability` found, for people.

    Args:
        told: by run.
        of: how many distinct pairs there are, if these are not all pairs.
    """
    clean, corrupt = (told[run] for run in RUNS)
    pairs = f"{clean['n']} pairs" if of is None else f"{clean['n']} of {of} distinct pairs, in the order of their tokens"
    meaning = ": effects on a task that a model cannot do mean little" if of is None and unable(told) else ""
    return (f"unmodified, the model answers {clean['accuracy']:.2f} of the clean and {corrupt['accuracy']:.2f} of the corrupt "
            f"prompts correctly (mean probability of the right answer {clean['answer_probability']:.2f} and "
            f"{corrupt['answer_probability']:.2f}, {pairs}){meaning}")


def by_template(told: Mapping[str, Any]) -> str | None:
    """The accuracies of each template, for people; None where there are not several."""
    clean, corrupt = (told[run]["by_template"] for run in RUNS)
    if len(clean) < 2:
        return None
    told = {name: f"{clean[name]['accuracy']:.2f}/{corrupt[name]['accuracy']:.2f}" for name in clean}
    if len(same := {*told.values()}) == 1:
        return f"by template, clean/corrupt: {same.pop()} in each of {len(told)}"
    every = [f"{name} {both}" for name, both in told.items()]
    more = f", and {len(every) - TEMPLATES} more in summary.json" if len(every) > TEMPLATES else ""
    return f"by template, clean/corrupt: {', '.join(every[:TEMPLATES])}{more}"


def tell(said: str, told: Mapping[str, Any], *, final: bool = True) -> None:
    """Log a sentence about an ability: a warning where all pairs tell that the model cannot do the task."""
    log.log(logging.WARNING if final and unable(told) else logging.INFO, "%s", said)


class Telling:
    """A checkpointer that tells once, as soon as the first prompts ran unmodified, whether the model can do the task."""

    def __init__(self, kept: Checkpointer, pairs: int) -> None:
        """What is kept is kept by another; `pairs`: how many there are, equal ones counted each."""
        self._kept, self._pairs = kept, pairs
        self.said: str | None = None

    def restore(self, empty: EvaluationState) -> EvaluationState:
        """See `tinylab.engine.base.Checkpointer`."""
        return self._kept.restore(empty)

    def keep(self, state: EvaluationState) -> None:
        """See `tinylab.engine.base.Checkpointer`."""
        begun, of = int(state.begun.sum()), len(state.begun)
        if self.said is None and begun >= min(ENOUGH, of):
            told: dict[str, Any] = {run: _over(state.ability[run][state.begun]) for run in RUNS}
            self.said = sentence(told, None if begun == of == self._pairs else of)
            tell(self.said, told, final=begun == of == self._pairs)
        self._kept.keep(state)
