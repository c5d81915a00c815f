"""Ablation: change one component's activation in the clean run, and see what the task loses.

What stands in its place is part of the claim (Miller et al. 2407.08734): nothing (zero), what is there on average (mean), what is
there in another example (resample), itself and noise, itself and a direction (steering). Other components may repair the damage,
so a small effect is a lower bound (McGrath et al. 2307.15771).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinylab.batteries.activation_patch import ALSO, SITE_OF
from tinylab.batteries.base import Battery, Cell, Key, Screen, chosen
from tinylab.batteries.neurons import check_neurons, described, neurons_of, screen_of
from tinylab.batteries.positions import EACH, check_positions, meant_positions
from tinylab.batteries.vectors import read_vector
from tinylab.config.checks import at_least, distinct, one_of
from tinylab.errors import ConfigError
from tinylab.interventions.components import (
    HEAD_IMPACT,
    HEAD_POSITION_IMPACT,
    LAYER_IMPACT,
    NEURON_IMPACT,
    POSITION_IMPACT,
    TableKind,
)
from tinylab.interventions.operations import Add, Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_NEURONS, UNIT, K, Q, Site, Sizes, V
from tinylab.interventions.sources import Difference, Donor, Mean, Noise, ReferenceRule, RunName, Source
from tinylab.interventions.variants import Intervention, Positions, Variant

USES = {
    "zero": ("scales", "keep_value_bias"),
    "mean": ("reference", "over", "mean_by"),
    "resample": ("donors",),
    "noise": ("sigma", "reference", "over"),
    "vector": ("vector", "alpha", "reference"),
}
"""What can stand in an activation's place, and the settings that each has."""
SAME = {"scale": "zero"}
"""Another name of the same thing."""
HEADS = tuple(site.name for site in (HEAD_OUT, Q, K, V))
"""The sites that are cut into heads."""


