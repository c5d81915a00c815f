"""The engines: the forked one equals the plain one, and the plain one equals transformers and arithmetic on weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.activations import NewGELUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from conftest import Within
from families import (
    ALIGNED,
    FAMILIES,
    FIXED_BATCH,
    HEADS,
    LAYERS,
    UNALIGNED,
    UNSUPPORTED,
    VOCABULARY,
    WIDTH,
    answered,
    family,
    make,
    plain_logits,
)
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Cell
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Engine, Evaluation
from tinylab.engine.choose import AllLogits, check_prompts, check_variants, choose_engine, self_check
from tinylab.engine.forked import hooks
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import ConfigError, EngineUnsupported
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import CleanRun, Scorer, available
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

SCORER = Scorer(tuple(available(source=False)))
LOGITS = AllLogits(tuple(str(word) for word in range(VOCABULARY)))
GRANULARITIES = ("layer_resid", "mlp_out", "head_out")
DIRECTIONS = ("clean->corrupt", "corrupt->clean")
POSITIONS: tuple[Any, ...] = ("last", "all", [0, 2])
DTYPES = (torch.float32, torch.float64)
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Two orders of matmul, over a few layers and logits of order 1: about 1e-6 and 1e-15 are measured.

RMSNorm computes in float32 whatever the model's dtype. A float64 difference of 1e-16 could tip one of its roundings
(6e-8) about once in a thousand million numbers, which has not been seen.
"""
PAIRS = {torch.float32: (*ALIGNED[:2], ALIGNED[3], *ALIGNED[6:10]), torch.float64: (ALIGNED[2], ALIGNED[3], ALIGNED[7])}


def h1_cells() -> list[Cell]:
    return HeadsZero(name="h1", scales=[0.0, 0.5]).cells(LAYERS, HEADS)


def h2_cells() -> list[Cell]:
    return [
        cell
        for granularity in GRANULARITIES
        for direction in DIRECTIONS
        for positions in POSITIONS
        if (granularity, positions) != ("layer_resid", "all")
        for cell in ActivationPatch(
            name="h2", granularity=granularity, patch_direction=direction, positions=positions, sham_control=True
        ).cells(LAYERS, HEADS)
    ]


CELLS = [*h1_cells(), *h2_cells()]


def variants_of(cells: list[Cell]) -> list[Variant]:
    return [cell.variant for cell in cells]


@dataclass(frozen=True)
class Both:
    """The same work by both engines."""

    forked: Evaluation
    plain: Evaluation


@cache
def everything(name: str, dtype: torch.dtype) -> Both:
    """All cells of H1 and H2; in float64 on fewer pairs, to save time."""
    model = family(name, dtype)
    pairs = answered(model, PAIRS[dtype])
    engines: tuple[Engine, Engine] = (ForkedEngine(model), ReferenceEngine(model))
    return Both(*(engine.evaluate(pairs, variants_of(CELLS), SCORER) for engine in engines))


def gap(found: Evaluation, expected: Evaluation) -> float:
    parts = [(found.values, expected.values), *((found.baselines[r], expected.baselines[r]) for r in ("clean", "corrupt"))]
    return max(float(np.abs(a - b).max()) for a, b in parts)


def logits_gap(found: np.ndarray, model: CausalModel, prompts: list[tuple[int, ...]]) -> float:
    """Largest difference of [B, W] from plain transformers on each prompt."""
    return float(np.abs(found - np.stack([plain_logits(model, prompt).double().numpy() for prompt in prompts])).max())


CORE = ("gpt2", "gpt_neox", "llama", "opt", "gemma3")
"""Families that differ in what matters here; `test_families.py` has all of them, with fewer cases each."""


