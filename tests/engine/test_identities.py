"""Identities that hold in every family whatever its weights, on random models: what must be equal, is.

| identity | what is equal |
|---|---|
| unhooked | an engine's logits without interventions, and those of plain transformers (the reference: bit for bit) |
| batch | a prompt's logits alone, and in a batch of plain transformers |
| alone | every value of one pair alone, and together with the others |
| heads | what each head writes alone through the output projection, summed, plus the bias, and what the projection writes |
| attention | what the projection writes, and what the attention module returns |
| residual | a block's output, and its input plus what attention and MLP write |
| sham | a run patched with its own activations, and unmodified (the reference: bit for bit) |
| one | a run with a site times 1, and unmodified (the reference: bit for bit) |
| no heads | all heads of a layer at 0, and the projection's output replaced by its bias |
| everything | the whole residual stream patched at any layer, and the source run |

Where an architecture does not have one, `EXCEPTIONS` says why, and that it does not is tested too. `make test` runs every family
in float32, `make test-families` in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from test_families import NO_FLOAT64, SINGLE_INSIDE, SWITCHES, expected_engine

from families import ALIGNED, EVERY, HEADS, LAYERS, LENGTH_DEPENDENT, VOCABULARY, answered, family, fresh_logits, plain_logits
from tinylab.engine.choose import AllLogits
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import COMMON, HEAD_OUT, RESID_POST
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel

LOGITS = AllLogits(tuple(str(word) for word in range(VOCABULARY)))
PROMPTS = (ALIGNED[0], ALIGNED[7], ALIGNED[8])
"""One of 3 tokens, and two of 10 (longer than any window and chunk) that share a prefix."""
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Sums in another order, on activations of order 1 to 10; see `both_engines.py`."""
SHOWS = 1e-3
"""Beyond this an exception is one: the weights are large enough for every part of a network to show."""

POST_NORMS = {
    **dict.fromkeys(
        ["gemma2", "gemma3", "olmo2", "olmo3", "exaone4"], ("post_attention_layernorm", "post_feedforward_layernorm")
    ),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
}
"""Families that norm what attention and MLP write before they add it, and the norms' names."""
MULTIPLIED = {"granite": 0.7, "granitemoe": 0.7}
"""Families that add a multiple of what attention and MLP write."""
EXCEPTIONS: dict[str, dict[str, str]] = {
    "residual": {
        **dict.fromkeys(POST_NORMS, "norms what attention and MLP write before it is added"),
        **dict.fromkeys(MULTIPLIED, "adds a multiple of what attention and MLP write"),
    },
    "attention": {"bloom": "its attention module adds the residual stream itself"},
}
"""Identity → family → why it does not hold there. All others hold in all families."""
EXACT = ("sham by the reference", "one by the reference")


def variants() -> dict[str, list[Variant]]:
    """What is evaluated, by the identity that it is for; corrupt runs, patched from themselves or from the clean run."""
    every = range(LAYERS)
    return {
        "sham": [Variant((Intervention(site, 1, Patch(), None),), "corrupt", Own("corrupt"), "all") for site in COMMON]
        + [Variant((Intervention(HEAD_OUT, 1, Patch(), 2),), "corrupt", Own("corrupt"), "last")],
        "one": [Variant((Intervention(site, 1, Scale(1.0), None),), "corrupt") for site in COMMON],
        "no heads": [Variant((Intervention(HEAD_OUT, layer, Scale(0.0)),), "corrupt") for layer in every],
        "everything": [Variant((Intervention(RESID_POST, layer, Patch()),), "corrupt", Own("clean"), "all") for layer in every],
    }


KINDS = variants()
ALL = [variant for kind in KINDS.values() for variant in kind]


@contextmanager
def hooked(model: CausalModel, put: dict[torch.nn.Module, Any] | None = None) -> Iterator[dict[Any, Any]]:
    """While open, what each layer's places see: (place, layer) → tensor; `put` replaces some modules' outputs."""
    seen: dict[Any, Any] = {}

    def first(value: Any) -> torch.Tensor:
        return (value if isinstance(value, torch.Tensor) else value[0]).clone()  # some blocks add to it in place

    def reading(place: str, layer: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            seen[place, layer] = first(output).reshape(-1, first(output).shape[-1])

        return hook

    def before(place: str, layer: int) -> Callable[..., None]:
        def hook(_module: Any, args: Any, kwargs: Any) -> None:
            value = args[0] if args else kwargs["hidden_states"]
            seen[place, layer] = value.clone().reshape(-1, value.shape[-1])

        return hook

    with ExitStack() as stack:
        for layer in range(LAYERS):
            block, projection = model.blocks[layer], model.projection(layer)
            for handle in (
                block.register_forward_pre_hook(before("in", layer), with_kwargs=True),
                projection.register_forward_pre_hook(before("z", layer), with_kwargs=True),
                projection.register_forward_hook(reading("projection", layer)),
                model.attention(layer).register_forward_hook(reading("attention", layer)),
                model.mlp(layer).register_forward_hook(reading("mlp", layer)),
                block.register_forward_hook(reading("out", layer)),
            ):
                stack.callback(handle.remove)
        for module, output in (put or {}).items():
            stack.callback(module.register_forward_hook(lambda _m, _a, old, new=output: torch.zeros_like(old) + new).remove)
        yield seen


def gap(*pairs: tuple[Any, Any]) -> float:
    """The largest difference of any two."""
    return max(float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).max()) for a, b in pairs)


def written_by_heads(projection: Any, z: torch.Tensor) -> torch.Tensor:
    """What each head of z [T, H·d] writes alone through the projection, summed, and its bias once: [T, D]."""
    bias = projection(torch.zeros_like(z))
    width = z.shape[-1] // HEADS
    total = bias.clone()
    for head in range(HEADS):
        alone = torch.zeros_like(z)
        alone[:, head * width : (head + 1) * width] = z[:, head * width : (head + 1) * width]
        total += projection(alone) - bias
    return total


