"""Sites: the places of a block at which an intervention can act.

A site is reached at a canonical point of the network: what goes into, or comes out of, a module that supported decoders have in
each block (`tinylab.models.network` finds them), or what attention is computed of. Both engines read a site's point and its
order from here; a new site at one of these points is one declaration, and needs no change of an engine.

Names are those of the field (TransformerLens calls `head_out` z and `mlp_neurons` post).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Module = Literal["block", "attention", "projection", "norm", "mlp", "down"]
"""The block itself; its attention and the attention's output projection; the norm through which the MLP's branch leaves the
residual stream (the MLP where it has none); the module whose output is the MLP's; and the MLP's last linear map."""
Side = Literal["in", "query", "key", "value", "out"]
"""Of a module; of attention, what it is computed of: after rotary embedding, one slice for each head."""
Units = Literal["heads", "key-value heads", "neurons", "whole"]

POINTS: tuple[tuple[Module, Side], ...] = (
    ("block", "in"), ("attention", "query"), ("attention", "key"), ("attention", "value"), ("projection", "in"),
    ("projection", "out"), ("norm", "in"), ("mlp", "in"), ("down", "in"), ("mlp", "out"), ("block", "out"),
)
"""The canonical points in the order in which a block comes to them."""
UNITS: dict[tuple[Module, Side], Units] = {
    ("attention", "query"): "heads", ("attention", "key"): "key-value heads", ("attention", "value"): "key-value heads",
    ("projection", "in"): "heads", ("down", "in"): "neurons",
}
"""What the points can be cut into, where they can. With grouped queries several query heads share a key-value head."""
UNIT: dict[Units, str] = {"heads": "head", "key-value heads": "kv head", "neurons": "neuron", "whole": "unit"}
"""What one of them is called."""


@dataclass(frozen=True)
class Site:
    """A place in each block.

    `units` are what it is cut into: query heads, key-value heads or neurons, as its point can be, or nothing (`whole`).
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
        if self.units not in ("whole", UNITS.get((self.module, self.side))):
            able = ", ".join(f"{module} {side}" for (module, side), units in UNITS.items() if units == self.units)
            raise ValueError(f"site {self.name}: {self.module} {self.side} cannot be cut into {self.units}, only {able} can.")

    @property
    def order(self) -> int:
        """Its place among the points of a block: an intervention leaves what has a lower order as it was."""
        return POINTS.index((self.module, self.side))

    def __str__(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class Sizes:
    """How many layers a model has, and of each kind of unit how many a layer has."""

    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None  # None: as many as query heads
    n_neurons: tuple[int | None, ...] = ()  # by layer, None where its MLP has no single last linear map

    def heads(self, site: Site) -> int:
        """The heads of a site in one layer."""
        shared = site.units == "key-value heads" and self.n_kv_heads is not None
        return self.n_kv_heads or self.n_heads if shared else self.n_heads


RESID_PRE = Site("resid_pre", "block", "in")
Q = Site("q", "attention", "query", "heads")
K = Site("k", "attention", "key", "key-value heads")
V = Site("v", "attention", "value", "key-value heads")
HEAD_OUT = Site("head_out", "projection", "in", "heads")
ATTN_OUT = Site("attn_out", "projection", "out")
RESID_MID = Site("resid_mid", "norm", "in")
MLP_NEURONS = Site("mlp_neurons", "down", "in", "neurons")
MLP_OUT = Site("mlp_out", "mlp", "out")
RESID_POST = Site("resid_post", "block", "out")
SITES = {site.name: site
         for site in (RESID_PRE, Q, K, V, HEAD_OUT, ATTN_OUT, RESID_MID, MLP_NEURONS, MLP_OUT, RESID_POST)}
"""The sites of the shipped batteries, by name, in the order in which a block comes to them."""
COMMON = (HEAD_OUT, MLP_OUT, RESID_POST)
"""Those that are tried in any model; the others are where a run acts at them, and some families have not all of them."""
