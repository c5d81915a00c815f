"""Every site of a block, in every family that has it: both engines give the same numbers; a family without it is refused.

What the numbers mean is held apart from the engines: here by hooks written for one family, on planted models by closed forms.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
import torch
import transformers
from transformers.models.llama import modeling_llama

from benchmarks.bound import lower_bound
from both_engines import LOGITS, ROUNDING, gap, logits_gap
from families import ALIGNED, CHUNKED, EVERY, FAMILIES, LAYERS, TUPLES, UNALIGNED, answered, family, lacking, plain_logits
from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Evaluation
from tinylab.engine.choose import check_variants, choose_engine
from tinylab.engine.forked import passes
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.trial import flaws
from tinylab.errors import ModelError
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
from tinylab.models.network import CausalModel

NEW: Final = [site for site in SITES.values() if site not in COMMON]
LATER: Final = {"gemma2", "nemotron", "ministral3", "gpt_oss"} if transformers.__version__.startswith("5.0.") else set[str]()
"""Families that transformers 5.0 computes without its interface, or that are run by the plain engine alone there."""
FORKED: Final = [name for name in (*FAMILIES, *TUPLES, *CHUNKED) if name not in LATER]
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


@pytest.mark.parametrize("name", [name for name in EVERY if name not in LATER])
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


# What they mean: arithmetic on weights, and the family's own functions


def halved(model: CausalModel, site: Site, unit: int | None) -> CausalModel:
    """A copy of a Llama whose weights give half of a site's unit in layer 1: where that is linear in them."""
    changed = CausalModel(copy.deepcopy(model.model), None, model.identity, False)
    attention, mlp = changed.model.model.layers[1].self_attn, changed.model.model.layers[1].mlp
    width = model.head_width
    linear = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "attn_out": attention.o_proj}.get(site.name)
    if linear is None:
        mlp.down_proj.weight[:, unit] *= 0.5
    else:
        rows = slice(None) if unit is None else slice(unit * width, (unit + 1) * width)
        linear.weight[rows] *= 0.5
        linear.bias[rows] *= 0.5
    return changed


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize(("site", "unit"), [(Q, 3), (K, 0), (K, 1), (V, 0), (V, 1), (V, None), (ATTN_OUT, None),
                                            (MLP_NEURONS, 5)], ids=str)
