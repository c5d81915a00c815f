"""Which neurons a battery acts at, each alone: those that are named, or of each layer the k that a screen finds.

A screen is cheap and says nothing of effects: it only says which neurons are tried. Each of them is then intervened on exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tinylab.batteries.base import Cell, Screen, chosen
from tinylab.config.checks import at_least, distinct
from tinylab.errors import ConfigError
from tinylab.interventions.sites import MLP_NEURONS, Sizes

SETTINGS = {"battery.neurons": "battery.neurons=[0,7]", "battery.top_neurons": "battery.top_neurons=10"}
"""The settings that say which, each with an example."""


def check_neurons(where: str, site: str, neurons: Sequence[int] | None, top: int | None, *, each: bool) -> None:
    """Check that neurons are chosen in one of the two ways at their own site, and nowhere else.

    Args:
        where: the key that names the site, for messages.
        site: its name.
        neurons: those that are named.
        top: how many of each layer a screen is to find.
        each: whether every position is a cell of its own.

    Raises:
        ConfigError: they are not.
    """
    given = {key: value for key, value in zip(SETTINGS, (neurons, top), strict=True) if value is not None}
    told = " and ".join(f"{key}={value}" for key, value in given.items())
    distinct("battery.neurons", neurons)
    at_least("battery.top_neurons", top, 1)
    for neuron in neurons or []:
        at_least("battery.neurons", neuron, 0)
    if site != MLP_NEURONS.name:
        if given:
            raise ConfigError(f"{told} with {where}={site}: only MLPs have neurons; use {where}={MLP_NEURONS}, or leave "
                              f"{' and '.join(given)} out.")
        return
    if not given:
        raise ConfigError(f"{where}={MLP_NEURONS}: expected the neurons to patch, each alone; choose some with battery.neurons, "
                          f"such as {SETTINGS['battery.neurons']}, or so many of each layer by a screen, such as "
                          f"{SETTINGS['battery.top_neurons']}.")
    if len(given) > 1:
        raise ConfigError(f"{told}: neurons are named or found by a screen, not both; leave one of them out.")
    if each:
        raise ConfigError(f"battery.positions=each with {where}={MLP_NEURONS}: there is no table of neurons by position; use "
                          "positions=last, all or a list, or another site.")


def neurons_of(layer: int, sizes: Sizes, neurons: Sequence[int] | None, top: int | None) -> list[int]:
    """The neurons of a layer, in order; with a screen their places in what it finds, 0 to k − 1.

    Raises:
        ConfigError: the layer has not so many.
    """
    known = sizes.n_neurons[layer] if sizes.n_neurons else None
    if top is None:
        return chosen("battery.neurons", neurons, max(neurons or [0]) + 1 if known is None else known)
    if known is not None and top > known:
        raise ConfigError(f"battery.top_neurons={top}: layer {layer} of this model has {known} neurons; expected at most "
                          f"{known}.")
    return list(range(top))


def screen_of(top: int | None) -> Screen | None:
    """The screen that finds so many of each layer."""
    return None if top is None else Screen("battery.top_neurons", "neuron", top)


def described(neurons: Sequence[int] | None, top: int | None) -> list[str]:
    """Which they are, for titles."""
    words = [] if neurons is None else [f"neurons {neurons}"]
    return words + ([] if top is None else [f"{top} of each layer by a screen of |clean − corrupt|"])


def with_units(cells: Sequence[Cell], screen: Screen, found: Mapping[int, Sequence[int]]) -> list[Cell]:
    """The cells of a battery that screens, each with the unit of its layer in place of the place that it was listed by.

    Args:
        cells: of one intervention each.
        screen: the battery's.
        found: the units of each layer, in the order of the table.
    """
    filled = []
    for cell in cells:
        (one,) = cell.variant.interventions
        assert one.head is not None
        unit = found[one.layer][one.head]
        variant = replace(cell.variant, interventions=(replace(one, head=unit),))
        filled.append(replace(cell, variant=variant, key={**cell.key, screen.column: unit}))
    return filled
