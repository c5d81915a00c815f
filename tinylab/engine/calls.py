"""Calling a module of a network again on other hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def first(arguments: Arguments) -> torch.Tensor:
    """The hidden states that a module is called with."""
    args, kwargs = arguments
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def with_first(arguments: Arguments, hidden: torch.Tensor) -> Arguments:
    """The same call on other hidden states."""
    args, kwargs = arguments
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def by_row(arguments: Arguments, rows: int, choose: Callable[[torch.Tensor], torch.Tensor]) -> Arguments:
    """The same call with everything else that has a line per row (rotary embeddings, position ids) cut alike.

    Args:
        arguments: of the call; its hidden states are left alone.
        rows: how many lines such a tensor has.
        choose: takes the lines.
    """

    def cut(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() > 1 and len(value) == rows:
            return choose(value)
        return tuple(cut(part) for part in value) if isinstance(value, tuple) else value

    args, kwargs = arguments
    chosen = {name: value if name == "hidden_states" else cut(value) for name, value in kwargs.items()}
    return (*args[:1], *(cut(value) for value in args[1:])), chosen


def call_with(call: Callable[..., Any], arguments: Arguments, hidden: torch.Tensor) -> Any:
    """Call a module on other hidden states."""
    args, kwargs = with_first(arguments, hidden)
    return call(*args, **kwargs)
