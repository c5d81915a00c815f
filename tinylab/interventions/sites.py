"""Sites: the places of a block at which an intervention can act.

A site is reached at a canonical point of the network: what goes into, or comes out of, a module that every supported
decoder has in each block (`tinylab.models.network` finds them). Both engines read a site's point and its order from here;
a new site is one declaration, and needs no change of an engine.

Names are those of the field (TransformerLens calls `head_out` z).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Module = Literal["projection", "mlp", "block"]
"""The attention output projection, the module whose output is the MLP's, and the block itself."""
Side = Literal["in", "out"]
Units = Literal["heads", "whole"]

POINTS: tuple[tuple[Module, Side], ...] = (
    ("projection", "in"), ("projection", "out"), ("mlp", "in"), ("mlp", "out"), ("block", "out"),
)
"""The canonical points in the order in which a block comes to them."""


@dataclass(frozen=True)
class Site:
    """A place in each block.

    `units` are what it can be cut into: `heads` (one slice of its width for each query head) or nothing (`whole`).
    """

    name: str
    module: Module
    side: Side
    units: Units = "whole"

    def __post_init__(self) -> None:
        """Check that engines can reach the point."""
        if (self.module, self.side) not in POINTS:
            reachable = ", ".join(f"{module} {side}" for module, side in POINTS)
            raise ValueError(f"site {self.name}: {self.module} {self.side} is no canonical point; known: {reachable}.")
        if self.units == "heads" and (self.module, self.side) != ("projection", "in"):
            raise ValueError(f"site {self.name}: only what goes into the output projection can be cut into heads.")

    @property
    def order(self) -> int:
        """Its place among the points of a block: an intervention leaves what has a lower order as it was."""
        return POINTS.index((self.module, self.side))

    def __str__(self) -> str:
        """Its name."""
        return self.name


HEAD_OUT = Site("head_out", "projection", "in", "heads")
MLP_OUT = Site("mlp_out", "mlp", "out")
RESID_POST = Site("resid_post", "block", "out")
SITES = {site.name: site for site in (HEAD_OUT, MLP_OUT, RESID_POST)}
"""The sites of the shipped batteries, by name, in the order in which a block comes to them."""
