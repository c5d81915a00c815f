"""States of grids (`battery.positions=each`) and of answers of several tokens (`condition.answer=full`), beside the lower bound.

They are counted while the forked engine computes them. Counts depend on the layers, the positions and the prompts, and on no
width, so a narrow model with the layers of a shape computes them: nothing is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.bound import lower_bound
from benchmarks.workloads import SHAPES, Task, Workload, random_model, workloads
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.variants import Variant
from tinylab.measures.answers import Answers
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.task.positions import at_each_position
from tinylab.task.tokens import TokenPair

TASKS = (
    Task("H2 layer_resid each", ActivationPatch(name="h2", positions="each"), {}),
    Task("H2 mlp_out each", ActivationPatch(name="h2", granularity="mlp_out", positions="each"), {}),
    Task("H1 one head of each layer, each", HeadsZero(name="h1", heads=[0], positions="each"), {}),
)
ANSWERED = (
    Task("H1 one head of each layer, answers of three tokens", HeadsZero(name="h1", heads=[0]), {}),
    Task("H2 layer_resid last, answers of three tokens", ActivationPatch(name="h2", positions="last"), {}),
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
    return [_counted(model, task, some, whole=whole) for tasks, whole in ((TASKS, False), (ANSWERED, True)) for task in tasks
            for some in workloads(task, model, tokeniser, pairs, corpora)]


def _narrow(config: Any) -> Any:
    config.hidden_size = NARROW * config.num_attention_heads
    for name in ("intermediate_size", "n_inner"):
        if hasattr(config, name):
            setattr(config, name, config.hidden_size)
    return config


def variants(task: Task, model: CausalModel, workload: Workload) -> list[Variant]:
    """The battery's interventions, in a grid each at every position of the longest prompt."""
    if task in ANSWERED:
        return task.variants(model)
    longest = max(len(pair.prompt(task.battery.target).tokens) for pair in workload.pairs)
    return [cell.variant for cell in at_each_position(task.battery.cells(model.n_layers, model.n_heads), longest)]


def answered(pair: TokenPair) -> TokenPair:
    """A pair whose answers go on, both with the same two tokens."""
    rest = pair.clean[-2:]
    return replace(pair, answers=Answers(((pair.target, *rest),), ((pair.foil, *rest),)))


def _counted(model: CausalModel, task: Task, workload: Workload, *, whole: bool) -> Grid:
    every, pairs = variants(task, model, workload), [answered(pair) for pair in workload.pairs] if whole else workload.pairs
    found = ForkedEngine(model).evaluate(pairs, every, Scorer(("logprob_diff" if whole else "logit_diff",)))
    lengths = {run: max(len(pair.prompt(run).tokens) for pair in pairs) for run in ("clean", "corrupt")}
    runs, more = (len(pairs[0].stems), len(pairs[0].stems[0])) if whole else (1, 0)  # of each prompt; tokens behind it
    each = {run: runs * (length + more) for run, length in lengths.items()}
    rows = model.n_layers * len(pairs) * (sum(each.values()) + each[task.battery.target] * len(every))
    bound = lower_bound(pairs, every, model.n_layers)
    return Grid(task.label, workload.name, len(pairs), len(every), rows, found.states, bound, found.forwards)
