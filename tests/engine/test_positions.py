"""Positions: what a patch at some of them must give, and prompts of unequal length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from both_engines import DIRECTIONS, GRANULARITIES, LOGITS, ROUNDING, SCORER, gap, h1_cells, logits_gap, variants_of
from conftest import Within
from families import ALIGNED, HEADS, LAYERS, UNALIGNED, answered, family
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.engine.base import Engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import RESID_POST
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel


def test_forked_equals_reference_on_prompts_of_unequal_length(name: str, within: Within) -> None:
    model = family(name)
    pairs = answered(model, UNALIGNED)
    cells = [
        *h1_cells()[::3],
        *(
            cell
            for granularity in GRANULARITIES
            for direction in DIRECTIONS
            for cell in ActivationPatch(
                name="h2", granularity=granularity, patch_direction=direction, positions="last", layers=[0, 2]
            ).cells(LAYERS, HEADS)
        ),
    ]
    both = [engine.evaluate(pairs, variants_of(cells), SCORER) for engine in (ForkedEngine(model), ReferenceEngine(model))]
    within("unequal lengths", gap(*both), ROUNDING[torch.float32])


@pytest.mark.parametrize("prompts", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_without_interventions_logits_are_those_of_plain_transformers(
    name: str, kind: Callable[[CausalModel], Engine], prompts: tuple[Any, ...], within: Within
) -> None:
    model = family(name)
    pairs = answered(model, prompts)
    baselines = kind(model).evaluate(pairs, [], LOGITS).baselines
    for run, rows in baselines.items():
        within("plain transformers", logits_gap(rows, model, [getattr(pair, run) for pair in pairs]), ROUNDING[torch.float32])


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize(("source", "target"), [("clean", "corrupt"), ("corrupt", "clean")])
def test_patching_the_residual_stream_everywhere_gives_the_source_run(
    name: str, kind: Callable[[CausalModel], Engine], source: Any, target: Any, within: Within
) -> None:
    model = family(name)
    variants = [Variant((Intervention(RESID_POST, layer, Patch()),), target, Own(source), "all") for layer in range(LAYERS)]
    found = kind(model).evaluate(answered(model, ALIGNED), variants, LOGITS)
    within("patched everywhere", np.abs(found.values - found.baselines[source]).max(), ROUNDING[torch.float32])


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize("prompts", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_patching_the_last_layers_residual_stream_at_the_last_position_gives_the_source_run(
    name: str, kind: Callable[[CausalModel], Engine], prompts: tuple[Any, ...], within: Within
) -> None:
    model = family(name)
    patch = Variant((Intervention(RESID_POST, LAYERS - 1, Patch()),), "corrupt", Own("clean"), "last")
    found = kind(model).evaluate(answered(model, prompts), [patch], LOGITS)
    within("patched at the end", np.abs(found.values[0] - found.baselines["clean"]).max(), ROUNDING[torch.float32])


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_a_patch_at_one_position_cannot_reach_a_shorter_prefix(name: str, kind: Callable[[CausalModel], Engine]) -> None:
    """The prompt's end is position 2; the pair differs at 1 only, so what position 0 holds is equal in both runs."""
    model = family(name)
    pairs = answered(model, ALIGNED[:1])
    variants = [Variant((Intervention(RESID_POST, layer, Patch()),), "corrupt", Own("clean"), (0,)) for layer in range(LAYERS)]
    found = kind(model).evaluate(pairs, variants, LOGITS)
    assert np.abs(found.values - found.baselines["corrupt"]).max() <= ROUNDING[torch.float32]
