"""Hooks: where the forked engine touches a transformers model, and how it lets go again.

Each state is a batch row of its own, of one token. Everything in a decoder but attention works on single tokens,
so rows can join and leave a pass between any two modules; attention is the one place where rows meet.
transformers dispatches it through `AttentionInterface`: the function registered here receives queries, keys and
values after rotary embedding and returns the per-head outputs. Blocks, attention modules, output projections and
MLPs are called through `Hooks`, which decides on which rows. Everything is undone when `hooked` closes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import product
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.functional import gelu
from transformers.activations import AccurateGELUActivation, FastGELUActivation, NewGELUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tinylab.engine.calls import Arguments
from tinylab.engine.forked.attention import Attend, Keys
from tinylab.errors import EngineUnsupported
from tinylab.interventions.sites import Module
from tinylab.models.network import CausalModel

NAME = "tinylab_forked"
TANH_GELUS = (NewGELUActivation, FastGELUActivation, AccurateGELUActivation)
"""Activation functions that transformers computes in five passes over memory, and torch in one: to rounding the same."""
Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@runtime_checkable
class Hooks(Protocol):
    """What a forward pass does at each hooked place: it calls the model's own code on the rows that are due."""

    whole: bool
    """Whether the pass goes through every hooked module."""

    def block(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """Run a block."""
        ...

    def attention(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """Run an attention module."""
        ...

    def projection(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """Run an attention output projection."""
        ...

    def mlp(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """Run the module whose output is the site `mlp_out`."""
        ...

    def down(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """Run the last linear map of an MLP, which is called in `mlp` for a part of its rows."""
        ...

    def norm(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """Run the module that gets the residual stream between attention and MLP."""
        ...

    def attend(self, compute: Attend, query: torch.Tensor, kept: Keys, window: int | None) -> torch.Tensor:
        """Attention of rows [rows, H, 1, d]; returns [rows, 1, H, d]."""
        ...


Called = set[tuple[str, int]]
"""Hooked modules that a pass came by: what they are, and of which layer."""
ALWAYS: tuple[Module, ...] = ("block", "attention", "projection", "mlp")
"""What every pass goes through; the others where interventions act at them."""
EVERY: tuple[Module, ...] = ("block", "attention", "projection", "down", "mlp", "norm")
"""In the order in which they are hooked: what an MLP is made of comes before it, and where two are one module the later is
called first."""
_current: ContextVar[tuple[Hooks, str, Called]] = ContextVar("tinylab_hooks")


@contextmanager
def hooked(
    model: CausalModel, acted_on: Collection[tuple[Module, int]] = ()
) -> Iterator[Callable[[Hooks], AbstractContextManager[None]]]:
    """Open a model for forked forward passes; yields a context manager that connects one pass.

    Args:
        model: the model; it is left as it was.
        acted_on: modules at which interventions act, by layer.

    Raises:
        EngineUnsupported: the model cannot be opened, and why.
    """
    if "position_ids" not in inspect.signature(model.model.forward).parameters:
        raise EngineUnsupported(f"{type(model.model).__name__} takes no position_ids, which the forked engine needs.")
    original = model.model.config._attn_implementation
    every: Called = set()
    with ExitStack() as stack:
        for layer, name in product(range(model.n_layers), EVERY):
            if name in ALWAYS or (name, layer) in acted_on:
                module = model.point(name, layer)
                stack.enter_context(_forward(module, _through(name, layer, module.forward)))
                every.add((name, layer))
        for module in model.modules:
            if type(module) in TANH_GELUS:
                stack.enter_context(_forward(module, partial(gelu, approximate="tanh")))
        stack.callback(model.model.set_attn_implementation, original)
        try:
            model.model.set_attn_implementation(NAME)
        except ValueError as error:
            raise EngineUnsupported(f"{type(model.model).__name__} does not let its attention be chosen ({error}).") from error
        yield lambda hooks: _connect(hooks, original, every)


@contextmanager
def _connect(hooks: Hooks, original: str, every: Called) -> Iterator[None]:
    called: Called = set()
    token = _current.set((hooks, original, called))
    try:
        yield
    finally:
        _current.reset(token)
    if hooks.whole and called != every:
        missed = [f"{name} of layer {layer}" for name, layer in sorted(every - called)]
        told = ", ".join([*missed[:3], *(["…"] if len(missed) > 3 else [])])
        raise EngineUnsupported(f"a forward pass did not reach {len(missed)} of {len(every)} hooked modules ({told}): "
                                "this architecture does not call its modules as others do.")


def _through(name: str, layer: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that leaves it to the hooks' method of this name how a module's own is called."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hooks, _, called = _current.get()
        called.add((name, layer))
        return getattr(hooks, name)(layer, call, (args, kwargs))

    return forward


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, the module's forward is another one."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The model's own attention over the trie: its mask is replaced."""
    hooks, original, _ = _current.get()
    own = _own_attention(module, original, kwargs)

    def compute(asked: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return own(module, asked, keys, values, mask, **kwargs)[0]

    return hooks.attend(compute, query, (key, value), kwargs.get("sliding_window")), None


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
