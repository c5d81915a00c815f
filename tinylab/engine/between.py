"""Is there one residual stream between attention and MLP, and does changing it where it is hooked change all of it?

What goes into the norm before the MLP is changed in place, and the MLP's output is put to 0. Where the residual stream goes past
the norm as the same tensor, it is then just what leaves the block. Where attention and MLP stand side by side, what goes into the
norm is what went into the block, or has been normalised before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from tinylab.engine.beside import hidden_states, zeroed
from tinylab.engine.biases import TOLERANCES
from tinylab.engine.calls import first
from tinylab.models.network import CausalModel


def not_between(model: CausalModel, layers: Iterable[int], run: Callable[[], object]) -> dict[int, str]:
    """The layers that have no residual stream between attention and MLP that could be changed, and why.

    Args:
        model: the model; it is left as it was.
        layers: which.
        run: runs the model once.
    """
    asked = sorted(set(layers))
    entered: dict[int, torch.Tensor] = {}
    middle: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # before and after it was changed, unless the MLP came first
    left: dict[int, torch.Tensor] = {}
    done: set[int] = set()

    def enter(layer: int, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered[layer] = first((args, kwargs)).clone()

    def change(layer: int, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if layer not in done:
            stream = first((args, kwargs))
            noise = torch.randn(stream.shape, generator=torch.Generator().manual_seed(layer)).to(stream.device, stream.dtype)
            before = stream.clone()
            stream.add_(noise * stream.abs().max())
            middle[layer] = before, stream.clone()

    def mlp(layer: int, module: object, args: object, output: Any) -> Any:
        done.add(layer)
        return zeroed(module, args, output)

    def leave(layer: int, _module: object, _args: object, output: Any) -> None:
        left[layer] = hidden_states(output)

    with ExitStack() as stack, torch.no_grad():
        for layer in asked:
            block = model.blocks[layer]
            stack.callback(block.register_forward_pre_hook(partial(enter, layer), with_kwargs=True).remove)
            stack.callback(model.norm(layer).register_forward_pre_hook(partial(change, layer), with_kwargs=True).remove)
            stack.callback(model.mlp(layer).register_forward_hook(partial(mlp, layer)).remove)
            stack.callback(block.register_forward_hook(partial(leave, layer)).remove)
        run()
    return {layer: f"the {type(model.blocks[layer]).__name__} of layer {layer} has no residual stream between attention and MLP "
                   "that could be changed: both begin with what goes into the block, or more is written into it"
            for layer in asked if not _is_between(entered[layer], middle.get(layer), left[layer])}


def _is_between(entered: torch.Tensor, middle: tuple[torch.Tensor, torch.Tensor] | None, left: torch.Tensor) -> bool:
    """Whether attention wrote into the stream before it was changed, and what leaves the block is the changed stream."""
    if middle is None:
        return False
    before, after = middle
    if after.numel() != left.numel() or torch.equal(before.flatten(), entered.flatten()):
        return False
    allowed = TOLERANCES[left.dtype] * float(after.abs().max())
    return float((after.flatten() - left.flatten()).abs().max()) <= allowed
