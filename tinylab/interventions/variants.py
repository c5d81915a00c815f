"""What an intervention is: plain data, shared by both engines and the batteries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinylab.interventions.operations import Operation, Patch, Scale
from tinylab.interventions.sites import SITES, Site

Run = Literal["clean", "corrupt"]
Positions = Literal["last", "all"] | tuple[int, ...]


@dataclass(frozen=True)
class Intervention:
    """One change at one place: a site of a layer, one head or the whole site, and the operation."""

    site: Site
    layer: int
    operation: Operation
    head: int | None = None

    def __post_init__(self) -> None:
        """Heads alone have a value bias."""
        if self.keeps_bias and self.site != "head_out":
            raise ValueError(f"a value bias can be kept at head_out, not at {self.site}")

    @property
    def keeps_bias(self) -> bool:
        """Whether the value bias stays as it is."""
        return isinstance(self.operation, Scale) and self.operation.keep_bias


@dataclass(frozen=True)
class Variant:
    """A run with interventions: usually one, several for pairs; they share target run, source run and positions."""

    interventions: tuple[Intervention, ...]
    target: Run
    source: Run | None = None
    positions: Positions = "all"

    def __post_init__(self) -> None:
        """A patch needs a source."""
        if not self.interventions:
            raise ValueError("a variant needs at least one intervention")
        if self.source is None and any(isinstance(i.operation, Patch) for i in self.interventions):
            raise ValueError("a variant with a Patch needs a source run")


def indices(positions: Positions, length: int) -> list[int]:
    """The token positions of a prompt of `length` tokens that are meant."""
    if positions == "all":
        return list(range(length))
    if positions == "last":
        return [length - 1]
    return list(positions)


Fork = tuple[int, int]
"""Where a variant leaves the unmodified run: the layer, and the number of the site in `SITES`."""


def fork_of(variant: Variant) -> Fork:
    """Where a variant first differs from the unmodified run."""
    return min((i.layer, SITES.index(i.site)) for i in variant.interventions)
