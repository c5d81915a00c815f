"""A battery of the first version: which of today's batteries it is, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from tinylab.errors import options
from tinylab.first_version.reading import Section

GRANULARITIES = ("layer_resid", "mlp_out", "head_out")
DIRECTIONS = ("clean->corrupt", "corrupt->clean")


@dataclass
class Converted:
    """A battery as an experiment says it: the option, its settings, other groups' settings, and what is to be known."""

    option: str
    settings: dict[str, Any]
    controls: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert_battery(section: Section) -> Converted:
    """Today's battery for an old one.

    Raises:
        ConfigError: its type is none that can be expressed, or a value is not what it has to be.
    """
    kind = section.text("type")
    if kind not in _BY_TYPE:
        raise section.inexpressible("type", f"there is no such battery here; {options(kind, _BY_TYPE)}")
    return _BY_TYPE[kind](section)


def _heads_zero(section: Section) -> Converted:
    found = Converted("h1", {
        "scales": _numbers(section, "scales", [0.0]), "layers": _chosen(section, "layers"), "heads": _chosen(section, "heads"),
        "keep_value_bias": True,
    })
    if section.take("random_control", False):
        count = section.take("random_count", None)
        found.controls["random_sets"] = True
        found.notes.append(f"random_control drew {'all' if count is None else count} of each layer's heads by seed: here every "
                           "head is computed, those among them, so that means over cells in summary.json are over all; "
                           "controls.random_sets compares the heads that matter with random ones")
    elif "random_count" in section:
        section.take("random_count")
        found.notes.append("random_count without random_control had no effect, and has none here")
    return found


def _activation_patch(section: Section) -> Converted:
    granularity = section.text("granularity", "layer_resid")
    direction = section.text("patch_direction", DIRECTIONS[0])
    if granularity not in GRANULARITIES:
        raise section.inexpressible("granularity", options(granularity, GRANULARITIES))
    if direction not in DIRECTIONS:
        raise section.inexpressible("patch_direction", options(direction, DIRECTIONS))
    found = Converted("h2", {
        "granularity": granularity, "patch_direction": direction, "layers": _chosen(section, "layers"),
        "positions": section.take("positions", "all"),
    })
    if found.settings["positions"] == "all" and granularity == "layer_resid":
        found.settings["positions"] = "last"
        found.notes.append("positions=last, on purpose: the first version patched the residual stream at every position, which "
                           "turns the target run into the source run, so that every layer gave one number")
    elif found.settings["positions"] == "all":
        found.notes.append("pairs whose prompts have unequal lengths are left out and counted, on purpose: the first version "
                           "patched the positions that both had")
    if section.take("sham_control", False):
        found.settings["sham_control"] = True
        found.notes.append("sham_control: the shams are computed in addition to the patched cells, in per_example; the first "
                           "version computed them in place of those")
    return found


def _pairs(section: Section) -> Converted:
    pairs = section.take("pairs")
    if not isinstance(pairs, list) or not pairs:
        raise section.wrong("pairs", "a list of pairs, {layer, h1, h2} each")
    asked = set()
    for number, one in enumerate(pairs):
        pair = Section(section.place, one, f"pairs[{number}].")
        layer, first, second = (_whole(pair, key) for key in ("layer", "h1", "h2"))
        asked.add(tuple(sorted({(layer, first), (layer, second)})))
        _all_read(pair)
    heads = sorted({head for pair in asked for head in pair})
    found = Converted("pairs", {"heads": [_name(*head) for head in heads], "keep_value_bias": True})
    every = set(combinations(heads, 2))
    if more := len(every - asked):
        found.notes.append(f"battery=pairs runs every two of its {len(heads)} heads: {more} pairs in addition to the "
                           f"{len(asked)} that were asked for")
    return found


def _subset(section: Section) -> Converted:
    groups = section.take("groups")
    if not isinstance(groups, list) or not groups:
        raise section.wrong("groups", "a list of groups, {layer, heads} each, with a label or without")
    sets: dict[str, list[str]] = {}
    for number, one in enumerate(groups):
        group = Section(section.place, one, f"groups[{number}].")
        layer, heads = _whole(group, "layer"), group.take("heads")
        if not isinstance(heads, list) or not heads or not all(type(head) is int for head in heads):
            raise group.wrong("heads", "a list of heads' numbers")
        label = str(group.take("label", None) or "-".join(map(str, heads)))
        name = label if label not in sets else f"{label} of layer {layer}"
        if name in sets:
            raise group.inexpressible("label", f"another group of layer {layer} has this label, and results name sets by label")
        sets[name] = [_name(layer, head) for head in sorted(set(heads))]
        _all_read(group)
    return Converted("subset", {"sets": sets, "keep_value_bias": True})


def _name(layer: int, head: int) -> str:
    return f"{layer}.{head}"


def _whole(section: Section, key: str) -> int:
    value = section.take(key)
    if type(value) is not int or value < 0:
        raise section.wrong(key, "a number from 0 on")
    return value


def _chosen(section: Section, key: str) -> list[int] | None:
    """Layers or heads; null is all of them."""
    value = section.take(key, None)
    if value is None or value == "all":
        return None
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise section.wrong(key, "all, or a list of numbers")
    return sorted(set(value))


def _numbers(section: Section, key: str, default: list[float]) -> list[float]:
    value = section.take(key, default)
    if not isinstance(value, list) or not all(type(one) in (int, float) for one in value):
        raise section.wrong(key, "a list of numbers")
    return list(dict.fromkeys(map(float, value)))


def _all_read(section: Section) -> None:
    """Refuse a key of a pair or group that means nothing: unlike a config's, it may say which heads are meant."""
    if keys := section.unread():
        raise section.wrong(keys[0].rpartition(".")[2], f"no such key, as {keys[0]} may say what cannot be expressed here")


_BY_TYPE = {"heads_zero": _heads_zero, "activation_patch": _activation_patch, "heads_pair_zero": _pairs,
            "heads_subset_zero": _subset}