@pytest.fixture(params=CORE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The forked engine against the reference


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forked_equals_reference_in_every_cell_example_and_metric(name: str, dtype: torch.dtype, within: Within) -> None:
    both = everything(name, dtype)
    assert both.forked.values.shape == both.plain.values.shape
    different = np.abs(both.forked.values - both.plain.values).max(axis=(1, 2))
    wrong = [(CELLS[v].key, CELLS[v].variant, d) for v, d in enumerate(different) if not d <= ROUNDING[dtype]]
    assert wrong == []
    within(f"every cell, {dtype}".replace("torch.", ""), gap(both.forked, both.plain), ROUNDING[dtype])


def test_interventions_show_so_that_agreement_means_something(name: str) -> None:
    both = everything(name, torch.float32)
    kl = np.abs(both.plain.values[:, :, SCORER.names.index("kl_div")]).max(axis=1)
    in_clean_runs = [v for v, cell in enumerate(CELLS) if cell.variant.target == "clean" and cell.control == "none"]
    assert np.median(kl[in_clean_runs]) > 1e-3
    assert (kl[in_clean_runs] > 1e-6).all()  # rounding alone gives about 1e-8
    assert 0 < both.plain.values[:, :, SCORER.names.index("acc_flip_rate")].mean() < 1


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


def test_forked_wraps_the_models_own_eager_attention_too(name: str) -> None:
    assert family(name).model.config._attn_implementation == "sdpa"
    if name == "gpt2" and transformers.__version__.startswith("5.0."):
        pytest.skip("GPT-2's eager attention masks by itself in transformers 5.0: the self-check refuses it")
    model = make(FAMILIES[name], attn_implementation="eager")
    assert model.model.config._attn_implementation == "eager"
    pairs = answered(model, ALIGNED[2:8])
    found = ForkedEngine(model).evaluate(pairs, variants_of(h1_cells()[::4]), LOGITS)
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]
    assert gap(found, ReferenceEngine(model).evaluate(pairs, variants_of(h1_cells()[::4]), LOGITS)) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("max_states", [1, 12, 40])
def test_many_small_passes_give_the_numbers_of_one_large_pass(name: str, max_states: int, within: Within) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    chosen = CELLS[::8]
    whole, cut = (ForkedEngine(model, states).evaluate(pairs, variants_of(chosen), SCORER) for states in (100_000, max_states))
    assert cut.forwards > whole.forwards
    within("small passes", gap(cut, whole), ROUNDING[torch.float32])


def test_variants_that_act_in_several_layers_agree(name: str, within: Within) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    patch, zero, half = Patch(), Scale(0.0), Scale(0.5)
    variants = [
        Variant((Intervention(HEAD_OUT, 2, zero, 1), Intervention(HEAD_OUT, 0, zero, 3)), "clean"),  # deepest first
        Variant((Intervention(HEAD_OUT, 1, half, 0), Intervention(HEAD_OUT, 1, zero, 2)), "clean"),  # two heads
        Variant((Intervention(RESID_POST, 0, patch), Intervention(MLP_OUT, 2, patch)), "corrupt", Own("clean"), "last"),
        Variant((Intervention(MLP_OUT, 0, half), Intervention(RESID_POST, 1, patch)), "corrupt", Own("clean"), (1, 2)),
        Variant((Intervention(MLP_OUT, 2, patch), Intervention(HEAD_OUT, 0, patch, 2)), "clean", Own("corrupt"), "all"),
        Variant((Intervention(RESID_POST, 1, half), Intervention(RESID_POST, 1, half)), "clean", None, "last"),  # twice
        Variant((Intervention(HEAD_OUT, 2, zero),), "clean", None, (0,)),
    ]
    for order in (variants, variants[::-1]):  # the engine sorts by where each forks
        both = [engine.evaluate(pairs, order, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model))]
        within("several layers", gap(*both), ROUNDING[torch.float32])