def added(name: str, block: Any, part: int, written: torch.Tensor) -> torch.Tensor:
    """What a block of a family adds to the residual stream, of what attention (part 0) or MLP (1) wrote."""
    if name in POST_NORMS:
        written = getattr(block, POST_NORMS[name][part])(written)
    return MULTIPLIED.get(name, 1.0) * written


def unhooked(name: str, prompt: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Logits by plain transformers, whatever the model has seen before."""
    return fresh_logits(name, prompt, dtype) if name in LENGTH_DEPENDENT else plain_logits(family(name, dtype), prompt)


@cache
def measured(name: str, dtype: torch.dtype) -> dict[str, float]:
    """The largest difference of every identity; two evaluations of a family's prompts, and some forward passes by hand."""
    model = family(name, dtype)
    pairs = answered(model, PROMPTS)
    plain = ReferenceEngine(model).evaluate(pairs, ALL, LOGITS)
    engine = ForkedEngine(model) if expected_engine(name, dtype) == "forked" and name not in SWITCHES else ReferenceEngine(model)
    found = engine.evaluate(pairs, ALL, LOGITS)
    kinds = np.repeat(list(KINDS), [len(kind) for kind in KINDS.values()])
    expected = {run: np.stack([unhooked(name, getattr(pair, run), dtype).double().numpy() for pair in pairs])
                for run in ("clean", "corrupt")}
    result = {
        "unhooked": gap(*((found.baselines[run], expected[run]) for run in expected)),
        "unhooked by the reference": gap(*((plain.baselines[run], expected[run]) for run in expected)),
        "everything": gap(*((values, found.baselines["clean"]) for values in found.values[kinds == "everything"])),
        "alone": gap((engine.evaluate(pairs[1:2], ALL, LOGITS).values[:, 0], found.values[:, 1])),
        "effect": min(gap((values, found.baselines["corrupt"])) for values in found.values[kinds == "no heads"]),
    }
    for kind in ("sham", "one"):
        for which, one in ((kind, found), (f"{kind} by the reference", plain)):
            result[which] = gap(*((values, one.baselines["corrupt"]) for values in one.values[kinds == kind]))
    with torch.no_grad():
        both = model.model(torch.tensor([pairs[1].clean, pairs[2].corrupt])).logits[:, -1]
        result["batch"] = gap((both[0], expected["clean"][1]), (both[1], expected["corrupt"][2]))
        with hooked(model) as seen:
            plain_logits(model, pairs[2].corrupt)
        result |= _by_layer(name, model, seen)
        result["no heads"] = gap(*(
            (found.values[kinds == "no heads"][layer, 2], _without_attention(model, layer, pairs[2].corrupt))
            for layer in range(LAYERS)
        ))
    return result


def _by_layer(name: str, model: CausalModel, seen: dict[Any, torch.Tensor]) -> dict[str, float]:
    """The identities of what a forward pass shows at each layer."""
    every = range(LAYERS)
    attention, mlp = ([seen[place, layer] for layer in every] for place in ("projection", "mlp"))
    return {
        "heads": gap(*((written_by_heads(model.projection(layer), seen["z", layer]), attention[layer]) for layer in every)),
        "attention": gap(*((seen["attention", layer], attention[layer]) for layer in every)),
        "residual": gap(*((seen["out", layer], seen["in", layer] + attention[layer] + mlp[layer]) for layer in every)),
        "residual as it is added": gap(*(
            (seen["out", layer], seen["in", layer] + added(name, model.blocks[layer], 0, attention[layer])
             + added(name, model.blocks[layer], 1, mlp[layer]))
            for layer in every
        )),
    }


def _without_attention(model: CausalModel, layer: int, prompt: tuple[int, ...]) -> torch.Tensor:
    """Logits where a layer's output projection gives its bias whatever comes in."""
    projection: Any = model.projection(layer)
    bias = getattr(projection, "bias", None)
    with hooked(model, {projection: 0.0 if bias is None else bias}):
        return plain_logits(model, prompt)


IDENTITIES = ("unhooked", "batch", "alone", "heads", "attention", "residual", "sham", "one", "no heads", "everything")


def check(name: str, dtype: torch.dtype) -> None:
    found = measured(name, dtype)
    single = name in SINGLE_INSIDE or name in ("ernie4_5_moe", "llama4_tuned")  # their routers round in float32
    rounding = 1e-6 if dtype == torch.float64 and single else ROUNDING[dtype]
    broken = {
        identity: found[identity] for identity in IDENTITIES
        if (found[identity] > rounding) != (name in EXCEPTIONS.get(identity, {})) or not np.isfinite(found[identity])
    }
    assert broken == {}
    assert {identity: found[identity] for identity in EXACT if found[identity] != 0} == {}
    assert found["residual as it is added"] <= rounding
    assert found["effect"] > SHOWS  # of a layer without attention: that it equals something means something
    assert all(found[identity] > SHOWS for identity, families in EXCEPTIONS.items() if name in families)


@pytest.mark.parametrize("name", EVERY)
def test_the_identities_hold_in_a_family(name: str) -> None:
    check(name, torch.float32)


@pytest.mark.families
@pytest.mark.parametrize("name", [name for name in EVERY if name not in NO_FLOAT64])
def test_the_identities_hold_in_a_family_in_float64(name: str) -> None:
    check(name, torch.float64)


def test_exceptions_are_of_identities_and_families_that_exist() -> None:
    assert set(EXCEPTIONS) <= set(IDENTITIES)
    assert {name for families in EXCEPTIONS.values() for name in families} <= set(EVERY)
