"""Is there one residual stream between attention and MLP, and does changing it where it is hooked change all of it?

What goes into the norm before the MLP is changed in place, and the MLP's output is put to 0. Where the residual stream goes past
the norm as the same tensor, it is then just what leaves the block. Where attention and MLP stand side by side, what attention
writes is missing in it.
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
    middle: dict[int, torch.Tensor] = {}  # as it was changed, unless the MLP came first
    left: dict[int, torch.Tensor] = {}
    done: set[int] = set()

    def change(layer: int, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if layer not in done:
            stream = first((args, kwargs))
            noise = torch.randn(stream.shape, generator=torch.Generator().manual_seed(layer)).to(stream.device, stream.dtype)
            middle[layer] = stream.add_(noise * stream.abs().max()).clone()

    def mlp(layer: int, module: object, args: object, output: Any) -> Any:
        done.add(layer)
        return zeroed(module, args, output)

    def leave(layer: int, _module: object, _args: object, output: Any) -> None:
        left[layer] = hidden_states(output)

    with ExitStack() as stack, torch.no_grad():
        for layer in asked:
            block = model.blocks[layer]
            stack.callback(model.norm(layer).register_forward_pre_hook(partial(change, layer), with_kwargs=True).remove)
            stack.callback(model.mlp(layer).register_forward_hook(partial(mlp, layer)).remove)
            stack.callback(block.register_forward_hook(partial(leave, layer)).remove)
        run()
    return {layer: f"the {type(model.blocks[layer]).__name__} of layer {layer} has no residual stream between attention and MLP "
                   "that could be changed: both begin with what goes into the block, or more is written into it"
            for layer in asked if not _is_between(middle.get(layer), left[layer])}


def _is_between(middle: torch.Tensor | None, left: torch.Tensor) -> bool:
    """Whether what leaves the block is the stream as it was changed."""
    if middle is None or middle.numel() != left.numel():
        return False
    allowed = TOLERANCES[left.dtype] * float(middle.abs().max())
    return float((middle.flatten() - left.flatten()).abs().max()) <= allowed
