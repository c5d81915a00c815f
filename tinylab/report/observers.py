"""What happens when a run or a sweep has ended: a picture, words on the screen.

The results are on disk by then. What goes wrong here is logged, and fails nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tinylab.config.trackers import NONE, TrackerConfig
from tinylab.errors import ConfigError
from tinylab.interventions.components import TableKind
from tinylab.records.checking import read_document, write_document
from tinylab.records.controls import CrossControls
from tinylab.records.digests import measured
from tinylab.records.documents import SweepSummary
from tinylab.records.manifest import RunFolder
from tinylab.records.manifests import RunManifest, SweepManifest
from tinylab.records.reading import read_effects, read_impact, read_synergy
from tinylab.records.storage import read_json
from tinylab.report import console
from tinylab.report.joint import matrix
from tinylab.report.plots import Drawn, heatmap, heatmap_of_runs
from tinylab.report.trackers import track
from tinylab.report.views import title_of
from tinylab.sweep.baselines import FILE as BASELINES
from tinylab.sweep.baselines import write_baselines
from tinylab.sweep.finished import CROSS_CONDITION

PANELS = 24
"""Runs in the picture of a sweep, at most."""
log = logging.getLogger(__name__)


def run_ended(folder: RunFolder, *, plots: bool, report: bool | None, printed: bool, tracker: TrackerConfig) -> None:
    """A finished run: picture and page, if asked for and not there; its strongest components, unless a sweep prints it."""
    if plots and not folder.file("heatmap").is_file():
        _observe(f"the picture of {folder.path}", lambda: _draw(folder))
    if report and not folder.file("report").is_file():
        _observe(f"the page of {folder.path}", lambda: _write_page(folder.path))
    if printed:
        _observe(f"the report of {folder.path}", lambda: console.print_run(folder))
    if tracker.name != NONE:
        _observe(f"logging {folder.path} to {tracker.name}", lambda: track(folder, tracker))


def sweep_ended(folder: Path, manifest: dict[str, Any]) -> None:
    """A sweep that was joined: its pictures, if they are asked for, its invariants, what is missing, where its files are."""
    sweep_joined(folder, manifest)
    _observe(f"the page of {folder}", lambda: _renew_page(folder, manifest))
    _observe(f"the report of {folder}", lambda: console.print_sweep(folder, manifest))


def sweep_joined(folder: Path, manifest: dict[str, Any]) -> None:
    """A sweep that was joined: where its runs' baselines disagree, cross controls, and its pictures, if they are asked for."""
    _observe(f"comparing the baselines of {folder}", lambda: _compare(folder, manifest))
    _observe(f"summing up the cross controls of {folder}", lambda: _sum_up_cross(folder, manifest))
    if manifest.get("plots") and manifest["status"] != "failed":
        _observe(f"the picture of {folder}", lambda: _draw_sweep(folder, manifest))


def sweep_tried(folder: Path, asked: Any) -> None:
    """A sweep that was joined: its conditions tried with each other's components (`tinylab.sweep.cross_controls`)."""
    from tinylab.sweep.cross_controls import add_cross_controls

    _observe(f"trying the conditions of {folder} with each other's components", lambda: add_cross_controls(folder, asked))