@pytest.mark.parametrize("positions", ["last", "all", (2,)])
def test_a_patch_of_a_single_head_agrees_and_differs_between_heads(name: str, positions: Any) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    variants = [
        Variant((Intervention(HEAD_OUT, layer, Patch(), head),), "corrupt", Own("clean"), positions)
        for layer in range(LAYERS)
        for head in range(HEADS)
    ]
    forked, plain = (engine.evaluate(pairs, variants, LOGITS) for engine in (ForkedEngine(model), ReferenceEngine(model)))
    assert gap(forked, plain) <= ROUNDING[torch.float32]
    distinct = np.abs(plain.values[:, None] - plain.values[None]).max(axis=(2, 3))
    late = slice((LAYERS - 1) * HEADS, None) if positions == (2,) else slice(None)
    pairs_of_heads = ~np.eye(len(variants[late]), dtype=bool)
    assert positions == (2,) or (distinct[late, late][pairs_of_heads] > 1e-4).all()


def test_the_order_of_variants_and_pairs_does_not_matter(name: str) -> None:
    model = family(name)
    pairs = answered(model, PAIRS[torch.float32])
    shuffled = np.random.default_rng(0).permutation(len(CELLS)).tolist()
    found = ForkedEngine(model, 2000).evaluate(pairs[::-1], [CELLS[v].variant for v in shuffled], SCORER)
    expected = everything(name, torch.float32).plain
    assert np.abs(found.values[:, ::-1] - expected.values[shuffled]).max() <= ROUNDING[torch.float32]


def test_progress_counts_every_variant_of_every_example_once() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    for engine in (ForkedEngine(model, 300), ReferenceEngine(model)):
        seen: list[int] = []
        engine.evaluate(pairs, variants_of(h1_cells()), SCORER, seen.append)
        assert sum(seen) == len(pairs) * len(h1_cells())


def test_metrics_of_a_bfloat16_model_are_computed_in_float32() -> None:
    model = make(FAMILIES["gpt2"], torch.bfloat16)
    pairs = answered(model, ALIGNED)
    found = ForkedEngine(model).evaluate(pairs, [], SCORER).baselines["clean"][:, 0]
    logits = ForkedEngine(model).evaluate(pairs, [], LOGITS).baselines["clean"]
    expected = [row[pair.target] - row[pair.foil] for row, pair in zip(logits, pairs, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)  # a bfloat16 difference would be off by about 1e-3


# What a forked pass costs


def test_duplicated_pairs_cost_no_forward_and_no_state(name: str) -> None:
    model = family(name)
    pairs = answered(model, tuple(dict.fromkeys(ALIGNED)))
    once, thrice = (ForkedEngine(model).evaluate(many, variants_of(CELLS), SCORER) for many in (pairs, pairs * 3))
    assert (thrice.forwards, thrice.states) == (once.forwards, once.states)
    np.testing.assert_array_equal(thrice.values, np.concatenate([once.values] * 3, axis=1))


def test_h1_computes_each_distinct_prefix_once_per_variant_and_no_more() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    found = ForkedEngine(model).evaluate(pairs, variants_of(h1_cells()), SCORER)
    clean = {pair.clean[: end + 1] for pair in pairs for end in range(len(pair.clean))}
    corrupt = {pair.corrupt[: end + 1] for pair in pairs for end in range(len(pair.corrupt))}
    whole = {pair.clean for pair in pairs}
    unmodified = (LAYERS - 1) * len(clean | corrupt) + len(whole | {pair.corrupt for pair in pairs})
    behind = [LAYERS - 1 - int(cell.key["layer"]) for cell in h1_cells()]  # full blocks from the head's own to the last but one
    assert found.states == unmodified + sum(blocks * len(clean) + len(whole) for blocks in behind)
    assert found.forwards == 2


def test_patches_at_the_last_position_compute_one_row_per_distinct_pair_and_layer() -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    cells = ActivationPatch(name="h2", positions="last").cells(LAYERS, HEADS)
    unmodified = ForkedEngine(model).evaluate(pairs, [], SCORER).states
    found = ForkedEngine(model).evaluate(pairs, variants_of(cells), SCORER)
    changed = {(pair.clean, pair.corrupt) for pair in pairs if pair.clean != pair.corrupt}
    assert found.states == unmodified + len(changed) * sum(LAYERS - 1 - int(cell.key["layer"]) for cell in cells)


@pytest.mark.parametrize("max_states", [None, 30])
def test_the_plan_is_what_happens(name: str, max_states: int | None) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED)
    engine = ForkedEngine(model, max_states)
    plan, found = engine.plan(pairs, variants_of(CELLS[::3])), engine.evaluate(pairs, variants_of(CELLS[::3]), SCORER)
    assert (plan.forwards, plan.states) == (found.forwards, found.states)
    assert plan.weights == sum(p.numel() * p.element_size() for p in model.model.parameters())


