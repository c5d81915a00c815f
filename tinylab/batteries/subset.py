"""Subset, heads_subset_zero: multiply all heads of a set by a scale at once, such as a circuit that somebody proposed.

With `site`, the MLPs of a set's layers instead, or another part of whole layers. A set's effect is no sum of its members'
effects; what each pair of them adds to it is `tinylab.batteries.pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinylab.batteries.activation_patch import ALSO, SITE_OF
from tinylab.batteries.base import Battery, Cell, Key
from tinylab.batteries.named_heads import Head, head_names, heads_of_model, numbers_among
from tinylab.batteries.named_layers import check_joint_site, layer_numbers, layers_of_model
from tinylab.batteries.positions import EACH, check_positions, meant_positions
from tinylab.config.checks import distinct
from tinylab.errors import ConfigError
from tinylab.interventions.components import LAYER_SUBSET_IMPACT, SUBSET_IMPACT, TableKind
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Positions, Variant


@dataclass(kw_only=True)
class HeadsSubsetZero(Battery):
    """Every set of heads times every scale, at the chosen positions of the clean run. The table's set n is the nth of `sets`.

    At another site than that of heads a set is of layers.
    """

    site: str = HEAD_OUT.name
    sets: Any = None
    scales: list[float] = field(default_factory=lambda: [0.0])
    keep_value_bias: bool = False
    positions: Any = "all"

    kind: ClassVar[str] = "heads_subset_zero"
    target: ClassVar[RunName] = "clean"

    def __post_init__(self) -> None:
        """Check the values; sets without a name are called set1, set2, …."""
        distinct("battery.scales", self.scales)
        check_joint_site(self.site, self.keep_value_bias)
        self.site = ALSO.get(self.site, self.site)
        check_positions(self.positions)
        if self.positions == EACH:
            raise ConfigError("battery.positions=each with battery.sets: the table of sets has no column for positions; sweep "
                              "over them with -m battery.positions=[0],[1].")
        named = {f"set{number}": one for number, one in enumerate(self.sets, 1)} if isinstance(self.sets, list) else self.sets
        if not isinstance(named, dict) or not named or not all(isinstance(name, str) and name.isprintable() for name in named):
            one, other = ("['0.2','0.4']", "['1.7']") if self.of_heads else ("[13,14]", "[20]")
            raise ConfigError(f"battery.sets={self.sets}: expected sets, such as \"battery.sets=[{one},{other}]\", "
                              f"or with names \"battery.sets={{early: {one}, late: {other}}}\".")
        self.sets = {name: head_names(f"battery.sets.{name}", one, 1) if self.of_heads else
                     layer_numbers(f"battery.sets.{name}", one, 1, self.site) for name, one in named.items()}
        self._numbers = {name: numbers_among(one) for name, one in named.items()}

    @property
    def of_heads(self) -> bool:
        """Whether sets are of heads, not of a part of each of their layers."""
        return self.site == HEAD_OUT.name

    @property
    def table(self) -> TableKind:
        """Sets of layers have a table that says of which part of them."""
        return SUBSET_IMPACT if self.of_heads else LAYER_SUBSET_IMPACT

    @property
    def acts_at(self) -> Positions:
        """The positions at which all members of a set are scaled."""
        return meant_positions(self.positions)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per set and scale."""
        members = {name: self._members(name, n_layers, n_heads) for name in self.sets}
        part: Key = {} if self.of_heads else {"granularity": self.site}
        return [
            Cell(
                Variant(tuple(Intervention(SITE_OF[self.site], layer, Scale(scale, self.keep_value_bias), head)
                              for layer, head in own), self.target, None, self.acts_at),
                {"set": number, **part, "scale": scale},
            )
            for number, own in enumerate(members.values(), 1)
            for scale in self.scales
        ]

    def _members(self, name: str, n_layers: int, n_heads: int) -> list[Head] | list[tuple[int, None]]:
        """The layer of each member of a set, and its head where it is one."""
        key, own = f"battery.sets.{name}", self.sets[name]
        if self.of_heads:
            return heads_of_model(key, own, self._numbers[name], n_layers, n_heads)
        return [(layer, None) for layer in layers_of_model(key, own, n_layers)]

    def describe(self) -> str:
        """Such as `subset, head × 0, set1 = 0.2 + 0.4, set2 = 1.7`."""
        what = "head" if self.of_heads else self.site
        words = [self.name, f"{what} × {', '.join(f'{scale:g}' for scale in self.scales)}"]
        words += ["value bias kept"] if self.keep_value_bias else []
        words += [f"at {self.positions}"] if self.positions != "all" else []
        return ", ".join([*words, *(f"{name} = {' + '.join(map(str, own))}" for name, own in self.sets.items())])

    def unlike_default(self) -> dict[str, Any]:
        """The sets in their order, which numbers them."""
        return {**super().unlike_default(), "sets": [[name, own] for name, own in self.sets.items()]}
