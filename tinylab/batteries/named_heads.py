"""Heads by name: `layer.head`, as the console's tables write them.

YAML reads 0.2 as a number, in which 0.1 and 0.10 are the same. So a name is a text, and a number is taken for one where the model
has no other head that it could mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tinylab.config.checks import storable
from tinylab.errors import ConfigError

Head = tuple[int, int]
NAME = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)")


def head_names(key: str, got: Any, least: int) -> list[str]:
    """The names of some heads, in the order of layer and head.

    Args:
        key: of the config.
        got: its value: texts, or numbers that look like them.
        least: how many heads there have to be.

    Raises:
        ConfigError: it is no list of so many heads, one of them is no head, or stands twice.
    """
    if not isinstance(got, list) or not all(NAME.fullmatch(_text(one)) for one in got):
        raise ConfigError(f"{key}={got}: expected a list of heads, layer.head each, such as \"{key}=['0.2','1.10']\".")
    heads = sorted(head_of(_text(one)) for one in got)
    for number in (number for head in heads for number in head):
        storable(key, number)
    if len(heads) < least or len(set(heads)) < len(heads):
        raise ConfigError(f"{key}={got}: expected {least} or more heads, each of them once.")
    return [name_of(head) for head in heads]


def _text(one: Any) -> str:
    return repr(one) if isinstance(one, float) else one if isinstance(one, str) else ""


def head_of(name: str) -> Head:
    """The layer and head of a name."""
    layer, head = name.split(".")
    return int(layer), int(head)


def name_of(head: Head) -> str:
    """The name of a head."""
    return f"{head[0]}.{head[1]}"


def numbers_among(got: Any) -> list[str]:
    """The names in a list that were numbers: in some models they could mean another head."""
    return [repr(one) for one in got if isinstance(one, float)]


def heads_of_model(key: str, names: Sequence[str], numbers: Sequence[str], n_layers: int, n_heads: int) -> list[Head]:
    """The heads that names mean in a model.

    Args:
        key: of the config.
        names: of the heads.
        numbers: those of them that were numbers.
        n_layers: the model's layers.
        n_heads: heads of each.

    Raises:
        ConfigError: the model lacks one, or a number could mean another of its heads too.
    """
    for name in numbers:
        other = 10 * head_of(name)[1]
        if 0 < other < n_heads:
            raise ConfigError(f"{key}: {name} is a number, and the same as {name}0, which this model has too; quote heads, as in "
                              f"\"{key}=['{name}']\".")
    heads = [head_of(name) for name in names]
    for name, (layer, head) in zip(names, heads, strict=True):
        if layer >= n_layers or head >= n_heads:
            raise ConfigError(f"{key}: {name} is out of range, this model has layers 0 to {n_layers - 1} with heads 0 to "
                              f"{n_heads - 1} each.")
    return heads
