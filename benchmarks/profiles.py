"""Where the time of (b) goes, on the benchmark's model and on the embedded one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks import overhead
from benchmarks.measure import matmul_peak, timed
from benchmarks.workloads import DISTINCT_LENGTH, TASKS, Task, corpus, distinct, embedded_model
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.variants import Variant
from tinylab.measures.metrics import Scorer, available
from tinylab.models.network import CausalModel

CORPUS, SHORTEST = "ioi", "facts"
"""That of condition=cond_a; and that with the fewest states, where matmuls are smallest."""
HEADS_PER_LAYER = 2
"""Of H1, on a model whose layers all cost alike: a profile of all heads takes long and tells the same."""
EMBEDDED = "embedded"
MANY_ROWS = 256
OVERHEAD_REPEATS = 5
KINDS = {
    "attention": ("scaled_dot_product", "softmax", "bmm"),
    "activation function": ("mul", "add", "pow", "tanh", "gelu", "silu", "sigmoid"),
    "norms": ("norm", "rsqrt", "mean"),
    "gathers and copies": ("index", "copy_", "cat", "clone", "gather", "where", "fill", "zero_"),
    "metrics": ("logsumexp", "_log_softmax", "argmax", "topk", "sort", "exp", "sum", "eq", "max", "sub"),
}
"""Operators of torch by what the engine and its models use them for; the first kind with a name that fits counts."""
MATMULS = ("aten::addmm", "aten::mm")
UNEMBEDDING, MANY, FEW = "matmuls: unembedding", f"matmuls of {MANY_ROWS} rows or more", "matmuls of fewer rows"
BIASES = "biases of matmuls"
OTHER, OUTSIDE = "other operators", "outside operators"


@dataclass(frozen=True)
class Profile:
    """Seconds of one battery by kind of work, of the quietest of some runs; `wall` is that of one without a profiler."""

    model: str
    label: str
    prompts: str
    wall: float
    peak: float  # operations per second of the best matmul
    seconds: dict[str, float]
    operations: dict[str, int]  # of the kinds of matmuls
    engine: float | None  # the engine's own share of the time, without a profiler; of the embedded model

    def share(self, kind: str) -> float:
        """The part of the time that goes into a kind of work."""
        return self.seconds.get(kind, 0.0) / sum(self.seconds.values())

    def of_peak(self, kind: str) -> float | None:
        """Operations per second of a kind of matmul, as a fraction of the matmul peak."""
        seconds = self.seconds.get(kind, 0.0)
        return self.operations[kind] / seconds / self.peak if seconds and kind in self.operations else None


def profiles(name: str, model: CausalModel, count: int, repeats: int) -> list[Profile]:
    """Every battery on the distinct prompts and the shortest, and on the embedded model; the quietest of so many repeats."""
    scorer, embedded, found = Scorer(tuple(available(source=False))), embedded_model(), []
    for task in TASKS:
        some, aligned = _some(task, model), task.battery.aligned
        for where, loaded, prompts, pairs, variants in (
            (name, model, "distinct", distinct(count, DISTINCT_LENGTH, model.vocabulary), some),
            (name, model, SHORTEST, corpus(SHORTEST, aligned, count, embedded), some),
            (EMBEDDED, embedded, CORPUS, corpus(CORPUS, aligned, None, embedded), task.variants(embedded)),
        ):
            run = partial(ForkedEngine(loaded).evaluate, pairs, variants, scorer)
            run()
            found.append(_profile(where, task.label, prompts, loaded, run, repeats=repeats))
    return found


def _some(task: Task, model: CausalModel) -> Sequence[Variant]:
    battery = task.battery
    if not isinstance(battery, HeadsZero):
        return task.variants(model)
    heads = list(range(min(HEADS_PER_LAYER, model.n_heads)))
    return [cell.variant for cell in HeadsZero(name=battery.name, heads=heads).cells(model.n_layers, model.n_heads)]


def _profile(name: str, label: str, prompts: str, model: CausalModel, run: Callable[[], object], *, repeats: int) -> Profile:
    wall = min(timed(model.device, run)[1] for _ in range(repeats))
    peak = max(matmul_peak(model) for _ in range(repeats))
    engine = float(np.median([overhead.share(model, run) for _ in range(OVERHEAD_REPEATS)])) if name == EMBEDDED else None
    seconds, operations = min((_profiled(model, run) for _ in range(repeats)), key=lambda found: sum(found[0].values()))
    return Profile(name, label, prompts, wall, peak, dict(seconds), dict(operations), engine)


def _profiled(model: CausalModel, run: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
    """Seconds by kind of work, and operations by kind of matmul."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        _, wall = timed(model.device, run)
    seconds: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    vocabulary = int(model.model.get_output_embeddings().weight.shape[0])
    for event in profiler.events() or ():
        if not event.name.startswith("aten::"):
            continue
        kind = _kind(event, vocabulary)
        seconds[kind] += event.self_cpu_time_total / 1e6
        if event.name in MATMULS:
            (rows, inner), (_, out) = _sizes(event)
            operations[kind] += 2 * rows * inner * out
    seconds[OUTSIDE] = max(0.0, wall - sum(seconds.values()))
    return seconds, operations


def _sizes(event: Any) -> tuple[list[int], list[int]]:
    left, right = event.input_shapes[1:3] if event.name == "aten::addmm" else event.input_shapes[:2]
    return left, right


def _kind(event: Any, vocabulary: int) -> str:
    name = event.name.removeprefix("aten::")
    if event.cpu_parent is not None and event.cpu_parent.name in MATMULS:
        return BIASES
    if event.name in MATMULS:
        (rows, _), (_, out) = _sizes(event)
        return UNEMBEDDING if out == vocabulary else MANY if rows >= MANY_ROWS else FEW
    return next((kind for kind, names in KINDS.items() if any(part in name for part in names)), OTHER)
