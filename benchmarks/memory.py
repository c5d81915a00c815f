"""Peak memory of (a) and (b), each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Literal

import torch

from benchmarks.baselines import PlainRuns
from benchmarks.measure import PeakMemory
from benchmarks.workloads import DISTINCT_LENGTH, SHAPES, distinct, random_model
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.measures.metrics import Scorer, available

Style = Literal["plain", "plain, reading rows", "forked"]
STYLES: tuple[Style, ...] = ("plain", "plain, reading rows", "forked")
PLAIN_PASSES = 2


def peak_memory(shape: str, device: str, dtype: str, count: int, styles: Sequence[Style]) -> dict[Style, float]:
    """MiB beyond the loaded model, for one head per layer on distinct prompts."""
    found: dict[Style, float] = {}
    for style in styles:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[style] = pool.submit(grown, shape, device, dtype, count, style).result()
    return found


def grown(shape: str, device: str, dtype: str, count: int, style: Style) -> float:
    """MiB that one style takes; called in a fresh process."""
    model = random_model(SHAPES[shape](), device, dtype)
    pairs, scorer = distinct(count, DISTINCT_LENGTH, model.vocabulary), Scorer(tuple(available(source=False)))
    variants = [cell.variant for cell in HeadsZero(name="h1", heads=[0]).cells(model.n_layers, model.n_heads)]
    with torch.inference_mode():
        model.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))  # libraries take memory of their own
    with PeakMemory(model.device) as memory:
        if style == "forked":
            ForkedEngine(model).evaluate(pairs, variants, scorer)
        else:
            plain = PlainRuns(model, pairs, variants, scorer)
            plain.unmodified(style != "plain")
            for variant in variants[:PLAIN_PASSES]:
                plain.evaluate(variant, style != "plain")
    return memory.mebibytes
