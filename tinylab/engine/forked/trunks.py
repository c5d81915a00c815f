"""Trunks: variants that others go on from. A pair of heads is the run without the lower one up to the layer of the upper one.

Where that run is a variant itself, its states are computed once: a pass of it alone keeps what those that go on need, and they
start from there with what is left of their interventions. A trunk is never another's continuation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinylab.engine.forked.batches import Setting
from tinylab.engine.forked.cache import CachePlan
from tinylab.interventions.variants import Intervention, Variant


@dataclass(frozen=True)
class Family:
    """Variants that start from the same run, in the order of their forks."""

    trunk: int | None  # the place of the variant that they go on from; None for the unmodified run
    members: list[int]  # places

    @property
    def places(self) -> list[int]:
        """Those of all of its variants."""
        return self.members if self.trunk is None else [self.trunk, *self.members]


def largest(families: Sequence[Family]) -> int:
    """The most variants that a pass could have."""
    return max(1, *(len(family.members) for family in families))


@dataclass(frozen=True)
class Families:
    """How the variants of a call hang together."""

    by_setting: dict[Setting, list[Family]]
    remaining: list[Variant]  # each variant with what its trunk has not done yet
    cache_plan: CachePlan | None  # what trunks keep; None where there are none

    @staticmethod
    def of(variants: Sequence[Variant]) -> Families:
        """Find each variant's trunk: another of the same setting with all its interventions below some layer, and no others."""
        settings = [Setting.of(variant) for variant in variants]
        ordered = [_ordered(variant.interventions) for variant in variants]
        names = [tuple(str(i.component) for i in acts) for acts in ordered]
        known: dict[tuple[Setting, tuple[str, ...]], list[int]] = {}
        for place, key in enumerate(zip(settings, names, strict=True)):
            known.setdefault(key, []).append(place)
        trunks: list[int | None] = [None] * len(variants)
        remaining = list(variants)
        for place in sorted(range(len(variants)), key=lambda v: len(variants[v].interventions)):
            layers = [i.layer for i in ordered[place]]  # ascending
            for cut in sorted({*layers}, reverse=True)[:-1]:
                below = bisect_left(layers, cut)
                same = [other for other in known.get((settings[place], names[place][:below]), ())
                        if trunks[other] is None and ordered[other] == ordered[place][:below]]
                if same:
                    trunks[place] = same[0]
                    left = tuple(i for i in variants[place].interventions if i.layer >= cut)
                    remaining[place] = replace(variants[place], interventions=left)
                    break
        by_setting: dict[Setting, list[Family]] = {}
        used = {trunk for trunk in trunks if trunk is not None}
        for place in sorted(range(len(variants)), key=lambda v: remaining[v].fork):
            families = by_setting.setdefault(settings[place], [Family(None, [])])
            trunk = trunks[place]
            if trunk is None and place not in used:
                families[0].members.append(place)
                continue
            own = place if trunk is None else trunk
            family = next((one for one in families if one.trunk == own), None)
            if family is None:
                families.append(family := Family(own, []))
            if trunk is not None:
                family.members.append(place)
        continued = [rest for rest, trunk in zip(remaining, trunks, strict=True) if trunk is not None]
        return Families(by_setting, remaining, CachePlan.of(continued, False) if continued else None)


def _ordered(interventions: Sequence[Intervention]) -> list[Intervention]:
    return sorted(interventions, key=lambda i: (i.layer, i.site.order, -1 if i.head is None else i.head))