@dataclass(kw_only=True)
class Ablation(Battery):
    """Every chosen head, neuron, MLP or block of the clean run, ablated at the chosen positions."""

    site: str = "head_out"
    ablation: str = "zero"
    scales: list[float] = field(default_factory=lambda: [0.0])
    keep_value_bias: bool = False
    reference: Any = "condition"
    over: str = "clean"
    mean_by: str = "all"
    donors: int = 1
    sigma: float = 3.0
    vector: str | None = None
    alpha: float = 1.0
    positions: Any = "all"
    layers: list[int] | None = None
    heads: list[int] | None = None
    neurons: list[int] | None = None
    top_neurons: int | None = None

    kind: ClassVar[str] = "ablation"
    target: ClassVar[RunName] = "clean"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("battery.site", self.site, (*SITE_OF, *ALSO))
        self.site = ALSO.get(self.site, self.site)
        one_of("battery.ablation", self.ablation, (*USES, *SAME))
        self.ablation = SAME.get(self.ablation, self.ablation)
        for name in ("scales", "layers", "heads"):
            distinct(f"battery.{name}", getattr(self, name))
        one_of("battery.over", self.over, ("clean", "corrupt", "both"))
        one_of("battery.mean_by", self.mean_by, ("all", "position"))
        at_least("battery.donors", self.donors, 1)
        self._check_used()

    def _check_used(self) -> None:
        """Refuse a setting that this ablation does not look at."""
        if self.vector is not None and self.reference != "condition":
            raise ConfigError(f"battery.reference={self.reference} with battery.vector={self.vector}: a file's vector does "
                              "not use a reference set; leave one of them out.")
        own = USES[self.ablation]
        for name in dict.fromkeys(name for names in USES.values() for name in names):
            if name not in own and name in self.unlike_default():
                with_it = [value for value, names in USES.items() if name in names]
                raise ConfigError(f"battery.{name}={getattr(self, name)} with battery.ablation={self.ablation}, which does not "
                                  f"use it; leave it out, or choose battery.ablation={' or '.join(with_it)}.")
        if not isinstance(self.reference, str) or not self.reference.strip():
            raise ConfigError(f"battery.reference={self.reference}: expected condition (all pairs of the corpus), template "
                              "(those of the example's template), or the name of another condition.")
        if self.ablation in ("noise", "vector") and self.reference == "template":
            raise ConfigError(f"battery.reference=template with battery.ablation={self.ablation}: only means can be taken over "
                              "a template; use battery.reference=condition.")
        if self.sigma <= 0:
            raise ConfigError(f"battery.sigma={self.sigma}: expected a positive number of standard deviations.")
        if self.site not in HEADS and self.heads is not None:
            raise ConfigError(f"battery.heads={self.heads} with battery.site={self.site}: only attention has heads; leave it "
                              "out.")
        if self.keep_value_bias and self.site != HEAD_OUT.name:
            raise ConfigError(f"battery.keep_value_bias=true with battery.site={self.site}: only a head's output has a value "
                              f"bias that can be kept; use battery.site={HEAD_OUT}, or battery.keep_value_bias=false.")
        if self.site not in HEADS and len(self.scales) > 1:
            raise ConfigError(f"battery.scales={self.scales} with battery.site={self.site}: its table has no column for "
                              "scales; sweep over them with -m 'battery.scales=[0],[0.5]'.")
        check_positions(self.positions)
        check_neurons("battery.site", self.site, self.neurons, self.top_neurons, each=self.each)
        if self.each and len(self.scales) > 1:
            raise ConfigError(f"battery.scales={self.scales} with battery.positions=each: its table has no column for scales; "
                              "sweep over them with -m 'battery.scales=[0],[0.5]'.")

    @property
    def table(self) -> TableKind:
        """Heads have a table of their own, and so have neurons and positions."""
        if self.site == MLP_NEURONS.name:
            return NEURON_IMPACT
        if self.each:
            return HEAD_POSITION_IMPACT if self.site in HEADS else POSITION_IMPACT
        return HEAD_IMPACT if self.site in HEADS else LAYER_IMPACT

    @property
    def each(self) -> bool:
        """Whether every position is ablated by itself."""
        return bool(self.positions == EACH)

    @property
    def reference_set(self) -> ReferenceRule | None:
        """What means and deviations are taken over; of a difference of means, that of both runs."""
        if self.ablation not in ("mean", "noise") and not (self.ablation == "vector" and self.vector is None):
            return None
        return ReferenceRule(str(self.reference), self.over if self.ablation != "vector" else "both")

    @property
    def screen(self) -> Screen | None:
        """What finds the neurons of each layer, where they are not named."""
        return screen_of(self.top_neurons)

    @property
    def draws(self) -> int:
        """Of donors; noise is drawn once for each seed."""
        return self.donors

    @property
    def acts_at(self) -> Positions:
        """The ablated positions; a list is ablated jointly."""
        return meant_positions(self.positions)

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """Its cells in a model whose key-value heads are as many as its query heads."""
        return Ablation.cells_of(self, Sizes(n_layers, n_heads))

    def cells_of(self, sizes: Sizes) -> list[Cell]:
        """One cell per layer, head (of keys and values key-value head) or neuron, and scale.

        In a table of heads `scale` is what is left of the head's own output: 1 where something is added to it, 0 where something
        else stands in its place. A table of positions has none.
        """
        site = SITE_OF[self.site]
        return [
            Cell(
                Variant((Intervention(site, layer, operation, unit),), self.target, source, self.acts_at),
                self._key(layer, unit, left),
            )
            for layer in chosen("battery.layers", self.layers, sizes.n_layers)
            for unit in self._units(sizes, site, layer)
            for operation, source, left in self._operations()
        ]

    def _units(self, sizes: Sizes, site: Site, layer: int) -> list[int | None]:
        """The heads or neurons of a layer, each alone; None for the whole of a site."""
        if self.site in HEADS:
            return [*chosen("battery.heads", self.heads, sizes.heads(site))]
        return [*neurons_of(layer, sizes, self.neurons, self.top_neurons)] if site == MLP_NEURONS else [None]

    def _key(self, layer: int, unit: int | None, left: float) -> Key:
        if unit is None:
            part: Key = {"granularity": self.site}
        elif self.site == MLP_NEURONS.name:
            part = {"neuron": unit}
        else:
            part = {"head": unit} if self.each else {"head": unit, "scale": left}
        return {"layer": layer, **part, **({"position": 0} if self.each else {})}

    def _operations(self) -> list[tuple[Operation, Source | None, float]]:
        """The operations, their source, and what they leave of the activation itself."""
        if self.ablation == "zero":
            return [(Scale(scale, self.keep_value_bias), None, scale) for scale in self.scales]
        if self.ablation == "mean":
            return [(Patch(), Mean(by_position=self.mean_by == "position"), 0.0)]
        if self.ablation == "resample":
            return [(Patch(), Donor(), 0.0)]
        if self.ablation == "noise":
            return [(Add(), Noise(self.sigma), 1.0)]
        return [(Add(self.alpha), Difference() if self.vector is None else read_vector(self.vector), 1.0)]

    def unlike_default(self) -> dict[str, Any]:
        """As of every battery, with a vector's digest in place of its path: the file may lie anywhere."""
        found = super().unlike_default()
        if self.vector is not None:
            found["vector"] = read_vector(self.vector).digest
        return found

    def describe(self) -> str:
        """Such as `h1, head × 0, 0.5, value bias kept` or `heads, head ← mean of clean prompts of the condition`."""
        unit = UNIT[MLP_NEURONS.units] if self.site == MLP_NEURONS.name else self.site
        if self.site in HEADS:
            unit = "head" if self.site == HEAD_OUT.name else f"{self.site} of {UNIT[SITE_OF[self.site].units]}"
        words = [self.name, f"{unit} {self._described()}"]
        words += ["value bias kept"] if self.keep_value_bias else []
        words += [f"at {self.positions}{' position' * self.each}"] if self.positions != "all" else []
        words += [f"{what} {chosen}" for what, chosen in (("layers", self.layers), ("heads", self.heads)) if chosen is not None]
        return ", ".join([*words, *described(self.neurons, self.top_neurons)])

    def _described(self) -> str:
        if self.ablation == "zero":
            return f"× {', '.join(f'{scale:g}' for scale in self.scales)}"
        rule = self.reference_set
        if self.ablation == "mean" and rule is not None:
            return f"← mean of {rule.describe()}{' by position' if self.mean_by == 'position' else ''}"
        if self.ablation == "resample":
            return f"← {self.donors} other example{'s' * (self.donors > 1)}"
        if self.ablation == "noise" and rule is not None:
            return f"+ noise of {self.sigma:g} standard deviations over {rule.describe()}"
        where = f" of {rule.of}" if rule is not None and rule.elsewhere is not None else ""
        what = f"clean mean − corrupt mean{where}" if self.vector is None else f"vector {read_vector(self.vector).digest[:12]}"
        return f"+ {self.alpha:g} × ({what})"
