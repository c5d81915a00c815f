"""From an engine's numbers to what is reported: cells, recovery, and the summary with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.batteries.base import Battery, Cell, Key
from tinylab.engine.base import Evaluation
from tinylab.interventions.variants import Run
from tinylab.measures.recovery import _ratio, recovery_by_example, recovery_of_means
from tinylab.measures.statistics import bootstrap_interval
from tinylab.task.corpus import PromptPair

RUNS: tuple[Run, ...] = ("clean", "corrupt")


@dataclass(frozen=True)
class Impact:
    """A battery's numbers on a condition: V cells, B examples (the union of what the seeds use)."""

    battery: Battery
    cells: Sequence[Cell]
    pairs: Sequence[PromptPair]
    seeds: dict[int, list[int]]
    values: dict[str, FloatArray]  # metric → [V, B]; for recovery NaN where undefined
    unmodified: dict[Run, dict[str, FloatArray]]  # run → metric → [B]
    hidden: dict[str, FloatArray]  # computed for another metric, not reported

    @property
    def metrics(self) -> list[str]:
        """The metrics of the impact table; recovery brings its companion `recovery_mean`."""
        return [m for name in self.values for m in ([name, "recovery_mean"] if name == "recovery" else [name])]

    @property
    def real(self) -> list[int]:
        """The indices of the cells that are no controls."""
        return [v for v, cell in enumerate(self.cells) if cell.control == "none"]

    def cell_value(self, metric: str, v: int, examples: list[int]) -> float | None:
        """A cell's number over some examples; None where it is undefined."""
        if metric == "recovery":
            assert self.battery.source is not None
            ends = (self.unmodified[run]["logit_diff"][examples] for run in (self.battery.target, self.battery.source))
            return recovery_of_means(self.logit_diff[v, examples], *ends)
        if metric == "recovery_mean":
            ratios = self.values["recovery"][v, examples]
            return None if np.isnan(ratios).all() else float(np.nanmean(ratios))
        return float(np.mean(self.values[metric][v, examples]))

    @property
    def logit_diff(self) -> FloatArray:
        """[V, B], computed whether or not it was asked for in the tables."""
        return self.hidden["logit_diff"] if "logit_diff" not in self.values else self.values["logit_diff"]

    def rows(self) -> list[tuple[int, Key, str, float]]:
        """The impact table's rows (seed, key, metric, value); an undefined cell has none."""
        return [
            (seed, self.cells[v].key, metric, value)
            for seed, examples in self.seeds.items()
            for metric in self.metrics
            for v in self.real
            if (value := self.cell_value(metric, v, examples)) is not None
        ]

    def per_example(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """For each metric the values [V, B] and the unmodified target run's [B]."""
        return {name: (values, self.unmodified[self.battery.target][name]) for name, values in self.values.items()}

    def summary(self) -> dict[str, Any]:
        """The content of summary.json but for what the manifest knows; the baselines have logit_diff in any case."""
        reported = dict.fromkeys(["logit_diff", *self.metrics])
        return {
            "baselines": {run: {m: self._baseline(run, m) for m in reported} for run in RUNS},
            "metrics": {metric: self._metric(metric) for metric in self.metrics},
            "controls": self._controls(),
        }

    def _baseline(self, run: Run, metric: str) -> dict[str, Any]:
        column = self.unmodified[run]["recovery" if metric == "recovery_mean" else metric]
        per_seed = {str(seed): float(np.mean(column[examples])) for seed, examples in self.seeds.items()}
        return {"mean": float(np.mean(list(per_seed.values()))), "n": len(column), "per_seed": per_seed}

    def _metric(self, metric: str) -> dict[str, Any]:
        per_seed = {}
        undefined = 0
        for seed, examples in self.seeds.items():
            found = [self.cell_value(metric, v, examples) for v in self.real]
            defined = [value for value in found if value is not None]
            undefined += len(found) - len(defined)
            if defined:
                per_seed[str(seed)] = float(np.mean(defined))
        interval, method = self._interval(metric)
        result: dict[str, Any] = {
            "mean": float(np.mean(list(per_seed.values()))) if per_seed else None,
            "ci95": interval,
            "ci95_method": method,
            "n": len(self.pairs),
            "per_seed": per_seed,
            "undefined_cells": undefined,
        }
        if metric == "recovery_mean":
            result["left_out"] = int(np.isnan(self.values["recovery"][self.real[0]]).sum())
            result["n"] -= result["left_out"]
        return result

    def _interval(self, metric: str) -> tuple[list[float] | None, str]:
        """The interval of the mean over cells: each example's own mean over cells is resampled."""
        weights = np.zeros(len(self.pairs))
        for examples in self.seeds.values():
            weights[examples] += 1
        clusters = [pair.template for pair in self.pairs]
        if metric == "recovery":
            assert self.battery.source is not None
            target, source = (self.unmodified[run]["logit_diff"] for run in (self.battery.target, self.battery.source))
            columns = np.stack([self.logit_diff[self.real].mean(axis=0), target, source], axis=1)
            if self.cell_value("recovery", self.real[0], list(range(len(self.pairs)))) is None:
                return None, "undefined"
            return bootstrap_interval(columns, _ratio, clusters=clusters, weights=weights)
        column = self.values["recovery" if metric == "recovery_mean" else metric][self.real].mean(axis=0)
        defined = ~np.isnan(column)
        return bootstrap_interval(
            column[defined, None],
            lambda means: means[:, 0],
            clusters=[cluster for cluster, d in zip(clusters, defined, strict=True) if d],
            weights=weights[defined],
        )

    def _controls(self) -> dict[str, Any]:
        """For each control and metric, the largest |value − unmodified| over its cells and examples."""
        result: dict[str, Any] = {}
        for control in dict.fromkeys(cell.control for cell in self.cells if cell.control != "none"):
            members = [v for v, cell in enumerate(self.cells) if cell.control == control]
            result[control] = {
                metric: float(np.nanmax(np.abs(values[members] - self.unmodified[self.battery.target][metric])))
                for metric, values in self.values.items()
                if not np.isnan(values[members]).all()
            }
        return result


def assemble(
    battery: Battery,
    cells: Sequence[Cell],
    pairs: Sequence[PromptPair],
    seeds: dict[int, list[int]],
    evaluation: Evaluation,
    *,
    computed: Sequence[str],
    wanted: Sequence[str],
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
    """
    values = {name: evaluation.values[:, :, m] for m, name in enumerate(computed)}
    unmodified = {run: {name: evaluation.baselines[run][:, m] for m, name in enumerate(computed)} for run in RUNS}
    if "recovery" in wanted:
        assert battery.source is not None
        ends = [unmodified[run]["logit_diff"] for run in (battery.target, battery.source)]
        values["recovery"] = np.stack([recovery_by_example(row, *ends) for row in values["logit_diff"]])
        unmodified[battery.target]["recovery"] = np.zeros(len(pairs))
        unmodified[battery.source]["recovery"] = np.ones(len(pairs))
    reported = {name: values[name] for name in wanted}
    hidden = {name: column for name, column in values.items() if name not in wanted}
    return Impact(battery, cells, pairs, seeds, reported, unmodified, hidden)
