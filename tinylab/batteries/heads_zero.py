"""H1, heads_zero: multiply one head's output by a scale, at every position, and see what the task loses.

Zero ablation is one baseline among several (Miller et al. 2407.08734): it removes the head's value bias with the
head, unless `keep_value_bias` leaves that where it is, and other heads may repair the damage, so a small effect is a lower
bound (McGrath et al. 2307.15771).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tinylab.batteries.base import Battery, Cell, chosen
from tinylab.config.checks import distinct
from tinylab.interventions.components import HEAD_IMPACT, TableKind
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Variant


@dataclass(kw_only=True)
class HeadsZero(Battery):
    """Every chosen head times every scale, on the clean run."""

    scales: list[float] = field(default_factory=lambda: [0.0])
    layers: list[int] | None = None
    heads: list[int] | None = None
    keep_value_bias: bool = False

    kind: ClassVar[str] = "heads_zero"
    table: ClassVar[TableKind] = HEAD_IMPACT
    target: ClassVar[RunName] = "clean"

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("battery.scales", self.scales)
        distinct("battery.layers", self.layers)
        distinct("battery.heads", self.heads)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per layer, head and scale."""
        return [
            Cell(
                Variant((Intervention(HEAD_OUT, layer, Scale(scale, self.keep_value_bias), head),), self.target),
                {"layer": layer, "head": head, "scale": scale},
            )
            for layer in chosen("battery.layers", self.layers, n_layers)
            for head in chosen("battery.heads", self.heads, n_heads)
            for scale in self.scales
        ]

    def describe(self) -> str:
        """Such as `h1, head × 0` or `h1, head × 0, 0.5, value bias kept`."""
        words = [self.name, f"head × {', '.join(f'{scale:g}' for scale in self.scales)}"]
        words += ["value bias kept"] if self.keep_value_bias else []
        words += [f"{what} {chosen}" for what, chosen in (("layers", self.layers), ("heads", self.heads)) if chosen is not None]
        return ", ".join(words)
