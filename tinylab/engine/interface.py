"""Queries, keys and values, where attention gets them: by the function that transformers' attention modules call.

Modules of transformers look the function up by name in `AttentionInterface` and call it with queries, keys and values after
rotary embedding; keys and values are still those of the key-value heads. For eager attention the name is not there as a rule,
and a module calls its own; where it is there, it is taken. So while an edit is open, another function has the name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tinylab.interventions.sites import Side
from tinylab.models.network import CausalModel

PLACES: dict[Side, int] = {"query": 0, "key": 1, "value": 2}


@contextmanager
def asking(model: CausalModel, layer: int, side: Side, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While open, the attention of a layer computes with `change(activation)` in place of its queries, keys or values.

    A module that does not go through the interface goes on as it was: `change` is never called.

    Args:
        model: the model.
        layer: whose attention.
        side: query, key or value.
        change: gets and returns [1, T, H, d], the query heads or the key-value heads.
    """
    name, attention = model.config._attn_implementation, model.attention(layer)
    before = ALL_ATTENTION_FUNCTIONS.get(name)

    def attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        given = [query, key, value]
        if module is attention:
            at = PLACES[side]
            given[at] = change(given[at].transpose(1, 2)).transpose(1, 2)
        compute = before or vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        return compute(module, *given, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
        if before is not None and ALL_ATTENTION_FUNCTIONS.get(name) is not before:
            ALL_ATTENTION_FUNCTIONS[name] = before
