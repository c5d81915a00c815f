"""Interventions and variants: one change at one place, and a run with such changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tinylab.errors import ConfigError
from tinylab.interventions.components import Component
from tinylab.interventions.operations import Operation
from tinylab.interventions.sites import HEAD_OUT, UNIT, Site
from tinylab.interventions.sources import Own, RunName, Source


@dataclass(frozen=True)
class Named:
    """The tokens of a named part of each prompt (a span), or its first or last one."""

    name: str
    part: Literal["first", "last", "all"]

    def __str__(self) -> str:
        """Such as `subject.last`."""
        return f"{self.name}.{self.part}"


@dataclass(frozen=True)
class Each:
    """One position, in prompts that have it; the others stay as they are."""

    position: int


Positions = Literal["last", "all"] | tuple[int, ...] | Named | Each

Fork = tuple[int, int]
"""Where a variant leaves the unmodified run: the layer, and the order of the site in its block."""


@dataclass(frozen=True)
class Intervention:
    """One change at one place: a site of a layer, one unit of it (`head`, whatever its units are) or all, and the operation."""

    site: Site
    layer: int
    operation: Operation
    head: int | None = None

    def __post_init__(self) -> None:
        """What engines cannot carry out is an error here, before anything runs.

        Raises:
            ConfigError: the operation is none, or the site has no units.
        """
        if not isinstance(self.operation, Operation):
            raise ConfigError(f"{self.operation!r} at {self.site}: not an operation; expected an instance of a subclass of "
                              "tinylab.interventions.operations.Operation, such as Scale(0.0) or Patch().")
        if self.head is not None and self.site.units == "whole":
            raise ConfigError(f"head {self.head} of {self.site}: this site is not cut into heads; leave the head out.")
        if self.operation.needs_bias and (self.site.units != "heads" or self.site.order != HEAD_OUT.order):
            raise ConfigError(f"{self.operation}: heads alone have a value bias that can be kept, not {self.site}.")

    @property
    def component(self) -> Component:
        """What it acts on."""
        return Component(self.site.name, self.layer, self.head, UNIT[self.site.units])


@dataclass(frozen=True)
class Variant:
    """A run with interventions: usually one, several for pairs; they share target run, source and positions.

    One that is `apart` is never computed in one pass with others: theirs stay the numbers that they are without it, bit for bit.
    """

    interventions: tuple[Intervention, ...]
    target: RunName
    source: Source | None = None
    positions: Positions = "all"
    apart: bool = False

    def __post_init__(self) -> None:
        """An operation that needs a source gets one.

        Raises:
            ConfigError: it does not, or there is no intervention.
        """
        if not self.interventions:
            raise ConfigError("a variant without interventions: expected at least one.")
        if self.source is None and (needy := [i.operation for i in self.interventions if i.operation.needs_source]):
            raise ConfigError(f"{needy[0]}: needs a source, got none; give the variant one, such as Own('clean').")

    @property
    def fork(self) -> Fork:
        """Where it first differs from the unmodified run."""
        return min((i.layer, i.site.order) for i in self.interventions)

    def sham(self) -> Variant | None:
        """The same interventions so that they change nothing (`Operation.sham`), apart; None where an operation declares none.

        The source, if there is one, is the target run itself.
        """
        shams = [(i, i.operation.sham()) for i in self.interventions]
        same = tuple(replace(i, operation=operation) for i, operation in shams if operation is not None)
        source = None if self.source is None else Own(self.target)
        return replace(self, interventions=same, source=source, apart=True) if len(same) == len(shams) else None


def indices(
    positions: Positions, length: int, spans: Sequence[tuple[str, tuple[int, ...]]] = (), following: int = 0
) -> list[int]:
    """The token positions of a prompt that are meant, ascending; `all` includes those of an answer after it.

    Args:
        positions: which.
        length: of the prompt, in tokens.
        spans: its named parts.
        following: tokens of an answer after it.
    """
    if positions == "all":
        return list(range(length + following))
    if positions == "last":
        return [length - 1]
    if isinstance(positions, Each):
        return [positions.position] if positions.position < length else []
    if isinstance(positions, Named):
        found = dict(spans)[positions.name]
        return list({"all": found, "first": found[:1], "last": found[-1:]}[positions.part])
    return sorted(positions)
