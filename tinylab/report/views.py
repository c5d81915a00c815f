"""What a person should see of a run or a sweep, as plain data: no colours, no widths. The console prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tinylab.effects.shuffled_donors import ALARMING, is_alarming
from tinylab.effects.strength import strongest
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import LOGIT_DIFF, LOGPROB_DIFF, named
from tinylab.measures.recovery import RECOVERY_FLOOR
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import read_effects
from tinylab.records.storage import read_json
from tinylab.report.names import with_names

JUDGED = ("effect", "label", "opposite")
"""Of a cell's effect: a fraction of the whole and half its interval, its label, the share of opposite examples."""
STRONGEST = 10
"""How many components of a run are shown."""
SHOWN_RUNS = 6
"""The effects of no more runs are shown side by side."""


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
    """The strongest components of a finished run, by the change of what effects are labelled by, or else its first metric."""
    summary = read_json(folder.file("summary"))
    kind = TableKind.of_manifest(manifest)
    baselines = summary["baselines"][manifest["target_run"]]
    by = (summary.get("effects") or {}).get("metric", LOGIT_DIFF)
    metric = by if by in summary["metrics"] else next(iter(summary["metrics"]))
    cells = strongest(pd.read_parquet(folder.table(manifest)), kind, baselines, metric)
    cells, component = with_names(cells, kind)
    told = [*component, *(name for name in (*kind.apart, *kind.varied) if cells[name].nunique() > 1)]
    judged = _judged(folder, manifest, kind, metric)
    if judged is not None:
        cells = cells.merge(judged, how="left", on=list(kind.keys), validate="one_to_one")
        told_of = [name for name in JUDGED if not cells[name].isna().all()]
        cells = cells.astype({name: object for name in told_of}).where(cells.notna(), None)
    else:
        told_of = []
    companions = {named(name).companion for name in summary["metrics"]}
    metrics = [name for name in summary["metrics"] if name in cells
               and not (told_of and (named(name).pooled or name in companions))]  # an effect is the fraction itself
    unmodified = f"unmodified {manifest['target_run']} run: {baselines[metric]['mean']:.3f}"
    return View(
        f"{title_of(manifest)}: strongest by change of {metric} ({unmodified})",
        [*told, "change", *told_of, *metrics],
        [[row[name] for name in (*told, "change", *told_of, *metrics)] for row in cells.head(STRONGEST).to_dict("records")],
        tuple(metrics),
    )


def _judged(folder: RunFolder, manifest: dict[str, Any], kind: TableKind, metric: str) -> pd.DataFrame | None:
    """What the run's effects say of each cell, by one metric; None where it has none."""
    table = read_effects(folder, manifest)
    if table is None:
        return None
    rows = table.to_pandas()
    rows = rows[rows["metric"] == metric].drop(columns="effect_logits")
    sizes = zip(rows["effect"], (rows["ci_high"] - rows["ci_low"]) / 2, strict=True)
    told = [None if pd.isna(effect) else (effect, None if pd.isna(half) else half) for effect, half in sizes]
    judged: pd.DataFrame = rows.assign(effect=pd.Series(told, index=rows.index, dtype=object), opposite=rows["examples_opposite"])
    return judged[[*kind.keys, *JUDGED]]


def effects_sentence(told: dict[str, Any], plural: str) -> str:
    """What a run's effects come to, for people.

    Args:
        told: `effects` of summary.json.
        plural: what cells are called, such as heads.
    """
    counts = told["counts"]
    if counts is None:
        return f"no labels: {'; '.join(told['notes'])}"
    smallest = f"{100 * told['smallest']:g} % of {abs(told['whole']):.2f} {named(told['metric']).unit}"
    mixed = " (one sign in some templates, the other in others)" if counts["mixed"] else ""
    more = f" (about {told['examples_to_decide']} examples would decide half of these)" if told["examples_to_decide"] else ""
    return (f"of {told['cells']} {plural}, {counts['matters']} matter (the whole interval is beyond {smallest}), "
            f"{counts['mixed']} are mixed{mixed}, {counts['negligible']} negligible, "
            f"{counts['undecided']} undecided{more}; {told['correction']}, alpha {told['alpha']:g}, {told['n']} examples of "
            f"{told['templates'] or 'no'} templates")


def new_templates_sentence(told: dict[str, Any]) -> str | None:
    """How many of the cells that matter do so for new templates, for people; None where none matters or templates do not tell."""
    shown = [one["new_templates"] for one in told["matter"] if one["new_templates"] is not None]
    more, lacking = "", len(shown) - sum(shown)
    if lacking and "templates_to_decide" in told:  # which runs of before do not say
        others = "the other" if lacking == 1 else f"half of the other {lacking}"
        enough = told["templates_to_decide"]
        more = f"; about {enough:,} templates would show {others}" if enough else f"; more like these would not show {others}"
    return f"for new templates {sum(shown)} of the {len(shown)} that matter are shown to matter too{more}" if shown else None


