"""Pairs, heads_pair_zero: multiply two heads at once by a scale, and see whether they do more, or less, than each alone.

The synergy of two heads is their joint effect minus the sum of their single ones (`tinylab.effects.synergy`). It is 0 where they
add up. Where each repairs the loss of the other (OR), both lose more than the singles say (McGrath et al. 2307.15771); where both
are needed (AND), the second loses nothing more. So each head is also scaled alone in the same run, in cells of control `single`.
With `site` the two are MLPs, or another part of whole layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, ClassVar

from tinylab.batteries.activation_patch import ALSO, SITE_OF
from tinylab.batteries.base import SINGLE, Battery, Cell, Key, OfRun
from tinylab.batteries.named_heads import Head, head_names, heads_of_model, name_of, numbers_among
from tinylab.batteries.named_layers import check_joint_site, layer_numbers, layers_of_model
from tinylab.batteries.positions import EACH, check_positions, meant_positions
from tinylab.config.checks import at_least, distinct
from tinylab.errors import ConfigError
from tinylab.interventions.components import LAYER_PAIR_IMPACT, PAIR_IMPACT, TableKind
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Positions, Variant

STRONGEST = 10
Member = Head | tuple[int, None]
"""One of a pair: a head, or a layer."""


@dataclass(kw_only=True)
class HeadsPairZero(Battery):
    """Every two of the chosen heads, or of the chosen layers' MLPs, times every scale, at chosen positions of the clean run."""

    site: str = HEAD_OUT.name
    heads: Any = None
    layers: Any = None
    from_run: str | None = None
    k: int = STRONGEST
    scales: list[float] = field(default_factory=lambda: [0.0])
    keep_value_bias: bool = False
    positions: Any = "all"

    kind: ClassVar[str] = "heads_pair_zero"
    target: ClassVar[RunName] = "clean"
    spelt: ClassVar[dict[str, str]] = {"from": "from_run"}

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("battery.scales", self.scales)
        at_least("battery.k", self.k, 2)
        check_joint_site(self.site, self.keep_value_bias)
        self.site = ALSO.get(self.site, self.site)
        check_positions(self.positions)
        if self.positions == EACH:
            raise ConfigError(f"battery.positions=each with battery={self.name}: the table of pairs has no column for "
                              "positions; sweep over them with -m battery.positions=[0],[1].")
        self._check_chosen()
        self._numbers = [] if self.heads is None else numbers_among(self.heads)
        if self.heads is not None:
            self.heads = head_names("battery.heads", self.heads, 2)
        if self.layers is not None:
            self.layers = layer_numbers("battery.layers", self.layers, 2, self.site)

    def _check_chosen(self) -> None:
        """Check that members are chosen in one of the two ways, and that they are those of the site."""
        own, other = ("heads", "layers") if self.of_heads else ("layers", "heads")
        if getattr(self, other) is not None:
            site = f"battery.site=mlp_out, or {HEAD_OUT} with battery.heads" if self.of_heads else f"battery.site={HEAD_OUT}"
            raise ConfigError(f"battery.{other}={getattr(self, other)} with battery.site={self.site}, whose members are {own}; "
                              f"use battery.{own}, or {site}.")
        named = getattr(self, own)
        if (named is None) == (self.from_run is None):
            got = "neither" if named is None else f"battery.{own}={named} and battery.from={self.from_run}"
            such = "battery.heads=['0.2','1.4']" if self.of_heads else "battery.layers=[13,14]"
            raise ConfigError(f"battery={self.name}: expected either battery.{own}=…, such as \"{such}\", "
                              f"or battery.from=… with a finished run's folder or id; got {got}.")
        if named is not None and self.k != STRONGEST:
            raise ConfigError(f"battery.k={self.k} with battery.{own}={named}: k is how many {own} battery.from takes; "
                              "leave one of them out.")

    @property
    def of_heads(self) -> bool:
        """Whether pairs are of heads, not of a part of each of two layers."""
        return self.site == HEAD_OUT.name

    @property
    def table(self) -> TableKind:
        """Pairs of layers have a table that says of which part of them."""
        return PAIR_IMPACT if self.of_heads else LAYER_PAIR_IMPACT

    @property
    def acts_at(self) -> Positions:
        """The positions at which both are scaled, and each alone."""
        return meant_positions(self.positions)

    @property
    def of_run(self) -> OfRun | None:
        """The k strongest heads or layers of a finished run, where that is asked for."""
        if self.from_run is None:
            return None
        component = ("layer", "head") if self.of_heads else ("layer",)
        return OfRun("battery.from", self.from_run, component, self.k, None if self.of_heads else self.site)

    def with_components(self, components: Sequence[tuple[int, ...]]) -> HeadsPairZero:
        """The same pairs as where their heads or layers are named."""
        if not self.of_heads:
            return replace(self, layers=[layer for (layer,) in components], from_run=None, k=STRONGEST)
        return replace(self, heads=[name_of((layer, head)) for layer, head in components], from_run=None, k=STRONGEST)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per pair and scale; behind them each member alone, under the key of a pair with itself."""
        members = self._members(n_layers, n_heads)
        pairs = [self._cell(pair, scale) for pair in combinations(members, 2) for scale in self.scales]
        return [*pairs, *(self._cell((one, one), scale) for one in members for scale in self.scales)]

    def _members(self, n_layers: int, n_heads: int) -> Sequence[Member]:
        assert self.heads is not None or self.layers is not None, "tinylab.records.identity.resolve has filled them in"
        if self.of_heads:
            return heads_of_model("battery.heads", self.heads, self._numbers, n_layers, n_heads)
        return [(layer, None) for layer in layers_of_model("battery.layers", self.layers, n_layers)]

    def _cell(self, pair: tuple[Member, Member], scale: float) -> Cell:
        operation, site = Scale(scale, self.keep_value_bias), SITE_OF[self.site]
        acts = tuple(Intervention(site, layer, operation, head) for layer, head in dict.fromkeys(pair))
        numbers = [number for member in pair for number in member if number is not None]
        part: Key = {} if self.of_heads else {"granularity": self.site}
        key: Key = {**dict(zip(self.table.component, numbers, strict=True)), **part, "scale": scale}
        return Cell(Variant(acts, self.target, None, self.acts_at), key, "none" if len(acts) > 1 else SINGLE)

    def describe(self) -> str:
        """Such as `pairs, head × 0, heads 0.0 0.1 1.4`."""
        what, named = ("heads", self.heads) if self.of_heads else ("layers", self.layers)
        chosen = f"the {self.k} strongest of {self.from_run}" if named is None else f"{what} {' '.join(map(str, named))}"
        words = [self.name, f"{'head' if self.of_heads else self.site} × {', '.join(f'{scale:g}' for scale in self.scales)}"]
        words += ["value bias kept"] if self.keep_value_bias else []
        words += [f"at {self.positions}"] if self.positions != "all" else []
        return ", ".join([*words, chosen])
