"""Models: load weights and tokenizer, and find the points of the network where interventions act.

Loading is transformers' own `from_pretrained` for the embedded model, a local folder and the hub alike.
Weights are safetensors only, and no remote code is ever run.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinylab.config.groups import ModelConfig
from tinylab.errors import ModelError, TinylabError, first_sentence
from tinylab.machine.gpus import take_gpu
from tinylab.models.device import check_dtype
from tinylab.models.folder import TOKENIZER_FILES, read_object
from tinylab.models.gguf import (
    as_transformers_reads,
    check_config,
    check_numbers_taken,
    is_gguf,
    load_weights,
    read_header,
)
from tinylab.models.lexicon import Lexicon
from tinylab.models.network import CausalModel
from tinylab.models.placement import check_packages, on_one_device, placing, spread, tidy_after
from tinylab.models.tensors import check_numbers, check_tensors
from tinylab.models.weights import ModelIdentity, hub_folder, identify, model_folder
from tinylab.paths import locate

ATTENTIONS = (None, "eager", "sdpa")
EXPERTS = (None, "eager", "grouped_mm", "batched_mm")
"""Implementations that a config.json may choose: those of torch. Others are packages, or code that would be downloaded."""
log = logging.getLogger(__name__)

_kept: dict[tuple[Any, ...], CausalModel] = {}
"""What `kept_model` loaded last in this process; never more than one."""
lent: dict[str, CausalModel] = {}
"""Models of somebody else's in memory, by the name that configs give them (`tinylab.models.lent`)."""


def kept_model(config: ModelConfig, device: str, identity: ModelIdentity | None = None) -> CausalModel:
    """The model that this process loaded last, if it is the asked one; else a new one takes its place.

    The jobs of a sweep that run in one process share it, and so does a verify slice on the same device in the same
    dtype. The old one is let go before the new one is loaded: memory never holds two. Whoever uses a kept model
    leaves it as it was.

    Args:
        config: which model.
        device: where it goes.
        identity: what its weights are, None if that is yet to be found.

    Raises:
        ModelError: see `load_model`.
        DeviceError: see `load_model`.
    """
    if (own := lent.get(str(config.name))) is not None:
        return _as_lent(own, config, device)
    limits = str(config.max_memory)
    key = (identity or identify(config), config.dtype, device, config.add_bos, config.device_map, limits, config.quantize)
    if key in _kept:
        log.info("kept from the last run: %s, %s on %s", key[0].name, config.dtype, device)
        return _kept[key]
    if _kept:
        _kept.clear()
        gc.collect()  # a model that an engine has run is part of reference cycles
    _kept[key] = load_model(config, device, key[0])
    return _kept[key]


def _as_lent(own: CausalModel, config: ModelConfig, device: str) -> CausalModel:
    """A model that is lent, if it is what is asked for as it is.

    Raises:
        ModelError: it is not: somebody else's model is neither copied nor converted.
    """
    dtype = str(own.dtype).removeprefix("torch.")
    if (dtype, own.device.type) != (config.dtype, device) or config.quantize != "none" or config.device_map is not None:
        raise ModelError(f"{config.name}: this model in memory is {dtype} on {own.device.type}, and is not loaded again as "
                         f"{config.dtype} on {device}; leave out what asks for that, or give a model that can be loaded.")
    return replace(own, add_bos=config.add_bos)


def load_model(config: ModelConfig, device: str, identity: ModelIdentity | None = None) -> CausalModel:
    """Load weights and tokenizer onto a device.

    Args:
        config: which model.
        device: where it goes; with a `device_map`, where it computes: cuda means all GPUs, cpu none of them.
        identity: what its weights are, None if that is yet to be found.

    Raises:
        ModelError: not a model, not a causal language model, not on the hub, no network and not in the cache; a package that its
            placement needs is not installed.
        DeviceError: the device lacks the dtype, or is not there.
    """
    if device == "cuda" and config.device_map is None:
        take_gpu()
    check_dtype(device, config.dtype)
    loaded = _load(config, identity or identify(config), weights=True, device=device)
    if on_one_device(config):
        loaded.model = loaded.model.to(device)
    kept = "".join(f", {count} modules on {name}" for name, count in (spread(loaded.model) or {}).items())
    bits = "" if config.quantize == "none" else f" and {config.quantize}"
    log.info("loaded %s: %d layers × %d heads, %s%s on %s%s", loaded.identity.name, loaded.n_layers, loaded.n_heads, config.dtype,
             bits, device, kept)
    return loaded


def skeleton(config: ModelConfig) -> CausalModel:
    """A model without its weights, for its shape; its tokenizer is real.

    Raises:
        ModelError: see `load_model`.
    """
    if (own := lent.get(str(config.name))) is not None:
        return replace(own, add_bos=config.add_bos)
    check_packages(config)
    return _load(config, identify(config), weights=False)


