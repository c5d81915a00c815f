"""Invariants: components that matter in every condition, by a partial conjunction; beside it those that are among the strongest.

Runs are compared only within a group: one model, battery setting, device, dtype and granularity. What is claimed is by `set`:
`partial_conjunction` (effects of one sign in every condition, or in `at_least` of them, tested: `tinylab.sweep.conjunction`),
`union` (in one at least), or `intersection`: the components that are among the k strongest of every condition
(`tinylab.effects.strength`), which is told in any case, beside what chance alone would give (`tinylab.sweep.chance`). A component
that changes nothing is not among the strongest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinylab.config.groups import INTERSECTION, PARTIAL_CONJUNCTION, UNION
from tinylab.effects.strength import Ranking
from tinylab.errors import ConfigError
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.measures.metrics import LOGIT_DIFF, named
from tinylab.sweep.chance import NOTHING, by_chance, overlap_by_chance
from tinylab.sweep.conjunction import conjunction, notes_on_effects, sign_agreement
from tinylab.sweep.effects import Effects

Component = tuple[int, ...]
OWN_SCREENS = ("each run's screen chose components of its own: one that is not in all of them was not tried in every condition, "
               "and what chance gives is not computed")
ALWAYS = (HEAD_IMPACT.plural, LAYER_IMPACT.plural)
"""Kinds of components that invariants.json has a key for, whether or not there are any."""


@dataclass(frozen=True)
class Settings:
    """How to look; the fields of the config group `invariants`."""

    k: int = 10
    metrics: tuple[str, ...] = (LOGIT_DIFF,)
    rank: str = "magnitude"
    allow_partial: bool = False
    set: str = PARTIAL_CONJUNCTION
    at_least: int | None = None

    @classmethod
    def of(cls, config: Any) -> Settings:
        """From a checked `InvariantsConfig`."""
        metrics = tuple(named(name).name for name in config.metrics)
        return cls(config.k, metrics, config.rank, config.allow_partial, config.set, config.at_least)

    def by(self, labelled: str) -> Settings:
        """For runs whose effects are labelled by this metric: it stands for logit_diff, which whole answers do not have."""
        return replace(self, metrics=tuple(dict.fromkeys(labelled if name == LOGIT_DIFF else name for name in self.metrics)))

    def required(self, conditions: int) -> int:
        """In how many of the conditions a component has to have an effect."""
        return 1 if self.set == UNION else self.at_least or conditions


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
    effects: Effects | None = None  # what the runs say of each component
    labelled: str = LOGIT_DIFF  # by which metric
    alike: bool = True  # whether all of them tried the same components: screens may have chosen others in each


def independent(runs: Sequence[ConditionRun]) -> list[list[int]]:
    """The places of each condition's runs: those of one tag are one condition, and those of one corpus under several tags too."""
    found: dict[tuple[str, str], list[int]] = {}  # by tag and by corpus, one list for all that are one condition
    for place, run in enumerate(runs):
        own = found.setdefault(("tag", run.condition), [])
        own.append(place)
        other = found.setdefault(("corpus", run.corpus), own) if run.corpus else own
        if other is not own:
            other += own
            found.update({name: other for name, places in found.items() if places is own})
    return [sorted(places) for places in {id(places): places for places in found.values()}.values()]


def check_at_least(at_least: int | None, runs: Sequence[ConditionRun]) -> None:
    """Check that a sweep has so many conditions.

    Raises:
        ConfigError: it has fewer.
    """
    if at_least is not None and runs and at_least > (most := len(independent(runs))):
        alike = "" if len({run.condition for run in runs}) == most else ", as one corpus under several tags is one"
        raise ConfigError(f"invariants.at_least={at_least}: the sweep has {most} condition{'s' if most > 1 else ''}{alike}; "
                          f"expected {f'1 to {most}' if most > 1 else '1'}, or null for all of them.")


def run_names(runs: Sequence[ConditionRun]) -> list[str]:
    """What to call each run of a group: its condition, with its folder or number where several runs share one."""
    runs_of = Counter(run.condition for run in runs)
    return [
        run.condition if runs_of[run.condition] == 1 else f"{run.condition} ({run.folder or number})"
        for number, run in enumerate(runs, start=1)
    ]


