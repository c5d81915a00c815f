"""Models: load weights and tokenizer, and find the points of the network where interventions act.

Loading is transformers' own `from_pretrained` for the embedded model, a local folder and the hub alike.
Weights are safetensors only, and no remote code is ever run.
"""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylab.errors import DeviceError, ModelError, first_sentence
from tinylab.gpus import take_gpu
from tinylab.imports import large_import
from tinylab.schema import ModelConfig
from tinylab.weights import TOKENIZER_FILES, ModelIdentity, identify, model_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense", "wo")
MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
log = logging.getLogger(__name__)

_kept: dict[tuple[ModelIdentity, str, str, bool], CausalModel] = {}
"""What `kept_model` loaded last in this process; never more than one."""


@dataclass
class CausalModel:
    """A loaded causal language model and the modules at which interventions act.

    `L` layers (`n_layers`), `H` query heads (`n_heads`) of width `d_head`.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    add_bos: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @cached_property
    def config(self) -> Any:
        """The text model's config (a composite model has it nested)."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of blocks, L."""
        return int(self.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads per layer, H."""
        return int(self.config.num_attention_heads)

    @property
    def head_width(self) -> int:
        """Width of one head's output, d_head: what the output projection takes, divided by H."""
        projection: Any = self.projection(0)
        inputs = getattr(projection, "in_features", None) or getattr(projection, "nx", None) or projection.weight.shape[-1]
        return int(inputs) // self.n_heads

    @cached_property
    def widest(self) -> int:
        """Numbers in the widest activation of a row in a block: the MLP's inside, as a rule."""
        return int(max(max(p.shape[-2:]) for p in self.blocks[0].parameters() if p.dim() > 1))

    @cached_property
    def chunks(self) -> dict[int, int]:
        """The layers whose attention is cut into chunks of positions, with the chunks' size (Llama 4)."""
        kinds = getattr(self.config, "layer_types", None) or []
        size = getattr(self.config, "attention_chunk_size", None)
        return {layer: int(size) for layer, kind in enumerate(kinds) if kind == "chunked_attention" and size is not None}

    @property
    def context(self) -> int | None:
        """The longest prompt in tokens, None if the config names no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def vocabulary(self) -> int:
        """Number of tokens the model has an embedding for."""
        return int(self.config.vocab_size)

    @property
    def bos(self) -> int | None:
        """The token that starts every prompt, or None."""
        if not self.add_bos:
            return None
        if self.tokenizer.bos_token_id is None:
            raise ModelError(f"model.add_bos=true, but the tokenizer of {self.identity.name} has no BOS token; "
                             "use model.add_bos=false.")
        return int(self.tokenizer.bos_token_id)

    @property
    def unknown(self) -> int | None:
        """The token for words that the vocabulary lacks; None where there is none, or it is that of a document's begin or end."""
        tokenizer = self.tokenizer
        token = tokenizer.unk_token_id
        return None if token in (None, tokenizer.bos_token_id, tokenizer.eos_token_id) else int(token)

    def describe_tokenizer(self) -> dict[str, Any]:
        """Its class, its size, and a digest of what it does (None for tokenizers written in Python)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        digest = None if backend is None else hashlib.sha256(backend.to_str().encode()).hexdigest()
        return {"class": type(self.tokenizer).__name__, "vocabulary": len(self.tokenizer), "digest": digest}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, verbatim, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @cached_property
    def modules(self) -> list[nn.Module]:
        """All modules of the network, at any depth."""
        return list(self.model.modules())

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks: the module list as long as the model is deep whose parts hold attention.

        Raises:
            ModelError: there is no such list.
        """
        from torch import nn

        for module in self.modules:
            if isinstance(module, nn.ModuleList) and len(module) == self.n_layers and _projections(module[0]):
                return module
        raise ModelError(f"{self.identity.name} ({type(self.model).__name__}): found no list of {self.n_layers} blocks "
                         f"with an attention output projection (one of {', '.join(PROJECTIONS)}); "
                         "this architecture is not supported.")

    def projection(self, layer: int) -> nn.Module:
        """The attention output projection of a layer; its input, cut into heads, is the site `head_out`."""
        return self._attentions[layer][1]

    def attention(self, layer: int) -> nn.Module:
        """The attention module of a layer, which holds the projection."""
        return self._attentions[layer][0]

    @cached_property
    def _attentions(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each layer's attention module and its output projection."""
        found = []
        for block in self.blocks:
            projection = _projections(block)[0]
            found.append((next(module for module in block.modules() if projection in module.children()), projection))
        return found

    def mlp(self, layer: int) -> nn.Module:
        """The module whose output is the site `mlp_out`: the MLP, or its last linear map.

        The latter where the MLP has no module of its own (OPT), or adds the residual stream itself (Bloom, MPT).

        Raises:
            ModelError: the block has neither.
        """
        from torch import nn

        children = dict(self.blocks[layer].named_children())
        for name in MLPS:
            if name in children:
                module = children[name]
                if "residual" not in signature(module.forward).parameters:
                    return module
                return [child for child in module.children() if isinstance(child, nn.Linear)][-1]
        raise ModelError(f"{self.identity.name}: layer {layer} has no MLP (expected one of {', '.join(MLPS)}).")


def _projections(block: nn.Module) -> list[nn.Module]:
    found = []
    for name, module in block.named_modules():
        parent, _, own = name.rpartition(".")
        if own in PROJECTIONS and "att" in parent.lower() and "cross" not in parent.lower():
            found.append(module)
    return found


def resolve_device(device: str) -> str:
    """The device type that a config means; `auto` takes cuda, then mps, then cpu.

    Raises:
        DeviceError: the device is not there.
    """
    if device == "cpu":
        return device
    with large_import("torch"):
        import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in there.items() if present)
    if not there[device]:
        raise DeviceError(f"device={device}: this machine (or this build of torch) has none; "
                          f"available: {', '.join(name for name, present in there.items() if present)}.")
    return device


def check_dtype(device: str, dtype: str) -> None:
    """Check that a device can compute in a dtype, by computing.

    Raises:
        DeviceError: it cannot.
    """
    import torch

    try:
        ones = torch.ones(2, 2, dtype=getattr(torch, dtype), device=device)
        torch.softmax(ones @ ones, dim=-1)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"model.dtype={dtype}: the device {device} lacks it; use model.dtype=float32.") from error


