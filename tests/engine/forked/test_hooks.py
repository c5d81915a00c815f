"""Hooks: an evaluation leaves nothing behind in a model, whatever happens in the midst of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.activations import NewGELUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from both_engines import CELLS, ROUNDING, SCORER, h1_cells, variants_of
from families import ALIGNED, FAMILIES, UNSUPPORTED, answered, lacking, make, plain_logits
from tinylab.engine.base import Engine
from tinylab.engine.choose import self_check
from tinylab.engine.forked import hooks
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine, intervene
from tinylab.engine.trial import flaws
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, SITES, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import Scorer
from tinylab.measures.readings import CleanRun
from tinylab.models.network import CausalModel


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
        "registered": dict(ALL_ATTENTION_FUNCTIONS),
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


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_interventions_at_every_site_leave_the_model_as_it_was(name: str, kind: Callable[[CausalModel], Engine]) -> None:
    model = make(FAMILIES[name])
    pairs = answered(model, ALIGNED[:2])
    before, logits = trace(model), plain_logits(model, pairs[0].clean)
    sites = [site for site in SITES.values() if site.name not in lacking(name)]
    patches = [Variant((Intervention(site, 1, Patch()),), "corrupt", Own("clean"), "last") for site in sites]
    kind(model).evaluate(pairs, patches, SCORER)
    flaws(model, pairs[0].clean, [(site, 1) for site in SITES.values()])
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


# An intervention that would never be made


def replaced_mlp(calls: int) -> CausalModel:
    """A GPT-2 whose layer 1 holds an MLP as every block does, and calls it so many times."""
    model = make(FAMILIES["gpt2"])
    mlp = model.mlp(1)

    def called(hidden: torch.Tensor) -> torch.Tensor:
        for _ in range(calls):
            hidden = mlp(hidden)
        return hidden

    object.__setattr__(model.blocks[1], "mlp", called)  # the block finds this one, whoever lists its modules the other
    assert model.mlp(1) is mlp
    return model


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize("site", [MLP_OUT, Site("mlp_in", "mlp", "in")], ids=str)
def test_an_intervention_whose_module_is_not_called_once_is_refused(
    site: Site, calls: int, kind: Callable[[CausalModel], Engine]
) -> None:
    model = replaced_mlp(calls)
    variants = [Variant((Intervention(HEAD_OUT, 0, Scale(0.0), 1), Intervention(site, 1, Scale(0.0))), "clean")]
    before = trace(model)
    told = f"interventions were made {1 + calls} times in .*GPT2LMHeadModel, expected 2"
    if calls == 0:
        told = r"did not reach 1 of 12 hooked modules \(mlp of layer 1\)"
    if kind is ReferenceEngine:
        told = rf"Scale\(.*\) at {site} of layer 1 was made {calls} times in .*GPT2LMHeadModel, expected once"
    with pytest.raises(EngineUnsupported, match=told):
        kind(model).evaluate(answered(model, ALIGNED[:2]), variants, SCORER)
    assert trace(model) == before


def test_an_error_in_the_forward_is_told_rather_than_the_interventions_that_it_prevented() -> None:
    model = make(FAMILIES["gpt2"])

    def explode(*_: Any) -> None:
        raise RuntimeError("forward broke")

    pairs = answered(model, ALIGNED[:1])
    handle = model.blocks[1].register_forward_pre_hook(explode)
    variant = Variant((Intervention(MLP_OUT, 1, Scale(0.0)),), "clean")
    with pytest.raises(RuntimeError, match="forward broke"), intervene(model, variant, range(len(pairs[0].clean))):
        plain_logits(model, pairs[0].clean)
    handle.remove()
