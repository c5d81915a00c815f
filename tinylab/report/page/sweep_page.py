"""A sweep's page: its conditions side by side, what they share, and how far that is from chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tinylab.errors import OutputError
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import LOGIT_DIFF
from tinylab.records.checking import read_document
from tinylab.records.controls import CrossControls
from tinylab.records.documents import RunSummary
from tinylab.records.invariants import Invariants
from tinylab.records.manifest import RunFolder
from tinylab.records.manifests import SweepManifest
from tinylab.records.reading import read_effects, read_examples, read_impact
from tinylab.report.page import sweep_charts as charts
from tinylab.report.page import sweep_tables as tables
from tinylab.report.page.cells import NO, SIGN, axes_of
from tinylab.report.page.document import Chart, Column, Control, Dataset, Page, Section, Table
from tinylab.report.page.sweep_tables import Compared, Member
from tinylab.report.runs import failures_sentences
from tinylab.report.views import invariants_sentences
from tinylab.sweep.finished import CROSS_CONDITION

EFFECT = (Column("effect", "effect", 4), Column("ci_low", "95 % from", 4), Column("ci_high", "to", 4))
OF_RUNS = (
    Column("condition", "condition"), Column("battery", "battery"), Column("settings", "settings"), Column("model", "model"),
    Column("status", "status"), Column("mean", "clean logit difference", 2), Column("low", "95 % from", 2),
    Column("high", "to", 2), Column("n", "pairs", 0), Column("clean", "clean right", 2), Column("corrupt", "corrupt right", 2),
    Column("matter", "matter", 0), Column("mixed", "mixed", 0), Column("seconds", "seconds", 1),
)
GROUP = ("group",)
NAMED = 6
"""Conditions in a title, at most."""


def sweep_page(folder: Path) -> Page:
    """The page of a sweep that was joined.

    Raises:
        OutputError: it was not joined, or its files are none of ours.
    """
    manifest = read_document(SweepManifest, folder / "manifest.json")
    if manifest.get("artifacts") is None:
        raise OutputError(f"{folder}: not aggregated yet; run python -m tinylab.aggregate {folder}.")
    invariants = read_document(Invariants, folder / manifest["artifacts"]["invariants"])
    missing = {failure["folder"] for failure in manifest["failures"]}
    metric = _metric(invariants)
    runs = {job["folder"]: found for job in manifest["jobs"]
            if (found := _member(folder, job["folder"], metric, needed=job["folder"] not in missing)) is not None}
    groups = [one for group in invariants["groups"] if (one := _compared(group, runs)) is not None]
    cross = folder / CROSS_CONDITION / "cross_controls.json"
    document = read_document(CrossControls, cross) if cross.is_file() else None
    return page_of(manifest, invariants, runs, groups, metric=metric, cross=document)


def page_of(
    manifest: dict[str, Any], invariants: dict[str, Any], runs: dict[str, Member], groups: list[Compared], *, metric: str,
    cross: dict[str, Any] | None = None,
) -> Page:
    """The page of what was read.

    Args:
        manifest: of the sweep.
        invariants: invariants.json.
        runs: those that are complete, by folder.
        groups: of runs that may be compared, called differently.
        metric: by which components are compared.
        cross: cross_controls.json; None where there is none.
    """
    told = tables.conditions(manifest["jobs"], runs, manifest["failures"])
    datasets = {"conditions": Dataset.of(told[told["mean"].notna()])}
    sections = [_conditions(told, manifest)]
    controls: list[Control] = []
    state: dict[str, Any] = {}
    if groups:
        found, state, controls = _found(groups, invariants, metric)
        rows, left_out = tables.strongest_rows(found.pop("cells"))
        datasets |= {name: Dataset.of(table) for name, table in {**found, "cells": rows}.items()}
        sections += _compared_sections(groups, controls, invariants["k"], left_out)
    if len(crossed := tables.crossed(cross)):
        datasets["crossed"] = Dataset.of(crossed)
        state["battery"] = crossed["battery"].iloc[0]
        sections.append(_crossed(list(dict.fromkeys(crossed["battery"]))))
    sections.append(_files(manifest, runs))
    done = len(manifest["jobs"]) - len(manifest["failures"])
    lead = (f"{manifest['status']}: {done} of {len(manifest['jobs'])} runs.", *_said(invariants))
    names = list(dict.fromkeys(member.name for group in groups for member in group.members) or dict.fromkeys(told["condition"]))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    title = f"{manifest.get('sweep_name') or 'sweep'}: {', '.join(names[:NAMED])}{more}"
    return Page(title, lead, tuple(sections), datasets, state=state)


def _metric(invariants: dict[str, Any]) -> str:
    metrics: list[str] = invariants["metrics"]
    return LOGIT_DIFF if LOGIT_DIFF in metrics or not metrics else metrics[0]


def _member(folder: Path, path: str, metric: str, *, needed: bool) -> Member | None:
    """A run of a sweep, of one metric; None where it is not complete or does not have it.

    Raises:
        OutputError: its files are not what was written.
    """
    run = RunFolder(folder / path)
    manifest = run.finished()
    if manifest is None:
        return None
    if (fault := run.fault(manifest)) is not None:
        if needed:
            raise OutputError(f"{fault}; the command that made it computes it again.")
        return None
    impact, effects, examples = read_impact(run, manifest), read_effects(run, manifest), read_examples(run, manifest)
    rows = _of(impact, metric)
    if not len(rows):
        return None
    told = None if examples is None else examples.drop_columns(["clean_tokens", "corrupt_tokens"]).to_pandas()
    return Member(manifest["condition"], manifest, read_document(RunSummary, run.file("summary")), rows,
                  None if effects is None else _of(effects, metric), told)


def _of(table: pa.Table, metric: str) -> pd.DataFrame:
    rows: pd.DataFrame = table.filter(pc.equal(table["metric"], metric)).to_pandas()
    return rows


def _compared(group: dict[str, Any], runs: dict[str, Member]) -> Compared | None:
    """A group of invariants.json with what its runs found."""
    by_name = {tables.folder_name(path): member for path, member in runs.items()}
    named = [(name, by_name[run]) for name, run in zip(group["conditions"], group["runs"], strict=False) if run in by_name]
    if not named:
        return None
    members = [Member(name, one.manifest, one.summary, one.impact, one.effects, one.examples) for name, one in named]
    settings = "".join(f", {name}={value}" for name, value in group.get("settings", {}).items())
    where = {name: group[name] for name in members[0].kind.apart if name in group}
    title = f"{group.get('described', group['battery'])} on {group['model']}{settings}, {group['dtype']} on {group['device']}"
    return Compared(title, members, where)


def _found(
    groups: list[Compared], invariants: dict[str, Any], metric: str
) -> tuple[dict[str, pd.DataFrame], dict[str, Any], list[Control]]:
    """The tables of every group, what is chosen first, and what can be chosen."""
    parts: dict[str, list[pd.DataFrame]] = {"cells": [], "shared": [], "overlap": [], "agreement": []}
    k = invariants["k"]
    for number, group in enumerate(groups):
        rows = tables.components_of(group).assign(group=str(number))
        table, ranked = tables.rankings(group, metric, invariants["rank"])
        parts["cells"].append(rows)
        parts["shared"].append(tables.shared(rows, k))
        parts["overlap"].append(tables.overlap_by_k(ranked).assign(group=str(number)))
        parts["agreement"].append(tables.agreement(table, ranked, k).assign(group=str(number)))
    first = groups[0].members
    state = {"group": "0", "first": first[0].name, "second": first[min(1, len(first) - 1)].name}
    names = list(dict.fromkeys(member.name for group in groups for member in group.members))
    options = [(name, name) for name in names]
    controls = [Control("group", "Runs", [(str(number), group.title) for number, group in enumerate(groups)]),
                Control("first", "First", options), Control("second", "Second", options)]
    return {name: pd.concat(tables_, ignore_index=True) for name, tables_ in parts.items()}, state, controls


def _said(invariants: dict[str, Any]) -> list[str]:
    """What was found, as the console says it; or why invariants are withheld."""
    if "withheld" in invariants:
        return [f"Invariants withheld: {invariants['withheld']}."]
    several = len(invariants["groups"]) > 1
    return [f"{group.get('described', group['battery'])}: {one}." if several else f"{one[0].upper()}{one[1:]}."
            for group in invariants["groups"] for one in invariants_sentences(group, invariants)]


def _conditions(told: pd.DataFrame, manifest: dict[str, Any]) -> Section:
    kept = tuple(column for column in OF_RUNS if column.field != "settings" or told["settings"].any())
    rows = told.astype(object).where(told.notna(), None).to_dict("records")
    links = tuple((failure["log"], f"log of {failure['condition']}") for failure in manifest["failures"]
                  if failure["log"] is not None)
    chart = Chart("conditions", "Clean logit difference of each run with its 95 % interval", charts.conditions_chart(),
                  "conditions", rise="label")
    return Section("conditions", "The runs", tuple(failures_sentences(manifest)),
                   charts=(chart,) if told["mean"].notna().any() else (),
                   tables=(Table("A row for each planned run", kept,
                                 [{str(key): value for key, value in row.items()} for row in rows]),), links=links)


def _compared_sections(groups: list[Compared], controls: list[Control], k: int, left_out: int) -> list[Section]:
    """What conditions share, in five sections."""
    kind: TableKind = groups[0].members[0].kind
    one_of = tuple(controls[:1]) if len(groups) > 1 else ()
    names = tuple(dict.fromkeys(member.name for group in groups for member in group.members))
    several = any(len(group.members) > 1 for group in groups)
    gone = () if not left_out else (
        f"To keep the page small the {left_out} weakest components are left out here; they are in the runs' "
        "metrics/effects.parquet.",)
    sections = [
        Section("shared", "What conditions share", (
            "Effects as fractions of the clean logit difference (or of what patching could bring back); the components that "
            f"matter in most conditions first, {tables.SHARED} at most. {NO}: the corrected test does not find that it matters; "
            f"{SIGN}: one sign in some templates, the other in others.",), one_of,
            (Chart("shared", "Components by conditions", charts.shared_chart(), "shared", GROUP, "effect", "name"),),
            beside=(Table("Effects of components by condition", (
                Column("name", "component"), Column("count", "conditions"), EFFECT[0]),
                dataset="shared", where=GROUP, across="condition"),)),
        Section("multiples", "Each condition by itself, on one scale", gone, one_of,
                (Chart("multiples", "A small map for each condition", charts.multiples_chart(axes_of(kind), names), "cells",
                       GROUP, "effect"),),
                beside=(Table("Every component in every condition", (Column("name", "component"), EFFECT[0]), dataset="cells",
                              where=GROUP, across="condition"),)),
    ]
    if not several:
        return sections
    return [*sections, *_together(k, one_of, controls)]


def _together(k: int, one_of: tuple[Control, ...], controls: list[Control]) -> list[Section]:
    """How far lists of the strongest agree, and any two conditions against each other."""
    return [
        Section("overlap", "How much of this is chance", (
            "How many of the k strongest every condition has, compared with what lists drawn by chance would share (up to 95 % "
            "of draws: the shaded part), to show what another k would have found.",), one_of,
            (Chart("overlap", "Shared components against k, compared with chance", charts.overlap_chart(), "overlap", GROUP),),
            beside=(Table("Shared components by k", (Column("k", "k"), Column("shared", "shared", 2)), dataset="overlap",
                          where=GROUP, across="series"),)),
        Section("agreement", "Condition by condition", (
            "Colours: rank correlation of all components by the size of their change; numbers: how many of the "
            f"{k} strongest are the same.",), one_of,
            (Chart("agreement", "Rank correlation of every two conditions", charts.agreement_chart(), "agreement", GROUP,
                   rise="first"),),
            beside=(Table("Agreement of every two conditions", (
                Column("first", "condition"), Column("second", "and"), Column("correlation", "rank correlation", 4),
                Column("shared", "shared"), Column("k", "of")), dataset="agreement", where=GROUP),)),
        Section("pairs", "Any two against each other", (), (*one_of, *controls[1:]),
                (Chart("pairs", "Effects in two conditions with the intervals of both", charts.pairs_chart(), "cells", GROUP),),
                beside=(Table("Effects by condition with intervals", (
                    Column("condition", "condition"), Column("name", "component"), *EFFECT, Column("n", "examples"),
                    Column("label", "label")), dataset="cells", where=GROUP, only=("first", "second")),)),
    ]


def _crossed(batteries: list[str]) -> Section:
    control = Control("battery", "Battery", [(name, name) for name in batteries])
    return Section("crossed", "The components of one condition in another", (
        "All components that matter in one condition, changed together, on the prompts of another: the change of the logit "
        "difference as a fraction of its unmodified value.",), (control,) if len(batteries) > 1 else (),
        (Chart("crossed", "What the components of one condition do to another", charts.crossed_chart(), "crossed", ("battery",),
               "share", "on"),),
        beside=(Table("What the components of one condition do to another", (
            Column("on", "prompts of"), Column("components of", "components of"), Column("how many", "how many"),
            Column("change", "change in logits", 4), Column("share", "as a fraction", 4), Column("n", "examples")),
            dataset="crossed", where=("battery",)),))


def _files(manifest: dict[str, Any], runs: dict[str, Member]) -> Section:
    pages = [(f"{path}/{member.manifest['report']}", f"report of {member.name}") for path, member in runs.items()
             if "report" in member.manifest]
    joined = [(path, "") for name, path in manifest["artifacts"].items() if name != "report"]
    return Section("files", "Files", links=(("manifest.json", "manifest"), *joined, *pages))