def kept_model(config: ModelConfig, device: str) -> CausalModel:
    """The model that this process loaded last, if it is the asked one; else a new one takes its place.

    The jobs of a sweep that run in one process share it, and so does a verify slice on the same device in the same
    dtype. The old one is let go before the new one is loaded: memory never holds two. Whoever uses a kept model
    leaves it as it was.

    Raises:
        ModelError: see `load_model`.
        DeviceError: see `load_model`.
    """
    key = (identify(config), config.dtype, device, config.add_bos)
    if key in _kept:
        log.info("kept from the last run: %s, %s on %s", key[0].name, config.dtype, device)
        return _kept[key]
    if _kept:
        _kept.clear()
        gc.collect()  # a model that an engine has run is part of reference cycles
    _kept[key] = load_model(config, device)
    return _kept[key]


def load_model(config: ModelConfig, device: str) -> CausalModel:
    """Load weights and tokenizer onto a device.

    Raises:
        ModelError: not a model, not a causal language model, not on the hub, no network and not in the cache.
        DeviceError: the device lacks the dtype.
    """
    if device == "cuda":
        take_gpu()
    check_dtype(device, config.dtype)
    loaded = _load(config, weights=True)
    loaded.model = loaded.model.to(device)
    log.info("loaded %s: %d layers × %d heads, %s on %s", loaded.identity.name, loaded.n_layers, loaded.n_heads, config.dtype,
             device)
    return loaded


def skeleton(config: ModelConfig) -> CausalModel:
    """A model without its weights, for its shape; its tokenizer is real.

    Raises:
        ModelError: see `load_model`.
    """
    return _load(config, weights=False)


def _load(config: ModelConfig, *, weights: bool) -> CausalModel:
    """A model on the CPU, or its modules alone on the meta device."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    identity = identify(config)
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