def ranking_sentence(told: dict[str, Any]) -> str | None:
    """How far the order can be relied on, for people; None where examples do not tell."""
    ranked = told["ranking"]
    if ranked is None or ranked["stability"] is None or ranked["k"] >= told["cells"]:
        return None
    held = "" if ranked["held_out"] is None else (
        f"; chosen on half of the examples, they change {_difference(told['metric'])} by {ranked['naive']:.2f} on that half, by "
        f"{ranked['held_out']:.2f} on the other")
    return (f"the list of the {ranked['k']} strongest: {ranked['stability']:.2f} alike in other samples (1: the same, "
            f"0: by chance){held}")


def random_sets_sentence(told: dict[str, Any] | None, alpha: float) -> str | None:
    """What random sets do as well as the components that matter, for people; None if they do less, or there are none.

    Args:
        told: `random_sets` of summary.json.
        alpha: how often they may do as much.
    """
    if told is None or told["n"] is None:
        return None
    kinds = {"uniform": "random sets of this size", "same_layers": "random sets with as many in each layer"}
    said = [f"{words} do as much damage in {100 * told[kind]['share']:.0f} % of draws" for kind, words in kinds.items()
            if told[kind]["p"] > alpha]
    if not said:
        return None
    part = "" if told["n"] == told["of"] else f", on {told['n']} of {told['of']} examples"
    return f"the {len(told['circuit'])} that matter or are mixed, taken together: {'; '.join(said)} ({told['draws']} draws{part})"


def shuffled_donors_sentence(told: dict[str, Any] | None, plural: str) -> str | None:
    """How much of the effect other examples bring too, for people; None if that is less than the bulk of it, or not known.

    Args:
        told: `shuffled_donors` of summary.json.
        plural: what cells are called, such as layers.
    """
    if told is None or told["n"] is None:
        return None
    over, whole = sum(map(is_alarming, told["cells"])), is_alarming(told)
    if not over and not whole:
        return None
    left = "–" if told["survives"] is None else f"{100 * told['survives']:.0f} %"
    within = "" if told["ci95"] is None else f" ({100 * told['ci95'][0]:.0f} to {100 * told['ci95'][1]:.0f} %)"
    same = f"; {told['same_answer']} of these donors have the same answer" if told["same_answer"] else ""
    keep = f"{len(told['cells'])} {plural} that matter keep {left} of their effect{within}"
    these = "" if whole else f"{over} of them {100 * ALARMING:.0f} % or more, "
    return (f"patched from another example of the same template, {keep}, {these}most of which is not the pair's own "
            f"({told['n']} of {told['of']} examples{same})")


def cross_sentences(told: dict[str, Any]) -> list[str]:
    """What the components of other conditions do to each, for people: of each the other whose components do most.

    Args:
        told: a group of cross_controls.json.
    """
    said = []
    for name, run in told["runs"].items():
        others = {other: change for other, change in run["changes"].items() if other != name}
        other = max(others, key=lambda one: abs(others[one]))
        own, size = run["changes"][name], {one: len(of["circuit"]) for one, of in told["runs"].items()}
        part = "" if run["n"] == run["of"] else f", on {run['n']} of {run['of']} examples"
        said.append(f"{name}: its own {size[name]} {told['kind']} that matter or are mixed together change "
                    f"{_difference(told.get('metric') or LOGIT_DIFF)} by {_of(own, run)}, the {size[other]} of {other} by "
                    f"{_of(others[other], run)}{part}")
    return said


def _difference(metric: str) -> str:
    """What effects are changes of, in words."""
    return "the logit difference" if metric == LOGIT_DIFF else "the log-probability difference"


def _of(change: float, run: dict[str, Any]) -> str:
    """A change in logits, and as a fraction of what there was where that is not next to nothing."""
    whole = run["whole"]
    return f"{change:+.2f}" + ("" if abs(whole) < RECOVERY_FLOOR else f" ({100 * change / whole:+.0f} %)")


def invariants_view(group: dict[str, Any], invariants: dict[str, Any]) -> View:
    """The components that a group claims: each run's effect of them, or where that is asked for their ranks.

    Args:
        group: of invariants.json.
        invariants: the whole document.
    """
    others = {name: value for name, value in group.get("settings", {}).items() if not name.startswith("battery.")}
    swept = "".join(f", {name}={value}" for name, value in others.items())
    columns = group.get("component", ["layer", "head"] if group["kind"] == "heads" else ["layer"])
    by_rank = invariants["set"] == "intersection" or group.get("conjunction") is None
    view = _ranks_view(group, invariants, columns) if by_rank else _claims_view(group, columns)
    return View(f"{group['described']}{swept} on {group['model']}: {view.title}", view.columns, view.rows)


