"""The shipped models: each is what its file says, and begins prompts as it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import tinylab as lab
from conftest import Command, only
from tinylab.config.composing import Composer
from tinylab.config.groups import ModelConfig
from tinylab.config.hydra_internals import flags_parser
from tinylab.errors import ConfigError
from tinylab.schema import validate

TINY = Path(__file__).parents[2] / "tinylab/assets/tiny"
PRESETS: dict[str, tuple[str, bool]] = {
    "gpt2": ("openai-community/gpt2", True),
    "gpt2-medium": ("openai-community/gpt2-medium", True),
    "gpt2-xl": ("openai-community/gpt2-xl", True),
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", True),
    "pythia-160m": ("EleutherAI/pythia-160m", True),
    "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M", False),
    "smollm2-360m": ("HuggingFaceTB/SmolLM2-360M", False),
    "gemma-3-270m": ("google/gemma-3-270m", True),
    "gemma-3-1b": ("google/gemma-3-1b-pt", True),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B", False),
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B-Base", False),
}


def model_of(*overrides: str) -> ModelConfig:
    with Composer(flags_parser().parse_args([])) as composer:
        return validate(composer.compose(list(overrides))).model


def test_every_preset_of_the_hub_is_here() -> None:
    folder = Path(__file__).parents[2] / "conf/model"
    assert {file.stem for file in folder.glob("*.yaml")} == {*PRESETS, "gguf", "hf", "local", "tiny", "planted"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_hub_id_with_a_rule_for_bos(name: str) -> None:
    found = model_of(f"model={name}")
    assert (found.name, found.add_bos) == PRESETS[name]
    assert (found.path, found.revision, found.dtype) == (None, None, "float32")


def test_any_other_model_begins_prompts_as_its_tokenizer_does() -> None:
    assert model_of("model=hf", "model.name=me/own").add_bos == "auto"
    assert model_of("model=local", "model.path=own").add_bos == "auto"
    assert model_of("model=gguf", "model.path=own.gguf").add_bos == "auto"


@pytest.mark.parametrize("wrong", ["maybe", "1", "null", "[true]"])
def test_another_rule_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"model.add_bos=.*: expected true, false, or auto"):
        model_of(f"model.add_bos={wrong}")


def test_auto_is_said_in_the_log_and_the_manifest(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("model=local", f"model.path={TINY}", "condition.n_examples=2", "battery.layers=[0]", "plots=false") == 0
    folder = only(tmp_path, "outputs/runs/*")
    assert "model.add_bos=auto: the tokenizer of tiny itself puts nothing before a text" in (folder / "run.log").read_text()
    provenance = json.loads((folder / "manifest.json").read_text())["provenance"]
    assert provenance["bos"] == {"add_bos": False, "token_id": None, "token": None, "policy": "auto"}
    assert provenance["identity"]["model"]["add_bos"] == "auto"


def test_training_steps_of_one_model_are_told_apart(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two branches of a hub model in a cache: other weights, one name."""
    cache = tmp_path / "cache/models--EleutherAI--pythia-160m"
    (cache / "refs").mkdir(parents=True)
    for step, scale in (("step1000", 1.0), ("step143000", 1.5)):
        snapshot = cache / "snapshots" / (step[-4] * 40)
        shutil.copytree(TINY, snapshot)
        weights = {name: scale * tensor for name, tensor in load_file(TINY / "model.safetensors").items()}
        save_file(weights, snapshot / "model.safetensors", {"format": "pt"})
        (cache / "refs" / step).write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert tinylab("-m", "model=pythia-160m", "model.revision=step1000,step143000", "condition.n_examples=2",
                   "battery.layers=[0]", "metrics=[logit_diff]", "plots=false") == 0
    sweep = lab.load_sweep(str(only(tmp_path, "outputs/sweeps/*")))
    assert sweep.head_matrix is not None
    assert set(sweep.head_matrix["model.revision"]) == {"step1000", "step143000"}
    both = sweep.pivot("logit_diff", columns=["condition", "model.revision"])
    assert (both.iloc[:, 0] != both.iloc[:, 1]).all()
    assert [group["settings"] for group in sweep.invariants["groups"]] == [
        {"model.revision": "step1000"}, {"model.revision": "step143000"},
    ]
