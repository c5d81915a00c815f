"""The planted models as tests use them: runs typed on the command line, and both engines' own calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conftest import only
from tinylab.app import main
from tinylab.arrays import FloatArray
from tinylab.config.groups import ConditionConfig, ModelConfig
from tinylab.engine.base import Evaluation
from tinylab.engine.choose import AllLogits
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures.metrics import Scorer
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.planted.closed_forms import Component
from tinylab.results import Run as Finished
from tinylab.results import load_run
from tinylab.task.corpus import load_condition
from tinylab.task.tokens import TokenPair, tokenise

ENGINES = {"forked": ForkedEngine, "reference": ReferenceEngine}
TWINS = {f"planted_{name}": "twins" for name in "cdefg"}
HOMES = {"planted_a": "ledger", "planted_b": "gates", **TWINS, "planted_llama": "llama"}
"""Condition → the variant that it was made for."""


class Typed:
    """Runs of one folder; what was typed before is not computed again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[tuple[str, ...], Finished] = {}

    def run(self, condition: str, engine: str, *overrides: str) -> Finished:
        """`python -m tinylab model=planted …`; the engine that ran is this one, whether named or chosen by `engine=auto`."""
        named = () if "engine=auto" in overrides else (f"engine={engine}",)
        asked = (f"model.variant={HOMES[condition]}", f"condition={condition}", *named, *overrides)
        if asked not in self._runs:
            out = self._folder / str(len(self._runs))
            assert main(["model=planted", *asked, "plots=false", "threads=1", f"output_dir={out}"]) == 0
            self._runs[asked] = load_run(only(out, "runs/*"))
        finished = self._runs[asked]
        assert finished.manifest["provenance"]["engine"] == engine
        return finished


def heads(run: Finished, metric: str = "logit_diff", scale: float = 0.0) -> dict[Component, float]:
    """A run's head_impact at one scale as {(layer, head): value}; the scale of a patched head is 1."""
    assert run.head_impact is not None
    rows = run.head_impact[(run.head_impact["metric"] == metric) & (run.head_impact["scale"] == scale)]
    return {(int(layer), int(head)): float(value) for layer, head, value in rows[["layer", "head", "value"]].to_numpy()}


def layers(run: Finished, metric: str) -> dict[int, float]:
    """A run's layer_impact as {layer: value}."""
    assert run.layer_impact is not None
    rows = run.layer_impact[run.layer_impact["metric"] == metric]
    return dict(zip(rows["layer"].astype(int), rows["value"].astype(float), strict=True))


def examples(run: Finished, metric: str = "logit_diff") -> pd.DataFrame:
    """A run's per_example rows of a metric, controls left out."""
    return run.per_example[(run.per_example["metric"] == metric) & (run.per_example["control"] == "none")]


@cache
def model(variant: str) -> CausalModel:
    """A shipped model, loaded as any model is."""
    return load_model(ModelConfig(path=f"pkg://tinylab/assets/planted/{variant}", dtype="float64"), "cpu")


@cache
def pairs(condition: str) -> list[TokenPair]:
    """A shipped corpus as tokens."""
    corpus = ConditionConfig(tag=condition, path=f"pkg://tinylab/assets/corpora/{condition}.jsonl")
    loaded = model(HOMES[condition])
    return tokens(loaded, corpus)


def tokens(loaded: CausalModel, corpus: ConditionConfig) -> list[TokenPair]:
    return tokenise(
        load_condition(corpus), loaded.encode, bos=loaded.bos, unknown=loaded.unknown, context=loaded.context,
        single_token=True, aligned=True, strict=True,
    )[1]


def evaluate(condition: str, engine: str, variants: Sequence[Variant], loaded: CausalModel | None = None) -> Evaluation:
    """One engine's own call on a shipped corpus; the only metric is logit_diff."""
    run: Any = ENGINES[engine](loaded or model(HOMES[condition]))
    found: Evaluation = run.evaluate(pairs(condition), variants, Scorer(("logit_diff",)))
    return found


def levels(condition: str, engine: str, variants: Sequence[Variant]) -> FloatArray:
    """Logit differences, [V, B]."""
    return evaluate(condition, engine, variants).values[:, :, 0]


def every_logit(condition: str, engine: str, variants: Sequence[Variant]) -> Evaluation:
    """One engine's own call whose metrics are the logits, [V, B, W]."""
    loaded = model(HOMES[condition])
    run: Any = ENGINES[engine](loaded)
    found: Evaluation = run.evaluate(pairs(condition), variants, AllLogits(tuple(map(str, range(loaded.vocabulary)))))
    return found


def recovered(condition: str, engine: str, variants: Sequence[Variant]) -> FloatArray:
    """Recovery of every variant with a source and example, [V, B]."""
    found = evaluate(condition, engine, variants)
    rows = []
    for variant, values in zip(variants, found.values[:, :, 0], strict=True):
        assert variant.source is not None
        target, source = (found.baselines[run][:, 0] for run in (variant.target, variant.source.run))
        rows.append((values - target) / (source - target))
    return np.stack(rows)


def scaled(*components: Component, scale: float = 0.0, keep_bias: bool = False) -> Variant:
    """The clean run with some heads multiplied by a scale."""
    return Variant(tuple(_at(component, Scale(scale, keep_bias)) for component in components), "clean")


def patched(*components: Component, source: RunName = "clean", positions: Positions = "last") -> Variant:
    """One run with some heads taken from the other."""
    target: RunName = "corrupt" if source == "clean" else "clean"
    return Variant(tuple(_at(component, Patch()) for component in components), target, Own(source), positions)


def _at(component: Component, operation: Operation) -> Intervention:
    layer, head = component
    return Intervention(HEAD_OUT, layer, operation, head)
