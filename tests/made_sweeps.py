"""Pages of made-up sweeps, of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tinylab.interventions.components import HEAD_IMPACT
from tinylab.report.page.document import Page
from tinylab.report.page.sweep_page import page_of
from tinylab.report.page.sweep_tables import Compared, Member


def made_member(name: str, layers: int, heads: int, seed: int) -> Member:
    """A run of heads with effects drawn at random."""
    random = np.random.default_rng(seed)
    effect = random.normal(size=layers * heads) * 0.2
    keys = pd.DataFrame({"layer": np.repeat(range(layers), heads), "head": np.tile(range(heads), layers), "scale": 0.0})
    effects = keys.assign(metric="logit_diff", n=32, effect=effect, ci_low=effect - 0.1, ci_high=effect + 0.1,
                          effect_logits=effect * 10, examples_opposite=0.25, p_holm=0.5, q_bh=0.5,
                          label=np.where(np.abs(effect) > 0.3, "matters", "undecided"))
    impact = keys.assign(run_id=name, seed=0, metric="logit_diff", value=10 + 10 * effect)
    baselines = {"logit_diff": {"mean": 10.0, "n": 32}}
    manifest: dict[str, Any] = {
        "condition": name, "target_run": "clean", "table": "head_impact", "table_kind": HEAD_IMPACT.as_json(),
        "provenance": {"model": {"name": "made"}, "wall_seconds": 1.0},
    }
    summary: dict[str, Any] = {"baselines": {"clean": baselines, "corrupt": baselines}, "effects": None, "ability": None}
    return Member(name, manifest, summary, impact, effects)


def made_sweep(layers: int, heads: int, conditions: int) -> Page:
    """The page of a sweep of one battery over conditions."""
    runs = {f"run_{number}": made_member(f"condition_{number}", layers, heads, number) for number in range(conditions)}
    jobs = [{"folder": folder, "condition": run.name, "battery": "h1"} for folder, run in runs.items()]
    manifest = {"status": "complete", "sweep_name": "made", "jobs": jobs, "failures": [], "artifacts": {}}
    invariants = {"k": 10, "rank": "magnitude", "metrics": ["logit_diff"], "groups": []}
    return page_of(manifest, invariants, runs, [Compared("h1 on made", list(runs.values()), {})], metric="logit_diff")
