"""Pairs, heads_pair_zero: multiply two heads at once by a scale, and see whether they do more, or less, than each alone.

The synergy of two heads is their joint effect minus the sum of their single ones (`tinylab.effects.synergy`). It is 0 where they
add up. Where each repairs the loss of the other (OR), both lose more than the singles say (McGrath et al. 2307.15771); where both
are needed (AND), the second loses nothing more. So each head is also scaled alone in the same run, in cells of control `single`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, ClassVar

from tinylab.batteries.base import SINGLE, Battery, Cell, Key, OfRun
from tinylab.batteries.named_heads import Head, head_names, heads_of_model, name_of, numbers_among
from tinylab.config.checks import at_least, distinct
from tinylab.errors import ConfigError
from tinylab.interventions.components import PAIR_IMPACT, TableKind
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Variant

STRONGEST = 10


@dataclass(kw_only=True)
class HeadsPairZero(Battery):
    """Every two of the chosen heads times every scale, at every position of the clean run."""

    heads: Any = None
    from_run: str | None = None
    k: int = STRONGEST
    scales: list[float] = field(default_factory=lambda: [0.0])
    keep_value_bias: bool = False

    kind: ClassVar[str] = "heads_pair_zero"
    table: ClassVar[TableKind] = PAIR_IMPACT
    target: ClassVar[RunName] = "clean"
    spelt: ClassVar[dict[str, str]] = {"from": "from_run"}

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("battery.scales", self.scales)
        at_least("battery.k", self.k, 2)
        if (self.heads is None) == (self.from_run is None):
            got = "neither" if self.heads is None else f"battery.heads={self.heads} and battery.from={self.from_run}"
            raise ConfigError(f"battery={self.name}: expected either battery.heads=…, such as \"battery.heads=['0.2','1.4']\", "
                              f"or battery.from=… with a finished run's folder or id; got {got}.")
        if self.heads is not None and self.k != STRONGEST:
            raise ConfigError(f"battery.k={self.k} with battery.heads={self.heads}: k is how many heads battery.from takes; "
                              "leave one of them out.")
        self._numbers = [] if self.heads is None else numbers_among(self.heads)
        if self.heads is not None:
            self.heads = head_names("battery.heads", self.heads, 2)

    @property
    def of_run(self) -> OfRun | None:
        """The k strongest heads of a finished run, where that is asked for."""
        return None if self.from_run is None else OfRun("battery.from", self.from_run, ("layer", "head"), self.k)

    def with_components(self, components: Sequence[tuple[int, ...]]) -> HeadsPairZero:
        """The same pairs as where their heads are named."""
        return replace(self, heads=[name_of((layer, head)) for layer, head in components], from_run=None, k=STRONGEST)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per pair and scale; behind them each head alone, under the key of a pair with itself."""
        assert self.heads is not None, "tinylab.records.identity.resolve has filled them in"
        heads = heads_of_model("battery.heads", self.heads, self._numbers, n_layers, n_heads)
        pairs = [self._cell(pair, scale) for pair in combinations(heads, 2) for scale in self.scales]
        return [*pairs, *(self._cell((head, head), scale) for head in heads for scale in self.scales)]

    def _cell(self, pair: tuple[Head, Head], scale: float) -> Cell:
        operation = Scale(scale, self.keep_value_bias)
        acts = tuple(Intervention(HEAD_OUT, layer, operation, head) for layer, head in dict.fromkeys(pair))
        (layer1, head1), (layer2, head2) = pair
        key: Key = {"layer1": layer1, "head1": head1, "layer2": layer2, "head2": head2, "scale": scale}
        return Cell(Variant(acts, self.target), key, "none" if len(acts) > 1 else SINGLE)

    def describe(self) -> str:
        """Such as `pairs, head × 0, heads 0.0 0.1 1.4`."""
        chosen = f"the {self.k} strongest of {self.from_run}" if self.heads is None else f"heads {' '.join(self.heads)}"
        words = [self.name, f"head × {', '.join(f'{scale:g}' for scale in self.scales)}"]
        return ", ".join([*words, *(["value bias kept"] if self.keep_value_bias else []), chosen])
