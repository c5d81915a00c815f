"""(a), (a') and (b) on every battery and workload, interleaved in one process.

(a) costs one forward pass per intervention, and every pass of a workload costs the same, so a few interventions,
spread over layers and heads, are timed and multiplied. (b) is always run in full. A round of a case is: matmul peak,
some passes of (a), (b), the same passes of (a'), and, on distinct prompts, of other tools where they are installed.
Every case gets one round. While the time lasts, the cheaper cases get more, up to three, then the others too.

Letters: V interventions of a battery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median

import numpy as np
import torch

from benchmarks.baselines import PlainRuns
from benchmarks.bound import lower_bound
from benchmarks.measure import counted, matmul_peak, timed
from benchmarks.peers import PeerRuns, Tool
from benchmarks.workloads import Task, Workload, random_model
from tinylab.arrays import FloatArray
from tinylab.engine.forked.budget import Budget
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.sites import Site
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Variant
from tinylab.measures import readings
from tinylab.measures.ability import ABILITY
from tinylab.measures.metrics import Scorer, available
from tinylab.models.network import CausalModel

SAMPLE = 6
"""Interventions of a battery that (a) and (a') evaluate."""
PASSES_FOR = 72
"""One pass of (a) in a round for every so many interventions of the battery."""
ENOUGH_ROUNDS, MOST_ROUNDS = 3, 5
SCORER = Scorer(tuple(available(source=False)))

Say = Callable[[str], object]


@dataclass
class Case:
    """A battery on a workload, and what was measured of it; seconds are those of the whole battery."""

    task: Task
    workload: Workload
    variants: list[Variant]
    n_layers: int
    bound: int
    rows: int  # of (a)'s batches in its unmodified runs, padding included
    rows_each: int  # the same for one intervention
    states: int = 0
    forwards: int = 0
    flops_plain: int = 0
    flops_forked: int = 0
    difference: float = 0.0
    effect: float = 0.0
    plain: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    forked: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    beside: dict[str, list[float]] = field(default_factory=dict)  # other tools, by name
    beside_difference: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # of the last round

    @staticmethod
    def of(model: CausalModel, task: Task, workload: Workload) -> Case:
        """Nothing is measured yet."""
        variants = task.variants(model)
        lengths = {run: max(len(getattr(pair, run)) for pair in workload.pairs) for run in ("clean", "corrupt")}
        rows, each = (width * len(workload.pairs) for width in (sum(lengths.values()), lengths[task.battery.target]))
        bound = lower_bound(workload.pairs, variants, model.n_layers)
        return Case(task, workload, variants, model.n_layers, bound, rows, each)

    @property
    def ratio(self) -> float:
        """Seconds of (a) over seconds of (b)."""
        return median(self.plain) / median(self.forked)

    @property
    def reading_ratio(self) -> float:
        """Seconds of (a') over seconds of (b)."""
        return median(self.reading) / median(self.forked)

    @property
    def excess(self) -> float:
        """States computed beyond the lower bound, as a fraction of it."""
        return self.states / self.bound - 1

    def of_peak(self, flops: int, seconds: Sequence[float]) -> float:
        """Operations per second as a fraction of the matmul peak."""
        return flops / median(seconds) / median(self.peak)


class Runner:
    """Measures one case."""

    def __init__(self, model: CausalModel, case: Case, tools: Sequence[Tool]) -> None:
        """Hold model, case and other tools; nothing is computed yet."""
        self._model, self.case = model, case
        self._plain = PlainRuns(model, case.workload.pairs, case.variants, SCORER)
        batches, pairs = self._plain.batches, case.workload.pairs
        self._peers = [PeerRuns(tool, batches, pairs, case.variants, SCORER) for tool in tools]
        places = np.unique(np.linspace(0, len(case.variants) - 1, SAMPLE).astype(int))
        self._sample: list[int] = [int(place) for place in places]
        self._at = 0
        self._baselines: dict[RunName, FloatArray] = {}

    def prepare(self, shadow: CausalModel) -> None:
        """The unmodified runs of (a) and of other tools, which also warm up, and the operations of (a) and (b)."""
        case = self.case
        self._baselines, flops = counted(self._plain.unmodified)
        for peer in self._peers:
            peer.unmodified()
        case.flops_plain = round(flops * (1 + len(case.variants) * case.rows_each / case.rows))
        case.flops_forked = forked_flops(shadow, case, Budget.of(self._model.device.type))

    def round(self) -> None:
        """One round."""
        case, began = self.case, time.perf_counter()
        passes = -(-len(case.variants) // PASSES_FOR)
        chosen = [self._sample[(self._at + step) % len(self._sample)] for step in range(passes)]
        self._at += passes
        case.peak.append(matmul_peak(self._model))
        plain = self._timed(chosen, partial(self._plain.evaluate, reading_rows_only=False))
        engine = ForkedEngine(self._model)
        found, seconds = timed(self._model.device, lambda: engine.evaluate(case.workload.pairs, case.variants, SCORER))
        reading = self._timed(chosen, partial(self._plain.evaluate, reading_rows_only=True))
        case.plain.append(plain.seconds * (len(case.variants) + 2))
        case.forked.append(seconds)
        case.reading.append(reading.seconds * (len(case.variants) + 2))
        case.states, case.forwards = found.states, found.forwards
        gaps = [float(np.abs(some.values - found.values[chosen]).max()) for some in (plain, reading)]
        gaps += [float(np.abs(self._baselines[run] - rows).max()) for run, rows in found.baselines.items()]
        case.difference = max(case.difference, *gaps)
        case.effect = float(np.abs(found.values - found.baselines[case.task.battery.target]).max())
        for peer in self._peers:
            theirs, name = self._timed(chosen, peer.evaluate), peer.tool.name
            case.beside.setdefault(name, []).append(theirs.seconds * (len(case.variants) + 2))
            gap = float(np.abs(theirs.values - found.values[chosen]).max())
            case.beside_difference[name] = max(gap, case.beside_difference.get(name, 0.0))
        case.seconds = time.perf_counter() - began

    def _timed(self, chosen: Sequence[int], evaluate: Callable[[Variant], FloatArray]) -> Sampled:
        """Some variants, one at a time."""
        values, seconds = [], []
        for v in chosen:
            value, took = timed(self._model.device, partial(evaluate, self.case.variants[v]))
            values.append(value)
            seconds.append(took)
        return Sampled(np.stack(values), mean(seconds))


@dataclass(frozen=True)
class Sampled:
    """Some variants by hooks: their metrics [variants, B, M], and seconds per forward pass."""

    values: FloatArray
    seconds: float


class NoScorer(Scorer):
    """A scorer for tensors without data: the metrics come behind the last matmul."""

    def score(self, logits: torch.Tensor, clean_run: readings.CleanRun) -> torch.Tensor:
        """Zeros."""
        del clean_run
        return torch.zeros(len(logits), len(self.names), dtype=torch.float64)

    def ability(self, logits: torch.Tensor, clean_run: readings.CleanRun, which: int) -> torch.Tensor:
        """Zeros."""
        del clean_run, which
        return torch.zeros(len(logits), len(ABILITY), dtype=torch.float64)


def forked_flops(shadow: CausalModel, case: Case, budget: Budget) -> int:
    """Operations of (b), counted on one intervention per site and layer: the heads of a layer cost the same.

    Args:
        shadow: the model on the meta device, where every operator is called, and nothing computed.
        case: the case.
        budget: that of the real device.
    """
    groups: dict[tuple[Site, int], list[Variant]] = {}
    for variant in case.variants:
        groups.setdefault((variant.interventions[0].site, variant.interventions[0].layer), []).append(variant)
    sizes = {len(group) for group in groups.values()}
    assert len(sizes) == 1, f"layers with different numbers of interventions: {sizes}"
    engine, pairs, scorer = ForkedEngine(shadow, budget=budget), case.workload.pairs, NoScorer(SCORER.names)
    _, unmodified = counted(lambda: engine.evaluate(pairs, [], scorer))
    _, one_each = counted(lambda: engine.evaluate(pairs, [group[0] for group in groups.values()], scorer))
    return unmodified + sizes.pop() * (one_each - unmodified)


def measure(model: CausalModel, cases: Sequence[Case], tools: Sequence[Tool], seconds: float, say: Say) -> None:
    """Fill in the cases, in about this many seconds; every case gets one round at least."""
    began = time.perf_counter()
    shadow = random_model(model.model.config, "meta", str(model.dtype).removeprefix("torch."))
    runners = []
    for case in cases:
        say(f"{case.task.label}, {case.workload.name}: {len(case.variants)} interventions, {len(case.workload.pairs)} pairs")
        runners.append(Runner(model, case, tools if case.workload.kind == "distinct" else ()))
        runners[-1].prepare(shadow)
        runners[-1].round()
    while fitting := [r for r in runners if _fits(r.case, seconds - (time.perf_counter() - began))]:
        runner = min(fitting, key=lambda runner: (len(runner.case.forked) >= ENOUGH_ROUNDS, runner.case.seconds))
        say(f"{runner.case.task.label}, {runner.case.workload.name}: round {len(runner.case.forked) + 1}")
        runner.round()


def _fits(case: Case, seconds: float) -> bool:
    return len(case.forked) < MOST_ROUNDS and case.seconds <= seconds
