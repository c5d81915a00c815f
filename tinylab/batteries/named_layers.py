"""Parts of layers by number: an MLP, all that attention writes, or the stream at one of its places, at one site of a whole layer.

Joint batteries take heads by name (`tinylab.batteries.named_heads`) or, at such a site, layers by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinylab.batteries.activation_patch import ALSO, SITE_OF
from tinylab.config.checks import one_of, storable
from tinylab.errors import ConfigError
from tinylab.interventions.sites import HEAD_OUT

WHOLE = tuple(name for name, site in SITE_OF.items() if site.units == "whole")
"""The sites that are not cut into heads or neurons, by the names that granularities have."""
JOINT = (HEAD_OUT.name, *WHOLE)
"""The sites of joint batteries."""


def check_joint_site(site: str, keep_value_bias: bool) -> None:
    """Check the site of a joint battery, and that a value bias is kept of heads alone.

    Raises:
        ConfigError: it is none, or has no value bias.
    """
    one_of("battery.site", site, (*JOINT, *ALSO))
    if keep_value_bias and site != HEAD_OUT.name:
        raise ConfigError(f"battery.keep_value_bias=true with battery.site={site}: only a head's output has a value bias that "
                          f"can be kept; use battery.site={HEAD_OUT}, or battery.keep_value_bias=false.")


def layer_numbers(key: str, got: Any, least: int, site: str) -> list[int]:
    """Some layers, ascending.

    Args:
        key: of the config.
        got: its value.
        least: how many layers there have to be.
        site: whose of each layer is meant, for messages.

    Raises:
        ConfigError: it is no list of so many layers, one of them is no number, or stands twice.
    """
    if not isinstance(got, list) or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in got):
        raise ConfigError(f"{key}={got}: expected a list of layers, as battery.site={site} is one of each, such as "
                          f"\"{key}=[13,14]\".")
    for number in got:
        storable(key, number)
    if len(got) < least or len(set(got)) < len(got):
        raise ConfigError(f"{key}={got}: expected {least} or more layers, each of them once.")
    return sorted(got)


def layers_of_model(key: str, layers: Sequence[int], n_layers: int) -> list[int]:
    """The layers, which a model has.

    Raises:
        ConfigError: it lacks one.
    """
    for layer in layers:
        if layer >= n_layers:
            raise ConfigError(f"{key}: layer {layer} is out of range, this model has layers 0 to {n_layers - 1}.")
    return list(layers)
