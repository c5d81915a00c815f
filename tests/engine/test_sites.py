"""Every site of a block, in every family that has it: both engines give the same numbers; a family without it is refused.

What the numbers mean is held apart from the engines: here by hooks written for one family, on planted models by closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
import torch

from benchmarks.bound import lower_bound
from both_engines import LOGITS, ROUNDING, gap
from families import ALIGNED, CHUNKED, EVERY, FAMILIES, LAYERS, TUPLES, UNALIGNED, answered, family, lacking
from tinylab.engine.base import Evaluation
from tinylab.engine.forked import passes
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.trial import flaws
from tinylab.interventions.operations import Given, Operation, Patch, Scale
from tinylab.interventions.sites import (
    ATTN_OUT,
    COMMON,
    MLP_NEURONS,
    MLP_OUT,
    RESID_MID,
    RESID_POST,
    RESID_PRE,
    SITES,
    K,
    Q,
    Site,
    V,
)
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
    return [None, 0, 47 if site.units == "neurons" else family(name).sizes.heads(site) - 1]


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
def test_engines_agree_at_sites_of_a_family(name: str) -> None:
    """Not each at all layers, positions and units, but each at some, and a family as others: `make test-families` has all."""
    asked = variants(name, ("last", "all", (0, 2)))[FORKED.index(name) % 7 :: 7]
    forked, plain = both(name, torch.float32, PROMPTS[1:2], asked)
    assert {i.site.name for v in asked for i in v.interventions} == {site.name for site in NEW} - {
        site for site, layers in lacking(name).items() if len(layers) == LAYERS}
    assert gap(forked, plain) <= ROUNDING[torch.float32]


@pytest.mark.families
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("name", FORKED)
def test_engines_agree_at_every_site_of_a_family(name: str, dtype: torch.dtype) -> None:
    forked, plain = both(name, dtype, PROMPTS, variants(name, ("last", "all", (0, 2))))
    allowed = SINGLE_INSIDE.get(name, 0.0) if dtype == torch.float64 else 0.0
    assert gap(forked, plain) <= max(allowed, ROUNDING[dtype])


def test_engines_agree_at_every_site_on_prompts_of_unequal_length(name: str) -> None:
    forked, plain = both(name, torch.float32, UNALIGNED, variants(name, ("last",))[::3])
    assert gap(forked, plain) <= ROUNDING[torch.float32]


def test_every_intervention_shows_so_that_agreement_means_something(name: str) -> None:
    asked = variants(name, ("all",))
    pairs = answered(family(name), PROMPTS[3:])
    plain = ReferenceEngine(family(name)).evaluate(pairs, asked, LOGITS)
    effects = np.abs(plain.values - np.stack([plain.baselines[v.target] for v in asked])).max(axis=(1, 2))
    assert [(asked[at], size) for at, size in enumerate(effects) if not size > 1e-5] == []


def test_small_passes_and_mlps_in_parts_give_the_numbers_of_large_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of an MLP's rows: of several variants, of one, and of less than one."""
    model, asked = family(name), variants(name, ("last", "all", (0, 2)))[::5]
    pairs = answered(model, PROMPTS)
    whole = ForkedEngine(model, 100_000).evaluate(pairs, asked, LOGITS)
    for rows, max_states in ((3, 40), (50, 300)):
        monkeypatch.setattr(passes, "mlp_rows", lambda *_, rows=rows: rows)
        cut = ForkedEngine(model, max_states).evaluate(pairs, asked, LOGITS)
        assert gap(cut, whole) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("positions", ["last", "all", (0, 2)], ids=str)
@pytest.mark.parametrize("operation", [Patch(), Scale(0.5)], ids=["patch", "scale"])
@pytest.mark.parametrize("site", SITES.values(), ids=str)
def test_each_site_costs_the_states_that_were_predicted_and_no_more_than_must_be(
    site: Site, operation: Operation, positions: Positions
) -> None:
    model = family("llama")
    pairs = answered(model, PROMPTS)
    asked = [Variant((Intervention(site, layer, operation),), "corrupt", Own("clean") if operation.needs_source else None,
                     positions) for layer in range(LAYERS)]
    engine = ForkedEngine(model)
    found, predicted = engine.evaluate(pairs, asked, LOGITS), engine.plan(pairs, asked)
    assert found.states == predicted.states == lower_bound(pairs, asked, LAYERS)
    assert found.forwards == predicted.forwards == 2


def test_variants_at_several_sites_agree(name: str) -> None:
    """A variant forks at its lowest site; what it does above that is done to rows that are its own already."""
    model = family(name)
    pairs, zero, patch = answered(model, ALIGNED[:9]), Scale(0.0), Patch()
    middle = MLP_OUT if "resid_mid" in lacking(name) else RESID_MID
    asked = [
        Variant((Intervention(K, 1, zero, 0), Intervention(V, 1, zero, 1), Intervention(Q, 1, zero, 3)), "clean"),
        Variant((Intervention(MLP_NEURONS, 1, zero, 5), Intervention(MLP_NEURONS, 1, zero, 6)), "clean"),
        Variant((Intervention(middle, 2, patch), Intervention(V, 2, patch), Intervention(RESID_PRE, 1, patch)), "corrupt",
                Own("clean"), (1, 2)),
        Variant((Intervention(RESID_POST, 0, patch), Intervention(K, 2, patch, 0)), "corrupt", Own("clean"), "last"),
        Variant((Intervention(ATTN_OUT, 0, patch), Intervention(MLP_NEURONS, 0, patch), Intervention(Q, 2, Flip())), "clean",
                Own("corrupt"), "all"),
        Variant((Intervention(V, 2, zero),), "clean", None, (0,)),  # nothing but what the reading row attends to
        Variant((Intervention(RESID_PRE, 2, zero),), "clean", None, (0, 1)),
    ]
    for order in (asked, asked[::-1]):
        forked, plain = (engine.evaluate(pairs, order, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model)))
        assert gap(forked, plain) <= ROUNDING[torch.float32]
        assert (np.abs(plain.values - np.stack([plain.baselines[v.target] for v in order])).max(axis=(1, 2)) > 1e-5).all()
