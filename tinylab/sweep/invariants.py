"""Invariants: components that are among the strongest in every condition.

`tinylab.effects.strength` says which are the strongest of a run. Runs are compared only within a group: one model, battery
setting, device, dtype and granularity. A component that changes nothing is not among them. What chance alone would give is
reported beside what was found: m independent top-k sets among N components share k^m / N^(m−1) of them on average.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tinylab.effects.strength import Ranking
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.measures.metrics import named

Component = tuple[int, ...]
ALWAYS = (HEAD_IMPACT.plural, LAYER_IMPACT.plural)
"""Kinds of components that invariants.json has a key for, whether or not there are any."""


@dataclass(frozen=True)
class Settings:
    """How to look; the fields of the config group `invariants`."""

    k: int = 10
    metrics: tuple[str, ...] = ("logit_diff",)
    rank: str = "magnitude"
    allow_partial: bool = False

    @classmethod
    def of(cls, config: Any) -> Settings:
        """From a checked `InvariantsConfig`."""
        return cls(config.k, tuple(named(name).name for name in config.metrics), config.rank, config.allow_partial)


@dataclass(frozen=True)
class ConditionRun:
    """One run of a group, and its strongest components by each metric that it has."""

    condition: str
    rankings: dict[str, Ranking]
    folder: str = ""
    corpus: str = ""  # what its prompt pairs are, whatever the condition is called; empty where that is not known


@dataclass(frozen=True)
class Group:
    """Runs whose components may be compared."""

    kind: TableKind
    describe: dict[str, Any]  # model, battery, device, …
    runs: Sequence[ConditionRun]


def by_chance(sizes: Sequence[int], components: int) -> float:
    """Expected size of the intersection of random sets of these sizes among `components`."""
    return float(prod(sizes) / components ** (len(sizes) - 1))


def independent(runs: Sequence[ConditionRun]) -> list[list[ConditionRun]]:
    """The runs by condition: those of one tag are one condition, and so are those of one corpus under several tags."""
    found: list[list[ConditionRun]] = []
    for run in runs:
        alike = [one for one in found if any(_one_condition(run, other) for other in one)]
        found = [*(one for one in found if one not in alike), [other for one in alike for other in one] + [run]]
    return found


def _one_condition(run: ConditionRun, other: ConditionRun) -> bool:
    return run.condition == other.condition or (run.corpus != "" and run.corpus == other.corpus)


def run_names(runs: Sequence[ConditionRun]) -> list[str]:
    """What to call each run of a group: its condition, with its folder or number where several runs share one."""
    runs_of = Counter(run.condition for run in runs)
    return [
        run.condition if runs_of[run.condition] == 1 else f"{run.condition} ({run.folder or number})"
        for number, run in enumerate(runs, start=1)
    ]


def group_invariants(group: Group, settings: Settings) -> dict[str, Any]:
    """One group's entry: the invariants, the top k of each condition by each metric, and notes on what limits them."""
    conditions = independent(group.runs)
    notes = _notes_on_conditions(conditions)
    names = run_names(group.runs)
    per_metric: dict[str, Any] = {}
    common: list[Component] | None = None
    size = 0
    for metric in settings.metrics:
        tops: dict[str, list[Component]] = {}
        for name, run in zip(names, group.runs, strict=True):
            ranking = run.rankings.get(metric)
            if ranking is None:
                notes.append(f"{name} has no metric {metric}")
                continue
            size = ranking.components
            notes += _notes_on_ranking(name, metric, ranking, settings.k)
            tops[name] = ranking.top
        shared = _shared(list(tops.values())) if len(tops) == len(group.runs) else []
        per_metric[metric] = {
            group.kind.plural: _listed(shared, group.kind),
            "top_k": {condition: _listed(top, group.kind) for condition, top in tops.items()},
        }
        common = shared if common is None else [component for component in common if component in shared]
    return {
        **group.describe,
        "kind": group.kind.plural,
        "component": list(group.kind.component),
        "conditions": names,
        "components": size,
        group.kind.plural: _listed(common or [], group.kind),
        "per_metric": per_metric,
        "expected_by_chance": by_chance([_fewest(runs, settings, size) for runs in conditions], size) if size else None,
        "notes": list(dict.fromkeys(notes)),
    }


