"""What a person reads when a run or a sweep ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tinylab.checks.published import Comparison, Published
from tinylab.effects.ability import by_template, sentence
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import read_synergy, read_table
from tinylab.records.storage import read_json
from tinylab.records.tables import SYNERGY_MATRICES
from tinylab.report.baselines import baselines_view
from tinylab.report.joint import synergies_sentence, synergy_view
from tinylab.report.runs import failures_sentences, runs_view, warnings_sentence
from tinylab.report.screen import console
from tinylab.report.views import (
    View,
    cross_sentences,
    effects_sentence,
    invariants_sentences,
    invariants_view,
    new_templates_sentence,
    random_sets_sentence,
    ranking_sentence,
    run_view,
    shuffled_donors_sentence,
)
from tinylab.sweep.finished import CROSS_CONDITION

if TYPE_CHECKING:
    from rich.console import Console

    from tinylab.checks.soundness import Floor, Verdict


CHANGES = ("change", "joint", "single1", "single2")
"""Columns of changes, printed with their sign."""
WITH_INTERVALS = {"effect": 2, "synergy": 3}
"""Columns of numbers with half their interval, and how many digits each has."""


def shown(view: View) -> Table:
    """A view as a table of the console: changes with their sign, other numbers with three digits, whole ones as they are."""
    table = Table(title=view.title, title_justify="left")
    for name in view.columns:
        table.add_column(name, justify="right", overflow="fold")
    for row in view.rows:
        table.add_row(*(_told(name, value, view) for name, value in zip(view.columns, row, strict=True)))
    return table


def _told(column: str, value: Any, view: View) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if column in CHANGES:
        return f"{value:+z.3f}"
    if column in WITH_INTERVALS:
        (size, half), digits = value, WITH_INTERVALS[column]
        return f"{size:+z.{digits}f}" if half is None else f"{size:+z.{digits}f} ± {half:.{digits}f}"
    if column == "opposite":
        return f"{value:.2f}"
    return f"{value:z.3f}" if column in view.metrics else f"{value}"


def print_run(folder: RunFolder) -> None:
    """Print whether the model can do the task, the strongest components of a finished run, and where it is."""
    manifest = folder.read()
    assert manifest is not None
    out = console()
    summary = read_json(folder.file("summary"))
    if (told := summary.get("ability")) is not None:
        out.print(sentence(told))
        if (templates := by_template(told)) is not None:
            out.print(templates)
    out.print(shown(run_view(folder, manifest)))
    if (synergy := read_synergy(folder, manifest)) is not None:
        out.print(shown(synergy_view(synergy.to_pandas())))
    if (effects := summary.get("effects")) is not None:
        out.print(effects_sentence(effects, manifest["table_kind"]["plural"]))
        for said in (new_templates_sentence(effects), ranking_sentence(effects)):
            if said is not None:
                out.print(said)
        if (sets := random_sets_sentence(summary.get("random_sets"), effects["alpha"])) is not None:
            out.print(sets)
        if (kept := shuffled_donors_sentence(summary.get("shuffled_donors"), manifest["table_kind"]["plural"])) is not None:
            out.print(kept)
        for note in effects["notes"] if effects["counts"] is not None else ():
            out.print(f"note: {note}")
    verify = manifest.get("verify_slice")
    if verify:
        out.print(f"verify slice on {verify['settings']['device']}: {verify['verdict']}")
    out.print(f"run: {folder.path}")


def print_sweep(folder: Path, manifest: dict[str, Any]) -> None:
    """Print a sweep's invariants and what limits them, what is missing, and where its files are."""
    out = console()
    invariants = read_json(folder / manifest["artifacts"]["invariants"])
    runs = runs_view(folder, manifest)
    if runs.rows:
        out.print(shown(runs))
    for group in invariants["groups"]:
        out.print(shown(invariants_view(group, invariants)))
        for line in invariants_sentences(group, invariants):
            out.print(line)
        for note in group["notes"]:
            out.print(f"note: {note}")
    for name in SYNERGY_MATRICES.values():
        if (path := manifest["artifacts"].get(name)) is not None:
            out.print(synergies_sentence(read_table(folder / path).to_pandas(), path))
    _print_comparisons(folder, out)
    if "withheld" in invariants and runs.rows:
        out.print(f"invariants withheld: {invariants['withheld']}")
    for sentence_, logs in failures_sentences(manifest).items():
        out.print(sentence_)
        if logs:
            out.print(f"  log: {folder / logs[0]}{f' and {len(logs) - 1} more' if len(logs) > 1 else ''}")
    for condition in manifest["verify_failed"]:
        out.print(f"VERIFY FAILED {condition}")
    if (warned := warnings_sentence(runs)) is not None:
        out.print(warned)
    jobs = len(manifest["jobs"])
    out.print(f"sweep {manifest['status']}: {jobs - len(manifest['failures'])} of {jobs} runs, in {folder}")
    for name, path in manifest["artifacts"].items():
        out.print(f"  {name}: {folder / path}")


