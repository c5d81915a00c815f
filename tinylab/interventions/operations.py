"""Operations: what an intervention does to an activation."""

from __future__ import annotations

from dataclasses import dataclass


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
