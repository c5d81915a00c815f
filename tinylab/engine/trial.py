"""The trial: is a model built as the sites of a run take it to be? A few tokens tell, before anything is computed.

- Each module at which a site is reached is called once in a forward pass, and gives a row to each token.
- Attention gives as many heads as the config has, as wide together as what the output projection takes: seen by watching the
  products of attention weights [T, T] and values. Layers that mix tokens otherwise (linear attention) have none.
- Queries, keys and values come by where attention asks through transformers' interface, as many heads as the config has.
- What goes into a block and out of it is one residual stream, [1, T, D].
- Between attention and MLP there is a residual stream, and changing it changes all of it (`tinylab.engine.between`).
- What the MLP's last linear map gives is the MLP's output.
- The MLP's output is all that a block adds beside attention's: with both put to 0, what leaves the block depends on no weight
  matrix of it. (A second branch, shared experts beside routed ones, would.)

Letters: T tokens, H heads, D width of the hidden states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tinylab.engine.beside import beside_mlp, hidden_states
from tinylab.engine.between import not_between
from tinylab.engine.biases import TOLERANCES
from tinylab.engine.calls import first
from tinylab.engine.forked.budget import out_of_memory
from tinylab.engine.interface import asking
from tinylab.errors import ModelError
from tinylab.interventions.sites import Module, Side, Site
from tinylab.interventions.variants import Variant
from tinylab.models.network import CausalModel
from tinylab.models.rotary import forget_lengths
from tinylab.task.tokens import TokenPair

TOKENS = 7
"""Of the trial: a number that is no head's width, as a rule."""
_PRODUCTS = ("matmul", "__matmul__", "bmm", "scaled_dot_product_attention")
Place = tuple[Site, int]
"""A site of a layer."""
OWN_FAULTS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, NotImplementedError)
"""What a model's code raises where a config and the code do not fit together."""