def _print_comparisons(folder: Path, out: Console) -> None:
    """Print what one condition's components do to another, and where baselines disagree."""
    if (cross := folder / CROSS_CONDITION / "cross_controls.json").is_file():
        for group in read_json(cross)["groups"]:
            for said in cross_sentences(group):
                out.print(said)
    if (compared := folder / CROSS_CONDITION / "baselines.json").is_file():
        told = read_json(compared)
        for group in told["groups"]:
            view = baselines_view(group, told["k"])
            out.print(shown(view) if view.rows else view.title)


def print_selftest(title: str, verdicts: Sequence[Verdict], floors: Sequence[Floor]) -> None:
    """Print what each check of a selftest found, and the noise floor of every metric."""
    words = {True: "pass", False: "FAIL", None: "–"}
    checks = Table(title=f"selftest of {title}", title_justify="left")
    for name in ("check", "found", "allowed", "verdict", "what"):
        checks.add_column(name, overflow="fold")
    for one in verdicts:
        checks.add_row(one.check, one.found, one.allowed, words[one.passes], one.note)
    noise = Table(title="noise floor: the largest difference of any tested cell and example", title_justify="left")
    for name in ("metric", "forked vs reference", "alone vs together", "tolerance", "verdict", "largest effect"):
        noise.add_column(name, justify="left" if name in {"metric", "verdict"} else "right")
    for floor in floors:
        forked = "–" if floor.forked is None else f"{floor.forked:.2g}"
        tolerance = "–" if floor.passes is None else f"{floor.tolerance:g}"
        noise.add_row(floor.metric, forked, f"{floor.together:.2g}", tolerance, words[floor.passes], f"{floor.effect:.3g}")
    failed = [one.check for one in verdicts if one.passes is False]
    failed += [f"noise floor of {floor.metric}" for floor in floors if floor.passes is False]
    out = console()
    out.print(checks)
    out.print(noise)
    out.print(f"selftest FAILED: {', '.join(failed)}" if failed else "selftest: every check passes")


def print_published(experiments: Sequence[Published]) -> None:
    """Print which experiments have published numbers, and what each needs."""
    view = Table(title="python -m tinylab.reproduce NAME: run it and compare", title_justify="left")
    for name in ("name", "numbers", "needs", "what"):
        view.add_column(name, justify="right" if name == "numbers" else "left", overflow="fold")
    for one in experiments:
        view.add_row(one.name, str(len(one.numbers)), one.weights or "nothing", one.title)
    console().print(view)


def print_comparison(published: Published, comparisons: Sequence[Comparison]) -> None:
    """Print each published number with the run's own, and the verdict."""
    view = Table(title=f"{published.name}: {published.title}", title_justify="left")
    for name in ("where", "metric", "expected", "found", "difference", "tolerance", "verdict"):
        view.add_column(name, justify="left" if name in ("where", "metric", "verdict") else "right", overflow="fold")
    for one in comparisons:
        number = one.expected
        found, difference = ("-", "-") if one.found is None else (f"{one.found:.4f}", f"{one.difference:+.1e}")
        verdict = "agrees" if one.agrees else "differs" if one.found is not None else "not in this run"
        view.add_row(number.place, number.metric, f"{number.value:.4f}", found, difference, f"{number.tolerance:g}", verdict)
    out = console()
    out.print(view)
    out.print(f"source: {published.source}")
    out.print(f"{sum(one.agrees for one in comparisons)} of {len(comparisons)} numbers agree")
