"""H2, activation_patch: run one prompt of a pair with an activation of the other.

clean->corrupt (denoising) asks what is sufficient to restore the task, corrupt->clean (noising) what is
necessary for it: different questions with different answers (Heimersheim & Nanda 2404.15255). Positions are
part of the claim: at the last position only what has already moved there can matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tinylab.batteries.base import Battery, Cell, Key, chosen
from tinylab.batteries.positions import EACH, check_positions, meant_positions
from tinylab.config.checks import distinct, one_of
from tinylab.errors import ConfigError
from tinylab.interventions.components import HEAD_IMPACT, HEAD_POSITION_IMPACT, LAYER_IMPACT, POSITION_IMPACT, TableKind
from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant

SITE_OF: dict[str, Site] = {"layer_resid": RESID_POST, "mlp_out": MLP_OUT, "head_out": HEAD_OUT}
"""The site that each granularity means."""
DIRECTIONS: dict[str, tuple[RunName, RunName]] = {"clean->corrupt": ("clean", "corrupt"), "corrupt->clean": ("corrupt", "clean")}


@dataclass(kw_only=True)
class ActivationPatch(Battery):
    """Every chosen layer, patched at the chosen positions.

    `head_out` patches all heads of the layer together, with `per_head` each of them alone.
    """

    granularity: str = "layer_resid"
    patch_direction: str = "clean->corrupt"
    positions: Any = None
    layers: list[int] | None = None
    per_head: bool = False
    sham_control: bool = False

    kind: ClassVar[str] = "activation_patch"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("battery.granularity", self.granularity, tuple(SITE_OF))
        one_of("battery.patch_direction", self.patch_direction, tuple(DIRECTIONS))
        distinct("battery.layers", self.layers)
        if self.per_head and self.granularity != "head_out":
            raise ConfigError(f"battery.per_head=true with battery.granularity={self.granularity}: only attention has heads; "
                              "use battery.granularity=head_out, or battery.per_head=false.")
        self._check_positions()

    def _check_positions(self) -> None:
        check_positions(self.positions)
        if self.positions == "all" and self.granularity == "layer_resid":
            raise ConfigError(
                "battery.positions=all with battery.granularity=layer_resid turns the target run into the source run, so "
                "every layer would return the same number; use positions=last, a list, or another granularity."
            )

    @property
    def table(self) -> TableKind:
        """Heads that are patched alone have a table like H1's; positions have tables of their own."""
        if self.each:
            return HEAD_POSITION_IMPACT if self.per_head else POSITION_IMPACT
        return HEAD_IMPACT if self.per_head else LAYER_IMPACT

    @property
    def each(self) -> bool:
        """Whether every position is patched by itself."""
        return bool(self.positions == EACH)

    @property
    def source(self) -> Own:
        """The run that activations come from."""
        return Own(DIRECTIONS[self.patch_direction][0])

    @property
    def target(self) -> RunName:
        """The run that is patched."""
        return DIRECTIONS[self.patch_direction][1]

    @property
    def acts_at(self) -> Positions:
        """The patched positions; a list is patched jointly."""
        return meant_positions(self.positions)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """One cell per layer, or per head; with `sham_control` one more in which the target run is its own source.

        In a table of heads `scale` is 1: the whole activation is replaced. A table of positions has none.
        """
        site = SITE_OF[self.granularity]
        heads: list[int | None] = [*range(n_heads)] if self.per_head else [None]
        shams = [("sham", Own(self.target))] if self.sham_control else []
        return [
            Cell(
                Variant((Intervention(site, layer, Patch(), head),), self.target, source, self.acts_at),
                self._key(layer, head),
                control,
            )
            for control, source in [("none", self.source), *shams]
            for layer in chosen("battery.layers", self.layers, n_layers)
            for head in heads
        ]

    def _key(self, layer: int, head: int | None) -> Key:
        unit: Key = {"granularity": self.granularity} if head is None else {"head": head}
        last: Key = {"position": 0} if self.each else {} if head is None else {"scale": 1.0}
        return {"layer": layer, **unit, **last}

    def describe(self) -> str:
        """Such as `h2, layer_resid clean->corrupt at last`."""
        one = " of one head" if self.per_head else ""
        words = f"{self.name}, {self.granularity}{one} {self.patch_direction} at {self.positions}{' position' * self.each}"
        return words if self.layers is None else f"{words}, layers {self.layers}"

    def check_prompts(self, lengths: Sequence[tuple[int, int]]) -> None:
        """As every battery, and no patch of the whole residual stream covers all of every prompt.

        Raises:
            ConfigError: a position is behind the end of a prompt, or all are patched.
        """
        super().check_prompts(lengths)
        if self.granularity != "layer_resid" or not isinstance(self.acts_at, tuple):
            return
        if all(set(range(clean)) <= set(self.acts_at) for clean, _ in lengths):
            raise ConfigError(f"battery.positions={list(self.acts_at)} covers every token of every prompt: with layer_resid that "
                              "turns the target run into the source run, every layer would return the same number; leave "
                              "positions out.")
