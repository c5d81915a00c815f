"""H2, activation_patch: run one prompt of a pair with an activation of the other.

clean->corrupt (denoising) asks what is sufficient to restore the task, corrupt->clean (noising) what is
necessary for it: different questions with different answers (Heimersheim & Nanda 2404.15255). Positions are
part of the claim: at the last position only what has already moved there can matter. So is the place: `granularity` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tinylab.batteries.base import Battery, Cell, Key, Screen, chosen
from tinylab.batteries.neurons import check_neurons, described, neurons_of, screen_of
from tinylab.batteries.positions import EACH, check_positions, meant_positions
from tinylab.config.checks import distinct, one_of
from tinylab.errors import ConfigError
from tinylab.interventions.components import (
    HEAD_IMPACT,
    HEAD_POSITION_IMPACT,
    LAYER_IMPACT,
    NEURON_IMPACT,
    POSITION_IMPACT,
    TableKind,
)
from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import MLP_NEURONS, RESID_POST, SITES, UNIT, Site, Sizes
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant

SITE_OF: dict[str, Site] = {"layer_resid": RESID_POST, **{name: site for name, site in SITES.items() if site != RESID_POST}}
"""The site that each granularity means: by its own name, or as the block's output has always been called here."""
ALSO = {"resid_post": "layer_resid"}
"""Other names of these: the block's output as the field calls it. Settings and tables have the one here."""
STREAM = ("layer_resid", "resid_pre", "resid_mid")
"""Granularities that are all that a later block gets."""
PER_HEAD = tuple(name for name, site in SITE_OF.items() if site.units.endswith("heads"))
DIRECTIONS: dict[str, tuple[RunName, RunName]] = {"clean->corrupt": ("clean", "corrupt"), "corrupt->clean": ("corrupt", "clean")}
CALLED = {"denoising": "clean->corrupt", "noising": "corrupt->clean"}
"""Other names of the directions, which a shell leaves alone: settings, tables and titles have the arrow."""


@dataclass(kw_only=True)
class ActivationPatch(Battery):
    """Every chosen layer, patched at the chosen positions.

    `head_out`, `q`, `k` and `v` patch all heads of the layer together, with `per_head` each of them alone: of keys and values
    each key-value head. Of `mlp_neurons` each of `neurons` is patched alone, or of each layer the `top_neurons` of a screen.
    """

    granularity: str = "layer_resid"
    patch_direction: str = "clean->corrupt"
    positions: Any = None
    layers: list[int] | None = None
    per_head: bool = False
    sham_control: bool = False
    neurons: list[int] | None = None
    top_neurons: int | None = None

    kind: ClassVar[str] = "activation_patch"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("battery.granularity", self.granularity, (*SITE_OF, *ALSO))
        self.granularity = ALSO.get(self.granularity, self.granularity)
        self.patch_direction = CALLED.get(self.patch_direction, self.patch_direction)
        one_of("battery.patch_direction", self.patch_direction, (*DIRECTIONS, *CALLED))
        distinct("battery.layers", self.layers)
        if self.per_head and self.granularity not in PER_HEAD:
            raise ConfigError(f"battery.per_head=true with battery.granularity={self.granularity}: only attention has heads; "
                              "use battery.granularity=head_out, q, k or v, or battery.per_head=false.")
        check_neurons("battery.granularity", self.granularity, self.neurons, self.top_neurons, each=self.each)
        self._check_positions()

    def _check_positions(self) -> None:
        check_positions(self.positions)
        if self.positions == "all" and self.granularity in STREAM:
            raise ConfigError(
                f"battery.positions=all with battery.granularity={self.granularity} turns the target run into the source run, so "
                "every layer would return the same number; use positions=last, a list, or another granularity."
            )

    @property
    def table(self) -> TableKind:
        """Heads that are patched alone have a table like H1's; neurons and positions have tables of their own."""
        if self.granularity == MLP_NEURONS.name:
            return NEURON_IMPACT
        if self.each:
            return HEAD_POSITION_IMPACT if self.per_head else POSITION_IMPACT
        return HEAD_IMPACT if self.per_head else LAYER_IMPACT

    @property
    def each(self) -> bool:
        """Whether every position is patched by itself."""
        return bool(self.positions == EACH)

    @property
    def screen(self) -> Screen | None:
        """What finds the neurons of each layer, where they are not named."""
        return screen_of(self.top_neurons)

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
        """Its cells in a model whose key-value heads are as many as its query heads."""
        return ActivationPatch.cells_of(self, Sizes(n_layers, n_heads))

    def cells_of(self, sizes: Sizes) -> list[Cell]:
        """One cell per layer, head or neuron; with `sham_control` one more in which the target run is its own source.

        In a table of heads `scale` is 1: the whole activation is replaced. A table of positions has none.
        """
        site = SITE_OF[self.granularity]
        shams = [("sham", Own(self.target))] if self.sham_control else []
        return [
            Cell(
                Variant((Intervention(site, layer, Patch(), unit),), self.target, source, self.acts_at),
                {"layer": layer, **self._key(unit)},
                control,
            )
            for control, source in [("none", self.source), *shams]
            for layer in chosen("battery.layers", self.layers, sizes.n_layers)
            for unit in self._units(sizes, site, layer)
        ]

    def _units(self, sizes: Sizes, site: Site, layer: int) -> list[int | None]:
        """The units of a layer that are patched alone, None for all together."""
        if site != MLP_NEURONS:
            return [*range(sizes.heads(site))] if self.per_head else [None]
        return [*neurons_of(layer, sizes, self.neurons, self.top_neurons)]

    def _key(self, unit: int | None) -> Key:
        if self.granularity == MLP_NEURONS.name and unit is not None:
            return {"neuron": unit}
        part: Key = {"granularity": self.granularity} if unit is None else {"head": unit}
        last: Key = {"position": 0} if self.each else {} if unit is None else {"scale": 1.0}
        return {**part, **last}

    def describe(self) -> str:
        """Such as `h2, layer_resid clean->corrupt at last`."""
        alone = self.per_head or self.granularity == MLP_NEURONS.name
        one = f" of one {UNIT[SITE_OF[self.granularity].units]}" if alone else ""
        words = [f"{self.name}, {self.granularity}{one} {self.patch_direction} at {self.positions}{' position' * self.each}"]
        words += [] if self.layers is None else [f"layers {self.layers}"]
        return ", ".join([*words, *described(self.neurons, self.top_neurons)])

    def check_prompts(self, lengths: Sequence[tuple[int, int]]) -> None:
        """As every battery, and no patch of the whole residual stream covers all of every prompt.

        Raises:
            ConfigError: a position is behind the end of a prompt, or all are patched.
        """
        super().check_prompts(lengths)
        if self.granularity not in STREAM or not isinstance(self.acts_at, tuple):
            return
        if all(set(range(clean)) <= set(self.acts_at) for clean, _ in lengths):
            raise ConfigError(f"battery.positions={list(self.acts_at)} covers every token of every prompt: with "
                              f"{self.granularity} that turns the target run into the source run, every layer would return the "
                              "same number; leave positions out.")
