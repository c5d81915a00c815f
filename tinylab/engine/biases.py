"""The value bias of every head: what an attention head writes even where it reads nothing.

A value is v = W h + b. Where attention weights sum to 1 a head's output is z = Σ a W h + b, so b can be kept while the rest
is scaled. Families store b in many ways (a part of a fused projection, interleaved by head, one for a group of query heads),
so it is measured and not looked up: attention modules are given chosen hidden states, and z is read where `head_out` is.

- One token of zeros gives z = b, exactly: it attends to itself alone.
- z(2h) − b = 2 (z(h) − b) says that a value is linear beside b (no gate, norm or clamp that matters).
- Several tokens with the same h give the z of one of them: attention weights sum to 1 (no sink takes a part).

What fails either check is refused, unless b is 0: then there is nothing to keep.

Letters: L layers, H query heads, d their width, T tokens, D width of the hidden states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from tinylab.engine.calls import Arguments, first, with_first
from tinylab.errors import ModelError
from tinylab.interventions.variants import Variant
from tinylab.models.network import CausalModel

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest accepted difference from z(h), as a fraction of its largest number. Some families take their softmax in float32
whatever the dtype; a sink that takes less than this makes no difference that the dtype shows."""


def biases_for(model: CausalModel, variants: Sequence[Variant]) -> list[torch.Tensor] | None:
    """The value biases if any variant keeps one, else None.

    Raises:
        ModelError: see `value_biases`.
    """
    kept = any(intervention.operation.needs_bias for variant in variants for intervention in variant.interventions)
    return value_biases(model) if kept else None


@torch.no_grad()
def value_biases(model: CausalModel) -> list[torch.Tensor]:
    """Each layer's value biases [H, d], by query head: with grouped queries, heads that share a key-value head have the same.

    The model runs four times on one or a few tokens whose hidden states are put in by hand, as the module's docstring says:
    zeros give the biases, the same vector once and doubled shows that values are linear beside them, several tokens with that
    vector show that attention weights sum to 1.

    Raises:
        ModelError: a head's output is not a weighted mean of values plus a bias.
    """
    width = int(model.config.hidden_size)
    noise = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    several = min(3, model.context or 3)
    bias, once, twice, spread = (
        _heads(model, hidden, length) for hidden, length in ((0 * noise, 1), (noise, 1), (2 * noise, 1), (noise, several))
    )
    for layer in (layer for layer in range(model.n_layers) if bias[layer].any()):
        allowed = TOLERANCES[model.dtype] * float(once[layer].abs().max())
        crooked = float((twice[layer] - 2 * once[layer] + bias[layer]).abs().max())
        lost = float((spread[layer] - once[layer]).abs().max())
        if not max(crooked, lost) <= allowed:
            reason = "its attention weights do not sum to 1" if lost > allowed else "its values are not linear apart from a bias"
            raise ModelError(f"battery.keep_value_bias=true: {model.identity.name} ({type(model.model).__name__}) has no value "
                             f"bias that could be kept apart, {reason} (layer {layer}, off by "
                             f"{max(crooked, lost):.2g}, expected at most {allowed:.2g}); use battery.keep_value_bias=false.")
    return [layer[0] for layer in bias]


def convention(biases: Sequence[torch.Tensor] | None) -> str:
    """What a manifest says of the value bias; `biases` as `biases_for` returns them."""
    if biases is None:
        return "scaled with its head"
    return "kept" if any(layer.any() for layer in biases) else "kept (this model has none: heads are scaled as they are)"


def _heads(model: CausalModel, hidden: torch.Tensor, length: int) -> list[torch.Tensor]:
    """Each layer's head outputs [T, H, d] where its attention gets T times the same hidden state [D]."""
    found: dict[int, torch.Tensor] = {}
    called: Counter[int] = Counter()  # counts attention and its projection

    def before_attention(layer: int, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        called[layer] += 1
        given = first((args, kwargs))
        return with_first((args, kwargs), hidden.to(given.device).expand_as(given).contiguous())

    def before_projection(layer: int, _module: object, args: tuple[torch.Tensor, ...]) -> None:
        called[layer] += 1
        found[layer] = args[0].reshape(length, model.n_heads, -1).clone()

    with ExitStack() as stack:
        for layer in range(model.n_layers):
            handle = model.attention(layer).register_forward_pre_hook(partial(before_attention, layer), with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(model.projection(layer).register_forward_pre_hook(partial(before_projection, layer)).remove)
        model.model(input_ids=torch.zeros(1, length, dtype=torch.long, device=model.device), use_cache=False,
                    **model.last_logits(0))
    for layer in range(model.n_layers):
        if called[layer] != 2:
            raise ModelError(f"battery.keep_value_bias=true: the attention of layer {layer} of {model.identity.name} "
                             f"({type(model.model).__name__}) was not called once with its projection in a forward pass, so its "
                             "value bias cannot be measured; use battery.keep_value_bias=false.")
    return [found[layer] for layer in range(model.n_layers)]
