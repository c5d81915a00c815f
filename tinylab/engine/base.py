"""What every engine offers: evaluate variants on prompt pairs, and say before what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Variant
from tinylab.measures.ability import ABILITY
from tinylab.measures.metrics import Scorer
from tinylab.task.tokens import TokenPair

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Evaluation:
    """What an engine returns. B examples, V variants, M metrics of the scorer."""

    baselines: dict[RunName, Float64[np.ndarray, "B M"]]  # the unmodified runs
    values: Float64[np.ndarray, "V B M"]
    forwards: int
    states: int  # (prefix, intervention, block) triples computed
    ability: dict[RunName, Float64[np.ndarray, "B 2"]]  # the columns of ABILITY, of the unmodified runs


@dataclass
class EvaluationState:
    """An evaluation in the making: what is filled in so far. Letters as in `Evaluation`."""

    baselines: dict[RunName, Float64[np.ndarray, "B M"]]
    values: Float64[np.ndarray, "V B M"]
    begun: Bool[np.ndarray, " B"]  # whose baselines and ability are there
    done: Bool[np.ndarray, "V B"]  # which values are there
    ability: dict[RunName, Float64[np.ndarray, "B 2"]]
    forwards: int = 0
    states: int = 0

    @staticmethod
    def empty(variants: int, examples: int, metrics: int) -> EvaluationState:
        """Nothing is there yet."""
        return EvaluationState(
            {"clean": np.zeros((examples, metrics)), "corrupt": np.zeros((examples, metrics))},
            np.zeros((variants, examples, metrics)),
            np.zeros(examples, dtype=bool),
            np.zeros((variants, examples), dtype=bool),
            {"clean": np.zeros((examples, len(ABILITY))), "corrupt": np.zeros((examples, len(ABILITY)))},
        )


@runtime_checkable
class Checkpointer(Protocol):
    """Keeps an evaluation in the making, so that one that was cut off can go on."""

    def restore(self, empty: EvaluationState) -> EvaluationState:
        """What an earlier attempt kept of this evaluation, or else the empty one."""
        ...

    def keep(self, state: EvaluationState) -> None:
        """Called whenever a part is finished; may keep it or wait for more."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What an evaluation will cost."""

    forwards: int
    states: int
    weights: int  # bytes
    activations: int  # bytes at most, in addition to the weights

    def sentence(self) -> str:
        """For people."""
        return (f"{self.forwards:,} forward passes, {self.states:,} states, {readable(self.weights)} of weights, at most "
                f"{readable(self.activations)} of activations")


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@runtime_checkable
class Engine(Protocol):
    """Evaluates variants of a model on prompt pairs."""

    name: str

    def evaluate(
        self, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer, progress: Progress | None = None,
        *, checkpointer: Checkpointer | None = None,
    ) -> Evaluation:
        """Evaluate every variant on every pair.

        Args:
            pairs: B prompt pairs as tokens.
            variants: V runs with interventions.
            scorer: turns logits at the reading row (the target run's last prompt token) into M numbers.
            progress: called with the number of (variant, example) evaluations that were just finished.
            checkpointer: keeps finished parts; what an earlier attempt kept is not computed again, and the numbers are the same.
        """
        ...

    def plan(self, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> Prediction:
        """What evaluating these will cost; a budget that the free memory cannot hold is lowered, with a warning."""
        ...