def test_half_of_a_unit_is_half_of_its_weights(site: Site, unit: int | None, kind: Any) -> None:
    """Keys and queries are turned by their position, which is linear; the family has biases in all four projections."""
    model = family("llama")
    pairs = answered(model, ALIGNED[3:9:2])
    asked = Variant((Intervention(site, 1, Scale(0.5), unit),), "clean")
    found = kind(model).evaluate(pairs, [asked], LOGITS)
    assert logits_gap(found.values[0], halved(model, site, unit), [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]
    assert np.abs(found.values[0] - found.baselines["clean"]).max() > 1e-3


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize("site", [Q, K], ids=str)
def test_queries_and_keys_are_those_behind_the_rotary_embedding(site: Site, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates in the opposite order: not the same before and behind; by the function that turns them, in layer 1."""
    model, own, calls = family("llama"), modeling_llama.apply_rotary_pos_emb, itertools.count()
    pair = answered(model, ALIGNED)[8]

    def turned(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        both = [heads.clone() for heads in own(*args, **kwargs)]
        if next(calls) == 1:
            heads = both[site is K]
            heads[:, 1] = heads[:, 1].flip(-1) + 0.1
        return tuple(both)

    found = kind(model).evaluate([pair], [Variant((Intervention(site, 1, Flip(), 1),), "clean")], LOGITS)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", turned)
    expected = plain_logits(model, pair.clean).double().numpy()
    assert np.abs(found.values[0, 0] - expected).max() <= ROUNDING[torch.float32]
    assert np.abs(found.baselines["clean"][0] - expected).max() > 1e-3


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize("only", ["gpt2", "llama", "olmo2", "opt"])
def test_a_patch_between_attention_and_mlp_is_what_is_put_into_both_branches(only: str, kind: Any) -> None:
    """The stream of the clean run at the last token of layer 1: by its difference, added to what attention gives the block."""
    model = family(only)
    pair = answered(model, ALIGNED)[8]
    block, streams = model.blocks[1], []
    behind = block.post_attention_layernorm if only == "olmo2" else model.projection(1)  # what the stream is added to

    def sums(_module: Any, _args: Any, output: torch.Tensor) -> None:
        streams.append(output[0, -1].clone())

    def enters(_module: Any, args: Any, kwargs: Any) -> None:
        streams.append((args[0] if args else kwargs["hidden_states"])[0, -1].clone())

    handles = [block.register_forward_pre_hook(enters, with_kwargs=True), behind.register_forward_hook(sums)]
    for prompt in (pair.clean, pair.corrupt):
        plain_logits(model, prompt)
    for handle in handles:
        handle.remove()
    difference = streams[0] + streams[1] - streams[2] - streams[3]

    def add(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, -1] += difference
        return output

    handle = behind.register_forward_hook(add)
    expected = plain_logits(model, pair.corrupt).double().numpy()
    handle.remove()
    asked = Variant((Intervention(RESID_MID, 1, Patch()),), "corrupt", Own("clean"), "last")
    found = kind(model).evaluate([pair], [asked], LOGITS)
    assert np.abs(found.values[0, 0] - expected).max() <= ROUNDING[torch.float32]
    assert np.abs(found.baselines["corrupt"][0] - expected).max() > 1e-3


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_what_enters_a_block_is_what_leaves_the_one_below(name: str, kind: Any) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED[3:9])
    below, above = ([Variant((Intervention(site, at, Patch()),), "corrupt", Own("clean"), (0, 2)) for at in layers]
                    for site, layers in ((RESID_POST, (0, 1)), (RESID_PRE, (1, 2))))
    found = kind(model).evaluate(pairs, below + above, LOGITS)
    assert np.abs(found.values[:2] - found.values[2:]).max() <= ROUNDING[torch.float32]
    assert np.abs(found.values[:2] - found.baselines["corrupt"]).max() > 1e-3


def test_the_self_check_tries_a_runs_own_sites_where_the_run_acts() -> None:
    """A family whose first layer alone has neurons, and the others experts."""
    model = family("ernie4_5_moe")
    own = [Variant((Intervention(site, 0, Scale(0.0)),), "clean") for site in (MLP_NEURONS, K)]
    tried = {(i.site, i.layer) for variant in check_variants(model, own) for i in variant.interventions}
    assert {(site, layer) for site, layer in tried if site not in COMMON} == {(MLP_NEURONS, 0), (K, 0)}
    assert {site for variant in check_variants(model) for site in (variant.interventions[0].site,)} == set(COMMON)
    choice = choose_engine(model, EngineConfig(name="auto"), answered(model, ALIGNED[:4]), own)
    assert (choice.engine.name, choice.reason) == ("forked", None)


def test_a_run_at_a_site_that_is_not_there_is_refused_in_one_sentence() -> None:
    for only, site, told in (("gpt_neox", RESID_MID, "no resid_mid in it .* no residual stream between attention and MLP"),
                             ("mixtral", MLP_NEURONS, "no mlp_neurons in it .* MixtralSparseMoeBlock of layer 1 has no single"),
                             ("bloom", V, "no v in it .* BloomAttention of layer 1 does not go through transformers'")):
        model = family(only)
        for engine in ("auto", "reference"):
            with pytest.raises(ModelError, match=told) as caught:
                choose_engine(model, EngineConfig(name=engine), answered(model, ALIGNED[:1]),
                              [Variant((Intervention(site, 1, Scale(0.0)),), "clean")])
            assert "\n" not in str(caught.value)
