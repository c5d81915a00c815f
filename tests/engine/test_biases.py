"""Keeping the value bias of a scaled head: z ← s·(z − b) + b, with b as the weights have it and in both engines."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from conftest import Command, only
from families import ALIGNED, EVERY, HEADS, LAYERS, VOCABULARY, WIDTH, answered, family, make, plain_logits
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.base import Engine
from tinylab.engine.biases import value_biases
from tinylab.engine.choose import AllLogits
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import ConfigError, ModelError
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_NEURONS, MLP_OUT, RESID_POST, Q, Site, V
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel
from tinylab.paths import locate

D = WIDTH // HEADS
LOGITS = AllLogits(tuple(str(word) for word in range(VOCABULARY)))
ENGINES = (ForkedEngine, ReferenceEngine)
ROUNDING = 1e-5
"""As between the engines (`both_engines.py`): sums in another order, on logits of order 1 in float32."""


def separate(attention: Any) -> torch.Tensor:
    """A projection of its own for values, maybe for fewer heads than there are queries: [H, d]."""
    bias = attention.v_proj.bias.view(-1, D)
    return bias.repeat_interleave(HEADS // len(bias), dim=0)


def interleaved(attention: Any) -> torch.Tensor:
    """One projection, head by head query, key and value."""
    return attention.query_key_value.bias.view(HEADS, 3, D)[:, 2]


def grouped(attention: Any) -> torch.Tensor:
    """One projection, for each key-value head its queries, its key and its value."""
    bias = attention.query_key_value.bias.view(2, HEADS // 2 + 2, D)[:, -1]
    return bias.repeat_interleave(HEADS // 2, dim=0)


WEIGHTS: dict[str, Callable[[Any], torch.Tensor]] = {
    "gpt2": lambda attention: attention.c_attn.bias[2 * WIDTH :].view(HEADS, D),
    "gpt_bigcode": lambda attention: attention.c_attn.bias[-D:].expand(HEADS, D),  # one key-value head
    "falcon_alibi": lambda attention: attention.query_key_value.bias[-D:].expand(HEADS, D),
    "falcon": grouped,
    **dict.fromkeys(["gpt_neox", "persimmon", "bloom"], interleaved),
    **dict.fromkeys(["llama", "qwen2", "opt", "biogpt", "phi", "stablelm", "starcoder2", "glm", "seed_oss", "xglm"], separate),
}
"""Where families keep their value biases."""
NONE = ("mistral", "phi3", "olmo", "deepseek_v3", "gptj", "mpt")
"""Families without; two fuse the projection, one clips values, one makes them of a normed latent."""


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_measured_bias_is_the_weights_own(name: str) -> None:
    model = family(name)
    for layer, found in enumerate(value_biases(model)):
        torch.testing.assert_close(found, WEIGHTS[name](model.attention(layer)), rtol=0, atol=0)
        assert found.abs().max(dim=1).values.min() > 0.05  # all heads' are random: forgetting one would show


@pytest.mark.parametrize("name", NONE)
def test_a_family_without_a_value_bias_has_zeros(name: str) -> None:
    assert not torch.stack(value_biases(family(name))).any()


def test_a_bias_in_bfloat16_is_the_weights_own_too() -> None:
    model = make(EVERY["llama"], torch.bfloat16)
    for layer, found in enumerate(value_biases(model)):
        torch.testing.assert_close(found, separate(model.attention(layer)), rtol=0, atol=0)


def cells(factor: float, keep: bool = True) -> list[Variant]:
    return [cell.variant for cell in HeadsZero(name="h1", scales=[factor], keep_value_bias=keep).cells(LAYERS, HEADS)]


def found(kind: Callable[[CausalModel], Engine], model: CausalModel, variants: list[Variant]) -> np.ndarray:
    """Logits [V, B, W] on three prompts of different lengths."""
    return kind(model).evaluate(answered(model, ALIGNED[3:9:2]), variants, LOGITS).values


CORE = ("gpt2", "gpt_neox", "llama")


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("factor", [0.0, 0.5])
@pytest.mark.parametrize("name", CORE)
def test_a_hook_written_here_gives_the_same_numbers(name: str, factor: float, kind: Callable[[CausalModel], Engine]) -> None:
    model = family(name)
    values = found(kind, model, cells(factor))
    pairs = answered(model, ALIGNED[3:9:2])
    for v, (layer, head) in enumerate(np.ndindex(LAYERS, HEADS)):
        bias, mine = WEIGHTS[name](model.attention(layer))[head], slice(head * D, (head + 1) * D)

        def keep(_module: Any, args: tuple[torch.Tensor], bias: torch.Tensor = bias, mine: slice = mine) -> tuple[torch.Tensor]:
            changed = args[0].clone()
            changed[..., mine] = factor * (changed[..., mine] - bias) + bias
            return (changed,)

        handle = model.projection(layer).register_forward_pre_hook(keep)
        expected = np.stack([plain_logits(model, pair.clean).double().numpy() for pair in pairs])
        handle.remove()
        np.testing.assert_allclose(values[v], expected, rtol=0, atol=ROUNDING)


def folded(name: str) -> CausalModel:
    """The same network, written with the value biases moved through the output projection into its bias."""
    model = copy.deepcopy(family(name))
    for layer in range(LAYERS):
        bias = WEIGHTS[name](model.attention(layer)).clone().flatten()
        projection: Any = model.projection(layer)
        moved = bias @ projection.weight if name == "gpt2" else projection.weight @ bias
        projection.bias += moved
        own = model.attention(layer)
        if name == "llama":
            own.v_proj.bias.zero_()
        elif name == "gpt2":
            own.c_attn.bias[2 * WIDTH :] = 0
        else:
            own.query_key_value.bias.view(HEADS, 3, D)[:, 2] = 0
    return model


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", CORE)
def test_keeping_the_bias_is_scaling_where_the_bias_was_folded_away(name: str, kind: Callable[[CausalModel], Engine]) -> None:
    """Attention weights sum to 1, so W_O (Σ a v + b) = W_O Σ a v + W_O b: no z of the model's own is used here."""
    kept, scaled = found(kind, family(name), cells(0.0)), found(kind, folded(name), cells(0.0, keep=False))
    np.testing.assert_allclose(kept, scaled, rtol=0, atol=ROUNDING)
    assert np.abs(kept - found(kind, family(name), cells(0.0, keep=False))).max(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("kind", ENGINES)
def test_a_head_that_writes_its_bias_alone_is_left_as_it_is(kind: Callable[[CausalModel], Engine]) -> None:
    """Layer 1, head 2 has no value weights: z = b whatever it reads, and 0 · (b − b) + b = b."""
    model = make(EVERY["gpt2"])
    column = slice(2 * WIDTH + 2 * D, 2 * WIDTH + 3 * D)
    model.attention(1).c_attn.weight[:, column] = 0
    here = [v for v, place in enumerate(np.ndindex(LAYERS, HEADS)) if place == (1, 2)]
    kept, scaled = (found(kind, model, [cells(0.0, keep)[here[0]], cells(1.0, keep)[here[0]]]) for keep in (True, False))
    np.testing.assert_allclose(kept[0], kept[1], rtol=0, atol=1e-6)
    assert np.abs(scaled[0] - scaled[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ENGINES)
def test_all_heads_of_a_layer_keep_their_biases_together(kind: Callable[[CausalModel], Engine]) -> None:
    model = family("llama")
    together = Variant((Intervention(HEAD_OUT, 1, Scale(0.5, True)),), "clean")
    one_by_one = Variant(tuple(Intervention(HEAD_OUT, 1, Scale(0.5, True), head) for head in range(HEADS)), "clean")
    values = found(kind, model, [together, one_by_one])
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ENGINES)
def test_without_a_bias_it_is_plain_scaling(kind: Callable[[CausalModel], Engine]) -> None:
    np.testing.assert_array_equal(*(found(kind, family("mistral"), cells(0.5, keep)) for keep in (True, False)))


@pytest.mark.parametrize("kind", ENGINES)
def test_attention_sinks_are_refused(kind: Callable[[CausalModel], Engine]) -> None:
    with pytest.raises(ModelError, match=r"keep_value_bias=true: random \(GptOss.*do not sum to 1.*keep_value_bias=false"):
        found(kind, family("gpt_oss"), cells(0.0))
    assert found(kind, family("gpt_oss"), cells(0.0, keep=False)).shape[0] == LAYERS * HEADS


def test_a_gate_behind_the_heads_is_refused() -> None:
    model = make(EVERY["gpt2"])
    model.projection(1).register_forward_pre_hook(lambda _module, args: (args[0] * args[0].sigmoid(),))
    with pytest.raises(ModelError, match="values are not linear apart from a bias .layer 1"):
        value_biases(model)


def test_weights_that_sum_to_less_the_more_there_are_are_refused() -> None:
    """Linear in the values, and whole where there is one token alone: only several tokens tell."""
    model = make(EVERY["gpt2"])
    model.projection(1).register_forward_pre_hook(lambda _module, args: (args[0] / args[0].shape[1],))
    with pytest.raises(ModelError, match="attention weights do not sum to 1 .layer 1"):
        value_biases(model)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = family("gpt2")
    before = [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in model.model.modules()]
    value_biases(model)
    assert [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in model.model.modules()] == before


@pytest.mark.parametrize("site", [Q, V, MLP_NEURONS, MLP_OUT, RESID_POST], ids=str)
def test_what_is_no_head_has_no_value_bias(site: Site) -> None:
    with pytest.raises(ConfigError, match=f"heads alone have a value bias that can be kept, not {site}"):
        Intervention(site, 0, Scale(0.0, True))


# From the command line


SMALL = ("condition.n_examples=2", "battery.layers=[1]", "plots=false")


def told(run: Path) -> str:
    manifest = json.loads((run / "manifest.json").read_text())
    return str(manifest["provenance"]["value_bias"])


@pytest.mark.parametrize(("keep", "convention"), [("false", "scaled with its head"), ("true", "kept")])
def test_the_manifest_tells_the_convention(keep: str, convention: str, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(f"battery.keep_value_bias={keep}", *SMALL, "+verify_slice.device=cpu") == 0
    run = only(tmp_path, "outputs/runs/*")
    assert told(run) == convention
    assert json.loads((run / "metrics/verify.json").read_text())["verdict"] == "pass"
    assert yaml.safe_load((run / "config.yaml").read_text())["battery"]["keep_value_bias"] is (keep == "true")


def own_model(folder: Path, name: str) -> str:
    """A random model of a family with the embedded model's tokenizer."""
    shutil.copytree(locate("pkg://tinylab/assets/tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    make(EVERY[name], vocab_size=words, max_position_embeddings=64).model.save_pretrained(folder)
    return f"model.path={folder}"


def test_a_model_without_a_value_bias_is_scaled_and_the_manifest_says_so(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("model=local", own_model(tmp_path / "mistral", "mistral"), "model.add_bos=false", "condition=facts",
                   "battery.keep_value_bias=true", *SMALL) == 0
    assert told(only(tmp_path, "outputs/runs/*")).startswith("kept (this model has none")


def test_a_model_with_sinks_is_exit_code_2_with_one_sentence_and_leaves_nothing(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("model=local", own_model(tmp_path / "oss", "gpt_oss"), "model.add_bos=false", "condition=facts", *SMALL)
    assert tinylab(*asked, "battery.keep_value_bias=true") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tinylab: ")]
    assert len(error) == 1
    assert all(part in error[0] for part in ("battery.keep_value_bias=true", "do not sum to 1", "battery.keep_value_bias=false"))
    assert list((tmp_path / "outputs/runs").glob("*")) == []
