"""What it costs to conclude: seconds and memory from a run's numbers per example to its effects, on numbers made up for it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from benchmarks.measure import PeakMemory, timed
from tinylab.arrays import FloatArray
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.effects.conclusions import Settings, conclude
from tinylab.interventions.components import HEAD_IMPACT
from tinylab.records.tables import per_example_table
from tinylab.statistics.labels import CORRECTIONS, Correction
from tinylab.task.corpus import PromptPair

CPU = torch.device("cpu")
TOP = 10


@dataclass(frozen=True)
class Shape:
    """The made-up run: every head of a model zeroed, by four metrics."""

    layers: int = 48
    heads: int = 25
    examples: int = 200
    templates: int = 8


def make_table(shape: Shape) -> pa.Table:
    """A finished run's `per_example`; one head in ten changes the logit difference."""
    rng = np.random.default_rng(0)
    cells = [cell for cell in HeadsZero(name="h1").cells(shape.layers, shape.heads) if cell.control == "none"]
    pairs = [PromptPair(row, "", "", "", "", f"template {row % shape.templates}") for row in range(shape.examples)]
    size = (len(cells), len(pairs))
    baseline, nothing = rng.normal(10, 2, size[1]), np.zeros(size[1])
    changed = rng.normal(0, 3, (size[0], 1)) * (rng.random((size[0], 1)) < 0.1)
    numbers: dict[str, tuple[FloatArray, FloatArray, FloatArray | None]] = {
        "logit_diff": (baseline + changed + rng.normal(0, 1, size), baseline, None),
        "kl_div": (rng.exponential(0.1, size), nothing, None),
        "acc_flip_rate": ((rng.random(size) < 0.05).astype(float), nothing, None),
        "p_drop": (rng.normal(0, 0.1, size), nothing, None),
    }
    return per_example_table(HEAD_IMPACT, "0" * 12, cells, pairs, seeds={0: list(range(len(pairs)))}, metrics=numbers)


@dataclass(frozen=True)
class Point:
    """What concluding took by one correction, or what controls took."""

    what: str
    rows: int  # of per_example
    seconds: float
    mebibytes: float  # that it holds at most beyond the table and the imports


def points(shape: Shape) -> list[Point]:
    """By each correction, in a process of its own."""
    return [_point(shape, correction) for correction in CORRECTIONS]


def _point(shape: Shape, correction: Correction) -> Point:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(concluded, shape, correction).result()


def concluded(shape: Shape, correction: Correction) -> Point:
    """Seconds and MiB of `conclude`; called in a fresh process, a first small call in which imports everything."""
    settings = Settings(0.05, 0.05, correction, TOP)
    conclude(make_table(Shape(2, 2, 8, 2)), HEAD_IMPACT, settings, {})
    table = make_table(shape)
    with PeakMemory(CPU) as memory:
        _, seconds = timed(CPU, lambda: conclude(table, HEAD_IMPACT, settings, {}))
    return Point(correction, len(table), seconds, memory.mebibytes)
