"""Verdicts of self-checks that passed, kept in the user's cache: the same engine on the same model is not checked twice.

A verdict holds for a model (its commit or digest), a dtype, a device, an attention implementation, versions of packages and the
very code of the engines; for the interventions that were tried; and for a class of lengths: the power of two that the longest
prompt fits into, and which of the model's limits (windows, chunks, switches of rotary embeddings) the prompts lie beyond.
Threads are not part of it. A verdict that is not kept was never passed: what failed is checked anew.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tinylab.cache import keep, recall
from tinylab.interventions.variants import Variant
from tinylab.models.network import CausalModel
from tinylab.models.placement import spread
from tinylab.task.tokens import TokenPair

KIND = "self_checks"
ROOMS = ("engine", "interventions", "measures", "models")
"""Whose code a verdict is about."""
PACKAGES = ("torch", "transformers", "numpy", "accelerate", "bitsandbytes")
"""What computes, or moves weights to where they compute."""
LIMITS = ("sliding_window", "attention_chunk_size", "max_position_embeddings", "original_max_position_embeddings")
"""In a model's config: lengths at which it may begin to compute otherwise."""


def kept_difference(key: dict[str, Any] | None) -> float | None:
    """The largest difference that a check under this key found; None where none is kept."""
    found = None if key is None else recall(KIND, key)
    return found if isinstance(found, float) and math.isfinite(found) else None


def keep_difference(key: dict[str, Any] | None, difference: float) -> None:
    """Keep what a check that passed found."""
    if key is not None:
        keep(KIND, key, difference)


def forget_difference(key: dict[str, Any] | None) -> None:
    """Forget what a check under this key found: another one under it failed."""
    if key is not None and kept_difference(key) is not None:
        keep(KIND, key, None)


def verdict_key(model: CausalModel, pairs: Sequence[TokenPair], checked: Sequence[Variant]) -> dict[str, Any] | None:
    """Everything that a verdict depends on.

    Args:
        model: the model.
        pairs: the run's prompts.
        checked: the interventions that are tried.

    Returns:
        None where a verdict cannot be kept: of weights without an identity, or an operation whose code is not tinylab's.
    """
    identity, config = model.identity, model.model.config
    operations = [type(i.operation).__module__ for variant in checked for i in variant.interventions]
    if (identity.revision is None and identity.digest is None) or any(not name.startswith("tinylab.") for name in operations):
        return None
    return {
        "weights": {"revision": identity.revision, "digest": identity.digest, "architecture": type(model.model).__name__},
        "dtype": str(model.dtype),
        "bits": str(getattr(config, "quantization_config", None)),
        "spread": spread(model.model),
        "device": _device(model.device),
        "attention": str(config._attn_implementation),
        "experts": str(getattr(config, "_experts_implementation", None)),
        "packages": {name: _version(name) for name in PACKAGES},
        "code": _code(),
        "checked": [repr(variant) for variant in checked],
        "lengths": _lengths(model, pairs),
    }


def _device(device: torch.device) -> str:
    """The processor, as far as it decides which kernels run."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else (
        f"{device.type} {torch.backends.cpu.get_cpu_capability()}")


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _code() -> str:
    """A digest of the source of what computes."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(file for room in ROOMS for file in (root / room).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _lengths(model: CausalModel, pairs: Sequence[TokenPair]) -> dict[str, Any]:
    """The class of the prompts' lengths."""
    lengths = [len(sequence) for pair in pairs for sequence in pair.sequences]
    shortest, longest = min(lengths), max(lengths)
    limits = sorted(set(_limits(model.config.to_dict())))
    return {
        "longest": 2 ** math.ceil(math.log2(longest)),
        "single": shortest == 1,
        "longest_beyond": [limit for limit in limits if longest > limit],
        "shortest_beyond": [limit for limit in limits if shortest > limit],
    }


def _limits(config: dict[Any, Any]) -> list[int]:
    """The lengths in a config, and in the configs of its parts, at which a model may begin to compute otherwise."""
    own = [int(config[name]) for name in LIMITS if isinstance(config.get(name), int)]
    return own + [limit for part in config.values() if isinstance(part, dict) for limit in _limits(part)]
