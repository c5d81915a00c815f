"""A run's page: what the model can do, which components matter, what they do to each prompt, and where the numbers come from."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pandas as pd
import pyarrow as pa

from tinylab.effects.ability import sentence
from tinylab.effects.measured import Measured
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import LOGIT_DIFF, LOGPROB_DIFF, named
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import DRAW, LATER, read_per_example
from tinylab.report.page import run_charts as charts
from tinylab.report.page import run_tables as tables
from tinylab.report.page.cells import NO, SIGN, axes_of, cells_of, place_of
from tinylab.report.page.document import Chart, Column, Control, Dataset, Page, Section, Table
from tinylab.report.views import effects_sentence, random_sets_sentence, ranking_sentence, title_of
from tinylab.results import Run

MOST_CELLS = 12_000
"""Rows of the map, at most: the strongest."""
OF_CELLS = (Column("name", "component"), Column("effect", "effect", 4), Column("ci_low", "95 % from", 4),
            Column("ci_high", "to", 4), Column("n", "examples"), Column("rank", "rank"),
            Column("examples_opposite", "opposite sign", 2), Column("label", "label"))
SHOWN = ["cell", "name", "x", "y", "panel", "metric", "effect", "ci_low", "ci_high", "n", "rank", "examples_opposite", "label",
         "mark"]
NOT_PROVENANCE = ("identity", "packages", "corpus", "model", "git", "bos", "tokenizer", "self_check", "command", "chat",
                  "position_tokens", "added", "reference")


def run_page(run: Run) -> Page:
    """The page of a finished run."""
    manifest, summary = run.manifest, run.summary
    kind = TableKind.of_manifest(manifest)
    judged = manifest.get("judged") or {"alpha": 0.05, "correction": "holm"}
    cells = cells_of(run.impact, run.effects, kind, summary["baselines"][manifest["target_run"]], alpha=judged["alpha"],
                     correction=judged["correction"], tokens=manifest["provenance"].get("position_tokens") or ())
    per_example = read_per_example(RunFolder(run.path), manifest)
    metrics = list(dict.fromkeys(cells["metric"]))
    metric = tables.shown_metric(metrics)
    measured = _measured(per_example, kind, metric)
    top = tables.top_of(cells, measured, kind, (summary.get("effects") or {}).get("metric") or LOGIT_DIFF)
    kept = tables.strongest_examples(cells, measured, kind, per_example)
    prompts = tables.prompts_of(run.examples)
    able = tables.ability(summary, run.examples)
    state, controls = _controls(cells, kept, metrics, metric)
    shown = cells[cells["rank"] <= max(1, MOST_CELLS // len(metrics))]
    sections = (
        _ability(able, manifest, summary),
        _map(cells, shown, kind, controls[:2], judged),
        _top(controls),
        _examples(kept, cells, prompts, metric=metric, controls=controls[2:], kind=kind),
        _provenance(run),
    )
    return Page(
        title_of(manifest), _lead(summary, kind), sections,
        {"ability": Dataset.of(able), "cells": Dataset.of(shown[SHOWN].sort_values(["metric", "rank"])), "top": Dataset.of(top),
         "examples": Dataset.of(kept)},
        prompts, state,
    )


def _measured(table: pa.Table, kind: TableKind, metric: str) -> Measured | None:
    """A metric by example; None where a run of an earlier version, or the metric, does not have it."""
    if any(name not in table.column_names for name in (*LATER, DRAW)) or named(metric).pooled:
        return None
    one = Measured.read(table, kind, metric)
    return one if len(one.baseline) and len(one.keys) else None


def _lead(summary: dict[str, Any], kind: TableKind) -> tuple[str, ...]:
    effects = summary.get("effects")
    if effects is None:
        return ()
    said = [effects_sentence(effects, kind.plural), ranking_sentence(effects),
            random_sets_sentence(summary.get("random_sets"), effects["alpha"])]
    return tuple(f"{one[0].upper()}{one[1:]}." for one in said if one)


def _controls(cells: pd.DataFrame, kept: pd.DataFrame, metrics: list[str], metric: str) -> tuple[dict[str, Any], list[Control]]:
    """What can be chosen, and what is chosen first."""
    panels = list(dict.fromkeys(cells.sort_values("cell")["panel"]))
    chosen = list(dict.fromkeys(zip(kept["cell"], kept["name"] if cells["panel"].nunique() == 1 else _with_panel(kept, cells),
                                    strict=True)))
    first = cells[cells["metric"] == metric].sort_values("rank").iloc[0]
    state = {"metric": metric, "panel": first["panel"], "cell": str(first["cell"])}
    return state, [
        Control("metric", "Metric", [(name, name) for name in metrics]),
        Control("panel", "Panel", [(panel, panel) for panel in panels]),
        Control("cell", "Component", [(str(cell), name) for cell, name in chosen]),
    ]


def _with_panel(kept: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    panels = dict(zip(cells["cell"], cells["panel"], strict=True))
    return [f"{name} ({panels[cell]})" if panels[cell] else name for cell, name in zip(kept["cell"], kept["name"], strict=True)]


def _ability(able: pd.DataFrame, manifest: dict[str, Any], summary: dict[str, Any]) -> Section:
    told = summary.get("ability")
    text = ([] if told is None else [f"{sentence(told)[0].upper()}{sentence(told)[1:]}."]) + [tables.dropped(manifest)]
    columns = (Column("run", "run"), Column("template", "template"), Column("n", "pairs"), Column("accuracy", "right", 2),
               Column("answer_probability", "probability of the right answer", 3), Column("mean", "logit difference", 3),
               Column("low", "95 % from", 3), Column("high", "to", 3))
    table = Table("How the model answers unmodified prompts", columns, dataset="ability")
    chart = Chart("ability", "Logit difference of the clean and the corrupt prompts by template, with 95 % intervals",
                  charts.ability_chart(), "ability", rise="template")
    return Section("ability", "Can the model do the task?", tuple(text), charts=(chart,), beside=(table,),
                   verdicts=tables.verdicts(manifest, summary))


def _map(cells: pd.DataFrame, shown: pd.DataFrame, kind: TableKind, controls: list[Control], judged: dict[str, Any]) -> Section:
    columns, rows = _ordered(cells, "x"), _ordered(cells, "y")
    text = ["Red: the number falls, blue: it rises. "
            f"{NO}: the test ({judged['correction']}, alpha {judged['alpha']:g}) does not find that it matters; "
            f"{SIGN}: one sign in some templates, the other in others. A click shows what it does to each prompt. "
            f"An effect on {LOGIT_DIFF} (of whole answers {LOGPROB_DIFF}) is a fraction of the unmodified value; on other "
            "metrics it is the mean change."]
    if len(shown) < len(cells):
        text.append(f"Of {len(cells) // len(controls[0].options)} {kind.plural} the strongest "
                    f"{len(shown) // len(controls[0].options)} are here, the others in metrics/effects.parquet.")
    chart = Chart("map", f"Effect of each of the {kind.plural}: {axes_of(kind)[0]} to the right, {axes_of(kind)[1]} upwards",
                  charts.map_chart(axes_of(kind), columns, rows), "cells", ("metric", "panel"), "effect", "y")
    title = " × ".join(dict.fromkeys(reversed(axes_of(kind))))
    return Section("map", f"Which {kind.plural} matter: {title}", tuple(text), _useful(controls), (chart,),
                   beside=(Table(f"Effects of {kind.plural}", OF_CELLS, dataset="cells", where=("metric", "panel")),))


def _ordered(cells: pd.DataFrame, column: str) -> tuple[Any, ...]:
    """The places on an axis, in order: by what is before the colon of a position, which is a number."""
    return tuple(sorted(dict.fromkeys(cells.sort_values("cell")[column]), key=place_of))


def _useful(controls: list[Control]) -> tuple[Control, ...]:
    return tuple(one for one in controls if len(one.options) > 1)


def _top(controls: list[Control]) -> Section:
    chart = Chart("top", f"The {tables.TOP} strongest with 95 % intervals; small dots are means of templates", charts.top_chart(),
                  "top", ("metric", "panel"), rise="name")
    table = Table(f"The {tables.TOP} strongest, and the means of templates", (
        OF_CELLS[0], Column("template", "template"), *OF_CELLS[1:]), dataset="top", where=("metric", "panel"))
    text = (f"The {tables.TOP} largest effects of the metric that is chosen above, with 95 % intervals for these templates; "
            "small dots: the means of single templates.")
    return Section("top", "The strongest", (text,), charts=(chart,), beside=(table,))


def _examples(
    kept: pd.DataFrame, cells: pd.DataFrame, prompts: dict[str, Any], *, metric: str, controls: list[Control], kind: TableKind
) -> Section:
    many, of = kept["cell"].nunique(), cells["cell"].nunique()
    text = [f"What the chosen one does to {metric} of each prompt, by template."]
    if many < of:
        text.append(f"The page holds the examples of the {many} strongest of {of} {kind.plural}; a click on another one shows "
                    "nothing here: its examples are in metrics/per_example.parquet.")
    if prompts["left_out"] is None:
        text.append("This run was computed before prompts were kept in metrics/examples.parquet; overwrite=true computes it "
                    "again.")
    elif prompts["left_out"]:
        text.append(f"{prompts['left_out']} prompts are left out to keep the page small; they are in metrics/examples.parquet.")
    chart = Chart("strip", f"Change of {metric} of every example of the chosen one, by template", charts.strip_chart(metric),
                  "examples", ("cell",), rise="template")
    table = Table(f"Change of {metric} by example", (
        Column("example", "row"), Column("template", "template"), Column("change", "change", 4), Column("value", "to", 4),
        Column("baseline", "from", 4)), dataset="examples", where=("cell",))
    return Section("examples", "What one of them does to each prompt", tuple(text), tuple(controls), (chart,), beside=(table,),
                   prompts=True)


def _provenance(run: Run) -> Section:
    """Where the numbers come from, how to get them again, and where they are."""
    told = run.manifest["provenance"]
    rows: list[tuple[str, Any]] = [("run", run.manifest["run_id"]), ("condition", run.manifest["condition"])]
    rows += [("model", told["model"]["name"]), ("revision", told["model"]["revision"] or told["model"]["digest"] or "–")]
    rows += [("corpus", told["corpus"]["path"]), ("sha256 of the corpus", told["corpus"]["sha256"])]
    rows += [(name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
             for name, value in told.items() if name not in NOT_PROVENANCE and value is not None]
    rows.append(("packages", ", ".join(f"{name} {version}" for name, version in told["packages"].items())))
    git = told.get("git") or {}
    rows.append(("git", f"{git.get('commit') or '–'}{' with changes' if git.get('dirty') else ''}"))
    table = Table("Provenance", (Column("what", "what"), Column("value", "value")),
                  [{"what": name, "value": value} for name, value in rows])
    links = [(str(path), name.replace("_", " ")) for name in RunFolder(run.path).artifacts(run.manifest)
             if name != "report" and (path := run.manifest.get(name)) is not None]
    return Section("provenance", "Where the numbers come from", tables=(table,), links=(("manifest.json", "manifest"), *links),
                   code=shlex.join(told["command"]) if told.get("command") else None)
