"""Taps: where the forked engine touches a transformers model, and how it lets go again.

transformers dispatches attention through `AttentionInterface`. The function registered here receives queries,
keys and values after rotary embedding and returns the per-head outputs before the output projection: the one
place, in every family, to apply the trie's ancestor mask and to read or change `head_out`. `mlp_out` and
`resid_post` are module outputs; forks happen at block boundaries. Everything is undone when `tapped` closes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tinylab.engine.interventions import Site
from tinylab.errors import EngineUnsupported
from tinylab.models import CausalModel

NAME = "tinylab_forked"
Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class Tap(Protocol):
    """What a forward pass does at each tapped place."""

    def enter_block(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states [rows, N, D] that a block receives."""
        ...

    def leave_site(self, site: Site, layer: int, value: torch.Tensor) -> torch.Tensor:
        """The activation of a site: [rows, N, D], for `head_out` [rows, N, H, d_head]."""
        ...

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """The additive attention mask [1, 1, N, N] for a sliding window (None: no window), in `like`'s dtype."""
        ...


_current: ContextVar[tuple[Tap, str]] = ContextVar("tinylab_tap")


@contextmanager
def tapped(model: CausalModel) -> Iterator[Callable[[Tap], AbstractContextManager[None]]]:
    """Open a model for forked forward passes; yields a context manager that connects one pass.

    Raises:
        EngineUnsupported: the model cannot be opened, and why.
    """
    accepted = inspect.signature(model.model.forward).parameters
    for needed in ("position_ids", "logits_to_keep"):
        if needed not in accepted:
            raise EngineUnsupported(f"{type(model.model).__name__} takes no {needed}, which the forked engine needs.")
    original = model.model.config._attn_implementation
    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            stack.callback(block.register_forward_pre_hook(_entering(layer), with_kwargs=True).remove)
            stack.callback(model.mlp(layer).register_forward_hook(_leaving("mlp_out", layer)).remove)
            stack.callback(block.register_forward_hook(_leaving("resid_post", layer)).remove)
        stack.callback(model.model.set_attn_implementation, original)
        try:
            model.model.set_attn_implementation(NAME)
        except ValueError as error:
            raise EngineUnsupported(f"{type(model.model).__name__} does not let its attention be chosen ({error}).") from error
        yield lambda tap: _connect(tap, original)


@contextmanager
def _connect(tap: Tap, original: str) -> Iterator[None]:
    token = _current.set((tap, original))
    try:
        yield
    finally:
        _current.reset(token)


def _entering(layer: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]] | None]:
    def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        tap, _ = _current.get()
        if args:
            return (tap.enter_block(layer, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": tap.enter_block(layer, kwargs["hidden_states"])}

    return hook


def _leaving(site: Site, layer: int) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        tap, _ = _current.get()
        if isinstance(output, torch.Tensor):
            return tap.leave_site(site, layer, output)
        return (tap.leave_site(site, layer, output[0]), *output[1:])

    return hook


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: torch.Tensor | None, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The model's own attention over the trie: its mask is replaced, its per-head outputs pass the tap."""
    tap, original = _current.get()
    layer = module.layer_idx
    assert isinstance(layer, int)
    mask = tap.mask(kwargs.get("sliding_window"), query)
    heads, weights = _own_attention(module, original, kwargs)(module, query, key, value, mask, **kwargs)
    return tap.leave_site("head_out", layer, heads), weights


def _own_attention(module: nn.Module, original: str, kwargs: dict[str, Any]) -> Attention:
    """What computes attention itself: sdpa, or the model's eager function where sdpa lacks a feature of it."""
    features = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if original != "eager" and not features:
        sdpa: Attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa
    eager: Attention | None = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise EngineUnsupported(f"{type(module).__name__} has no eager attention function to wrap.")
    return eager


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
