"""What a block adds to the residual stream beside its attention and its MLP: nothing, or `mlp_out` is half a site.

With what both write put to 0, what leaves a block must depend on no weight matrix of it. A second branch, shared experts beside
routed ones, would. Weights that are quantised have no slope, and what computes with them need not allow for any: of those,
what their module writes is looked at, as computed from inputs without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from tinylab.engine.calls import first, with_first
from tinylab.models.network import CausalModel
from tinylab.models.placement import resident


def beside_mlp(model: CausalModel, layers: Iterable[int], run: Callable[[], object]) -> dict[int, str]:
    """The layers whose blocks add more than what attention and the MLP write, and what.

    One block after the other, so that the weights of one are in memory where others are kept elsewhere.

    Args:
        model: the model; it is left as it was.
        layers: which.
        run: runs the model once.
    """
    found: dict[int, str] = {}
    with ExitStack() as stack:
        for layer in sorted(set(layers)):
            stack.enter_context(_watched(model, layer, found))
        run()
    return found


@contextmanager
def _watched(model: CausalModel, layer: int, found: dict[int, str]) -> Iterator[None]:
    """While open, a forward pass tells what the block adds."""
    block, writers = model.blocks[layer], (model.projection(layer), model.mlp(layer))
    quantised = _quantised(block)
    leaves: dict[str, torch.Tensor] = {}

    def enter(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        opened.enter_context(resident(block))
        leaves.update((name, p) for name, p in block.named_parameters()
                      if p.dim() > 1 and p.is_floating_point() and name.rpartition(".")[0] not in quantised)
        opened.enter_context(_differentiable(list(leaves.values())))
        return with_first((args, kwargs), first((args, kwargs)).detach())

    def wrote(name: str, _module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        leaves[name] = output.detach().requires_grad_()
        return leaves[name].clone()  # what is computed with it may be written into it

    def leave(_module: object, _args: object, output: Any) -> Any:
        if adding := reaching(hidden_states(output), leaves):
            found[layer] = (f"the {type(block).__name__} of layer {layer} adds more to the residual stream than what its "
                            f"attention and its {type(writers[1]).__name__} write ({', '.join(adding)})")
        opened.close()
        return _changed(output, hidden_states(output).detach())

    with ExitStack() as opened, ExitStack() as hooks:
        hooks.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        for name, part in quantised.items():
            hooks.callback(part.register_forward_pre_hook(_without_slopes, with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(partial(wrote, name)).remove)
        for module in writers:
            hooks.callback(module.register_forward_hook(zeroed).remove)
        hooks.callback(block.register_forward_hook(leave).remove)
        yield


def _quantised(block: nn.Module) -> dict[str, nn.Module]:
    """The modules of a block that hold matrices of whole numbers, by name."""
    return {name: part for name, part in block.named_modules()
            if any(p.dim() > 1 and not p.is_floating_point() for p in part.parameters(recurse=False))}


def _without_slopes(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A hook: what a module is called with depends on nothing."""
    def alone(value: Any) -> Any:
        return value.detach() if isinstance(value, torch.Tensor) else value

    return tuple(map(alone, args)), {name: alone(value) for name, value in kwargs.items()}


def zeroed(_module: object, _args: object, output: Any) -> Any:
    """A hook: a module gives zeros."""
    return _changed(output, torch.zeros_like(hidden_states(output)))


def reaching(value: torch.Tensor, leaves: Mapping[str, torch.Tensor]) -> list[str]:
    """The parts of a block of whose leaves (weight matrices, or what quantised ones write) a value depends."""
    if not value.requires_grad:
        return []
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value.device, value.dtype)
    slopes = torch.autograd.grad((value * noise).sum(), list(leaves.values()), allow_unused=True)
    reached = [name for name, slope in zip(leaves, slopes, strict=True) if slope is not None and bool((slope != 0).any())]
    return list(dict.fromkeys(name.partition(".")[0] for name in reached))


@contextmanager
def _differentiable(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """While open, what is computed tells which of these parameters it depends on."""
    before: list[bool] = [parameter.requires_grad for parameter in parameters]
    with torch.enable_grad():
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, had in zip(parameters, before, strict=True):
                parameter.requires_grad_(had)


def hidden_states(output: Any) -> Any:
    """The hidden states that a module returns, whatever it returns behind them."""
    return output[0] if isinstance(output, tuple | list) else output


def _changed(output: Any, value: torch.Tensor) -> Any:
    """What a module returns, with other hidden states."""
    return type(output)([value, *output[1:]]) if isinstance(output, tuple | list) else value
