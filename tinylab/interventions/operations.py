"""Operations: what an intervention does to an activation.

Each is one class with `apply`, which both engines call on the rows and units that are meant: an operation is written
once, and closed forms and other tools hold it, not only the agreement of two engines. It says what it needs (a source, value
biases) and whether it changes anything where source and target are equal; planning reads that from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Given:
    """What an operation gets in addition to the activation: as much of it as the operation said that it needs."""

    source: Float[Tensor, "*rows d"] | None = None  # the source run's activation at the same rows and units
    bias: Float[Tensor, " d"] | None = None  # the value biases of the same heads, side by side


class Operation(ABC):
    """What an intervention does to an activation."""

    needs_source: ClassVar[bool] = False
    """Whether it takes activations of the variant's source."""
    changes_equal: ClassVar[bool] = True
    """Whether it changes an activation that equals the source's. If not, states that both runs share need not be computed."""

    @property
    def needs_bias(self) -> bool:
        """Whether it takes the value biases of the heads; then it acts at heads only."""
        return False

    def sham(self) -> Operation | None:
        """The same operation so that it changes nothing: a control that goes the same way. None where there is none to be had.

        One that needs a source is made with the run that it acts on as its own source.
        """
        return None

    @abstractmethod
    def apply(self, rows: Float[Tensor, "*rows d"], given: Given) -> Float[Tensor, "*rows d"]:
        """The activation in place of `rows`, in a tensor of its own.

        Args:
            rows: the activation at the tokens and units where the intervention acts, d numbers each.
            given: what the operation needs, at the same tokens and units.
        """


@dataclass(frozen=True)
class Scale(Operation):
    """Multiply the activation by a factor; 0 removes it, 1 leaves it.

    A head's output z holds its value bias b: with `keep_bias` it becomes factor · (z − b) + b (see `tinylab.engine.biases`).
    """

    factor: float
    keep_bias: bool = False

    @property
    def needs_bias(self) -> bool:
        """With `keep_bias`."""
        return self.keep_bias

    def sham(self) -> Operation:
        """A factor of 1."""
        return replace(self, factor=1.0)

    def apply(self, rows: Float[Tensor, "*rows d"], given: Given) -> Float[Tensor, "*rows d"]:
        """Factor · rows, or factor · (rows − b) + b."""
        scaled = rows * self.factor
        if self.keep_bias:
            assert given.bias is not None
            scaled += (1 - self.factor) * given.bias
        return scaled


@dataclass(frozen=True)
class Patch(Operation):
    """Replace the activation by that of the variant's source, at the same positions (`last` by each run's own)."""

    needs_source: ClassVar[bool] = True
    changes_equal: ClassVar[bool] = False

    def sham(self) -> Operation:
        """The same: a run patched from itself stays what it is."""
        return self

    def apply(self, rows: Float[Tensor, "*rows d"], given: Given) -> Float[Tensor, "*rows d"]:
        """The source's activation."""
        del rows
        assert given.source is not None
        return given.source


@dataclass(frozen=True)
class Add(Operation):
    """Add a factor times the activation of the variant's source: a vector to steer along, or noise."""

    factor: float = 1.0

    needs_source: ClassVar[bool] = True

    def sham(self) -> Operation:
        """A factor of 0."""
        return replace(self, factor=0.0)

    def apply(self, rows: Float[Tensor, "*rows d"], given: Given) -> Float[Tensor, "*rows d"]:
        """Rows + factor · source."""
        assert given.source is not None
        return rows + self.factor * given.source
