"""What an intervention is: plain data, shared by both engines and the batteries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tinylab.metrics import FloatArray, Scorer
from tinylab.prompts import TokenPair

Site = Literal["head_out", "mlp_out", "resid_post"]
Run = Literal["clean", "corrupt"]
Positions = Literal["last", "all"] | tuple[int, ...]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Scale:
    """Multiply the activation by a factor; 0 removes it, 1 leaves it.

    A head's output z holds its value bias b: with `keep_bias` it becomes factor · (z − b) + b (see `tinylab.engine.biases`).
    """

    factor: float
    keep_bias: bool = False


@dataclass(frozen=True)
class Patch:
    """Replace the activation by that of the variant's source run, at the same positions (`last` by each run's own)."""


Operation = Scale | Patch


@dataclass(frozen=True)
class Intervention:
    """One change at one place: a site of a layer, one head or the whole site, and the operation."""

    site: Site
    layer: int
    operation: Operation
    head: int | None = None

    def __post_init__(self) -> None:
        """Heads alone have a value bias."""
        if self.keeps_bias and self.site != "head_out":
            raise ValueError(f"a value bias can be kept at head_out, not at {self.site}")

    @property
    def keeps_bias(self) -> bool:
        """Whether the value bias stays as it is."""
        return isinstance(self.operation, Scale) and self.operation.keep_bias


@dataclass(frozen=True)
class Variant:
    """A run with interventions: usually one, several for pairs; they share target run, source run and positions."""

    interventions: tuple[Intervention, ...]
    target: Run
    source: Run | None = None
    positions: Positions = "all"

    def __post_init__(self) -> None:
        """A patch needs a source."""
        if not self.interventions:
            raise ValueError("a variant needs at least one intervention")
        if self.source is None and any(isinstance(i.operation, Patch) for i in self.interventions):
            raise ValueError("a variant with a Patch needs a source run")


@dataclass(frozen=True)
class Evaluation:
    """What an engine returns. B examples, V variants, M metrics of the scorer."""

    baselines: dict[Run, FloatArray]  # each [B, M], the unmodified runs
    values: FloatArray  # [V, B, M]
    forwards: int
    states: int  # (prefix, intervention, block) triples computed


@dataclass
class Partial:
    """An evaluation in the making: what is filled in so far. Letters as in `Evaluation`."""

    baselines: dict[Run, FloatArray]  # each [B, M]
    values: FloatArray  # [V, B, M]
    begun: NDArray[np.bool_]  # [B], whose baselines are there
    done: NDArray[np.bool_]  # [V, B], which values are there
    forwards: int = 0
    states: int = 0

    @staticmethod
    def empty(variants: int, examples: int, metrics: int) -> Partial:
        """Nothing is there yet."""
        return Partial(
            {"clean": np.zeros((examples, metrics)), "corrupt": np.zeros((examples, metrics))},
            np.zeros((variants, examples, metrics)),
            np.zeros(examples, dtype=bool),
            np.zeros((variants, examples), dtype=bool),
        )


class Keeper(Protocol):
    """Keeps an evaluation in the making, so that one that was cut off can go on."""

    def restore(self, empty: Partial) -> Partial:
        """What an earlier attempt kept of this evaluation, or else the empty one."""
        ...

    def keep(self, partial: Partial) -> None:
        """Called whenever a part is finished; may keep it or wait for more."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What an evaluation will cost."""

    forwards: int
    states: int
    weights: int  # bytes
    activations: int  # bytes at most, beside the weights

    def sentence(self) -> str:
        """For people."""
        return (f"{self.forwards:,} forward passes, {self.states:,} states, at most {readable(self.activations)} beside "
                f"{readable(self.weights)} of weights")


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


class Engine(Protocol):
    """Evaluates variants of a model on prompt pairs."""

    name: str

    def evaluate(
        self, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer, progress: Progress | None = None,
        *, keeper: Keeper | None = None,
    ) -> Evaluation:
        """Evaluate every variant on every pair.

        Args:
            pairs: B prompt pairs as tokens.
            variants: V runs with interventions.
            scorer: turns logits at the reading row (the target run's last prompt token) into M numbers.
            progress: called with the number of (variant, example) evaluations that were just finished.
            keeper: keeps finished parts; what an earlier attempt kept is not computed again, and the numbers are the same.
        """
        ...

    def plan(self, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> Prediction:
        """What evaluating these will cost; a budget that the free memory cannot hold is lowered, with a warning."""
        ...


def indices(positions: Positions, length: int) -> list[int]:
    """The token positions of a prompt of `length` tokens that are meant."""
    if positions == "all":
        return list(range(length))
    if positions == "last":
        return [length - 1]
    return list(positions)
