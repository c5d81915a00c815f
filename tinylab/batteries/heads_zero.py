"""H1, heads_zero: multiply one head's output by a scale, at every position, and see what the task loses.

Zero ablation is one baseline among several (Miller et al. 2407.08734): it removes the head's value bias with the
head, unless `keep_value_bias` leaves that where it is, and other heads may repair the damage, so a small effect is a lower
bound (McGrath et al. 2307.15771).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tinylab.batteries.base import Cell, chosen
from tinylab.config.checks import distinct
from tinylab.interventions.operations import Scale
from tinylab.interventions.variants import Intervention, Positions, Run, Variant
from tinylab.measures.metrics import BASIC_METRICS


@dataclass(kw_only=True)
class HeadsZero:
    """Every chosen head times every scale, on the clean run."""

    name: str
    scales: list[float] = field(default_factory=lambda: [0.0])
    layers: list[int] | None = None
    heads: list[int] | None = None
    keep_value_bias: bool = False

    table: ClassVar[str] = "head_impact"
    metrics: ClassVar[tuple[str, ...]] = BASIC_METRICS
    target: ClassVar[Run] = "clean"
    source: ClassVar[Run | None] = None
    acts_at: ClassVar[Positions] = "all"
    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("battery.scales", self.scales)
        distinct("battery.layers", self.layers)
        distinct("battery.heads", self.heads)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per layer, head and scale."""
        return [
            Cell(
                Variant((Intervention("head_out", layer, Scale(scale, self.keep_value_bias), head),), self.target),
                {"layer": layer, "head": head, "scale": scale},
            )
            for layer in chosen("battery.layers", self.layers, n_layers)
            for head in chosen("battery.heads", self.heads, n_heads)
            for scale in self.scales
        ]
