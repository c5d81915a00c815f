"""What a person should see of a run or a sweep, as plain data: no colours, no widths. The console prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tinylab.effects.strength import strongest
from tinylab.interventions.components import TableKind
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json

STRONGEST = 10
"""How many components of a run are shown."""


@dataclass(frozen=True)
class View:
    """A table for a person: rows of whole numbers, words, and numbers that somebody has to round."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    metrics: tuple[str, ...] = ()  # columns of numbers that nobody reads to the last digit


def title_of(manifest: dict[str, Any]) -> str:
    """What a run was: battery with its settings, condition, model."""
    return f"{manifest.get('described') or manifest['battery']['name']} on {manifest['condition']}, {manifest['model']}"


def run_view(folder: RunFolder, manifest: dict[str, Any]) -> View:
    """The strongest components of a finished run, by the change of logit_diff or else its first metric."""
    summary = read_json(folder.file("summary"))
    kind = TableKind.of_manifest(manifest)
    baselines = summary["baselines"][manifest["target_run"]]
    metric = "logit_diff" if "logit_diff" in summary["metrics"] else next(iter(summary["metrics"]))
    cells = strongest(pd.read_parquet(folder.table(manifest)), kind, baselines, metric)
    told = [*kind.component, *(name for name in (*kind.apart, *kind.varied) if cells[name].nunique() > 1)]
    metrics = [name for name in summary["metrics"] if name in cells]
    unmodified = f"unmodified {manifest['target_run']} run: {baselines[metric]['mean']:.3f}"
    return View(
        f"{title_of(manifest)}: strongest by change of {metric} ({unmodified})",
        [*told, "change", *metrics],
        [[row[name] for name in (*told, "change", *metrics)] for row in cells.head(STRONGEST).to_dict("records")],
        tuple(metrics),
    )


def invariants_view(group: dict[str, Any], invariants: dict[str, Any]) -> View:
    """The components that every condition of a group shares, with their rank in each condition by each metric."""
    chance = group["expected_by_chance"]
    found = group[group["kind"]]
    title = (f"{group['kind']} among the {invariants['k']} strongest of every condition ({', '.join(group['conditions'])}) by "
             f"{invariants['rank']} of {', '.join(invariants['metrics'])}: {len(found)}")
    if chance is not None and not any("one condition only" in note for note in group["notes"]):
        title += f", by chance {chance:.2f}"
    others = {name: value for name, value in group.get("settings", {}).items() if not name.startswith("battery.")}
    swept = "".join(f", {name}={value}" for name, value in others.items())
    columns = group.get("component", ["layer", "head"] if group["kind"] == "heads" else ["layer"])
    tops = {(metric, condition): top for metric, entry in group["per_metric"].items()
            for condition, top in entry["top_k"].items()}
    return View(
        f"{group['described']}{swept} on {group['model']}: {title}",
        [*columns, *(f"rank in {condition} ({metric})" for metric, condition in tops)],
        [[*([component[name] for name in columns] if isinstance(component, dict) else [component]),
          *(top.index(component) + 1 for top in tops.values())] for component in found],
    )
