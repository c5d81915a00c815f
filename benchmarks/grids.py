"""States of grids, `battery.positions=each`: counted while the forked engine computes them, beside the lower bound.

Counts depend on the layers, the positions and the prompts, and on no width, so a narrow model with the layers of a shape
computes them: nothing is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bound import lower_bound
from benchmarks.workloads import SHAPES, Task, Workload, random_model, workloads
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.variants import Variant
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.task.positions import at_each_position

TASKS = (
    Task("H2 layer_resid each", ActivationPatch(name="h2", positions="each"), {}),
    Task("H2 mlp_out each", ActivationPatch(name="h2", granularity="mlp_out", positions="each"), {}),
    Task("H1 one head of each layer, each", HeadsZero(name="h1", heads=[0], positions="each"), {}),
)
NARROW = 4
"""Width of a head."""
MOST_PAIRS = 8
"""More pairs take longer, and show nothing else."""


@dataclass(frozen=True)
class Grid:
    """The grid of a battery on a workload, and what was counted of it."""

    battery: str
    prompts: str
    pairs: int
    interventions: int
    rows: int  # of (a), padding included, over all layers
    states: int
    bound: int
    forwards: int

    @property
    def excess(self) -> float:
        """States computed beyond the lower bound, as a fraction of it."""
        return self.states / self.bound - 1


def grids(shape: str, tokeniser: CausalModel, count: int, corpora: Sequence[str]) -> list[Grid]:
    """Every grid on the workloads of a benchmark's batteries.

    Args:
        shape: whose layers and heads the narrow model has.
        tokeniser: whose tokens the corpora are in.
        count: prompt pairs of each workload, at most.
        corpora: the workloads beside the distinct prompts.
    """
    config = SHAPES[shape]()
    model = random_model(_narrow(config), "cpu", "float32")
    pairs = min(count, MOST_PAIRS)
    return [_counted(model, task, some) for task in TASKS for some in workloads(task, model, tokeniser, pairs, corpora)]


def _narrow(config: Any) -> Any:
    config.hidden_size = NARROW * config.num_attention_heads
    for name in ("intermediate_size", "n_inner"):
        if hasattr(config, name):
            setattr(config, name, config.hidden_size)
    return config


def variants(task: Task, model: CausalModel, workload: Workload) -> list[Variant]:
    """The battery's interventions, each at every position of the longest prompt."""
    longest = max(len(pair.prompt(task.battery.target).tokens) for pair in workload.pairs)
    return [cell.variant for cell in at_each_position(task.battery.cells(model.n_layers, model.n_heads), longest)]


def _counted(model: CausalModel, task: Task, workload: Workload) -> Grid:
    every, pairs = variants(task, model, workload), workload.pairs
    found = ForkedEngine(model).evaluate(pairs, every, Scorer(("logit_diff",)))
    lengths = {run: max(len(pair.prompt(run).tokens) for pair in pairs) for run in ("clean", "corrupt")}
    rows = model.n_layers * len(pairs) * (sum(lengths.values()) + lengths[task.battery.target] * len(every))
    bound = lower_bound(pairs, every, model.n_layers)
    return Grid(task.label, workload.name, len(pairs), len(every), rows, found.states, bound, found.forwards)
