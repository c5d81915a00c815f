"""A sweep's results as the plain tables of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tinylab.effects.strength import Ranking, scores, strongest_components
from tinylab.interventions.components import TableKind
from tinylab.interventions.sources import RUNS
from tinylab.measures.metrics import LOGIT_DIFF
from tinylab.measures.recovery import RECOVERY_FLOOR
from tinylab.report.page.cells import cells_of, place_of
from tinylab.report.page.run_tables import ability
from tinylab.statistics import overlap
from tinylab.statistics.labels import MATTERS, MIXED

SHARED = 60
"""Components that are shown beside conditions."""
MOST_ROWS = 26_000
"""Rows of components by condition that a page holds: the strongest components."""
MOST_K = 50
"""Lists are compared up to so many of the strongest."""
CELLS = ["group", "condition", "name", "x", "x_place", "y", "y_place", "effect", "ci_low", "ci_high", "n", "rank", "label",
         "mark"]


@dataclass(frozen=True)
class Member:
    """A run of a sweep as its page needs it: of one metric alone."""

    name: str  # its condition, with its folder where several share one
    manifest: dict[str, Any]
    summary: dict[str, Any]
    impact: pd.DataFrame
    effects: pd.DataFrame | None
    examples: pd.DataFrame | None = None

    @property
    def kind(self) -> TableKind:
        """The kind of its impact table."""
        return TableKind.of_manifest(self.manifest)

    @property
    def baselines(self) -> dict[str, Any]:
        """Each metric of the unmodified target run."""
        told: dict[str, Any] = self.summary["baselines"][self.manifest["target_run"]]
        return told


@dataclass(frozen=True)
class Compared:
    """Runs whose components may be compared."""

    title: str
    members: Sequence[Member]
    where: dict[str, Any]  # columns that tell this group from others with the same runs, such as a granularity

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that belong to this group."""
        for name, value in self.where.items():
            table = table[table[name] == value]
        return table


def components_of(group: Compared) -> pd.DataFrame:
    """A row for each component and condition, the strongest of its cells: columns `CELLS`, the group still without its name."""
    parts = []
    for member in group.members:
        effects = None if member.effects is None else group.rows(member.effects)
        judged = member.manifest.get("judged") or {}
        rows = cells_of(group.rows(member.impact), effects, member.kind, member.baselines, alpha=judged.get("alpha", 0.05),
                        correction=judged.get("correction", "holm"))
        rows = rows.sort_values("rank").drop_duplicates(list(member.kind.component))
        parts.append(rows.assign(condition=member.name, rank=range(1, len(rows) + 1)))
    found = pd.concat(parts, ignore_index=True)
    for axis in ("x", "y"):
        places = {place: number for number, place in enumerate(sorted(set(found[axis]), key=place_of))}
        found[f"{axis}_place"] = found[axis].map(places)
    return found.assign(group="")[CELLS]


def strongest_rows(rows: pd.DataFrame, most: int = MOST_ROWS) -> tuple[pd.DataFrame, int]:
    """The rows of the strongest components, as many as there is room for, and how many components that leaves out."""
    if len(rows) <= most:
        return rows, 0
    size = rows.assign(size=rows["effect"].abs()).groupby(["group", "name"])["size"].max().sort_values(ascending=False)
    conditions = rows.groupby("group")["condition"].nunique()
    kept = size.index[np.cumsum(conditions.loc[size.index.get_level_values("group")].to_numpy()) <= most]
    return rows[pd.MultiIndex.from_frame(rows[["group", "name"]]).isin(kept)], len(size) - len(kept)


