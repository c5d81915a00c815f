"""Subset, heads_subset_zero: multiply all heads of a set by a scale at once, such as a circuit that somebody proposed.

A set's effect is no sum of its heads' effects; what each pair of them adds to it is `tinylab.batteries.pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinylab.batteries.base import Battery, Cell
from tinylab.batteries.named_heads import head_names, heads_of_model, numbers_among
from tinylab.batteries.positions import EACH, check_positions, meant_positions
from tinylab.config.checks import distinct
from tinylab.errors import ConfigError
from tinylab.interventions.components import SUBSET_IMPACT, TableKind
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Positions, Variant


@dataclass(kw_only=True)
class HeadsSubsetZero(Battery):
    """Every set of heads times every scale, at the chosen positions of the clean run. The table's set n is the nth of `sets`."""

    sets: Any = None
    scales: list[float] = field(default_factory=lambda: [0.0])
    keep_value_bias: bool = False
    positions: Any = "all"

    kind: ClassVar[str] = "heads_subset_zero"
    table: ClassVar[TableKind] = SUBSET_IMPACT
    target: ClassVar[RunName] = "clean"

    def __post_init__(self) -> None:
        """Check the values; sets without a name are called set1, set2, …."""
        distinct("battery.scales", self.scales)
        check_positions(self.positions)
        if self.positions == EACH:
            raise ConfigError("battery.positions=each with battery.sets: the table of sets has no column for positions; sweep "
                              "over them with -m battery.positions=[0],[1].")
        named = {f"set{number}": one for number, one in enumerate(self.sets, 1)} if isinstance(self.sets, list) else self.sets
        if not isinstance(named, dict) or not named or not all(isinstance(name, str) and name.isprintable() for name in named):
            raise ConfigError(f"battery.sets={self.sets}: expected sets, such as \"battery.sets=[['0.2','0.4'],['1.7']]\", "
                              "or with names \"battery.sets={early: ['0.2','0.4'], late: ['1.7']}\".")
        self.sets = {name: head_names(f"battery.sets.{name}", one, 1) for name, one in named.items()}
        self._numbers = {name: numbers_among(one) for name, one in named.items()}

    @property
    def acts_at(self) -> Positions:
        """The positions at which all heads of a set are scaled."""
        return meant_positions(self.positions)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per set and scale."""
        heads = {name: heads_of_model(f"battery.sets.{name}", one, self._numbers[name], n_layers, n_heads)
                 for name, one in self.sets.items()}
        return [
            Cell(
                Variant(tuple(Intervention(HEAD_OUT, layer, Scale(scale, self.keep_value_bias), head) for layer, head in members),
                        self.target, None, self.acts_at),
                {"set": number, "scale": scale},
            )
            for number, members in enumerate(heads.values(), 1)
            for scale in self.scales
        ]

    def describe(self) -> str:
        """Such as `subset, head × 0, set1 = 0.2 + 0.4, set2 = 1.7`."""
        words = [self.name, f"head × {', '.join(f'{scale:g}' for scale in self.scales)}"]
        words += ["value bias kept"] if self.keep_value_bias else []
        words += [f"at {self.positions}"] if self.positions != "all" else []
        return ", ".join([*words, *(f"{name} = {' + '.join(heads)}" for name, heads in self.sets.items())])

    def unlike_default(self) -> dict[str, Any]:
        """The sets in their order, which numbers them."""
        return {**super().unlike_default(), "sets": [[name, heads] for name, heads in self.sets.items()]}
