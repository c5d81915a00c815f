"""A model of the first version: the preset with those weights, or the hub's."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tinylab.config.composing import config_folder
from tinylab.config.groups import DEVICES, DTYPES
from tinylab.errors import options
from tinylab.first_version.reading import Section

FOR_THE_USER = ("hf", "local", "gguf")
"""Options whose source is for the user to give: no model's own."""
OWNERS = {"gpt2": "openai-community", "distilgpt2": "distilbert", "pythia": "EleutherAI"}
"""Of TransformerLens's short names, by their first word: who has the weights on the hub."""
FEW_STATES = 16384
"""engine.max_states in place of low_memory, on CUDA: a quarter of what it has."""


def convert_model(section: Section) -> tuple[str, dict[str, Any], dict[str, Any] | None, list[str]]:
    """The option of the group `model`, its settings, the YAML of an option that has to be written, and notes.

    Raises:
        ConfigError: a value is not what it has to be.
    """
    named, notes = section.text("name"), list[str]()
    name = section.text("hf_model") if "hf_model" in section else _on_the_hub(named)
    settings: dict[str, Any] = {"dtype": section.text("dtype", "float32"), "add_bos": True}
    if settings["dtype"] not in DTYPES:
        raise section.inexpressible("dtype", options(settings["dtype"], DTYPES))
    if (revision := section.text("revision", None)) is not None:
        settings["revision"] = revision
    presets = _presets()
    if named in presets:
        return named, settings, None, notes
    preset = next((option for option, of in presets.items() if of == name), None)
    if preset is not None:
        return preset, settings, None, notes
    if "/" not in name:
        notes.append(f"model.name={name} is taken as the hub's id; if it was a short name of TransformerLens's own, write the id "
                     f"into model/{name}.yaml")
    option = re.sub(r"[^\w.-]", "_", name)
    return option, settings, {"defaults": ["hf"], "name": name}, notes


def _on_the_hub(name: str) -> str:
    """The hub's id for a name that TransformerLens took."""
    name = "gpt2" if name == "gpt2-small" else name
    owner = OWNERS.get(name.split("-")[0])
    return name if owner is None or "/" in name else f"{owner}/{name}"


def _presets() -> dict[str, str | None]:
    """The shipped options of the group `model`, each with its hub id if it has one."""
    found = {}
    for file in sorted((config_folder() / "model").glob("*.yaml")):
        if file.stem not in FOR_THE_USER:
            found[file.stem] = yaml.safe_load(file.read_text(encoding="utf-8")).get("name")
    return found


def convert_device(section: Section) -> tuple[str, list[str]]:
    """The option of the group `device`, and notes.

    Raises:
        ConfigError: it is none that is known.
    """
    device = section.text("device", "auto")
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and kind != "cuda"):
        raise section.inexpressible("device", options(device, DEVICES))
    if number:
        return kind, [f"device={device}: the first GPU that can be seen is used; CUDA_VISIBLE_DEVICES={number} chooses that one"]
    return kind, []


def less_memory(section: Section, device: str) -> tuple[dict[str, Any], list[str]]:
    """The engine's settings for `low_memory`, and notes.

    Args:
        section: `model` of an old config.
        device: the option of the group.
    """
    if not section.take("low_memory", False):
        return {}, []
    if device != "cuda":
        return {}, [f"low_memory had an effect on CUDA only, and has none with device={device}: engine.max_states bounds memory"]
    return {"max_states": FEW_STATES}, [f"low_memory: engine.max_states={FEW_STATES}, a quarter of what CUDA has; TF32, in which "
                                        "the first version computed with it, stays off, on purpose"]
