"""What a battery is: a config node with types, checks, and the list of its cells.

A battery is one dataclass in a file (of this folder or of your own module) and one YAML whose `_target_` names it: the YAML is
the registry. It says only which interventions to make, and which kind of table lists them. The loop over cells, prompts,
metrics and tables exists once, elsewhere, and reads nothing of a battery but what is declared here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar

from tinylab.errors import ConfigError
from tinylab.interventions.components import TableKind
from tinylab.interventions.sites import Sizes
from tinylab.interventions.sources import Own, ReferenceRule, RunName
from tinylab.interventions.variants import Named, Positions, Variant

Key = dict[str, int | float | str]
SINGLE = "single"
"""The control of a cell that changes a part of a joint cell alone: in `per_example` only, where synergy is made of it."""


@dataclass(frozen=True)
class Cell:
    """One cell of a battery: a variant, and what identifies it in the impact table.

    Where something of it is random, it is there once for each seed and draw.
    """

    variant: Variant
    key: Key
    control: str = "none"
    seed: int | None = None
    draw: int | None = None


@dataclass(frozen=True)
class OfRun:
    """The k strongest components of a finished run, as a battery asks for them."""

    key: str  # of the config, for messages
    run: str  # its folder or its run id
    component: tuple[str, ...]  # what a component of its table has to be
    k: int
    granularity: str | None = None  # and of which part of layers, where it is one of whole layers


@dataclass(frozen=True)
class Screen:
    """Of each layer the k units whose activation differs most between a pair's prompts: a battery still has to be given them.

    Its cells, of one intervention each, are listed by places in what will be found, 0 to k − 1, in place of the units.
    """

    key: str  # of the config, for messages
    column: str  # of a cell's key that has the unit
    k: int


@dataclass(kw_only=True)
class Battery(ABC):
    """Which interventions to make. What is declared here may be a class variable or a property of a battery."""

    name: str

    kind: ClassVar[str]
    """Its name in every run's identity, wherever the code is. Each class has its own."""
    spelt: ClassVar[dict[str, str]] = {}
    """Config keys that Python lets no field be called by, and the fields that they mean, such as from: from_run."""

    def __init_subclass__(cls, **more: Any) -> None:
        """A battery that lists its cells by `cells` is asked for those, whatever the battery lists that it extends."""
        super().__init_subclass__(**more)
        if "cells" in vars(cls) and "cells_of" not in vars(cls):
            cls.cells_of = Battery.cells_of  # type: ignore[method-assign]

    @property
    @abstractmethod
    def table(self) -> TableKind:
        """The kind of its impact table."""

    @property
    @abstractmethod
    def target(self) -> RunName:
        """The run that is intervened on; its unmodified form is every cell's baseline."""

    @property
    def source(self) -> Own | None:
        """The run of the pair that activations come from, if from one: effects are a part of the way to it."""
        return None

    @property
    def reference_set(self) -> ReferenceRule | None:
        """The reference set that its cells' sources are made of, if they are of one."""
        return None

    @property
    def draws(self) -> int:
        """How often each seed draws what is random in its cells' sources (`Donor`, `Noise`)."""
        return 1

    @property
    def acts_at(self) -> Positions:
        """The token positions at which it acts."""
        return "all"

    @property
    def of_run(self) -> OfRun | None:
        """The finished run whose components it still has to be given (`with_components`); None where it has its own."""
        return None

    def with_components(self, components: Sequence[tuple[int, ...]]) -> Battery:
        """The same battery of these components: what it is then, wherever they came from."""
        raise NotImplementedError(f"{type(self).__name__} asks for components (of_run), and takes none")

    @property
    def screen(self) -> Screen | None:
        """The screen that finds the units of its cells; None where it names them."""
        return None

    @property
    def each(self) -> bool:
        """Whether each of its cells, which act at position 0, is to be there once for every position of the prompts."""
        return False

    @property
    def aligned(self) -> bool:
        """Whether the positions of both prompts must align, so that pairs of unequal length cannot be used.

        Only `last` and named parts are each run's own; without a source there is only one run.
        """
        return self.source is not None and self.acts_at != "last" and not isinstance(self.acts_at, Named)

    @abstractmethod
    def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
        """Every cell, in table order.

        Raises:
            ConfigError: a layer or head that the model does not have.
        """

    def cells_of(self, sizes: Sizes) -> list[Cell]:
        """Every cell for a model of these sizes; batteries at other units than query heads list theirs here.

        Raises:
            ConfigError: a layer, head or neuron that the model does not have.
        """
        return self.cells(sizes.n_layers, sizes.n_heads)

    def describe(self) -> str:
        """The battery and its settings in a few words, for titles: two that differ in a setting differ here."""
        settings = ", ".join(f"{name}={value}" for name, value in self.unlike_default().items())
        return f"{self.name}, {settings}" if settings else self.name

    def check_prompts(self, lengths: Sequence[tuple[int, int]]) -> None:
        """Check that the prompts have the positions at which the battery acts.

        Args:
            lengths: of the clean and the corrupt prompt of each pair, in tokens.

        Raises:
            ConfigError: a position is past the end of a prompt.
        """
        if not isinstance(self.acts_at, tuple):
            return
        shortest = min(min(pair) for pair in lengths)
        if max(self.acts_at) >= shortest:
            raise ConfigError(f"battery.positions={list(self.acts_at)}: the shortest prompt has {shortest} tokens, positions 0 "
                              f"to {shortest - 1}.")

    def unlike_default(self) -> dict[str, Any]:
        """The settings other than the name that are not at their defaults; what has no default is always there."""
        return {field.name: getattr(self, field.name) for field in fields(self)
                if field.name != "name" and getattr(self, field.name) != default_of(field)}


def default_of(field: Field[Any]) -> Any:
    """A dataclass field's default, MISSING if it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def check_cells(battery: Battery, cells: Sequence[Cell], n_layers: int) -> None:
    """Check what a battery lists: one cell at least, each with the columns of its table, once, in layers that are there.

    Raises:
        ConfigError: a battery of the user's own lists something else.
    """
    what, kind = f"battery={battery.name}", battery.table
    if not cells:
        raise ConfigError(f"{what}: lists no cells for this model; expected one or more.")
    seen: set[tuple[object, ...]] = set()
    for cell in cells:
        if lacking := [name for name in kind.keys if name not in cell.key]:
            raise ConfigError(f"{what}: a cell's key is {', '.join(cell.key)}, without {', '.join(lacking)}; expected the "
                              f"columns of {kind.name}: {', '.join(kind.keys)}.")
        if beyond := [one.layer for one in cell.variant.interventions if not 0 <= one.layer < n_layers]:
            raise ConfigError(f"{what}: a cell acts in layer {beyond[0]}; expected layers of this model, 0 to {n_layers - 1}.")
        place = (*(cell.key[name] for name in kind.keys), cell.control, cell.seed, cell.draw)
        if place in seen:
            told = ", ".join(f"{name}={cell.key[name]}" for name in kind.keys)
            raise ConfigError(f"{what}: lists the cell {told} twice; expected each once.")
        seen.add(place)


def chosen(key: str, wanted: Sequence[int] | None, available: int) -> list[int]:
    """The layers or heads to use, sorted.

    Args:
        key: the config key, for the message.
        wanted: the chosen ones (neurons too), None for all.
        available: how many the model has.

    Raises:
        ConfigError: one is out of range.
    """
    for index in wanted or []:
        if not 0 <= index < available:
            raise ConfigError(f"{key}={list(wanted or [])}: {index} is out of range, this model has 0 to {available - 1}.")
    return sorted(wanted) if wanted is not None else list(range(available))
