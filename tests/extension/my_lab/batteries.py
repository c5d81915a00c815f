"""A battery: what attention writes at each chosen position, moved a part of the way to the clean run."""

from dataclasses import dataclass, field
from typing import ClassVar

from my_lab.operations import Towards
from my_lab.sites import ATTN_OUT
from my_lab.tables import POSITION_IMPACT
from tinylab.batteries.base import Battery, Cell, chosen
from tinylab.interventions.components import TableKind
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant


@dataclass(kw_only=True)
class TowardsClean(Battery):
    """Every layer, position and part of the way, on the corrupt run."""

    positions: list[int]
    parts: list[float] = field(default_factory=lambda: [1.0])
    layers: list[int] | None = None

    kind: ClassVar[str] = "towards_clean"
    table: ClassVar[TableKind] = POSITION_IMPACT
    target: ClassVar[RunName] = "corrupt"
    source: ClassVar[Own] = Own("clean")

    @property
    def acts_at(self) -> Positions:
        return tuple(self.positions)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        return [
            Cell(Variant((Intervention(ATTN_OUT, layer, Towards(part)),), self.target, self.source, (position,)),
                 {"layer": layer, "position": position, "part": part})
            for layer in chosen("battery.layers", self.layers, n_layers)
            for position in self.positions
            for part in self.parts
        ]