def shared(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """The components that most conditions share, in order: those with a label that says so, or else among the k strongest.

    Args:
        rows: of `components_of`.
        k: how many count as a condition's strongest.
    """
    labelled = rows["label"].notna().any()
    counts = (rows["label"].isin([MATTERS, MIXED]) if labelled else rows["rank"] <= k).groupby(rows["name"]).sum()
    order = pd.DataFrame({"count": counts, "size": rows["effect"].abs().groupby(rows["name"]).mean()})
    order = order.sort_values(["count", "size"], ascending=False).head(SHARED)
    order["place"] = range(len(order))
    return rows.merge(order[["count", "place"]], left_on="name", right_index=True).sort_values("place", kind="stable")


def rankings(group: Compared, metric: str, rank: str) -> tuple[pd.DataFrame, dict[str, Ranking]]:
    """Every component's score in each condition, and each condition's components, the strongest first.

    Args:
        group: of runs.
        metric: by which metric.
        rank: magnitude, highest or lowest.
    """
    kind = group.members[0].kind
    parts = [group.rows(member.impact)[[*kind.component, *kind.varied, "value"]].assign(run=number)
             for number, member in enumerate(group.members)]
    unmodified = {number: member.baselines[metric]["mean"] for number, member in enumerate(group.members)}
    scored = scores(pd.concat(parts, ignore_index=True), kind.component, unmodified, rank)
    found = strongest_components(scored, len(scored))
    names = [member.name for member in group.members]
    table = scored["score"].unstack("run").rename(columns=dict(enumerate(names)))
    return table, {name: found[number] for number, name in enumerate(names)}


def overlap_by_k(ranked: dict[str, Ranking]) -> pd.DataFrame:
    """How many components the k strongest of every condition share, and what chance alone gives: a row for each k and series."""
    lists = [ranking.top for ranking in ranked.values()]
    total = min(ranking.components for ranking in ranked.values())
    layers = next(iter(ranked.values())).layers
    several = len(lists) > 1
    rows: list[dict[str, Any]] = []
    for k in range(1, min(MOST_K, total) + 1) if several else ():
        tops = [own[:k] for own in lists]
        by_chance = overlap.shared_by_chance([len(top) for top in tops], total)
        rows.append({"k": k, "series": "found in all", "shared": len(set.intersection(*map(set, tops)))})
        rows.append({"k": k, "series": "by chance", "shared": overlap.expected(by_chance),
                     "high": int(np.searchsorted(np.cumsum(by_chance), 0.95))})
        if layers and max(layers.values()) > 1:
            sizes = [[sum(one[0] == layer for one in top) for layer in layers] for top in tops]
            rows.append({"k": k, "series": "by chance within layers",
                         "shared": overlap.expected(overlap.shared_within_layers(sizes, [*layers.values()]))})
        if len(lists) > 2:
            pairs = [len(set(one) & set(other)) for one, other in combinations(tops, 2)]
            rows.append({"k": k, "series": "found in two, on average", "shared": float(np.mean(pairs))})
    return pd.DataFrame(rows, columns=["k", "series", "shared", "high"])


def agreement(table: pd.DataFrame, ranked: dict[str, Ranking], k: int) -> pd.DataFrame:
    """Of every two conditions: Spearman's rank correlation of all components, and how many of the k strongest they share."""
    correlation = table.corr(method="spearman")
    return pd.DataFrame([
        {"first": one, "second": other, "correlation": correlation.loc[one, other],
         "shared": len(set(ranked[one].top[:k]) & set(ranked[other].top[:k])), "k": k}
        for one in ranked for other in ranked
    ])


def crossed(document: dict[str, Any] | None) -> pd.DataFrame:
    """What the components of one condition do to another: a row for each two, as a fraction of its unmodified value.

    Args:
        document: cross_controls.json; None where there is none.
    """
    rows = [
        {"battery": group["described"], "on": name, "components of": other, "how many": len(group["runs"][other]["circuit"]),
         "change": change, "n": run["n"], "share": change / run["whole"] if abs(run["whole"]) >= RECOVERY_FLOOR else None}
        for group in (document or {"groups": []})["groups"] for name, run in group["runs"].items()
        for other, change in run["changes"].items()
    ]
    return pd.DataFrame(rows, columns=["battery", "on", "components of", "how many", "change", "n", "share"])


def conditions(jobs: Sequence[dict[str, Any]], runs: dict[str, Member], failures: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row for each planned run: can the model do the task, how much matters, how long it took, or why it is missing.

    Args:
        jobs: of the sweep's manifest.
        runs: by folder.
        failures: of the sweep's manifest.
    """
    why = {failure["folder"]: failure for failure in failures}
    told = pd.DataFrame([_condition(job, runs.get(job["folder"]), why.get(job["folder"])) for job in jobs])
    words = told[["condition", "battery", "settings"]].to_numpy().tolist()
    label = pd.Series([", ".join(filter(None, one)) for one in words], index=told.index)
    return told.assign(label=label.where(~label.duplicated(keep=False), label + " (" + told["run"].map(folder_name) + ")"))


def _condition(job: dict[str, Any], member: Member | None, failure: dict[str, Any] | None) -> dict[str, Any]:
    settings = ", ".join(f"{name}={value}" for name, value in (job.get("settings") or {}).items())
    row: dict[str, Any] = {"run": job["folder"], "condition": job["condition"], "battery": job["battery"], "settings": settings,
                           "model": None, "mean": None, "low": None, "high": None, "n": None, "clean": None, "corrupt": None,
                           "matter": None, "mixed": None, "seconds": None, "status": "complete"}
    if member is None:
        return row | {"status": "missing" if failure is None else "failed"}
    provenance = member.manifest["provenance"]
    told = ability(member.summary, member.examples)
    whole = told[(told["run"] == "clean") & (told["template"] == "all")].iloc[0]
    counts = (member.summary.get("effects") or {}).get("counts") or {}
    right: dict[str, Any] = {run: ((member.summary.get("ability") or {}).get(run) or {}).get("accuracy") for run in RUNS}
    failed = "" if failure is None else f", but {failure['error']['type']}"
    return row | {
        "model": provenance["model"]["name"], "mean": whole["mean"], "low": whole["low"], "high": whole["high"],
        "n": int(whole["n"]) if whole["n"] is not None else None, **right, "matter": counts.get(MATTERS),
        "mixed": counts.get(MIXED), "seconds": provenance["wall_seconds"], "status": f"complete{failed}",
    }


def metric_of(metrics: Sequence[str], members: Sequence[Member]) -> str:
    """The metric of a page: the logit difference, or else the first by which invariants were looked for."""
    of_all = [set(member.impact["metric"]) for member in members]
    return next((name for name in (LOGIT_DIFF, *metrics) if all(name in own for own in of_all)), metrics[0])


def folder_name(path: str) -> str:
    """The name of a run's folder."""
    return Path(path).name
