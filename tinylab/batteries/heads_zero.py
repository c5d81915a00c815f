"""H1, heads_zero: multiply one head's output by a scale, at every position, and see what the task loses.

With `site`, a head's queries, keys or values instead; keys and values are those of key-value heads, which are then counted.

Zero ablation is one baseline among several (Miller et al. 2407.08734): it removes the head's value bias with the
head, unless `keep_value_bias` leaves that where it is, and other heads may repair the damage, so a small effect is a lower
bound (McGrath et al. 2307.15771).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tinylab.batteries.base import Battery, Cell, chosen
from tinylab.config.checks import distinct, one_of
from tinylab.errors import ConfigError
from tinylab.interventions.components import HEAD_IMPACT, TableKind
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT, SITES, UNIT, K, Q, Sizes, V
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Variant

HEADS = tuple(site.name for site in (HEAD_OUT, Q, K, V))
"""The sites that are cut into heads."""


@dataclass(kw_only=True)
class HeadsZero(Battery):
    """Every chosen head times every scale, on the clean run."""

    scales: list[float] = field(default_factory=lambda: [0.0])
    layers: list[int] | None = None
    heads: list[int] | None = None
    keep_value_bias: bool = False
    site: str = HEAD_OUT.name

    kind: ClassVar[str] = "heads_zero"
    table: ClassVar[TableKind] = HEAD_IMPACT
    target: ClassVar[RunName] = "clean"

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("battery.scales", self.scales)
        distinct("battery.layers", self.layers)
        distinct("battery.heads", self.heads)
        one_of("battery.site", self.site, HEADS)
        if self.keep_value_bias and self.site != HEAD_OUT.name:
            raise ConfigError(f"battery.keep_value_bias=true with battery.site={self.site}: a head's output alone holds a value "
                              f"bias that can be kept; use battery.site={HEAD_OUT}, or battery.keep_value_bias=false.")

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per layer, head and scale, of a model whose key-value heads are as many as its query heads."""
        return self.cells_of(Sizes(n_layers, n_heads))

    def cells_of(self, sizes: Sizes) -> list[Cell]:
        """One cell per layer, head and scale."""
        site = SITES[self.site]
        return [
            Cell(
                Variant((Intervention(site, layer, Scale(scale, self.keep_value_bias), head),), self.target),
                {"layer": layer, "head": head, "scale": scale},
            )
            for layer in chosen("battery.layers", self.layers, sizes.n_layers)
            for head in chosen("battery.heads", self.heads, sizes.heads(site))
            for scale in self.scales
        ]

    def describe(self) -> str:
        """Such as `h1, head × 0`, `h1, head × 0, 0.5, value bias kept` or `h1, k of kv head × 0`."""
        what = "head" if self.site == HEAD_OUT.name else f"{self.site} of {UNIT[SITES[self.site].units]}"
        words = [self.name, f"{what} × {', '.join(f'{scale:g}' for scale in self.scales)}"]
        words += ["value bias kept"] if self.keep_value_bias else []
        words += [f"{what} {chosen}" for what, chosen in (("layers", self.layers), ("heads", self.heads)) if chosen is not None]
        return ", ".join(words)