def test_the_references_plan_is_what_happens() -> None:
    model = family("gpt2")
    pairs = answered(model, UNALIGNED)
    engine, variants = ReferenceEngine(model), variants_of(h1_cells()[:5])
    plan, found = engine.plan(pairs, variants), engine.evaluate(pairs, variants, SCORER)
    assert (plan.forwards, plan.states) == (found.forwards, found.states)


class RowCount(Scorer):
    """Remembers how many rows of logits it was ever given at once."""

    seen: list[int] = []

    def score(self, logits: torch.Tensor, clean_run: CleanRun) -> torch.Tensor:
        self.seen.append(len(logits))
        return super().score(logits, clean_run)


def test_rows_of_logits_held_at_once_are_bounded_by_the_budget_however_many_duplicates() -> None:
    """A templated corpus repeats prompts thousands of times; [examples, vocabulary] logits must not grow with it."""
    model = family("gpt2")
    pairs = answered(model, ALIGNED[:2]) * 500
    scorer = RowCount(("logit_diff",))
    ForkedEngine(model, max_states=256).evaluate(pairs, variants_of(h1_cells()[:2]), scorer)
    assert max(scorer.seen) <= 256


# Nothing is left behind


def trace(model: CausalModel) -> dict[str, Any]:
    """Everything in a model that an engine might forget to put back."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
             "_backward_hooks", "_forward_hooks_always_called")
    return {
        "hooks": {path: tuple(tuple(getattr(m, kind)) for kind in kinds) for path, m in model.model.named_modules()},
        "own attributes": {path: sorted(vars(m)) for path, m in model.model.named_modules()},
        "classes": {path: type(m) for path, m in model.model.named_modules()},
        "attention": {
            path: m.config._attn_implementation for path, m in model.model.named_modules() if hasattr(m, "config")
        },
        "registered": sorted(ALL_ATTENTION_FUNCTIONS.valid_keys()),
        "pass": hooks._current.get(None),
        "weights": {path: (p.data_ptr(), p._version, p.requires_grad) for path, p in model.model.named_parameters()},
        "training": model.model.training,
        "gradients": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_an_evaluation_leaves_the_model_as_it_was(name: str, kind: Callable[[CausalModel], Engine]) -> None:
    model = make(FAMILIES[name])
    pairs = answered(model, ALIGNED[:4])
    before, logits = trace(model), plain_logits(model, pairs[0].clean)
    kind(model).evaluate(pairs, variants_of(CELLS[::5]), SCORER)
    assert trace(model) == before
    assert torch.equal(plain_logits(model, pairs[0].clean), logits)


class Broken(Scorer):
    """Fails at its third use, in the midst of the variants."""

    calls: list[int] = []

    def score(self, logits: torch.Tensor, clean_run: CleanRun) -> torch.Tensor:
        self.calls.append(1)
        if len(self.calls) == 3:
            raise RuntimeError("scorer broke")
        return super().score(logits, clean_run)


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_an_exception_in_a_scorer_leaves_the_model_as_it_was(
    name: str, kind: Callable[[CausalModel], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "calls", [])
    model = make(FAMILIES[name])
    pairs = answered(model, ALIGNED[:4])
    before, logits = trace(model), plain_logits(model, pairs[0].clean)
    with pytest.raises(RuntimeError, match="scorer broke"):
        kind(model).evaluate(pairs, variants_of(CELLS[::5]), Broken(("logit_diff",)))
    assert trace(model) == before
    assert torch.equal(plain_logits(model, pairs[0].clean), logits)


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize("at", [1, 4])
def test_an_exception_in_the_midst_of_a_forward_leaves_the_model_as_it_was(
    name: str, kind: Callable[[CausalModel], Engine], at: int
) -> None:
    model = make(FAMILIES[name])
    pairs = answered(model, ALIGNED[:4])
    calls: list[int] = []

    def explode(*_: Any) -> None:
        calls.append(1)
        if len(calls) == at:
            raise RuntimeError("forward broke")

    handle = model.mlp(1).register_forward_pre_hook(explode)
    before = trace(model)
    with pytest.raises(RuntimeError, match="forward broke"):
        kind(model).evaluate(pairs, variants_of(CELLS[::5]), SCORER)
    assert trace(model) == before
    handle.remove()
    assert self_check(model, pairs) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("kind", hooks.TANH_GELUS)
def test_an_activation_that_is_replaced_is_torchs_tanh_gelu(kind: type[torch.nn.Module]) -> None:
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    difference = (kind()(x) - torch.nn.functional.gelu(x, approximate="tanh")).abs().max()
    assert difference < 1e-9  # FastGELU has ten digits of a constant


def test_no_activation_is_computed_in_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any) -> None:
        raise RuntimeError("in several steps")

    model = make(FAMILIES["gpt2"])
    pairs = answered(model, ALIGNED[:2])
    monkeypatch.setattr(NewGELUActivation, "forward", explode)
    with pytest.raises(RuntimeError, match="in several steps"):
        ReferenceEngine(model).evaluate(pairs, [], SCORER)
    ForkedEngine(model).evaluate(pairs, variants_of(h1_cells()), SCORER)


@pytest.mark.parametrize("unsupported", UNSUPPORTED)
def test_a_refused_model_is_left_as_it_was(unsupported: str) -> None:
    model = make(UNSUPPORTED[unsupported])
    before = trace(model)
    with pytest.raises(EngineUnsupported):
        ForkedEngine(model).evaluate(answered(model, ALIGNED[:2]), variants_of(h1_cells()), SCORER)
    assert trace(model) == before


# What interventions mean


def test_sham_is_exactly_nothing_in_the_reference_and_below_rounding_in_the_forked_engine(name: str, within: Within) -> None:
    both = everything(name, torch.float32)
    shams = [v for v, cell in enumerate(CELLS) if cell.control == "sham"]
    assert len(shams) == 8 * 2 * LAYERS
    for v in shams:
        target = CELLS[v].variant.target
        within("sham, reference", np.abs(both.plain.values[v] - both.plain.baselines[target]).max(), 0.0)
        within("sham, forked", np.abs(both.forked.values[v] - both.forked.baselines[target]).max(), ROUNDING[torch.float32])


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_scale_one_changes_nothing(name: str, kind: Callable[[CausalModel], Engine], within: Within) -> None:
    model = family(name)
    cells = HeadsZero(name="h1", scales=[1.0]).cells(LAYERS, HEADS)
    found = kind(model).evaluate(answered(model, ALIGNED), variants_of(cells), LOGITS)
    within("scale 1", np.abs(found.values - found.baselines["clean"]).max(), ROUNDING[torch.float32])


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


def without_head(model: CausalModel, layer: int, head: int, factor: float) -> CausalModel:
    """A copy whose output projection has a head's input weights times `factor`: arithmetic on weights, no hook."""
    other = copy.deepcopy(model.model)
    changed = CausalModel(other, None, model.identity, False)
    projection: Any = changed.projection(layer)
    width = model.projection(layer).weight.numel() // WIDTH // HEADS
    mine = slice(head * width, (head + 1) * width)
    if type(projection).__name__ == "Conv1D":  # GPT-2 keeps [in, out]
        projection.weight[mine] *= factor
    else:
        projection.weight[:, mine] *= factor
    return changed


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_scaling_a_head_equals_scaling_its_weights_in_the_output_projection(name: str, factor: float, within: Within) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED[3:9:2])
    cells = HeadsZero(name="h1", scales=[factor]).cells(LAYERS, HEADS)
    found = ReferenceEngine(model).evaluate(pairs, variants_of(cells), LOGITS).values
    for v, cell in enumerate(cells):
        changed = without_head(model, int(cell.key["layer"]), int(cell.key["head"]), factor)
        # both factors only move exponents, so the products are the same bits; sums may be taken in another order
        within("scaled weights", logits_gap(found[v], changed, [pair.clean for pair in pairs]), 1e-6)


