"""From an engine's numbers to numbers per cell and example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from tinylab.arrays import FloatArray
from tinylab.batteries.base import Battery, Cell, Key
from tinylab.engine.base import Evaluation
from tinylab.interventions.sources import RUNS, RunName
from tinylab.measures.metrics import Metric, made_of, named
from tinylab.task.corpus import PromptPair


@dataclass(frozen=True)
class Impact:
    """A battery's numbers on a condition: V cells, B examples (the union of what the seeds use)."""

    battery: Battery
    cells: Sequence[Cell]
    pairs: Sequence[PromptPair]
    seeds: dict[int, list[int]]
    values: dict[str, Float64[np.ndarray, "V B"]]  # by metric; NaN where undefined
    unmodified: dict[RunName, dict[str, Float64[np.ndarray, " B"]]]  # by run and metric
    hidden: dict[str, Float64[np.ndarray, "V B"]]  # computed for another metric, not reported
    ability: dict[RunName, Float64[np.ndarray, "B 2"]]  # of the unmodified runs, the columns of ABILITY
    lacking: Bool[np.ndarray, "V B"]  # examples that do not have the position where a cell acts

    @property
    def metrics(self) -> list[str]:
        """The metrics of the impact table; some bring a companion."""
        return [m for name in self.values for m in (name, named(name).companion) if m is not None]

    @property
    def real(self) -> list[int]:
        """The indices of the cells that are no controls and act at a position that every example has."""
        return [v for v, cell in enumerate(self.cells) if cell.control == "none" and not self.lacking[v].any()]

    def of(self, metric: str) -> Float64[np.ndarray, "V B"]:
        """A metric's numbers by example; a companion has those of the metric that brings it."""
        if metric in self.values:
            return self.values[metric]
        return next(values for name, values in self.values.items() if named(name).companion == metric)

    def ends(self, metric: Metric) -> list[Float64[np.ndarray, " B"]]:
        """What the metric is made of, in the unmodified target and source runs."""
        assert self.battery.source is not None
        return [self.unmodified[run][self._made_of(metric)] for run in (self.battery.target, self.battery.source.run)]

    def base(self, metric: Metric) -> Float64[np.ndarray, "V B"]:
        """What the metric is made of, whether or not it was asked for in the tables."""
        name = self._made_of(metric)
        return self.hidden[name] if name not in self.values else self.values[name]

    def _made_of(self, metric: Metric) -> str:
        name = made_of(metric, self.unmodified["clean"])
        assert name is not None
        return name

    def of_seed(self, seed: int) -> list[list[int]]:
        """The indices of a seed's cells, those that are draws of one together."""
        found: dict[tuple[object, ...], list[int]] = {}
        for v in self.real:
            if (cell := self.cells[v]).seed in (None, seed):
                found.setdefault(tuple(cell.key.values()), []).append(v)
        return list(found.values())

    def mean_value(self, metric: str, drawn: list[int], examples: list[int]) -> float | None:
        """A cell's number over some examples, the mean of its draws; None where one is undefined."""
        found = [self.cell_value(metric, v, examples) for v in drawn]
        defined = [value for value in found if value is not None]
        return float(np.mean(defined)) if len(defined) == len(found) else None

    def cell_value(self, metric: str, v: int, examples: list[int]) -> float | None:
        """A cell's number over some examples; None where it is undefined."""
        declared = named(metric)
        if declared.pooled:
            return declared.of_means(*(column[examples] for column in (self.base(declared)[v], *self.ends(declared))))
        numbers = self.of(metric)[v, examples]
        if not declared.may_be_undefined:
            return float(np.mean(numbers))
        return None if np.isnan(numbers).all() else float(np.nanmean(numbers))

    def rows(self) -> list[tuple[int, Key, str, float]]:
        """The impact table's rows (seed, key, metric, value); an undefined cell has none."""
        return [
            (seed, self.cells[drawn[0]].key, metric, value)
            for seed, examples in self.seeds.items()
            for metric in self.metrics
            for drawn in self.of_seed(seed)
            if (value := self.mean_value(metric, drawn, examples)) is not None
        ]

    def per_example(self) -> dict[str, tuple[FloatArray, FloatArray, FloatArray | None]]:
        """For each metric the values [V, B], the unmodified target run's [B] and, if there is one, the source run's [B]."""
        source = self.battery.source
        return {name: (values, self.unmodified[self.battery.target][name],
                       None if source is None else self.unmodified[source.run][name])
                for name, values in self.values.items()}


def assemble(
    battery: Battery,
    cells: Sequence[Cell],
    pairs: Sequence[PromptPair],
    seeds: dict[int, list[int]],
    evaluation: Evaluation,
    *,
    computed: Sequence[str],
    wanted: Sequence[str],
    lacking: Bool[np.ndarray, "V B"] | None = None,
) -> Impact:
    """Arrange an evaluation as an impact.

    Args:
        battery: the battery.
        cells: V cells, in the order of the evaluation's variants.
        pairs: B pairs, in the order of the evaluation's examples.
        seeds: for each seed, the indices of its examples.
        evaluation: the engine's numbers.
        computed: the evaluation's metrics, in order.
        wanted: the metrics to report.
        lacking: the examples that do not have the position where a cell acts, and so no number; None for no such.
    """
    lacking = np.zeros((len(cells), len(pairs)), dtype=bool) if lacking is None else lacking
    values = {name: np.where(lacking, np.nan, evaluation.values[:, :, m]) for m, name in enumerate(computed)}
    unmodified = {run: {name: evaluation.baselines[run][:, m] for m, name in enumerate(computed)} for run in RUNS}
    for metric in map(named, wanted):
        if (base := made_of(metric, computed)) is None or metric.relative is None:
            continue
        assert battery.source is not None
        ends = [unmodified[run][base] for run in (battery.target, battery.source.run)]
        values[metric.name] = np.stack([metric.relative(row, *ends) for row in values[base]])
        known = [metric.relative(end, *ends) for end in ends]
        if metric.may_be_undefined:  # by its definition, also where it is undefined
            known = [np.zeros(len(pairs)), np.ones(len(pairs))]
        for name in (metric.name, metric.companion):
            if name is not None:
                unmodified[battery.target][name], unmodified[battery.source.run][name] = known
    reported = {name: values[name] for name in wanted}
    hidden = {name: column for name, column in values.items() if name not in wanted}
    return Impact(battery, cells, pairs, seeds, reported, unmodified, hidden, evaluation.ability, lacking)