def _renew_page(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the page of a sweep, if it is asked for; one of an earlier join goes in any case."""
    (folder / RunFolder.ARTIFACTS["report"]).unlink(missing_ok=True)
    if manifest.get("report") is not False and manifest["status"] != "failed":
        _write_page(folder, manifest)


def _write_page(folder: Path, sweep: dict[str, Any] | None = None) -> None:
    """Write report.html; where what it is made with is not installed, say how to install it.

    Args:
        folder: of a run or a sweep.
        sweep: its manifest, which gets its name; None for a run.
    """
    from tinylab.report.page.document import check_installed
    from tinylab.report.page.writing import NAME, write_report

    try:
        check_installed()
    except ConfigError as error:
        log.log(logging.INFO if sweep is not None and sweep.get("report") is None else logging.WARNING, "%s", error)
        return
    write_report(folder)
    if sweep is not None:
        sweep["artifacts"]["report"] = NAME


def _compare(folder: Path, manifest: dict[str, Any]) -> None:
    """Write where the runs' baselines disagree, and tell the manifest."""
    if write_baselines(folder, manifest["jobs"], manifest["invariants"]["k"]) is not None:
        manifest["artifacts"]["baselines"] = BASELINES
        manifest.setdefault("digests", {})["baselines"] = measured(folder / BASELINES)
        write_document(SweepManifest, folder / "manifest.json", manifest)


def _sum_up_cross(folder: Path, manifest: dict[str, Any]) -> None:
    """Give the summary a row for each condition that was tried with others' components, where these very runs were."""
    from tinylab.sweep.cross_controls import FILE, rows_of

    if not (folder / FILE).is_file() or (path := manifest["artifacts"].get("summary")) is None:
        return
    groups, summary = read_document(CrossControls, folder / FILE)["groups"], read_document(SweepSummary, folder / path)
    runs = [one for told in summary["conditions"].values() for one in told.get("runs", {"": told}).values()]
    if not {run["run_id"] for group in groups for run in group["runs"].values()} <= {run["run_id"] for run in runs}:
        return
    write_document(SweepSummary, folder / path, {**summary, "cross_controls": rows_of(groups)})
    manifest.setdefault("digests", {})["summary"] = measured(folder / path)
    write_document(SweepManifest, folder / "manifest.json", manifest)


def _observe(what: str, observer: Callable[[], None]) -> None:
    try:
        observer()
    except Exception as error:  # whatever it is: the results are complete without it
        log.error("%s failed (%s: %s); the results themselves are complete", what, type(error).__name__, error, exc_info=True)


def _labels(folder: RunFolder, manifest: dict[str, Any], kind: TableKind, metric: str) -> pd.DataFrame | None:
    """Each cell's label by a metric; None where it has none."""
    effects = read_effects(folder, manifest)
    if effects is None:
        return None
    rows = effects.to_pandas().query("metric == @metric")
    return None if rows["label"].isna().all() else rows[[*kind.keys, "label"]]


def _draw(folder: RunFolder) -> None:
    """Draw the heat map of the tables that are in a folder, and tell its manifest."""
    manifest = folder.read()
    assert manifest is not None
    baselines = read_json(folder.file("summary"))["baselines"][manifest["target_run"]]
    kind, table = TableKind.of_manifest(manifest), pq.read_table(folder.table(manifest))
    if (synergy := read_synergy(folder, manifest)) is not None:
        matrix(folder.file("heatmap"), synergy.to_pandas(), title_of(manifest))
        folder.write(manifest)
        return
    heatmap(folder.file("heatmap"), table, kind, baselines, title=title_of(manifest), patched=manifest["direction"] != "none",
            labels=_labels(folder, manifest, kind, str(table["metric"][0])),
            tokens=manifest["provenance"].get("position_tokens") or ())
    folder.write(manifest)


def _draw_sweep(folder: Path, manifest: dict[str, Any]) -> None:
    """Draw the runs of the largest group of each kind, and tell the manifest."""
    groups = read_json(folder / manifest["artifacts"]["invariants"])["groups"]
    places = {Path(job["folder"]).name: folder / job["folder"] for job in manifest["jobs"]}
    kinds = dict.fromkeys(group["kind"] for group in groups)
    for kind in kinds:
        largest = max((group for group in groups if group["kind"] == kind), key=lambda group: len(group["runs"]))
        runs = [RunFolder(places[name]) for name in largest["runs"][:PANELS]]
        name = "heatmap" if len(kinds) == 1 else f"heatmap_{kind}"
        path = f"{CROSS_CONDITION}/{name}.png"
        _draw_group(folder / path, largest, runs)
        manifest["artifacts"][name] = path
        manifest.setdefault("digests", {})[name] = measured(folder / path)
        write_document(SweepManifest, folder / "manifest.json", manifest)


def _draw_group(path: Path, group: dict[str, Any], runs: list[RunFolder]) -> None:
    """Draw runs of one group, by the first metric that all of them have."""
    manifests = {run: read_document(RunManifest, run.manifest) for run in runs}
    kind = TableKind.of_manifest(manifests[runs[0]])
    tables = {run: read_impact(run, manifest) for run, manifest in manifests.items()}
    metrics = [dict.fromkeys(table["metric"].to_pylist()) for table in tables.values()]
    metric = next(name for name in metrics[0] if all(name in own for own in metrics))
    drawn = {
        name: Drawn(tables[run], read_json(run.file("summary"))["baselines"][manifest["target_run"]],
                    _labels(run, manifest, kind, metric))
        for name, (run, manifest) in zip(group["conditions"], manifests.items(), strict=False)
    }
    some = f", the first {len(runs)} of {len(group['runs'])} runs" if len(runs) < len(group["runs"]) else ""
    heatmap_of_runs(path, drawn, kind, metric, f"{group['described']} on {group['model']}{some}")
