"""Where baselines disagree: runs that differ only in what stands in an activation's place, component by component.

Conclusions may change with the baseline (Miller et al. 2407.08734): a component may gain with one and lose with another, or be
among the strongest by one alone. A function of the runs' effects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.batteries.ablation import USES
from tinylab.interventions.components import TableKind
from tinylab.records.baselines import Baselines
from tinylab.records.checking import write_document
from tinylab.records.manifest import RunFolder
from tinylab.sweep.effects import effects_of
from tinylab.sweep.finished import CROSS_CONDITION
from tinylab.sweep.joining import Child

FILE = f"{CROSS_CONDITION}/baselines.json"
OF_ABLATION = {"ablation", *(name for names in USES.values() for name in names)}
"""The settings of a battery that say what stands in an activation's place."""


@dataclass(frozen=True)
class Side:
    """What one baseline says of C components."""

    name: str
    run_id: str
    components: list[tuple[int, ...]]
    logits: FloatArray  # [C]
    half: FloatArray  # [C], of a 95 % interval, in logits; NaN where there is none

    def ranks(self) -> np.ndarray[Any, Any]:
        """[C], 1 the strongest; ties in the order of components."""
        order = np.argsort(-np.abs(self.logits), kind="stable")
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks


def write_baselines(folder: Path, jobs: Sequence[dict[str, Any]], k: int) -> dict[str, Any] | None:
    """Compare the baselines of a sweep's runs and write it down; returns what was written, None if there is nothing to compare.

    Args:
        folder: of the sweep.
        jobs: of its manifest.
        k: how many components count as the strongest.

    Raises:
        Unreadable: a run's effects are none of ours.
    """
    groups = [told for children in _alike(_children(folder, jobs)) if (told := _compared(children, k)) is not None]
    if not groups:
        (folder / FILE).unlink(missing_ok=True)
        return None
    document = {"k": k, "groups": groups}
    write_document(Baselines, folder / FILE, document)
    return document


def _children(folder: Path, jobs: Sequence[dict[str, Any]]) -> list[Child]:
    """The finished runs whose battery has a baseline."""
    children = []
    for job in jobs:
        run = RunFolder(folder / job["folder"])
        if (manifest := run.finished()) is not None and "ablation" in manifest["battery"] and run.fault(manifest) is None:
            children.append(Child(run, manifest, {}, job.get("settings") or {}))
    return children


def _alike(children: Sequence[Child]) -> list[list[Child]]:
    """Runs that differ in the baseline alone."""
    members: dict[str, list[Child]] = {}
    for child in children:
        battery = {name: value for name, value in child.manifest["battery"].items() if name not in OF_ABLATION}
        identity = [child.labels, child.manifest["provenance"]["model"], child.corpus, battery, _apart(child)]
        members.setdefault(json.dumps(identity, sort_keys=True), []).append(child)
    return list(members.values())


def _apart(child: Child) -> dict[str, str]:
    """Swept settings other than the baseline."""
    return {name: value for name, value in child.settings.items() if name.removeprefix("battery.") not in OF_ABLATION}


def _named(children: Sequence[Child]) -> dict[str, Child]:
    """The runs by their baseline's name; several of one name are told apart by their settings."""
    found: dict[str, Child] = {}
    names = [str(child.manifest["battery"]["ablation"]) for child in children]
    for name, child in zip(names, children, strict=True):
        settings = ", ".join(f"{one}={child.manifest['battery'][one]}" for one in USES[name])
        found[name if names.count(name) == 1 else f"{name} ({settings})"] = child
    return found


def _compared(children: Sequence[Child], k: int) -> dict[str, Any] | None:
    """What runs that differ in the baseline alone say of each component; None where fewer than two say anything."""
    sides = [side for name, child in _named(children).items() if (side := _side(name, child)) is not None]
    if len(sides) < 2 or any(side.components != sides[0].components for side in sides):
        return None
    first, kind = children[0], children[0].kind
    named = ("condition", "condition.tag", "battery", "battery.name", "model", "model.name")  # as the group itself is
    settings = {name: value for name, value in _apart(first).items() if name not in named}
    return {
        "condition": first.manifest["condition"], "model": first.labels["model"], "battery": first.manifest["battery"]["name"],
        **({"settings": settings} if settings else {}), "kind": kind.plural,
        "runs": {side.name: side.run_id for side in sides}, **compare(sides, k, kind),
    }


def compare(sides: Sequence[Side], k: int, kind: TableKind) -> dict[str, Any]:
    """Where baselines differ: in sign (both intervals without 0), or in what is among the k strongest.

    Args:
        sides: what two baselines or more say of the same components.
        k: how many count as the strongest.
        kind: of the runs' tables.
    """
    ranks = {side.name: side.ranks() for side in sides}
    signs = np.array([np.where(np.abs(side.logits) > side.half, np.sign(side.logits), 0) for side in sides])
    opposite = (signs.max(axis=0) > 0) & (signs.min(axis=0) < 0)
    strongest = [c for c in range(len(sides[0].components)) if any(own[c] <= k for own in ranks.values())]
    components = [{
        "component": kind.listed(sides[0].components[c]),
        "sign": bool(opposite[c]),
        "strongest_by": [side.name for side in sides if ranks[side.name][c] <= k],
        "effects": {side.name: _effect(side, c, int(ranks[side.name][c])) for side in sides},
    } for c in sorted(strongest, key=lambda c: (not opposite[c], min(own[c] for own in ranks.values()), c))]
    shared = {side.name: dict[str, int]() for side in sides}
    alike = {side.name: dict[str, float | None]() for side in sides}
    for one, other in combinations(sides, 2):
        shared[one.name][other.name] = int(((ranks[one.name] <= k) & (ranks[other.name] <= k)).sum())
        alike[one.name][other.name] = _correlation(one.logits, other.logits)
    return {"rank_correlation": alike, "shared": shared, "components": components}


def _side(name: str, child: Child) -> Side | None:
    """What a run says of its components, None if nothing."""
    effects = effects_of([child])
    if not effects.components:
        return None
    logits = effects.logits[0]
    size = np.abs(effects.effect[0])
    scale = np.divide(np.abs(logits), size, out=np.full_like(logits, np.nan), where=size > 0)  # logits of a fraction of 1
    return Side(name, child.manifest["run_id"], effects.components, logits, effects.half[0] * scale)


def _effect(side: Side, c: int, rank: int) -> dict[str, Any]:
    logits, half = float(side.logits[c]), float(side.half[c])
    return {"logits": None if np.isnan(logits) else logits, "plus_minus": None if np.isnan(half) else half, "rank": rank}


def _correlation(one: FloatArray, other: FloatArray) -> float | None:
    """Spearman's rank correlation of sizes, None where one of them does not vary."""
    first, second = np.abs(one), np.abs(other)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import spearmanr  # takes half a second, and a single run has no use for it

    return float(spearmanr(first, second).statistic)
