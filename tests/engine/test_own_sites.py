"""A site and an operation that are declared here alone: both engines give the same numbers, and neither knows their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from both_engines import LOGITS, ROUNDING, gap
from families import ALIGNED, HEADS, LAYERS, answered, family
from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Evaluation
from tinylab.engine.choose import check_variants, choose_engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Given, Operation, Patch, Scale
from tinylab.interventions.sites import COMMON, HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Positions, Variant

ATTN_OUT = Site("attn_out", "projection", "out")
MLP_IN = Site("mlp_in", "mlp", "in")
OWN_FAMILIES = ("gpt2", "phi", "olmo2", "opt")
"""Plain; attention and MLP side by side; norms behind both; an MLP that is no module of its own."""
POSITIONS: tuple[Positions, ...] = ("last", "all", (0, 2))


@dataclass(frozen=True)
class Negate(Operation):
    """The other way round."""

    def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
        return -rows


@dataclass(frozen=True)
class Shift(Operation):
    """Adds a constant vector, another number in every coordinate."""

    size: float

    def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
        return rows + self.size * torch.linspace(-1, 1, rows.shape[-1], dtype=rows.dtype)


@dataclass(frozen=True)
class Flip(Operation):
    """The coordinates in the opposite order: it depends on where a unit begins and ends."""

    def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
        return rows.flip(-1)


@dataclass(frozen=True)
class Halfway(Operation):
    """The mean of the activation and the source's."""

    needs_source: ClassVar[bool] = True
    changes_equal: ClassVar[bool] = False

    def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
        assert given.source is not None
        return (rows + given.source) / 2


OPERATIONS = (Negate(), Shift(0.5), Flip(), Halfway(), Scale(0.0), Patch())


def of(*interventions: Intervention, positions: Positions) -> Variant:
    """Into the corrupt run, from the clean one where that is needed."""
    needy = any(intervention.operation.needs_source for intervention in interventions)
    return Variant(interventions, "corrupt", Own("clean") if needy else None, positions)


def both(name: str, variants: list[Variant]) -> tuple[Evaluation, Evaluation]:
    """The forked engine's logits and the reference's; every variant changes some of the reference's."""
    model = family(name)
    pairs = answered(model, (ALIGNED[0], ALIGNED[3], *ALIGNED[7:10]))
    forked, plain = (engine.evaluate(pairs, variants, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model)))
    assert np.abs(plain.values - plain.baselines["corrupt"]).max(axis=(1, 2)).min() > 1e-5
    return forked, plain


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("family_name", OWN_FAMILIES)
def test_own_operations_at_own_sites_agree(family_name: str, positions: Positions) -> None:
    layers = range(LAYERS) if positions != (0, 2) else range(LAYERS - 1)  # in the last layer only the last position is read
    places = [(site, layer, operation) for site in (ATTN_OUT, MLP_IN) for layer in layers for operation in OPERATIONS]
    forked, plain = both(family_name, [of(Intervention(*place), positions=positions) for place in places])
    assert gap(forked, plain) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("family_name", OWN_FAMILIES)
def test_own_operations_agree_at_the_shipped_sites(family_name: str, positions: Positions) -> None:
    """A whole `head_out` has all heads side by side: what depends on the coordinates' order tells."""
    units = [(site, head) for site in COMMON for head in ([None, 2] if site.units == "heads" else [None])]
    variants = [of(Intervention(site, 1, operation, head), positions=positions)
                for site, head in units for operation in OPERATIONS]
    forked, plain = both(family_name, variants)
    assert gap(forked, plain) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("family_name", OWN_FAMILIES)
def test_own_sites_agree_beside_shipped_ones_in_one_variant(family_name: str, positions: Positions) -> None:
    variants = [
        of(Intervention(ATTN_OUT, 1, Negate()), Intervention(HEAD_OUT, 1, Scale(0.0), 2), positions=positions),
        of(Intervention(RESID_POST, 1, Patch()), Intervention(MLP_IN, 0, Shift(0.5)), positions=positions),
        of(Intervention(MLP_IN, 1, Halfway()), Intervention(ATTN_OUT, 1, Shift(-0.5)), positions=positions),
        of(Intervention(HEAD_OUT, 0, Flip(), 1), Intervention(ATTN_OUT, 0, Patch()), Intervention(MLP_IN, 0, Negate()),
           Intervention(MLP_OUT, 0, Scale(0.5)), Intervention(RESID_POST, 0, Halfway()), positions=positions),
        of(Intervention(MLP_OUT, 0, Negate()), Intervention(ATTN_OUT, 1, Halfway()), positions=positions),
    ]
    forked, plain = both(family_name, variants)
    assert gap(forked, plain) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("family_name", ["olmo2", "cohere"])
def test_attention_zeroed_behind_its_projection_is_all_its_heads_zeroed(family_name: str) -> None:
    assert getattr(family(family_name).projection(1), "bias", None) is None
    heads = [Intervention(HEAD_OUT, 1, Scale(0.0), head) for head in range(HEADS)]
    for found in both(family_name, [of(Intervention(ATTN_OUT, 1, Scale(0.0)), positions="all"), of(*heads, positions="all")]):
        assert np.abs(found.values[0] - found.values[1]).max() <= ROUNDING[torch.float32]


def test_the_self_check_tries_the_runs_own_sites_and_operations_out() -> None:
    model = family("phi")
    variants = [of(Intervention(MLP_IN, 0, Flip()), positions="last")]
    tried = {(i.site, i.operation) for variant in check_variants(model, variants) for i in variant.interventions}
    assert (MLP_IN, Flip()) in tried
    choice = choose_engine(model, EngineConfig(name="auto"), answered(model, ALIGNED[:4]), variants)
    assert (choice.engine.name, choice.reason) == ("forked", None)
