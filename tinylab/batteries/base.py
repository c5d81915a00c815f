"""What a battery is: a config node with types, checks, and the list of its cells.

A battery is one dataclass in a file of this folder and one YAML in `conf/battery/` whose `_target_` names it:
the YAML is the registry. The loop over cells, prompts, metrics and tables exists once, elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from tinylab.errors import ConfigError
from tinylab.interventions.variants import Positions, Run, Variant

Key = dict[str, int | float | str]


@dataclass(frozen=True)
class Cell:
    """One cell of a battery: a variant, and what identifies it in the impact table."""

    variant: Variant
    key: Key
    control: str = "none"


@runtime_checkable
class Battery(Protocol):
    """Which interventions to make."""

    metrics: ClassVar[tuple[str, ...]]
    """The metrics that make sense for it."""
    name: str

    @property
    def table(self) -> str:
        """`head_impact` or `layer_impact`."""
        ...

    @property
    def target(self) -> Run:
        """The run that is intervened on; its unmodified form is every cell's baseline."""
        ...

    @property
    def source(self) -> Run | None:
        """The run that activations come from, if any."""
        ...

    @property
    def acts_at(self) -> Positions:
        """The token positions at which it acts."""
        ...

    @property
    def aligned(self) -> bool:
        """Whether the positions of both prompts must align, so that pairs of unequal length cannot be used."""
        ...

    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """Every cell, in table order.

        Raises:
            ConfigError: a layer or head that the model does not have.
        """
        ...


def chosen(key: str, wanted: Sequence[int] | None, available: int) -> list[int]:
    """The layers or heads to use, sorted.

    Args:
        key: the config key, for the message.
        wanted: the chosen ones, None for all.
        available: how many the model has.

    Raises:
        ConfigError: one is out of range.
    """
    for index in wanted or []:
        if not 0 <= index < available:
            raise ConfigError(f"{key}={list(wanted or [])}: {index} is out of range, this model has 0 to {available - 1}.")
    return sorted(wanted) if wanted is not None else list(range(available))
