"""Interventions and variants are checked when they are made."""

from __future__ import annotations

import pytest

from tinylab.errors import ConfigError
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST
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
