"""Join a sweep's runs: matrices, summary, invariants. A pure function of what is on disk."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylab.effects.strength import Ranking
from tinylab.errors import ConfigError, Interrupted, NotRun, OutputError, StillRunning, options
from tinylab.interventions.components import TABLE_KINDS
from tinylab.measures.metrics import METRICS
from tinylab.records.checking import write_document
from tinylab.records.documents import SweepSummary
from tinylab.records.invariants import Invariants
from tinylab.records.manifest import RunFolder, describe
from tinylab.records.manifests import SweepManifest
from tinylab.records.storage import read_json
from tinylab.sweep.attempts import last_attempt
from tinylab.sweep.finished import is_computed, output_root, run_folders
from tinylab.sweep.invariants import ConditionRun, Group, Settings, find_invariants
from tinylab.sweep.joining import Child, join
from tinylab.sweep.ranking import rank_matrix

__all__ = ["Settings", "aggregate", "sweep_folder"]
CROSS_CONDITION = "artifacts/cross_condition"
log = logging.getLogger(__name__)


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
        raise OutputError(f"{path}: not a sweep's folder, it has neither a manifest with jobs nor a multirun.yaml; expected one "
                          "such as outputs/sweeps/NAME.")
    return folder


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
        ConfigError: what was asked for is no metric.
    """
    before = _manifest(folder)
    root = output_root(folder.resolve())
    jobs = _with_places(folder, before.get("jobs") or _found_jobs(folder), root)
    children: list[Child] = []
    failures: list[dict[str, Any]] = []
    for job in jobs:
        run = RunFolder(folder / job["folder"])
        child, error = _child(run, job, root)
        if child is None and error is not None:
            error = _explained(error, job, launcher_error)
        if child is not None:
            children.append(child)
        if error is not None:
            failures.append({"condition": job["condition"], "battery": job["battery"], "folder": job["folder"],
                             "overrides": job["overrides"], "log": _log(folder, job), "error": error})
            log.error("%s (%s): %s: %s", job["condition"], job["battery"], error["type"], error["message"])
    _check_asked(asked, children)
    artifacts = _write_artifacts(folder, children, failures, settings)
    status = "complete" if not failures else "partial" if children else "failed"
    manifest = {
        **before,
        "status": status,
        "jobs": jobs,
        "runs": [str(job["folder"]) for job in jobs if (folder / job["folder"]).is_dir()],
        "failures": failures,
        "verify_failed": [c.manifest["condition"] for c in children if _strict_verify_failed(c.manifest)],
        "invariants": {"k": settings.k, "metrics": list(settings.metrics), "rank": settings.rank,
                       "allow_partial": settings.allow_partial},
        "artifacts": artifacts,
    }
    write_document(SweepManifest, folder / "manifest.json", manifest)
    return manifest


def _check_asked(asked: Sequence[str], children: Sequence[Child]) -> None:
    """Refuse metrics that are neither tinylab's nor those of a run; one of tinylab's that the runs lack is told in a note.

    Raises:
        ConfigError: there is one.
    """
    known = list(dict.fromkeys([*METRICS, *(metric for child in children for metric in child.summary["metrics"])]))
    for metric in asked:
        if metric not in known:
            raise ConfigError(f"--metrics {metric}: not a metric of tinylab or of a run of this sweep; {options(metric, known)}.")


def _with_places(folder: Path, jobs: Sequence[dict[str, Any]], root: Path | None) -> list[dict[str, Any]]:
    """The jobs, each with the folder where its run lies: that of an earlier command where its own holds no finished run."""
    elsewhere = {} if root is None else run_folders(root)
    return [{**job, "folder": _place(folder, job, elsewhere)} for job in jobs]


def _log(folder: Path, job: dict[str, Any]) -> str | None:
    """What to read about a job that is missing, relative to the sweep's folder; None if it left nothing to read."""
    own = f"{job['folder']}/run.log"
    return own if (folder / own).is_file() else job.get("output")


def _place(folder: Path, job: dict[str, Any], elsewhere: dict[str, list[Path]]) -> str:
    own, run_id = folder / job["folder"], job["run_id"]
    for path in [own, *elsewhere.get(run_id, ())]:
        if RunFolder(path).complete(run_id) is not None:
            return os.path.relpath(path, folder)
    return str(job["folder"])


def _found_jobs(folder: Path) -> list[dict[str, Any]]:
    """Jobs read off the run folders, for a sweep whose own manifest is lost."""
    jobs = []
    for file in sorted(folder.glob("*/manifest.json")):
        content = read_json(file)
        jobs.append({"overrides": [], "condition": content.get("condition") or file.parent.name, "run_id": content.get("run_id"),
                     "battery": content.get("battery", {}).get("name", ""), "folder": file.parent.name})
    return jobs


