"""Models: load weights and tokenizer, and find the points of the network where interventions act.

Loading is transformers' own `from_pretrained` for the embedded model, a local folder and the hub alike.
Weights are safetensors only, and no remote code is ever run.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinylab.config.groups import ModelConfig
from tinylab.errors import ModelError, first_sentence
from tinylab.machine.gpus import take_gpu
from tinylab.models.device import check_dtype
from tinylab.models.network import CausalModel
from tinylab.models.weights import TOKENIZER_FILES, ModelIdentity, identify, model_folder

log = logging.getLogger(__name__)

_kept: dict[tuple[ModelIdentity, str, str, bool], CausalModel] = {}
"""What `kept_model` loaded last in this process; never more than one."""


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
    key = (identity or identify(config), config.dtype, device, config.add_bos)
    if key in _kept:
        log.info("kept from the last run: %s, %s on %s", key[0].name, config.dtype, device)
        return _kept[key]
    if _kept:
        _kept.clear()
        gc.collect()  # a model that an engine has run is part of reference cycles
    _kept[key] = load_model(config, device, key[0])
    return _kept[key]


def load_model(config: ModelConfig, device: str, identity: ModelIdentity | None = None) -> CausalModel:
    """Load weights and tokenizer onto a device.

    Args:
        config: which model.
        device: where it goes.
        identity: what its weights are, None if that is yet to be found.

    Raises:
        ModelError: not a model, not a causal language model, not on the hub, no network and not in the cache.
        DeviceError: the device lacks the dtype.
    """
    if device == "cuda":
        take_gpu()
    check_dtype(device, config.dtype)
    loaded = _load(config, identity or identify(config), weights=True)
    loaded.model = loaded.model.to(device)
    log.info("loaded %s: %d layers × %d heads, %s on %s", loaded.identity.name, loaded.n_layers, loaded.n_heads, config.dtype,
             device)
    return loaded


def skeleton(config: ModelConfig) -> CausalModel:
    """A model without its weights, for its shape; its tokenizer is real.

    Raises:
        ModelError: see `load_model`.
    """
    return _load(config, identify(config), weights=False)


def _load(config: ModelConfig, identity: ModelIdentity, *, weights: bool) -> CausalModel:
    """A model on the CPU, or its modules alone on the meta device."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    revision, dtype = identity.revision or "main", getattr(torch, config.dtype)
    source = str(model_folder(config.path)) if config.path is not None else identity.name
    try:
        with _quiet_transformers():
            shape = AutoConfig.from_pretrained(source, revision=revision)  # its error names an unknown architecture
            if config.path is not None and not any((Path(source) / name).is_file() for name in TOKENIZER_FILES):
                raise ModelError(f"model.path={config.path}: no tokenizer in it; expected one of {', '.join(TOKENIZER_FILES)}.")
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            if weights:
                model = AutoModelForCausalLM.from_pretrained(
                    source, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False
                )
            else:
                with torch.device("meta"):
                    model = AutoModelForCausalLM.from_config(shape, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        expected = "config.json, model.safetensors and tokenizer files of an architecture that transformers knows"
        raise ModelError(f"{source}: cannot be loaded as a causal language model ({first_sentence(error)}); "
                         f"expected {expected}.") from error
    if config.dtype == "float64":
        model.set_experts_implementation("eager")  # the grouped matmul for mixtures of experts has no float64
    model.eval()
    model.requires_grad_(False)
    return CausalModel(model=model, tokenizer=tokenizer, identity=identity, add_bos=config.add_bos)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No loading bars of other libraries in the middle of our own messages."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
