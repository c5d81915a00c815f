"""How cost grows: seconds and states of (b) over each knob alone, and the time of laying prompts out as tries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch

from benchmarks.bound import lower_bound
from benchmarks.measure import timed
from benchmarks.workloads import SEED, distinct, gpt2, random_model
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.forked.batches import Layout, Setting
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.measures.metrics import Scorer, available
from tinylab.task.tokens import TokenPair

VOCABULARY = 1024
PROMPT_TOKENS = 30
TEMPLATES, SLOTS, FILLERS = 20, 3, 50
GROUP = 2048
"""Nodes and pairs of a group at most."""


@dataclass(frozen=True)
class Knobs:
    """A small model and its prompts; H1 on all heads."""

    layers: int = 4
    heads: int = 4
    pairs: int = 16
    length: int = 16
    copies: int = 1  # of each pair, among `pairs`
    width: int = 256


KNOBS: dict[str, tuple[int, ...]] = {
    "layers": (1, 2, 4, 8), "heads": (1, 2, 4, 8), "pairs": (8, 16, 32, 64), "length": (8, 16, 32, 64), "copies": (1, 2, 4, 8),
}


@dataclass(frozen=True)
class Point:
    """One setting of one knob."""

    knob: str
    value: int
    seconds: float
    states: int
    bound: int


@dataclass(frozen=True)
class LayoutPoint:
    """How long it takes to lay out prompts."""

    kind: str
    prompts: int
    nodes: int
    groups: int
    build: float
    cut: float
    batches: float


def curves(device: str, dtype: str, width: int, steps: int, repeats: int) -> list[Point]:
    """Every knob doubled, the others at their defaults.

    Args:
        device: where.
        dtype: of the weights.
        width: of the model.
        steps: how many values of each knob.
        repeats: of each point, after one that warms up.
    """
    base = Knobs(width=width)
    return [
        _point(knob, value, replace(base, **{knob: value}), (device, dtype), repeats)
        for knob, values in KNOBS.items() for value in values[:steps]
    ]


def _point(knob: str, value: int, knobs: Knobs, where: tuple[str, str], repeats: int) -> Point:
    config = gpt2(
        vocab_size=VOCABULARY, n_embd=knobs.width, n_layer=knobs.layers, n_head=knobs.heads, bos_token_id=0, eos_token_id=0
    )
    model = random_model(config, *where)
    pairs = distinct(knobs.pairs // knobs.copies, knobs.length, VOCABULARY) * knobs.copies
    variants = [cell.variant for cell in HeadsZero(name="h1").cells(knobs.layers, knobs.heads)]
    engine, scorer = ForkedEngine(model), Scorer(tuple(available(source=False)))
    runs = [timed(model.device, lambda: engine.evaluate(pairs, variants, scorer)) for _ in range(repeats + 1)]
    seconds = median(took for _, took in runs[1:])
    return Point(knob, value, seconds, runs[0][0].states, lower_bound(pairs, variants, knobs.layers))


def layouts(counts: tuple[int, ...]) -> list[LayoutPoint]:
    """Time to lay out so many prompts, distinct and templated."""
    return [_layout(kind, count) for kind in ("distinct", "templated") for count in counts]


def _layout(kind: str, count: int) -> LayoutPoint:
    pairs = _prompts(kind, count)
    setting, cpu = Setting("clean", None, "all"), torch.device("cpu")
    layout, build = timed(cpu, lambda: Layout(pairs, [setting]))
    groups, cut = timed(cpu, lambda: list(layout.groups(GROUP, GROUP)))
    nodes, batches = timed(cpu, lambda: sum(len(layout.batch(examples).both) for examples in groups))
    return LayoutPoint(kind, count, nodes, len(groups), build, cut, batches)


def _prompts(kind: str, count: int) -> list[TokenPair]:
    """Pairs that hold so many prompts: random tokens, or a few templates with random fillers."""
    rng = np.random.default_rng(SEED)
    tokens = rng.integers(50_000, size=(count, PROMPT_TOKENS))
    if kind == "templated":
        templates = tokens[:TEMPLATES]
        slots = rng.permuted(np.tile(np.arange(5, PROMPT_TOKENS), (TEMPLATES, 1)), axis=1)[:, :SLOTS]
        which = rng.integers(TEMPLATES, size=count)
        tokens = templates[which]
        np.put_along_axis(tokens, slots[which], rng.integers(FILLERS, size=(count, SLOTS)), axis=1)
    prompts = [tuple(row) for row in tokens.tolist()]
    return [TokenPair(*both, 0, 1) for both in zip(prompts[::2], prompts[1::2], strict=True)]