def _child(run: RunFolder, job: dict[str, Any], root: Path | None) -> tuple[Child | None, dict[str, str] | None]:
    """A job's complete run, and what is wrong: either may be None (a finished run whose verify slice broke has both)."""
    run_id = job["run_id"]
    manifest = run.complete(run_id)
    if manifest is not None:
        broken = manifest.get("attempt_failed") or manifest.get("verify_slice", {}).get("error")
        return Child(run, manifest, read_json(run.file("summary")), job.get("settings", {})), broken
    try:
        found = run.read()
    except OutputError as error:
        return None, describe(error)
    if root is not None and is_computed(root, run_id):
        return None, describe(StillRunning("another process computes this run right now"))
    died = last_attempt(run.path)
    if found is not None and found.get("status") == "failed" and died is None:
        return None, found["error"]
    process = died if died is not None or found is None else found.get("process", {}).get("pid")
    if found is None and process is None:
        return None, describe(NotRun("the job left no manifest: it never started"))
    told = f"process {process} ended before the run did: killed (out of memory?) or interrupted; the same command goes on"
    return None, describe(Interrupted(told))


def _explained(error: dict[str, str], job: dict[str, Any], launcher_error: Exception | None) -> dict[str, str]:
    """What is known beside a job's manifest: how SLURM says that it ended, or what the launcher died of."""
    if "ended" in job and error["type"] in {NotRun.__name__, Interrupted.__name__}:
        return {**error, "message": f"{error['message']}; {job['ended']}"}
    return describe(launcher_error) if launcher_error is not None and error["type"] == NotRun.__name__ else error


def _strict_verify_failed(manifest: dict[str, Any]) -> bool:
    verify = manifest.get("verify_slice", {})
    return verify.get("verdict") == "fail" and bool(verify["settings"]["strict"])


def _write_artifacts(
    folder: Path, children: Sequence[Child], failures: Sequence[dict[str, Any]], settings: Settings
) -> dict[str, str]:
    """Write the cross-condition files; returns their relative paths by name."""
    target = folder / CROSS_CONDITION
    written: dict[str, str] = {}
    rankings: dict[Path, dict[str, Ranking]] = {}
    kinds = {child.kind.name: child.kind for child in children}
    for kind in kinds.values():
        file = target / f"{kind.matrix}.parquet"
        joined = [child for child in children if child.kind.name == kind.name]
        found = rank_matrix(join(file, joined), kind, [child.baselines for child in joined],
                            metrics=settings.metrics, rank=settings.rank, k=settings.k)
        rankings.update(zip((child.folder.path for child in joined), found, strict=True))
        written[kind.matrix] = f"{CROSS_CONDITION}/{file.name}"
    for file in target.glob("*.parquet"):
        if file.stem not in written:  # of runs that this sweep has no more
            file.unlink()
    write_document(SweepSummary, target / "summary.json", _summary(children, failures))
    complete = {child.manifest["condition"] for child in children}
    missing = [
        f"{failure['condition']} ({failure['folder']})" if failure["condition"] in complete else failure["condition"]
        for failure in failures
        if not _has(children, failure)
    ]
    invariants = find_invariants(groups(children, rankings), settings, list(dict.fromkeys(missing)))
    write_document(Invariants, target / "invariants.json", invariants)
    return {**written, "summary": f"{CROSS_CONDITION}/summary.json", "invariants": f"{CROSS_CONDITION}/invariants.json"}


def _has(children: Sequence[Child], failure: dict[str, Any]) -> bool:
    return any(child.folder.path.name == Path(failure["folder"]).name for child in children)


def _summary(children: Sequence[Child], failures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per condition that run's summary; several runs of one condition (models, batteries) are told apart by folder."""
    conditions: dict[str, Any] = {}
    runs_of = Counter(child.manifest["condition"] for child in children)
    for child in children:
        tag = child.manifest["condition"]
        if runs_of[tag] == 1:
            conditions[tag] = child.summary
        else:
            conditions.setdefault(tag, {"runs": {}})["runs"][child.folder.path.name] = child.summary
    return {"conditions": conditions, "failed": [{key: f[key] for key in ("condition", "error", "log")} for f in failures]}


def groups(children: Sequence[Child], rankings: dict[Path, dict[str, Ranking]]) -> list[Group]:
    """Runs of one model, battery setting, device, dtype and granularity.

    Args:
        children: all runs.
        rankings: each run's strongest components by metric, by its folder.
    """
    members: dict[str, list[Child]] = {}
    for child in children:
        weights = {key: child.manifest["provenance"]["model"][key] for key in ("revision", "digest")}
        labels = {**child.labels, **weights, **_apart(child)}
        del labels["condition"]
        members.setdefault(json.dumps([labels, child.battery_digest], sort_keys=True), []).append(child)
    return [_group(runs, rankings) for runs in members.values()]


def _apart(child: Child) -> dict[str, str]:
    """Swept settings that make runs another measurement, and not the same one on another condition."""
    return {name: value for name, value in child.settings.items() if not name.startswith(("condition", "experiment", "model"))}


def _group(children: Sequence[Child], rankings: dict[Path, dict[str, Ranking]]) -> Group:
    first = children[0]
    told: dict[str, Any] = {key: value for key, value in first.labels.items() if key != "condition"}
    told["battery_digest"] = first.battery_digest
    settings = first.manifest["battery"]
    apart = [column for kind in (*TABLE_KINDS.values(), first.kind) for column in kind.apart]  # a granularity, of heads too
    told.update({column: settings[column] for column in apart if column in settings})
    told["described"] = first.manifest.get("described", told["battery"])
    if settings_apart := _apart(first):
        told["settings"] = settings_apart
    runs = [ConditionRun(child.manifest["condition"], rankings[child.folder.path], child.folder.path.name, child.corpus)
            for child in children]
    return Group(first.kind, told, runs)
