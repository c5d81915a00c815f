"""Interventions and variants are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from tinylab.errors import ConfigError
from tinylab.interventions.operations import Given, Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant


def test_a_variant_forks_where_it_first_differs() -> None:
    zero = Scale(0.0)
    places = [(RESID_POST, 1), (HEAD_OUT, 2), (MLP_OUT, 1)]
    variant = Variant(tuple(Intervention(site, layer, zero) for site, layer in places), "clean")
    assert variant.fork == (1, MLP_OUT.order)


def test_a_patch_without_a_source_and_a_variant_without_interventions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Patch\(\): needs a source, got none; give the variant one, such as Own\('clean'\)"):
        Variant((Intervention(MLP_OUT, 0, Patch()),), "clean")
    with pytest.raises(ConfigError, match="a variant without interventions: expected at least one"):
        Variant((), "clean")


@pytest.mark.parametrize("operation", ["zero", 0.0, Scale, object()], ids=["a word", "a number", "a class", "any object"])
def test_what_is_no_operation_is_refused_when_the_intervention_is_made(operation: Any) -> None:
    with pytest.raises(ConfigError, match=r"at mlp_out: not an operation; expected an instance of a subclass of .*Operation"):
        Intervention(MLP_OUT, 0, operation)


@pytest.mark.parametrize("site", [MLP_OUT, RESID_POST, Site("attn_out", "projection", "out")], ids=str)
def test_a_head_of_a_site_without_heads_is_refused_when_the_intervention_is_made(site: Site) -> None:
    with pytest.raises(ConfigError, match=f"head 1 of {site}: this site is not cut into heads; leave the head out"):
        Intervention(site, 0, Scale(0.0), 1)


def test_any_operation_that_needs_a_source_is_refused_without_one_when_the_variant_is_made() -> None:
    @dataclass(frozen=True)
    class Needy(Operation):
        needs_source: ClassVar[bool] = True

        def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
            raise AssertionError("never run")

    scale, needy = Intervention(MLP_OUT, 0, Scale(0.0)), Intervention(MLP_OUT, 1, Needy())
    with pytest.raises(ConfigError, match=r"Needy\(\): needs a source, got none"):
        Variant((scale, needy), "clean")
    assert Variant((scale, needy), "clean", Own("corrupt")).source == Own("corrupt")


@pytest.mark.parametrize(("module", "side", "units", "told"), [
    ("mlp", "middle", "whole", "mlp middle is no canonical point; known: block in, attention query, attention key,"),
    ("mlp", "in", "heads", "mlp in cannot be cut into heads, only attention query, projection in can"),
    ("attention", "key", "heads", "attention key cannot be cut into heads, only attention query"),
    ("mlp", "in", "neurons", "mlp in cannot be cut into neurons, only down in can"),
])
def test_a_site_that_engines_cannot_reach_is_refused_when_it_is_declared(module: Any, side: Any, units: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"site mine: {told}"):
        Site("mine", module, side, units)
