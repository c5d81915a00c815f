"""Every tensor of the architecture comes from the file, and every tensor of the file has its place: nothing random is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, GPT2Config, GPT2ForSequenceClassification

from conftest import Command
from families import EVERY, make
from tinylab.config.groups import ModelConfig
from tinylab.errors import ModelError
from tinylab.models.loading import load_model
from tinylab.paths import locate

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model in a folder of one's own."""
    shutil.copytree(locate("pkg://tinylab/assets/tiny"), tmp_path / "own")
    return tmp_path / "own"


def change(folder: Path, weights: Callable[[Tensors], Tensors] = dict, **config: Any) -> None:
    """Change the weights and the config of a folder."""
    save_file(weights(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    content = {**json.loads((folder / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(content))


def without(*ends: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.endswith(ends)}


def with_more(**more: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], list[str]]] = {
    "a prefix": (lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, {},
                 ["they lack lm_head.weight", "no place for them, _orig_mod.transformer.h.0"]),
    "no head": (without("lm_head.weight"), {"tie_word_embeddings": False}, ["they lack lm_head.weight;"]),
    "a tensor less": (without("h.2.mlp.c_fc.bias"), {}, ["they lack transformer.h.2.mlp.c_fc.bias;"]),
    "more layers": (dict, {"n_layer": 5}, ["they lack transformer.h.4.attn.c_attn.bias", "and 9 more;"]),
    "fewer layers": (dict, {"n_layer": 3}, ["no place for them, transformer.h.3."]),
    "a value head": (with_more(v_head__summary__weight=torch.ones(1, 128)), {}, ["no place for them, v_head.summary.weight;"]),
    "other shapes": (dict, {"n_inner": 64}, ["have in another shape", "transformer.h.0.mlp.c_fc.bias [512] for [64]"]),
    "another vocabulary": (dict, {"vocab_size": 100}, ["transformer.wte.weight"]),
    "not a number": (lambda tensors: {**tensors, "transformer.ln_f.bias": tensors["transformer.ln_f.bias"] * torch.nan}, {},
                     ["hold NaN or infinite numbers as float32 (transformer.ln_f.bias)"]),
    "infinite": (lambda tensors: {**tensors, "transformer.ln_f.bias": tensors["transformer.ln_f.bias"] + torch.inf}, {},
                 ["hold NaN or infinite numbers as float32 (transformer.ln_f.bias)"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_are_not_the_architectures_are_refused_by_name(case: str, folder: Path) -> None:
    weights, config, told = WRONG[case]
    change(folder, weights, **config)
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(path=str(folder)), "cpu")
    assert [part for part in told if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_numbers_that_are_none_are_named_in_every_dtype(dtype: str, folder: Path) -> None:
    change(folder, lambda tensors: {**tensors, "transformer.ln_f.bias": tensors["transformer.ln_f.bias"] * torch.nan})
    with pytest.raises(ModelError, match=rf"infinite numbers as {dtype} \(transformer.ln_f.bias\)"):
        load_model(ModelConfig(path=str(folder), dtype=dtype), "cpu")


def test_what_old_versions_saved_beside_the_weights_is_no_weight(folder: Path) -> None:
    config = ModelConfig(path=str(folder))
    before = load_model(config, "cpu").model.state_dict()
    names = [f"transformer.h.{layer}.attn.{name}" for layer in range(4) for name in ("bias", "masked_bias")]
    masks = {name: torch.ones(1, 1, 8, 8) for name in names}
    change(folder, lambda tensors: {**tensors, **masks, "transformer.rotary_emb.inv_freq": torch.ones(4)})
    after = load_model(config, "cpu").model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("build", [
    lambda: GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=2048)),
    lambda: BartForConditionalGeneration(BartConfig(
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=2048, max_position_embeddings=16)),
], ids=["a classifier", "an encoder-decoder"])
def test_another_kind_of_model_is_refused(build: Callable[[], Any], folder: Path) -> None:
    build().save_pretrained(folder)
    with pytest.raises(ModelError, match=r"score.weight|an encoder-decoder"):
        load_model(ModelConfig(path=str(folder)), "cpu")


def test_a_run_on_random_weights_is_exit_code_2_and_leaves_nothing(
    folder: Path, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, WRONG["a prefix"][0])
    assert tinylab("model=local", "model.path=own", "condition.n_examples=2", "device=cpu") == 2
    assert "they lack lm_head.weight, transformer.h.0.attn.c_attn.bias" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.families
@pytest.mark.parametrize("name", EVERY)
def test_each_family_is_loaded_as_it_was_saved(name: str, folder: Path) -> None:
    if (name, transformers.__version__) == ("apertus", "5.0.0"):
        pytest.skip("transformers 5.0.0 itself cannot load it")
    made = make(EVERY[name]).model
    (folder / "model.safetensors").unlink()
    made.save_pretrained(folder)
    loaded = load_model(ModelConfig(path=str(folder)), "cpu").model
    assert type(loaded) is type(AutoModelForCausalLM.from_config(made.config))
    expected = made.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