def group_invariants(group: Group, settings: Settings) -> dict[str, Any]:
    """One group's entry: what is claimed, the top k of each condition by each metric, and notes on what limits them."""
    conditions, settings = independent(group.runs), settings.by(group.labelled)
    notes = _notes_on_conditions(group.runs, conditions) + ([] if group.alike else [OWN_SCREENS])
    names = run_names(group.runs)
    per_metric: dict[str, Any] = {}
    common: list[Component] | None = None
    size = 0
    for metric in settings.metrics:
        rankings: dict[str, Ranking] = {}
        for name, run in zip(names, group.runs, strict=True):
            ranking = run.rankings.get(metric)
            if ranking is None:
                notes.append(f"{name} has no metric {metric}")
                continue
            size = ranking.components
            notes += _notes_on_ranking(name, metric, ranking, settings.k)
            rankings[name] = ranking
        whole = len(rankings) == len(group.runs)
        shared = _shared([ranking.top for ranking in rankings.values()]) if whole else []
        per_metric[metric] = {
            group.kind.plural: _listed(shared, group.kind),
            "top_k": {condition: _listed(ranking.top, group.kind) for condition, ranking in rankings.items()},
            "by_chance": overlap_by_chance(len(shared), [*rankings.values()])
            if whole and group.alike and len(conditions) == len(group.runs) else dict(NOTHING),
        }
        common = shared if common is None else [component for component in common if component in shared]
    claimed, tested, limits = _claimed(group, settings, conditions, names)
    return {
        **group.describe,
        "kind": group.kind.plural,
        "component": list(group.kind.component),
        "conditions": names,
        "runs": [run.folder for run in group.runs],
        "components": size,
        group.kind.plural: _listed((common or []) if settings.set == INTERSECTION else claimed, group.kind),
        "intersection": {group.kind.plural: _listed(common or [], group.kind)},
        "conjunction": tested,
        "sign_agreement": None if group.effects is None else sign_agreement(group.effects, common or []),
        "per_metric": per_metric,
        "expected_by_chance": by_chance(_fewest(group.runs, conditions, settings, size), size) if size and group.alike else None,
        "notes": list(dict.fromkeys([*notes, *limits])),
    }


def _claimed(
    group: Group, settings: Settings, conditions: Sequence[list[int]], names: Sequence[str]
) -> tuple[list[Component], dict[str, Any] | None, list[str]]:
    """The components of the partial conjunction, what is told of it, and what limits it."""
    if group.effects is None:
        return [], None, []
    at_least = settings.required(len(conditions))
    claimed, tested = conjunction(group.effects, conditions, at_least, names, group.kind)
    return claimed, tested, notes_on_effects(group.effects, len(conditions), at_least, names)


def _notes_on_conditions(runs: Sequence[ConditionRun], conditions: Sequence[list[int]]) -> list[str]:
    notes = []
    if len(conditions) == 1:
        notes.append("one condition only: what is listed holds for it, and is not an invariant")
    tags = [list(dict.fromkeys(runs[place].condition for place in places)) for places in conditions]
    notes += [f"{' and '.join(several)} are one corpus under {len(several)} tags: they count as one condition"
              for several in tags if len(several) > 1]
    if any(len(places) > len(own) for places, own in zip(conditions, tags, strict=True)):
        notes.append("several runs of one condition: they are not independent, chance is computed with the conditions")
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


def _fewest(runs: Sequence[ConditionRun], conditions: Sequence[list[int]], settings: Settings, components: int) -> list[int]:
    """The smallest list of the strongest that each condition has by any metric."""
    tops = [[len(runs[place].rankings[metric].top) for place in places for metric in settings.metrics
             if metric in runs[place].rankings] for places in conditions]
    return [min([settings.k, components, *own]) for own in tops]


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
        "metrics": [*dict.fromkeys(name for one in groups for name in settings.by(one.labelled).metrics)] or [*settings.metrics],
        "rank": settings.rank,
        "set": settings.set,
        **{kind: [] for kind in ALWAYS},
        "intersection": {kind: [] for kind in ALWAYS},
        "per_metric": {},
        "expected_by_chance": {},
        "conditions": list(dict.fromkeys(run.condition for group in groups for run in group.runs)),
        "groups": [],
    }
    if missing and not settings.allow_partial:
        content["withheld"] = (f"no complete run of {', '.join(missing)}: what holds in the others is not invariant; fix it and "
                               "run the same command again, or accept it with invariants.allow_partial=true (--allow-partial)")
        return content
    content["groups"] = [group_invariants(group, settings) for group in groups]
    notes = []
    for kind in dict.fromkeys([*ALWAYS, *(entry["kind"] for entry in content["groups"])]):
        alike = [entry for entry in content["groups"] if entry["kind"] == kind]
        if len(alike) == 1:
            content[kind] = alike[0][kind]
            content["intersection"][kind] = alike[0]["intersection"][kind]
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