def _claims_view(group: dict[str, Any], columns: list[str]) -> View:
    """What was tested: p, and for a few runs the effect of each with its label, for many in how many conditions it matters."""
    told, runs = group["conjunction"], group["conditions"]
    claimed = told["components"][:len(group[group["kind"]])]  # the first of them
    each = len(runs) <= SHOWN_RUNS
    rows = [
        [*(one[name] for name in columns), probability(one["p_adjusted"]),
         *([_effect_in(one, run) for run in runs] if each else [f"{one['count']} of {told['of']}", len(one["mixed_in"])])]
        for one in claimed
    ]
    title = f"{group['kind']} that matter with one sign in {_where(group)} ({', '.join(runs)}): {len(claimed)}"
    return View(title, [*columns, f"p ({told['correction']})", *(runs if each else ["matters in", "mixed in"])], rows)


def _where(group: dict[str, Any]) -> str:
    """In which conditions a group's components are claimed; several tags of one corpus are one condition, and no invariant."""
    told = group["conjunction"]
    if told["of"] == 1 and len(group["conditions"]) > 1:
        return "one condition, which is not an invariant"
    return "every condition" if told["at_least"] == told["of"] else f"at least {told['at_least']} of {told['of']} conditions"


def _effect_in(one: dict[str, Any], run: str) -> str:
    """A component's effect in a run with its interval and its label, such as `-0.52 ± 0.04 matters`."""
    effect, half = one["effects"][run], one["plus_minus"][run]
    label = " mixed" if run in one["mixed_in"] else " matters" if run in one["matters_in"] else ""
    return "–" if effect is None else f"{effect:+z.2f}{'' if half is None else f' ± {half:.2f}'}{label}"


def _ranks_view(group: dict[str, Any], invariants: dict[str, Any], columns: list[str]) -> View:
    """The components that every condition shares, with their rank in each by each metric."""
    found = group.get("intersection", group)[group["kind"]]
    title = (f"{group['kind']} among the {invariants['k']} strongest of every condition ({', '.join(group['conditions'])}) by "
             f"{invariants['rank']} of {', '.join(invariants['metrics'])}: {len(found)}")
    tops = {(metric, condition): top for metric, entry in group["per_metric"].items()
            for condition, top in entry["top_k"].items()}
    return View(
        title,
        [*columns, *(f"rank in {condition} ({metric})" for metric, condition in tops)],
        [[*([component[name] for name in columns] if isinstance(component, dict) else [component]),
          *(top.index(component) + 1 for top in tops.values())] for component in found],
    )


def invariants_sentences(group: dict[str, Any], invariants: dict[str, Any]) -> list[str]:
    """What was claimed and how, whose sign depends on the template, and what the k strongest share compared with chance.

    Args:
        group: of invariants.json.
        invariants: the whole document.
    """
    ranked = []
    alone = any("one condition only" in note for note in group["notes"])
    for metric, entry in group["per_metric"].items():
        chance = entry.get("by_chance") or {}
        shared, expected = len(entry[group["kind"]]), chance.get("expected")
        expected = group["expected_by_chance"] if expected is None else expected
        if alone or expected is None:
            continue
        every = "both" if len(group["conditions"]) == 2 else f"all {len(group['conditions'])}"
        told = f"by chance {expected:.2f}" + (f" (p {probability(chance['p'])})" if chance.get("p") is not None else "")
        if chance.get("p_within_layers") is not None:
            told += f", within layers {chance['expected_within_layers']:.2f} (p {probability(chance['p_within_layers'])})"
        ranked.append(f"{shared} {group['kind']} are among the {invariants['k']} strongest of {every} by {metric}: {told}")
    agreement = group.get("sign_agreement")
    if ranked and agreement is not None and agreement["shared"]:
        ranked[-1] += f"; {agreement['same_sign']} of {agreement['shared']} with one sign"
    return [*([] if group.get("conjunction") is None else _on_claims(group)), *ranked]


def _on_claims(group: dict[str, Any]) -> list[str]:
    told, kind = group["conjunction"], group["kind"]
    claimed = [one for one in told["components"] if one["p_adjusted"] is not None and one["p_adjusted"] <= told["alpha"]]
    where = _where(group)
    total = group["components"]
    by = LOGIT_DIFF if "condition.answer" not in group.get("settings", {}) else LOGPROB_DIFF
    sentences = [f"{len(claimed)} of {total} {kind} change {_difference(by)} by more than {told['smallest']:g} of "
                 f"it, with one sign, in {where}: partial conjunction, {told['correction']}, alpha {told['alpha']:g}"]
    mixed = [f"{'.'.join(str(one[name]) for name in group['component'])} ({', '.join(one['mixed_in'])})"
             for one in claimed if one["mixed_in"]]
    if mixed:
        sentences.append(f"of these, mixed (one sign in some templates, the other in others): {', '.join(mixed)}")
    return sentences


def probability(p: float) -> str:
    """A p-value with two digits, such as 0.11 and 1.6e-04."""
    return f"{p:.2g}" if p >= 0.001 or p == 0 else f"{p:.1e}"