def _notes_on_conditions(conditions: Sequence[list[ConditionRun]]) -> list[str]:
    notes = []
    if len(conditions) == 1:
        notes.append("one condition only: these are its strongest components, not invariants")
    tags = [list(dict.fromkeys(run.condition for run in runs)) for runs in conditions]
    notes += [f"{' and '.join(several)} are one corpus under {len(several)} tags: they count as one condition"
              for several in tags if len(several) > 1]
    if any(len(runs) > len(own) for runs, own in zip(conditions, tags, strict=True)):
        notes.append("several runs of one condition: they are not independent, chance is reckoned with the conditions")
    return notes


def _notes_on_ranking(name: str, metric: str, ranking: Ranking, k: int) -> list[str]:
    notes = []
    if ranking.components < k:
        notes.append(f"{name} has {ranking.components} components, fewer than k={k}")
    if len(ranking.top) < min(k, ranking.components):
        notes.append(f"{name}: {len(ranking.top)} of {ranking.components} components change {metric} at all, fewer than k={k}; "
                     "the others are not counted")
    if ranking.tied:
        notes.append(f"{name}: {ranking.tied} more components are as strong by {metric} as the last of its {k} strongest; of "
                     "equals the first in the table are counted")
    return notes


def _fewest(runs: Sequence[ConditionRun], settings: Settings, components: int) -> int:
    """The smallest list of the strongest that a condition has by any metric."""
    tops = [len(run.rankings[metric].top) for run in runs for metric in settings.metrics if metric in run.rankings]
    return min([settings.k, components, *tops])


def _shared(tops: Sequence[list[Component]]) -> list[Component]:
    """Components in every list, in the order of (layer, head)."""
    return sorted(set(tops[0]).intersection(*tops[1:])) if tops else []


def _listed(components: Sequence[Component], kind: TableKind) -> list[Any]:
    return [kind.listed(component) for component in components]


def find_invariants(groups: Sequence[Group], settings: Settings, missing: Sequence[str]) -> dict[str, Any]:
    """The content of invariants.json.

    Args:
        groups: runs that may be compared.
        settings: how to look.
        missing: requested conditions that have no complete run; with any, and without `allow_partial`, nothing is claimed.
    """
    content: dict[str, Any] = {
        "k": settings.k,
        "metrics": list(settings.metrics),
        "rank": settings.rank,
        "set": "intersection",
        **{kind: [] for kind in ALWAYS},
        "per_metric": {},
        "expected_by_chance": {},
        "conditions": list(dict.fromkeys(run.condition for group in groups for run in group.runs)),
        "groups": [],
    }
    if missing and not settings.allow_partial:
        content["withheld"] = (f"no complete run of {', '.join(missing)}: what holds in the others is not invariant; mend it and "
                               "run the same command again, or accept it with invariants.allow_partial=true (--allow-partial)")
        return content
    content["groups"] = [group_invariants(group, settings) for group in groups]
    notes = []
    for kind in dict.fromkeys([*ALWAYS, *(entry["kind"] for entry in content["groups"])]):
        alike = [entry for entry in content["groups"] if entry["kind"] == kind]
        if len(alike) == 1:
            content[kind] = alike[0][kind]
            content["per_metric"][kind] = alike[0]["per_metric"]
            content["expected_by_chance"][kind] = alike[0]["expected_by_chance"]
            notes += alike[0]["notes"]
        elif alike:
            notes.append(f"{len(alike)} groups of {kind} (models, settings, devices or dtypes differ): see groups")
    if missing:
        notes.append(f"without {', '.join(missing)}, which have no complete run")
    if notes:
        content["note"] = "; ".join(notes)
    return content
