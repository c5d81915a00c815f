"""What controls cost beside their forward passes: seconds and memory of choosing, planning and judging them, on a made-up run.

Random sets of as many heads as matter (one in ten): drawn, planned on as many examples as a tenth of the run's states allows,
compared. Shuffled donors: found for every example, and what survives of the ten strongest effects.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np

from benchmarks.conclusions import CPU, TOP, Point, Shape, make_table
from benchmarks.grids import NARROW
from benchmarks.measure import PeakMemory, timed
from benchmarks.workloads import DISTINCT_LENGTH, distinct, gpt2, random_model
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import ControlsConfig
from tinylab.effects.conclusions import Settings, conclude
from tinylab.effects.measured import Measured
from tinylab.effects.random_sets import PART, Circuit, affordable, compared, draw, together
from tinylab.effects.shuffled_donors import MOST, Examples, survival
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.components import HEAD_IMPACT
from tinylab.measures.metrics import LOGIT_DIFF

VOCABULARY = 1_000
SMALL = Shape(4, 10, 16, 4)


def point(shape: Shape) -> Point:
    """In a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, shape).result()


def _measured(shape: Shape) -> Point:
    """Called in a fresh process, a first small call in which imports everything."""
    _controls(SMALL)[1]()
    rows, work = _controls(shape)
    with PeakMemory(CPU) as memory:
        _, seconds = timed(CPU, work)
    return Point("controls", rows, seconds, memory.mebibytes)


def _controls(shape: Shape) -> tuple[int, Callable[[], None]]:
    """The rows of a made-up run's `per_example`, and all that its controls compute themselves; widths cost nothing of that."""
    table = make_table(shape)
    effects, _ = conclude(table, HEAD_IMPACT, Settings(0.05, 0.05, "holm", TOP), {})
    measured = Measured.read(table, HEAD_IMPACT, LOGIT_DIFF)
    strongest = np.argsort(-np.abs(measured.change.mean(axis=1)))
    members = strongest[: max(1, len(strongest) // 10)]
    circuit = replace(Circuit.of(effects, HEAD_IMPACT), members=tuple(sorted(members.tolist())))
    cells = circuit.cells_among(HeadsZero(name="h1").cells(shape.layers, shape.heads), HEAD_IMPACT)
    assert cells is not None
    model = random_model(gpt2(n_embd=NARROW * shape.heads, n_layer=shape.layers, n_head=shape.heads, vocab_size=VOCABULARY,
                              bos_token_id=0, eos_token_id=0), "cpu", "float32")
    engine, pairs = ForkedEngine(model), distinct(shape.examples, DISTINCT_LENGTH, VOCABULARY)
    most = engine.plan(pairs, [cell.variant for cell in cells]).states / PART

    def work() -> None:
        drawn = draw(circuit.members, circuit.layers, ControlsConfig().draws, 0)
        every = list(dict.fromkeys([circuit.members, *(one for sets in drawn.values() for one in sets)]))
        variants = [together([cells[place] for place in places]) for places in every]
        affordable(measured.names, 0, lambda some: engine.plan([pairs[b] for b in some], variants).states, most)
        damage = {one: abs(float(measured.change[list(one)].sum(axis=0).mean())) for one in every}
        for sets in drawn.values():
            compared(damage[circuit.members], np.array([damage[one] for one in sets]), float(measured.baseline.mean()))
        donors = Examples(measured.templates, [pair.clean for pair in pairs], [pair.target for pair in pairs])
        chosen = donors.deranged(range(len(pairs)), 0)
        own = measured.change[strongest[:MOST]]
        survival(own[:, chosen.donors], own[:, chosen.examples], measured.templates, measured.items)

    return len(table), work