@pytest.mark.parametrize("only", ["gpt2", "llama", "gpt_neox"])
def test_zeroing_the_mlp_equals_zeroing_its_last_linear_map(only: str, within: Within) -> None:
    model = family(only)
    pairs = answered(model, ALIGNED[3:9:2])
    zero = Variant((Intervention(MLP_OUT, 1, Scale(0.0)),), "clean")
    found = ReferenceEngine(model).evaluate(pairs, [zero], LOGITS).values[0]
    other = copy.deepcopy(model.model)
    changed = CausalModel(other, None, model.identity, False)
    for leaf in [m for m in changed.mlp(1).modules() if hasattr(m, "weight") and not list(m.children())][-1:]:
        linear = getattr(changed.mlp(1), "down_proj", leaf)
        linear.weight.zero_()
        if getattr(linear, "bias", None) is not None:
            linear.bias.zero_()
    if only == "gpt2":
        changed.mlp(1).c_proj.weight.zero_()
        changed.mlp(1).c_proj.bias.zero_()
    within("zeroed MLP", logits_gap(found, changed, [pair.clean for pair in pairs]), 1e-6)


def test_patching_a_head_by_hand_gives_the_references_numbers(within: Within) -> None:
    """GPT-2, layer 1, head 2: the projection's input is recorded and overwritten by two hooks written here."""
    model = family("gpt2")
    pair = answered(model, ALIGNED)[8]
    here = slice(2 * WIDTH // HEADS, 3 * WIDTH // HEADS)
    projection = model.model.transformer.h[1].attn.c_proj
    kept: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _m, args: kept.append(args[0].clone()))
    plain_logits(model, pair.clean)
    handle.remove()

    def overwrite(_m: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        changed = args[0].clone()
        changed[0, -1, here] = kept[0][0, -1, here]
        return (changed,)

    handle = projection.register_forward_pre_hook(overwrite)
    expected = plain_logits(model, pair.corrupt).double().numpy()
    handle.remove()
    patch = Variant((Intervention(HEAD_OUT, 1, Patch(), 2),), "corrupt", Own("clean"), "last")
    found = ReferenceEngine(model).evaluate([pair], [patch], LOGITS)
    within("patched by hand", np.abs(found.values[0, 0] - expected).max(), 0.0)
    assert np.abs(expected - found.baselines["corrupt"][0]).max() > 1e-3


def test_heads_are_query_heads() -> None:
    """Llama here has 4 heads of queries and 2 of keys; the projection's input is cut into the former."""
    model = family("llama")
    assert model.config.num_key_value_heads == 2
    assert (model.n_heads, model.head_width) == (HEADS, WIDTH // HEADS)


def test_a_granularity_patches_the_module_that_it_names() -> None:
    """GPT-2, layer 1: what the module put out in the clean run is put into the corrupt one by a hook written here."""
    model = family("gpt2")
    pair = answered(model, ALIGNED)[8]
    block = model.model.transformer.h[1]
    named = {"head_out": block.attn, "mlp_out": block.mlp, "layer_resid": block}  # attn: its output is linear in head_out
    for granularity, module in named.items():
        (cell,) = ActivationPatch(name="h2", granularity=granularity, positions="last", layers=[1]).cells(LAYERS, HEADS)
        kept: list[torch.Tensor] = []

        def last(_m: Any, _args: Any, output: Any, kept: list[torch.Tensor] = kept) -> Any:
            value = output if isinstance(output, torch.Tensor) else output[0]
            if kept:
                value[0, -1] = kept[0]
            else:
                kept.append(value[0, -1].clone())
            return output

        handle = module.register_forward_hook(last)
        plain_logits(model, pair.clean)
        expected = plain_logits(model, pair.corrupt).double().numpy()
        handle.remove()
        found = ReferenceEngine(model).evaluate([pair], [cell.variant], LOGITS)
        np.testing.assert_allclose(found.values[0, 0], expected, atol=1e-6)
        assert np.abs(expected - found.baselines["corrupt"][0]).max() > 1e-3


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


# The self-check and the choice


def test_the_self_check_passes_and_tells_a_small_difference(name: str) -> None:
    for dtype in DTYPES:
        model = family(name, dtype)
        assert self_check(model, answered(model, ALIGNED)) <= ROUNDING[dtype]


def test_a_supported_family_gets_the_forked_engine(name: str) -> None:
    model = family(name)
    choice = choose_engine(model, EngineConfig(name="auto"), answered(model, UNALIGNED))
    assert (choice.engine.name, choice.reason) == ("forked", None)
    assert choice.max_difference is not None


@pytest.mark.parametrize("unsupported", [*UNSUPPORTED, *FIXED_BATCH])
def test_a_family_that_cannot_be_forked_falls_back_with_a_warning(
    unsupported: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = family(unsupported)
    pairs = answered(model, ALIGNED)
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        choice = choose_engine(model, EngineConfig(name="auto"), pairs)
    assert choice.engine.name == "reference"
    assert choice.reason is not None
    assert any("reference engine" in record.getMessage() for record in caplog.records if record.name.startswith("tinylab"))
    found = choice.engine.evaluate(pairs[:2], variants_of(h1_cells()[:2]), LOGITS)
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs[:2]]) == 0
    with pytest.raises(EngineUnsupported, match="engine=auto or engine=reference"):
        choose_engine(model, EngineConfig(name="forked"), pairs)


@pytest.mark.parametrize("unsupported", UNSUPPORTED)
def test_the_reference_scales_heads_of_unsupported_families_too(unsupported: str) -> None:
    model = family(unsupported)
    pairs = answered(model, ALIGNED[3:6])
    cells = HeadsZero(name="h1", scales=[0.0], layers=[1]).cells(LAYERS, HEADS)
    found = ReferenceEngine(model).evaluate(pairs, variants_of(cells), LOGITS).values
    for v, cell in enumerate(cells):
        changed = without_head(model, 1, int(cell.key["head"]), 0.0)
        assert logits_gap(found[v], changed, [pair.clean for pair in pairs]) <= 1e-6


def test_asking_for_the_reference_runs_no_self_check() -> None:
    choice = choose_engine(family("gpt2"), EngineConfig(name="reference"), [])
    assert (choice.engine.name, choice.max_difference, choice.reason) == ("reference", None, None)


def test_the_self_check_acts_in_one_layer_of_each_type_and_in_the_last() -> None:
    layers = {i.layer for variant in check_variants(family("gemma3")) for i in variant.interventions}
    assert layers == {0, 1, 2}
    assert {i.layer for variant in check_variants(family("gpt2")) for i in variant.interventions} == {0, 2}


def test_a_wrong_attention_is_noticed_by_the_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that forgets the sliding window is what an unknown family would look like."""
    model = family("mistral")
    pairs = answered(model, ALIGNED)
    right = hooks._attend
    forgetful = lambda *args, **kwargs: right(*args, **{**kwargs, "sliding_window": None})  # noqa: E731
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, hooks.NAME, forgetful)
    with pytest.raises(EngineUnsupported, match="differ"):
        self_check(model, pairs)


def prompt(length: int, first: int = 5) -> tuple[int, ...]:
    return tuple((first + 3 * place) % VOCABULARY for place in range(length))


def test_the_self_check_reaches_the_longest_prompt_of_the_run() -> None:
    pairs = [TokenPair(prompt(20), prompt(4), 1, 2), TokenPair(prompt(5), prompt(6), 1, 2)]
    longest = max(max(len(pair.clean), len(pair.corrupt)) for pair in check_prompts(pairs))
    assert longest == 20


LONGROPE_CASES = {
    "aligned pairs on both sides of the switch": [(prompt(14), prompt(14, 7)), (prompt(5), prompt(5, 7))],
    "pairs of unequal length that straddle it": [(prompt(14), prompt(5, 7)), (prompt(5), prompt(5, 7))],
}


@pytest.mark.parametrize("case", LONGROPE_CASES)
def test_rotary_frequencies_that_look_at_the_length_are_noticed(case: str) -> None:
    """Phi3 with longrope takes other frequencies beyond 8 tokens; one trie takes those of its deepest token."""
    model = family("phi3_longrope")
    pairs = answered(model, tuple(LONGROPE_CASES[case]))
    choice = choose_engine(model, EngineConfig(name="auto"), pairs)
    found = choice.engine.evaluate(pairs, [], LOGITS)
    assert logits_gap(found.baselines["corrupt"], model, [pair.corrupt for pair in pairs]) <= ROUNDING[torch.float32]
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]


def test_prompts_on_one_side_of_the_switch_may_use_the_forked_engine() -> None:
    model = family("phi3_longrope")
    pairs = answered(model, ((prompt(7), prompt(7, 7)), (prompt(5), prompt(5, 7))))
    assert choose_engine(model, EngineConfig(name="auto"), pairs).engine.name == "forked"


@pytest.mark.parametrize("max_states", [None, 208])
def test_a_straddled_switch_is_noticed_whatever_the_budget(max_states: int | None) -> None:
    """A small budget puts the self-check's longest pair in a trie of its own, but the run's pairs meet in one."""
    model = family("phi3_longrope")
    prompts = ((prompt(20), prompt(20, 7)), (prompt(4), prompt(4, 7)), (prompt(9), prompt(9)), (prompt(8), prompt(8)))
    pairs = answered(model, prompts)
    choice = choose_engine(model, EngineConfig(name="auto", max_states=max_states), pairs)
    found = choice.engine.evaluate(pairs, [], LOGITS)
    assert logits_gap(found.baselines["clean"], model, [pair.clean for pair in pairs]) <= ROUNDING[torch.float32]


@pytest.fixture
def dynamic() -> Iterator[CausalModel]:
    """A Llama whose rotary base grows with the length of the input beyond 8 tokens."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    yield make(FAMILIES["llama"], max_position_embeddings=8, rope_parameters=rope)


@pytest.mark.parametrize("lengths", [(14, 5), (20, 12)], ids=["straddling", "both beyond"])
def test_a_rotary_base_that_grows_with_the_length_is_noticed(dynamic: CausalModel, lengths: tuple[int, int]) -> None:
    """A fresh model judges: transformers keeps the frequencies of the longest input so far, whichever engine ran it."""
    pairs = [TokenPair(prompt(n), prompt(n, 7), 1, 2) for n in lengths]
    expected = np.stack([plain_logits(alone(dynamic), pair.clean).double().numpy() for pair in pairs])
    off = np.abs(ForkedEngine(alone(dynamic)).evaluate(pairs, [], LOGITS).baselines["clean"] - expected).max()
    assert off > 1e-3  # one trie with both lengths really is wrong
    assert choose_engine(dynamic, EngineConfig(name="auto"), pairs).engine.name == "reference"


def alone(model: CausalModel) -> CausalModel:
    """A copy, so that no buffer is shared."""
    return CausalModel(copy.deepcopy(model.model), None, model.identity, False)
