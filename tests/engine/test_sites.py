"""Every site of a block, in every family that has it: both engines give the same numbers; a family without it is refused.

What the numbers mean is held apart from the engines: here by hooks written for one family, on planted models by closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
import torch

from both_engines import LOGITS, ROUNDING, gap
from families import ALIGNED, CHUNKED, EVERY, FAMILIES, LAYERS, TUPLES, UNALIGNED, answered, family, lacking
from tinylab.engine.base import Evaluation
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.trial import flaws
from tinylab.interventions.operations import Given, Operation, Patch, Scale
from tinylab.interventions.sites import COMMON, SITES, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Positions, Variant

NEW: Final = [site for site in SITES.values() if site not in COMMON]
FORKED: Final = [*FAMILIES, *TUPLES, *CHUNKED]
SINGLE_INSIDE: Final = {"gemma2": 1e-6, "glm4_moe": 1e-6, "deepseek_v3": 1e-6, "llama4": 1e-6}
"""What families that compute in float32 inside whatever the dtype may differ by in float64."""
PROMPTS: Final = (ALIGNED[3], ALIGNED[7], ALIGNED[8], ALIGNED[9])


@dataclass(frozen=True)
class Flip(Operation):
    """The coordinates in the opposite order: it depends on where a unit begins and ends."""

    def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
        return rows.flip(-1) + 0.1


def units(name: str, site: Site) -> list[int | None]:
    """All of a site, and its first and last unit."""
    if site.units == "whole":
        return [None]
    return [None, 0, 47 if site.units == "neurons" and EVERY[name] else family(name).sizes.heads(site) - 1]


def variants(name: str, positions: tuple[Positions, ...]) -> list[Variant]:
    """Each new site in each layer that has it."""
    made = []
    for site in NEW:
        for layer in (layer for layer in range(LAYERS) if layer not in lacking(name).get(site.name, ())):
            for number, unit in enumerate(units(name, site)):
                for at in positions:
                    flip, patch = Intervention(site, layer, Flip(), unit), Intervention(site, layer, Patch(), unit)
                    made.append(Variant((patch,), "corrupt", Own("clean"), at))
                    made += [Variant((flip,), "clean", None, at)] if number else []
    return made


def both(name: str, dtype: torch.dtype, prompts: Any, asked: list[Variant]) -> tuple[Evaluation, Evaluation]:
    model = family(name, dtype)
    pairs = answered(model, prompts)
    forked, plain = (engine.evaluate(pairs, asked, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model)))
    return forked, plain


@pytest.mark.parametrize("name", EVERY)
def test_a_family_has_each_site_or_says_that_it_has_not(name: str) -> None:
    model = family(name)
    found = flaws(model, (5, 7, 9), [(site, layer) for site in SITES.values() for layer in range(LAYERS)])
    without: dict[str, tuple[int, ...]] = {}
    for site, layer in found:
        without[site.name] = (*without.get(site.name, ()), layer)
    assert without == lacking(name)
    words = {"resid_mid": "no residual stream between attention and MLP", "mlp_neurons": "no single last linear map"}
    assert [told for (site, _), told in found.items() if words.get(site.name, "AttentionInterface") not in told] == []


@pytest.mark.parametrize("name", FORKED)
def test_engines_agree_at_every_site_of_a_family(name: str) -> None:
    forked, plain = both(name, torch.float32, PROMPTS, variants(name, ("last", "all", (0, 2))))
    assert gap(forked, plain) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("name", FORKED)
def test_engines_agree_at_every_site_of_a_family_in_float64(name: str) -> None:
    forked, plain = both(name, torch.float64, PROMPTS[:2], variants(name, ("last", (0, 2)))[::2])
    assert gap(forked, plain) <= SINGLE_INSIDE.get(name, ROUNDING[torch.float64])