def check_sites(model: CausalModel, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> None:
    """Refuse a run whose interventions would not be what they are called.

    Raises:
        ModelError: a site of a layer that they act at is not what it is taken to be, or a token has no embedding.
    """
    if not pairs:
        return
    check_vocabulary(model, pairs)
    check_causal(model, pairs[0])
    found = flaws(model, pairs[0].clean, [(i.site, i.layer) for variant in variants for i in variant.interventions])
    for (site, _), flaw in found.items():
        raise ModelError(f"{model.identity.name} ({type(model.model).__name__}): no {site} in it that could be intervened on: "
                         f"{flaw}; use another battery, other layers or another model.")


def check_vocabulary(model: CausalModel, pairs: Sequence[TokenPair]) -> None:
    """Refuse tokens that the model has no embedding or no logit for.

    Raises:
        ModelError: tokenizer and weights do not belong together.
    """
    rows = min(int(table.weight.shape[0]) for table in (model.model.get_input_embeddings(), model.model.get_output_embeddings()))
    largest = max(max(*pair.clean, *pair.corrupt, *pair.looked_for) for pair in pairs)
    if largest >= rows:
        raise ModelError(f"{model.identity.name}: the tokenizer gives token {largest}, but the model has embeddings for {rows} "
                         "(0 first); expected a tokenizer and weights that belong together, so get both from one place.")


@torch.no_grad()
def check_causal(model: CausalModel, pair: TokenPair) -> None:
    """Refuse a model whose logits depend on later tokens, as those of a masked language model do: the last but one is looked at.

    Raises:
        ModelError: they do.
    """
    tokens = _tokens(model, pair.clean)
    other = next((token for token in pair.looked_for if token != tokens[-1]), pair.foil)
    if len(tokens) == 1:
        return

    def logits(last: int) -> torch.Tensor:
        return _run(model, [*tokens[:-1], last], 2)[-2].double()

    before, after = logits(tokens[-1]), logits(other)
    allowed = TOLERANCES[model.dtype] * max(1.0, float(before.abs().max()))
    changes = allowed < float((after - before).abs().max()) < float("inf")  # what is not finite, other checks tell
    if changes and float((logits(tokens[-1]) - before).abs().max()) <= allowed:
        raise ModelError(f"{model.identity.name} ({type(model.model).__name__}): its logits depend on tokens that come later, "
                         "expected a causal language model; if it is a masked one, it cannot be used, and if config.json has "
                         "is_decoder=false, that is to be true.")


def flaws(model: CausalModel, prompt: Sequence[int], places: Iterable[Place]) -> dict[Place, str]:
    """Which places are not what their sites are taken to be, and why.

    Args:
        model: the model; it is left as it was.
        prompt: tokens to try it with.
        places: what a run acts at.

    Raises:
        ModelError: a layer has no attention or no MLP at all.
    """
    asked = list(dict.fromkeys(places))
    tokens = _tokens(model, prompt)
    found = {place: flaw for place in asked if place[0].module == "down" and (flaw := _no_neurons(model, place[1])) is not None}
    seen = _watch(model, tokens, [place for place in asked if place not in found])
    found |= {place: flaw for place in asked if place not in found and (flaw := _flaw(model, seen, place)) is not None}
    for module, side, tried in (("mlp", "out", beside_mlp), ("norm", "in", not_between)):
        here = [place for place in asked if (place[0].module, place[0].side) == (module, side) and place not in found]
        wrong = tried(model, {layer for _, layer in here}, partial(_run, model, tokens, 0)) if here else {}
        found |= {(site, layer): wrong[layer] for site, layer in here if layer in wrong}
    return found


def _no_neurons(model: CausalModel, layer: int) -> str | None:
    if model.sizes.n_neurons[layer] is not None:
        return None
    what = f"{type(model.mlp(layer)).__name__} of layer {layer}"
    return f"the {what} has no single last linear map, as mixtures of experts have none"


def _tokens(model: CausalModel, prompt: Sequence[int]) -> list[int]:
    """The tokens of the trial: a prompt's, again and again, as many as the context has room for."""
    return [prompt[number % len(prompt)] for number in range(min(TOKENS, model.context or TOKENS))]


@dataclass
class _Seen:
    """What a forward pass showed, by layer."""

    length: int  # T
    calls: Counter[tuple[Module | Side, int]] = field(default_factory=Counter)  # of attention, by what it is computed of
    inputs: dict[tuple[Module | Side, int], Any] = field(default_factory=dict)
    outputs: dict[tuple[Module | Side, int], Any] = field(default_factory=dict)
    heads: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # (H, width of one) of each product in attention
    elsewhere: set[int] = field(default_factory=set)  # layers with such a product behind their output projection
    layer: int | None = None  # the block that runs
    before: bool = False  # and whether its output projection is yet to be called


class _Products(TorchFunctionMode):
    """Notes each product of attention weights and values."""

    def __init__(self, seen: _Seen, length: int) -> None:
        super().__init__()
        self._seen, self._length = seen, length

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS and self._seen.layer is not None and isinstance(found, torch.Tensor):
            square = (self._length, self._length)
            if name == "scaled_dot_product_attention" or (args and args[0].dim() > 2 and tuple(args[0].shape[-2:]) == square):
                width = found.shape[-1]
                if self._seen.before:
                    self._seen.heads.setdefault(self._seen.layer, []).append((found.numel() // (self._length * width), width))
                else:
                    self._seen.elsewhere.add(self._seen.layer)
        return found


@torch.no_grad()
def _watch(model: CausalModel, tokens: Sequence[int], places: Sequence[Place]) -> _Seen:
    """Run the model once and note what goes through its modules."""
    seen, modules = _Seen(len(tokens)), {site.module for site, _ in places}
    every: set[Module] = modules & {"block", "projection", "mlp"}  # of all layers, so that one without attention or MLP is told
    watched = {(module, layer) for module in every for layer in range(model.n_layers)}
    watched |= {(module, layer) for site, layer in places for module in _needed(site)}

    def enter(module: Module, layer: int, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.calls[module, layer] += 1
        seen.inputs[module, layer] = first((args, kwargs))

    def leave(module: Module, layer: int, _module: object, _args: object, output: Any) -> None:
        seen.outputs[module, layer] = hidden_states(output)

    def at(layer: int | None, before: bool, *_: object) -> None:
        seen.layer, seen.before = layer, before

    def ask(side: Side, layer: int, heads: torch.Tensor) -> torch.Tensor:
        seen.calls[side, layer] += 1
        seen.inputs[side, layer] = heads
        return heads

    with ExitStack() as stack:
        for module, layer in sorted(watched):
            reached = model.point(module, layer)
            stack.callback(reached.register_forward_pre_hook(partial(enter, module, layer), with_kwargs=True).remove)
            stack.callback(reached.register_forward_hook(partial(leave, module, layer)).remove)
        for site, layer in places:
            if site.module == "attention":
                stack.enter_context(asking(model, layer, site.side, partial(ask, site.side, layer)))
        if "projection" in modules:
            for layer in range(model.n_layers):
                block = model.blocks[layer]
                stack.callback(block.register_forward_pre_hook(partial(at, layer, True)).remove)
                stack.callback(model.projection(layer).register_forward_hook(partial(at, layer, False)).remove)
                stack.callback(block.register_forward_hook(partial(at, None, False)).remove)
        stack.enter_context(_Products(seen, len(tokens)))
        _run(model, tokens, 0)
    return seen


def _needed(site: Site) -> tuple[Module, ...]:
    """The modules that tell whether a site is what it is called."""
    return () if site.module == "attention" else ("down", "mlp") if site.module == "down" else (site.module,)


def _flaw(model: CausalModel, seen: _Seen, place: Place) -> str | None:
    """What is wrong with a place by what was seen, None if nothing is."""
    site, layer = place
    if site.module == "attention":
        return _flaw_of_asking(model, seen, place)
    where, key = f"{type(model.point(site.module, layer)).__name__} of layer {layer}", (site.module, layer)
    if seen.calls[key] != 1:
        return f"the {where} is called {seen.calls[key]} times in a forward pass, expected once"
    value = (seen.inputs if site.side == "in" else seen.outputs).get(key)
    if not isinstance(value, torch.Tensor):
        return f"the {where} gives a {type(value).__name__}, expected a tensor"
    return _flaw_of_rows(model, seen, place, value)


def _flaw_of_rows(model: CausalModel, seen: _Seen, place: Place, value: torch.Tensor) -> str | None:
    """What is wrong with what a module got or gave."""
    site, layer = place
    where, key = f"{type(model.point(site.module, layer)).__name__} of layer {layer}", (site.module, layer)
    length, width = seen.length, int(value.shape[-1])
    expected = [1, length, int(model.config.hidden_size)]
    if site.module == "block" and list(value.shape) != expected:
        verb = "gets" if site.side == "in" else "returns"
        return f"the {where} {verb} {list(value.shape)}, expected one residual stream {expected}"
    if value.numel() != length * width or ((site.side == "out" or site.module == "norm") and width != expected[-1]):
        return f"the {where} has {list(value.shape)} for {length} tokens, expected a row of {expected[-1]} for each"
    if site.module == "down" and not torch.equal(seen.outputs[key].flatten(), seen.outputs["mlp", layer].flatten()):
        return f"what the {where} gives is not the output of the MLP"
    return _flaw_of_heads(model, seen, layer, width) if site.units == "heads" else None


def _flaw_of_asking(model: CausalModel, seen: _Seen, place: Place) -> str | None:
    """What is wrong with queries, keys or values: they do not come by, or are not as many as they should be."""
    site, layer = place
    where, calls = f"{type(model.attention(layer)).__name__} of layer {layer}", seen.calls[site.side, layer]
    if calls != 1:
        how = "does not go" if calls == 0 else f"goes {calls} times"
        return f"the {where} {how} through transformers' AttentionInterface, where queries, keys and values are reached"
    shape, expected = list(seen.inputs[site.side, layer].shape), [1, seen.length, model.sizes.heads(site)]
    if shape[:3] != expected:
        return f"the {where} has {site.side} heads {shape}, expected {expected}, each of some width"
    return None


def _flaw_of_heads(model: CausalModel, seen: _Seen, layer: int, width: int) -> str | None:
    """What is wrong with a layer's heads; `width` is what the output projection takes."""
    what = f"layer {layer} ({type(model.attention(layer)).__name__})"
    if layer in seen.elsewhere:
        return f"{what} is not the only attention of its block, expected one"
    heads = [] if layer in model.linear else seen.heads.get(layer)
    if not heads:
        return f"{what} has no attention weights, so no heads (linear attention, or a kind that is not known here)"
    if len(heads) > 1:
        return (f"{what} makes its output of {len(heads)} products of attention weights and values (differential attention), "
                "expected one")
    count, each = heads[0]
    if count == model.n_heads and count * each == width:
        return None
    return (f"{what} has {count} attention heads of width {each} and an output projection that takes {width}, expected "
            f"num_attention_heads={model.n_heads} of {width}/{model.n_heads}")


def _run(model: CausalModel, tokens: Sequence[int], rows: int) -> torch.Tensor:
    """Logits of the last rows at least, [rows, W].

    Raises:
        ModelError: the model's own code fails.
    """
    forget_lengths(model)
    ids = torch.tensor([list(tokens)], device=model.device)
    try:
        logits: torch.Tensor = model.model(input_ids=ids, use_cache=False, **model.last_logits(rows)).logits[0]
    except OWN_FAULTS as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelError(f"{model.identity.name} ({type(model.model).__name__}): its own code in transformers cannot compute a "
                         f"plain prompt ({what.rstrip('.')}); use another model, or another version of transformers.") from error
    return logits
