"""A site is what it is called, or the run is refused: heads, the whole MLP, one residual stream, modules that are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3TextConfig

from families import _COMMON, _GROUPED, EVERY, HEADS, LAYERS, WIDTH, _stock, answered, family, make
from strange import HYBRIDS, STRANGE, around, strange
from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Engine
from tinylab.engine.biases import value_biases
from tinylab.engine.choose import choose_engine
from tinylab.engine.cost import Shape
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import Activations, ReferenceEngine, capture
from tinylab.engine.trial import check_causal, check_vocabulary, flaws
from tinylab.errors import EngineUnsupported, ModelError
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import COMMON, HEAD_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

PROMPT = (5, 7, 9)
PAIR = TokenPair(PROMPT, (5, 8, 9), 3, 4)
def everywhere(model: CausalModel) -> list[tuple[Site, int]]:
    return [(site, layer) for site in COMMON for layer in range(model.n_layers)]


def variant(site: Site, layer: int) -> Variant:
    return Variant((Intervention(site, layer, Scale(0.0), 0 if site is HEAD_OUT else None),), "clean")


@pytest.mark.parametrize("name", EVERY)
def test_every_site_of_a_supported_family_is_what_it_is_called(name: str) -> None:
    model = family(name)
    assert flaws(model, PROMPT, everywhere(model)) == {}
    check_causal(model, PAIR)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.model.parameters())


@pytest.mark.parametrize("name", STRANGE)
def test_a_site_that_is_something_else_is_found_in_each_layer(name: str) -> None:
    model, expected = strange(name), STRANGE[name][1]
    found = flaws(model, PROMPT, everywhere(model))
    assert set(found) == {(site, layer) for site, (layers, _) in expected.items() for layer in layers}
    assert [told for site, (layers, told) in expected.items() if told not in found[site, layers[0]]] == []


class WholeNumbers(torch.nn.Module):
    """A linear layer in 8 bits that tells whether it is to be differentiated: bitsandbytes' in 4 bits fail where they are."""

    differentiated = False

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.abs().max() / 127
        self.weight = torch.nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.spread = torch.nn.Parameter(torch.ones(1, 1), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.differentiated |= input.requires_grad or self.spread.requires_grad
        return torch.nn.functional.linear(input, self.weight * self.scale * self.spread)


class Doubled(torch.nn.Module):
    """A module that changes what it is given, and gives half of it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.mul_(2) / 2


@pytest.mark.parametrize("name", ["llama", "GraniteMoeShared"])
def test_weights_that_have_no_slope_hide_no_second_branch(name: str) -> None:
    plain, model = (make(EVERY[name]) if name in EVERY else strange(name) for _ in range(2))
    expected = flaws(plain, PROMPT, everywhere(plain))
    linears = [(block, place) for block in model.blocks for place, part in block.named_modules()
               if isinstance(part, torch.nn.Linear)]
    for block, place in linears:
        block.set_submodule(place, torch.nn.Sequential(WholeNumbers(block.get_submodule(place)), Doubled()))
    assert len(linears) >= 4 * model.n_layers
    assert flaws(model, PROMPT, everywhere(model)) == expected
    assert set(expected) == {(site, layer) for site, (layers, _) in STRANGE.get(name, (None, {}))[1].items() for layer in layers}
    assert not any(part.differentiated for part in model.model.modules() if isinstance(part, WholeNumbers))
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_run_at_such_a_site_is_refused_and_one_at_other_layers_is_not(engine: str) -> None:
    model, config = strange("Laguna"), EngineConfig(name=engine)
    with pytest.raises(ModelError, match=r"no head_out in it .*: layer 1 \(LagunaAttention\) has 8 attention heads") as caught:
        choose_engine(model, config, [PAIR], [variant(HEAD_OUT, layer) for layer in range(3)])
    assert "\n" not in str(caught.value)
    choose_engine(model, config, [PAIR], [variant(HEAD_OUT, layer) for layer in (0, 2)])


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_says_which_layer_lacks_attention(name: str) -> None:
    model = strange(name)
    for refused in (lambda: Shape.of(model), lambda: flaws(model, PROMPT, [(HEAD_OUT, 0)])):
        with pytest.raises(ModelError, match=r"layer 1 has no attention \(it is made of .*(conv|mamba) "):
            refused()


def test_a_masked_language_model_is_refused() -> None:
    model = make(_stock("Bert", _COMMON, ("LMHeadModel", "Config")))
    with pytest.raises(ModelError, match="logits depend on tokens that come later"):
        check_causal(model, PAIR)
    check_causal(make(_stock("Bert", _COMMON, ("LMHeadModel", "Config")), is_decoder=True), PAIR)


def test_numbers_that_overflow_or_are_not_the_same_twice_are_not_taken_for_later_tokens() -> None:
    model = make(EVERY["gpt2"])
    model.model.transformer.ln_f.weight.fill_(torch.nan)
    check_causal(model, PAIR)
    check_causal(CausalModel(make(_stock("GPT2", {"n_embd": WIDTH, "n_head": HEADS, "n_layer": LAYERS, "vocab_size": 61},
                                         ("LMHeadModel", "Config"))).model.train(), None, model.identity, False), PAIR)


@pytest.mark.parametrize("tokens", [((61, 7), (5, 8), 3, 4), ((5, 7), (5, 61), 3, 4), ((5, 7), (5, 8), 3, 61)])
def test_tokens_without_an_embedding_are_refused(tokens: tuple[Any, ...]) -> None:
    pair = TokenPair(*tokens)
    with pytest.raises(ModelError, match="gives token 61, but the model has embeddings for 61"):
        check_vocabulary(family("gpt2"), [pair])
    check_vocabulary(family("gpt2"), [TokenPair((60, 7), (5, 60), 60, 4)])


# Hooks that never fire


@pytest.mark.parametrize(("site", "module"), [(HEAD_OUT, "projection"), (RESID_POST, "block")], ids=str)
def test_an_activation_that_never_came_by_is_an_error(site: Site, module: str) -> None:
    model, kept = make(EVERY["llama"]), Activations()
    asked = Variant((Intervention(site, 1, Patch()),), "corrupt", Own("clean"), "last")
    with around(model, module):
        with pytest.raises(EngineUnsupported, match=f"{site} of layer 1 was seen 0 times"), capture(model, {(site, 1)}, kept):
            model.model(torch.tensor([PROMPT]))
        for kind in (ReferenceEngine, ForkedEngine):
            engine: Engine = kind(model)
            with pytest.raises(EngineUnsupported, match=r"was seen 0 times|did not reach"):
                engine.evaluate([PAIR], [asked], Scorer(("logit_diff",)))
        with pytest.raises(ModelError, match="called 0 times in a forward pass, expected once"):
            choose_engine(model, EngineConfig(name="auto"), [PAIR], [asked])


@pytest.mark.parametrize("module", ["projection", "attention"])
def test_a_value_bias_that_was_not_measured_is_an_error(module: str) -> None:
    model = make(EVERY["gpt2"])
    with around(model, module), pytest.raises(ModelError, match="layer 1 of random .* was not called once"):
        value_biases(model)


def test_a_model_with_a_tower_for_images_is_acted_on_in_its_language_model() -> None:
    text = Gemma3TextConfig(**_GROUPED, head_dim=8, query_pre_attn_scalar=8)
    vision = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": 48,
              "image_size": 28, "patch_size": 14}
    whole = make(lambda: Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision)))
    assert list(whole.blocks) == list(whole.model.model.language_model.layers)
    alone = make(lambda: Gemma3ForCausalLM(text))
    alone.model.load_state_dict({f"model.{name}": tensor for name, tensor in whole.model.get_decoder().state_dict().items()},
                                strict=False)
    alone.model.lm_head.load_state_dict(whole.model.lm_head.state_dict())
    asked = [Variant((Intervention(HEAD_OUT, layer, Scale(0.0), head),), "clean") for layer, head in np.ndindex(LAYERS, HEADS)]
    pairs = answered(alone, ((PROMPT, (5, 8, 9)),))
    found, expected = (ReferenceEngine(model).evaluate(pairs, asked, Scorer(("logit_diff",))) for model in (whole, alone))
    np.testing.assert_array_equal(found.values, expected.values)
    assert (abs(found.values - found.baselines["clean"]) > 1e-3).all()


def test_a_model_whose_own_code_fails_is_one_sentence() -> None:
    model = family("gpt2")
    handle = model.blocks[0].register_forward_pre_hook(lambda _module, _args: (_ for _ in ()).throw(KeyError(1)))
    try:
        with pytest.raises(ModelError, match=r"its own code in transformers cannot compute a plain prompt \(KeyError: 1\)"):
            check_causal(model, TokenPair((1, 2, 3), (1, 2, 4), 5, 6))
    finally:
        handle.remove()


def test_memory_that_runs_out_is_not_the_models_code() -> None:
    model = family("gpt2")
    short = torch.OutOfMemoryError("no more")
    handle = model.blocks[0].register_forward_pre_hook(lambda _module, _args: (_ for _ in ()).throw(short))
    try:
        with pytest.raises(torch.OutOfMemoryError):
            check_causal(model, TokenPair((1, 2, 3), (1, 2, 4), 5, 6))
    finally:
        handle.remove()
