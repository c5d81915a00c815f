"""Join a sweep's runs: matrices, summary, invariants. A pure function of what is on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinylab.errors import ConfigError, OutputError, options
from tinylab.measures.metrics import METRICS
from tinylab.records.checking import check_read, write_document
from tinylab.records.manifest import describe
from tinylab.records.manifests import SweepManifest, SweepPlan
from tinylab.records.storage import read_json
from tinylab.sweep.artifacts import write_artifacts
from tinylab.sweep.finished import CROSS_CONDITION, output_root, run_folders, tidy_sweep
from tinylab.sweep.invariants import ConditionRun, Settings, check_at_least
from tinylab.sweep.jobs import Outcome, explained, failure_of, found_jobs, outcome_of, strict_verify_failed
from tinylab.sweep.joining import Child, Unreadable

__all__ = ["Settings", "aggregate", "sweep_folder"]


def sweep_folder(path: Path) -> Path:
    """The sweep's folder that a path means; it may end in `artifacts/cross_condition`.

    Raises:
        OutputError: it is not the folder of a sweep.
    """
    folder = path.resolve()
    if folder.parts[-2:] == tuple(CROSS_CONDITION.split("/")):
        folder = folder.parent.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: no such folder; expected a sweep's, such as outputs/sweeps/NAME.")
    if "jobs" not in _manifest(folder) and not (folder / "multirun.yaml").is_file():
        raise OutputError(f"{path}: not a sweep's folder, it has neither a manifest with jobs nor a multirun.yaml; "
                          f"{_instead(path)}.")
    return folder


def _instead(path: Path) -> str:
    """What to name in place of a folder that is no sweep's: the runs and sweeps in it, if it has some."""
    for pattern in ("*", "*/*"):
        if inside := len([*path.glob(f"{pattern}/manifest.json")]):
            return f"it holds {inside} runs or sweeps: name those, as in {path / pattern}"
    return "expected one such as outputs/sweeps/NAME"


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    return read_json(file) if file.is_file() else {}


def aggregate(
    folder: Path, settings: Settings, launcher_error: Exception | None = None, *, asked: Sequence[str] = ()
) -> dict[str, Any]:
    """Join the runs of a sweep's folder and write the cross-condition artifacts and the manifest.

    Args:
        folder: the sweep's folder.
        settings: how to look for invariants.
        launcher_error: what the launcher died of, if it did: it explains jobs that never started.
        asked: metrics named by the user.

    Returns:
        The sweep's manifest.

    Raises:
        ConfigError: what was asked for is no metric, or more conditions than there are.
        OutputError: the sweep's manifest cannot be read, or the folder cannot be written.
    """
    before = _manifest(folder)
    tidy_sweep(folder)
    root = output_root(folder.resolve())
    elsewhere = {} if root is None else run_folders(root)
    jobs = _checked_jobs(folder, before) or found_jobs(folder)
    outcomes = [outcome_of(folder, job, elsewhere, root) for job in jobs]
    children = [one.child for one in outcomes if one.child is not None]
    failures = []
    for one in outcomes:
        if one.error is not None:
            error = explained(one.error, one.job, launcher_error) if one.child is None else one.error
            failures.append(failure_of(folder, one, error))
    _check_asked(asked, children)
    check_at_least(settings.at_least, [_condition(one) for one in outcomes])
    written = None
    while written is None:
        try:
            written = write_artifacts(folder, children, failures, settings, before)
        except Unreadable as broken:  # it is named, and the others are joined without it
            children.remove(broken.child)
            one = next(one for one in outcomes if one.child is broken.child)
            failures = [failure for failure in failures if failure["folder"] != one.job["folder"]]
            failures.append(failure_of(folder, one, describe(OutputError(str(broken)))))
    manifest = {
        **before,
        "status": "complete" if not failures else "partial" if children else "failed",
        "jobs": [one.job for one in outcomes],
        "runs": [str(one.job["folder"]) for one in outcomes if os.path.isdir(folder / one.job["folder"])],
        "failures": failures,
        "verify_failed": strict_verify_failed(children),
        "invariants": {**asdict(settings), "metrics": list(settings.metrics)},
        "artifacts": written[0],
        "digests": written[1],
    }
    write_document(SweepManifest, folder / "manifest.json", manifest)
    return manifest


def _checked_jobs(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs that a sweep's manifest tells of.

    Raises:
        OutputError: they are no jobs.
    """
    jobs: list[dict[str, Any]] = manifest.get("jobs") or []
    check_read(SweepPlan, {**manifest, "jobs": jobs}, str(folder / "manifest.json"))
    return jobs


def _condition(outcome: Outcome) -> ConditionRun:
    """Of which condition a job is; of what corpus, where its run is there to tell."""
    return ConditionRun(outcome.job["condition"], {}, corpus="" if outcome.child is None else outcome.child.corpus)


def _check_asked(asked: Sequence[str], children: Sequence[Child]) -> None:
    """Refuse metrics that are neither tinylab's nor those of a run; one of tinylab's that the runs lack is told in a note.

    Raises:
        ConfigError: there is one.
    """
    known = list(dict.fromkeys([*METRICS, *(metric for child in children for metric in child.summary["metrics"])]))
    for metric in asked:
        if metric not in known:
            raise ConfigError(f"--metrics {metric}: not a metric of tinylab or of a run of this sweep; {options(metric, known)}.")
