"""Both engines on the embedded model and the shipped corpora, side by side in one process.

Interleaved runs, medians. Prints for each corpus: seconds of the reference engine and of the forked engine, their
ratio, forward passes and states computed by each, and the largest difference of any metric. Usage: make bench
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.conditions import load_condition
from tinylab.engine.forked import ForkedEngine
from tinylab.engine.interventions import Engine, Evaluation
from tinylab.engine.reference import ReferenceEngine
from tinylab.metrics import METRICS, Scorer
from tinylab.models import CausalModel, load_model
from tinylab.prompts import tokenise
from tinylab.schema import ConditionConfig, ModelConfig

CORPORA = ("facts", "negation", "logic", "ioi", "induction")
BATTERIES: tuple[Battery, ...] = (
    HeadsZero(name="h1"),
    ActivationPatch(name="h2", positions="last"),
    ActivationPatch(name="h2", granularity="mlp_out", positions="all"),
)
EXAMPLES = 32
REPEATS = 3


def main() -> None:
    """Measure every corpus and battery and print the table."""
    model = load_model(ModelConfig(name="tiny", path="pkg://tinylab/assets/tiny"), "cpu")
    view = Table(title=f"forked against reference, embedded model, {EXAMPLES} pairs, medians of {REPEATS}")
    for name in ("corpus", "battery", "reference s", "forked s", "ratio", "forwards", "states", "largest difference"):
        view.add_column(name)
    for corpus in CORPORA:
        for battery in BATTERIES:
            view.add_row(corpus, _label(battery), *measure(model, corpus, battery))
    Console(width=120).print(view)


def _label(battery: Battery) -> str:
    return f"{battery.name} {getattr(battery, 'granularity', '')} {battery.acts_at}"


def measure(model: CausalModel, corpus: str, battery: Battery) -> list[str]:
    """One row of the table."""
    config = ConditionConfig(tag=corpus, path=f"pkg://tinylab/assets/corpora/{corpus}.jsonl")
    condition, pairs = tokenise(
        load_condition(config), model.encode, bos=model.bos, context=model.context, single_token=True, aligned=battery.aligned,
        strict=False,
    )
    del condition
    variants = [cell.variant for cell in battery.cells(model.n_layers, model.n_heads)]
    engines: dict[str, Engine] = {"reference": ReferenceEngine(model), "forked": ForkedEngine(model)}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    found: dict[str, Evaluation] = {}
    for _ in range(REPEATS):
        for name, engine in engines.items():
            began = time.perf_counter()
            found[name] = engine.evaluate(pairs[:EXAMPLES], variants, Scorer(tuple(METRICS)))
            seconds[name].append(time.perf_counter() - began)
    plain, forked = (statistics.median(seconds[name]) for name in ("reference", "forked"))
    difference = float(np.abs(found["reference"].values - found["forked"].values).max())
    plainly, forking = found["reference"], found["forked"]
    counts = [f"{plainly.forwards} / {forking.forwards}", f"{plainly.states} / {forking.states}"]
    return [f"{plain:.2f}", f"{forked:.2f}", f"{plain / forked:.1f}", *counts, f"{difference:.1e}"]


if __name__ == "__main__":
    main()
