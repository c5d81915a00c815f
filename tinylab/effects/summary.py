"""The summary of a run: what the model can do, unmodified baselines, each metric over all cells with its interval, controls."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylab.batteries.base import SINGLE
from tinylab.effects.ability import ability
from tinylab.effects.impact import Impact
from tinylab.effects.strength import interval
from tinylab.interventions.sources import RUNS, RunName
from tinylab.measures.metrics import LOGIT_DIFF, LOGPROB_DIFF, named


def summarise(impact: Impact) -> dict[str, Any]:
    """The content of summary.json but for what the manifest knows; the baselines have the metric of labels in any case."""
    by = LOGIT_DIFF if LOGIT_DIFF in impact.unmodified["clean"] else LOGPROB_DIFF
    reported = dict.fromkeys([by, *impact.metrics])
    return {
        "ability": ability(impact.ability, impact.pairs),
        "baselines": {run: {metric: _baseline(impact, run, metric) for metric in reported} for run in RUNS},
        "metrics": {metric: _over_cells(impact, metric) for metric in impact.metrics},
        "controls": _controls(impact),
    }


def _baseline(impact: Impact, run: RunName, metric: str) -> dict[str, Any]:
    column = impact.unmodified[run][metric]
    per_seed = {str(seed): float(np.mean(column[examples])) for seed, examples in impact.seeds.items()}
    return {"mean": float(np.mean(list(per_seed.values()))), "n": len(column), "per_seed": per_seed}


def _over_cells(impact: Impact, metric: str) -> dict[str, Any]:
    per_seed = {}
    undefined = 0
    for seed, examples in impact.seeds.items():
        found = [impact.mean_value(metric, drawn, examples) for drawn in impact.of_seed(seed)]
        defined = [value for value in found if value is not None]
        undefined += len(found) - len(defined)
        if defined:
            per_seed[str(seed)] = float(np.mean(defined))
    bounds, method = interval(impact, metric)
    result: dict[str, Any] = {
        "mean": float(np.mean(list(per_seed.values()))) if per_seed else None,
        "ci95": bounds,
        "ci95_method": method,
        "n": len(impact.pairs),
        "per_seed": per_seed,
        "undefined_cells": undefined,
    }
    if named(metric).may_be_undefined and not named(metric).pooled:
        result["left_out"] = int(np.isnan(impact.of(metric)[impact.real[0]]).sum())
        result["n"] -= result["left_out"]
    return result


def _controls(impact: Impact) -> dict[str, Any]:
    """For each control and metric, the largest |change| over its cells and examples; parts of joint cells are none."""
    result: dict[str, Any] = {}
    for control in dict.fromkeys(cell.control for cell in impact.cells if cell.control not in ("none", SINGLE)):
        members = [v for v, cell in enumerate(impact.cells) if cell.control == control]
        result[control] = {
            metric: float(np.nanmax(np.abs(values[members] - impact.unmodified[impact.battery.target][metric])))
            for metric, values in impact.values.items()
            if not np.isnan(values[members]).all()
        }
    return result
