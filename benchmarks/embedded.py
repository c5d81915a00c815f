"""Where the time goes on a model so small that arithmetic costs little: the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import timed
from benchmarks.workloads import TASKS, corpus, embedded_model
from tinylab.engine.forked import ForkedEngine
from tinylab.metrics import METRICS, Scorer

CORPUS = "ioi"
"""That of condition=cond_a."""
MATMULS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product_flash_attention_for_cpu")


@dataclass(frozen=True)
class Share:
    """Seconds of one battery: in all, in matmuls and attention, in every operator of torch."""

    label: str
    pairs: int
    wall: float
    matmuls: float
    operators: float

    @property
    def outside(self) -> float:
        """The part of the time that no operator of torch takes: Python, and numpy."""
        return 1 - self.operators / self.wall


def shares(count: int, repeats: int) -> list[Share]:
    """Every battery on the embedded model, on so many pairs; medians of so many repeats."""
    model, scorer, found = embedded_model(), Scorer(tuple(METRICS)), []
    for task in TASKS:
        pairs = corpus(CORPUS, task.battery.aligned, count, model)
        engine, variants = ForkedEngine(model), task.variants(model)
        run = partial(engine.evaluate, pairs, variants, scorer)
        run()
        wall = median(timed(model.device, run)[1] for _ in range(repeats))
        matmuls, operators = zip(*(_profiled(run) for _ in range(repeats)), strict=True)
        found.append(Share(task.label, len(pairs), wall, median(matmuls), median(operators)))
    return found


def _profiled(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds in matmuls and attention, and in all operators."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    matmuls = sum(seconds for name, seconds in spent.items() if name in MATMULS)
    return matmuls, sum(seconds for name, seconds in spent.items() if name.startswith("aten::"))