def _load(config: ModelConfig, identity: ModelIdentity, *, weights: bool, device: str = "cpu") -> CausalModel:
    """A model on the CPU or placed as its config says, or its modules alone on the meta device."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    what = f"model.path={config.path}" if config.path is not None else f"model.name={config.name}"
    packed = config.path is not None and is_gguf(config.path)
    with quiet_transformers():
        source = locate(str(config.path)) if packed else _folder(config, identity, weights=weights)
        try:
            read = _read_gguf if packed else _read_folder
            model, tokenizer, quantisation = read(source, config, what, device if weights else None)
            Lexicon(tokenizer).try_out()
            if weights:
                check_numbers(model, what, config.dtype)
        except (torch.OutOfMemoryError, MemoryError, TinylabError):
            raise
        except Exception as error:  # what a file makes other libraries raise: tokenizers raises a bare one
            expected = "config.json, model.safetensors and tokenizer files of an architecture that transformers knows"
            told = identity.name if config.path is None else source
            reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ is not None else error
            raise ModelError(f"{told}: cannot be loaded as a causal language model ({first_sentence(reason)}); "
                             f"expected {'a whole file' if packed else expected}.") from error
    if config.dtype == "float64":
        model.set_experts_implementation("eager")  # the grouped matmul for mixtures of experts has no float64
    model.eval()
    model.requires_grad_(False)
    return CausalModel(model=model, tokenizer=tokenizer, identity=identity, add_bos=config.add_bos, quantisation=quantisation)


def _read_folder(folder: Path, config: ModelConfig, what: str, device: str | None) -> tuple[Any, Any, None]:
    """Model and tokenizer of a folder with safetensors; without a device the modules alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, config.dtype)
    shape = _shape(folder, what)  # its error names an unknown architecture
    if config.path is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{what}: no tokenizer in it; expected one of {', '.join(TOKENIZER_FILES)}.")
    _check_tokenizer(folder, what, shape.model_type)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if device is None:
        return _modules(shape, dtype), tokenizer, None
    with placing(config, device, what) as placement:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=shape, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True, **placement,  # mismatched sizes are refused below, by name
        )
    tidy_after(model, placement)
    check_tensors(info, what, type(model).__name__, towers=hasattr(shape, "vision_config"))
    return model, tokenizer, None


def _read_gguf(file: Path, config: ModelConfig, what: str, device: str | None) -> tuple[Any, Any, dict[str, Any]]:
    """Model and tokenizer of a GGUF file, and how it is quantised; without a device the modules alone."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    header, dtype = read_header(file, what), getattr(torch, config.dtype)
    if (way := header.unknown_words) is not None:
        log.warning("%s: transformers does not know how %s cuts text into words, and cuts it as GPT-2 does: compare the tokens "
                    "with those of the model's own tokenizer", what, way)
    with as_transformers_reads(file) as source:
        shape = _plain(AutoConfig.from_pretrained(**source), what)
        check_config(header, shape, what)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        if device is None:
            return _modules(shape, dtype), tokenizer, header.quantisation()
        model, info = load_weights(source, shape, dtype)
    check_tensors(info, what, type(model).__name__, described="its header")
    check_numbers_taken(header, model, what)
    return model, tokenizer, header.quantisation()


def _modules(shape: Any, dtype: Any) -> Any:
    """A model's modules without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape, dtype=dtype, trust_remote_code=False)


def _folder(config: ModelConfig, identity: ModelIdentity, *, weights: bool) -> Path:
    """Where a model's files lie: its own folder, or the hub's copy of the very commit that is its identity."""
    if config.path is not None:
        return model_folder(config.path)
    assert identity.revision is not None
    return hub_folder(identity.name, identity.revision, weights=weights)


def _check_tokenizer(folder: Path, what: str, model_type: str) -> None:
    """Refuse a tokenizer that is code of the folder's own, unless transformers has another one for that type of model.

    Raises:
        ModelError: it is.
    """
    from transformers.models.auto import tokenization_auto
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if model_type in getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ()):
        return

    file = folder / "tokenizer_config.json"
    content = read_object(file, what) if file.is_file() else {}
    named, own = content.get("tokenizer_class"), content.get("auto_map")
    asked = own and (not isinstance(own, dict) or "AutoTokenizer" in own)
    if asked and (not isinstance(named, str) or tokenizer_class_from_name(named) is None):
        raise ModelError(f"{what}: its tokenizer_config.json asks for its own code (auto_map) for the tokenizer {named!r}, "
                         "which is never run; use a model whose tokenizer transformers has a class for.")


def _shape(folder: Path, what: str) -> Any:
    """A model's config, without what a folder has no say in: other people's code, kernels and the kind of output.

    Raises:
        ModelError: the architecture is one that transformers does not have, or no decoder.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    content = read_object(folder / "config.json", what)
    if content.get("auto_map") and content.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(f"{what}: its config.json asks for its own code (auto_map) for the model type "
                         f"{content.get('model_type')!r}, which is never run; use a model that transformers has a class for.")
    return _plain(AutoConfig.from_pretrained(folder, trust_remote_code=False), what)


def _plain(shape: Any, what: str) -> Any:
    """A config without what its source has no say in.

    Raises:
        ModelError: it is no decoder's.
    """
    if shape.is_encoder_decoder:
        raise ModelError(f"{what}: {shape.model_type} is an encoder-decoder, whose decoder cannot run alone; use a causal "
                         "language model (a decoder).")
    parts = [shape]
    for part in parts:
        parts += [nested for name in part.sub_configs if (nested := getattr(part, name, None)) is not None]
    for part in parts:
        part.return_dict = True
        if part._attn_implementation not in ATTENTIONS:
            part._attn_implementation = None
        if part._experts_implementation not in EXPERTS:
            part._experts_implementation = None
    return shape


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """While open: no loading bars and reports of other libraries in the middle of our own messages."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
