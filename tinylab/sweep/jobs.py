"""What became of a sweep's jobs, as the disk tells it: each one's finished run, wherever it lies, or why there is none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylab.errors import Interrupted, NotRun, OutputError, SchemaError, StillRunning, VerifyFailed
from tinylab.records.checking import read_document
from tinylab.records.documents import RunSummary
from tinylab.records.manifest import RunFolder, describe
from tinylab.records.reading import kind_of
from tinylab.records.renewing import settle
from tinylab.records.storage import read_json
from tinylab.records.strangers import IDENTITY
from tinylab.sweep.attempts import last_attempt
from tinylab.sweep.finished import is_computed
from tinylab.sweep.joining import Child

AGAIN = "the same command computes it again"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A job, and its run or what is wrong: a finished run whose verify slice broke has both."""

    job: dict[str, Any]  # with the folder where its run lies
    child: Child | None
    error: dict[str, str] | None


def outcome_of(folder: Path, job: dict[str, Any], elsewhere: dict[str, list[Path]], root: Path | None) -> Outcome:
    """What became of a job.

    Args:
        folder: of the sweep.
        job: as planned.
        elsewhere: run folders of the output folder by identity: an earlier command's run counts where the own folder has none.
        root: the output folder, None where there is none.
    """
    own, run_id = folder / job["folder"], job["run_id"]
    own_error = None
    for path in [own, *elsewhere.get(run_id, ())]:
        try:
            found = _finished(RunFolder(path), job, root)
        except OutputError as error:
            own_error = describe(error) if path == own else own_error
            continue
        if found is not None:
            return Outcome({**job, "folder": os.path.relpath(path, folder)}, *found)
    return Outcome({**job, "folder": str(job["folder"])}, None, own_error or _missing(RunFolder(own), run_id, root))


def _finished(run: RunFolder, job: dict[str, Any], root: Path | None) -> tuple[Child, dict[str, str] | None] | None:
    """The run of a job if it is finished in this folder, and what broke beside its numbers; None if it is not finished.

    Raises:
        OutputError: it was finished, but its files are not what it wrote.
    """
    run_id = job["run_id"]
    if os.path.isfile(run.stage.manifest) and (root is None or not is_computed(root, run_id)):
        settle(run)
    manifest = run.claimed(run_id)
    if manifest is None:
        return None
    if (fault := run.fault(manifest)) is not None:
        raise OutputError(f"the run was complete, but {fault}; {AGAIN}.")
    kind_of(run, manifest)
    child = Child(run, manifest, read_document(RunSummary, run.file("summary")), job.get("settings") or {})
    return child, manifest.get("attempt_failed") or (manifest.get("verify_slice") or {}).get("error")


def _missing(run: RunFolder, run_id: str | None, root: Path | None) -> dict[str, str]:
    """Why a folder has no finished run of an identity."""
    if root is not None and is_computed(root, str(run_id)):
        return describe(StillRunning("another process computes this run right now"))
    try:
        found = run.read()
    except OutputError as error:
        return describe(error)
    died = last_attempt(run.path)
    if found is None and died is None:
        return describe(_never_told(run))
    other = None if found is None else found.get("run_id")
    if found is not None and run_id is not None and other not in (None, run_id):
        return describe(OutputError(f"{run.path} holds run {other} and not {run_id}: it was moved or renamed; give it back its "
                                    "name, or move it away and type the same command again."))
    if found is not None and found["status"] == "failed" and died is None:
        failure: dict[str, str] = found["error"]
        return failure
    process = died if found is None or died is not None else (found.get("process") or {}).get("pid")
    told = f"process {process} ended before the run did: killed (out of memory?) or interrupted; the same command resumes it"
    return describe(Interrupted(told))


def _never_told(run: RunFolder) -> OutputError | NotRun:
    if run.leavings():
        return OutputError(f"{run.path} has files of a run, but no manifest.json: it was removed; {AGAIN}.")
    return NotRun("the job left no manifest: it never started")


def explained(error: dict[str, str], job: dict[str, Any], launcher_error: Exception | None) -> dict[str, str]:
    """What is known beside a job's manifest: how SLURM says that it ended, or what the launcher died of."""
    if "ended" in job and error["type"] in {NotRun.__name__, Interrupted.__name__}:
        return {**error, "message": f"{error['message']}; {job['ended']}"}
    return describe(launcher_error) if launcher_error is not None and error["type"] == NotRun.__name__ else error


def failure_of(folder: Path, outcome: Outcome, error: dict[str, str]) -> dict[str, Any]:
    """What a sweep's manifest says about a job that is missing."""
    job = outcome.job
    own = f"{job['folder']}/run.log"
    return {"condition": job["condition"], "battery": job["battery"], "folder": job["folder"], "overrides": job["overrides"],
            "log": own if os.path.isfile(folder / own) else job.get("output"), "error": error}


def keep_failure(folder: RunFolder, run_id: str | None, error: Exception, *, again: bool) -> bool:
    """Write into a run's folder that computing it failed; finished work stays what it was.

    Args:
        folder: of the run.
        run_id: its identity, None where that is what failed.
        error: what it died of.
        again: whether a finished run keeps that computing it again failed.

    Returns:
        Whether the folder says so; a disk that is full, say, is logged.
    """
    try:
        if folder.holds_another(run_id):
            return True
        if (finished := folder.finished()) is None:
            folder.fail(run_id, error)
        elif again and not isinstance(error, VerifyFailed):  # the manifest has that verdict already
            folder.note_failed_attempt(finished, error)
    except (OutputError, SchemaError) as unwritable:
        log.error("%s", unwritable)
        return False
    return True


def found_jobs(folder: Path) -> list[dict[str, Any]]:
    """Jobs read off the run folders, for a sweep whose own manifest is lost."""
    return [_found_job(file.parent) for file in sorted(folder.glob("*/manifest.json"))]


def _found_job(folder: Path) -> dict[str, Any]:
    identity = IDENTITY.search(folder.name)
    try:
        content = RunFolder(folder).read() or {}
    except OutputError:  # it is named when the run is looked for
        content = {}
    battery = content.get("battery")
    return {"overrides": [], "condition": str(content.get("condition") or folder.name), "folder": folder.name,
            "run_id": content.get("run_id") or (identity.group(1) if identity else None),
            "battery": str(battery.get("name", "")) if isinstance(battery, dict) else ""}


def ended_since(began: float, *, overwrite: bool) -> Callable[[Path], str | None]:
    """How a run's manifest says that a command's job has ended: complete, or failed since the command began; None if not yet.

    Args:
        began: when the command began, in seconds of the epoch.
        overwrite: whether it computes complete runs again.
    """

    def ended(manifest: Path) -> str | None:
        try:
            status, fresh = read_json(manifest).get("status"), manifest.stat().st_mtime >= began
        except (OutputError, OSError):
            return None
        return status if (status == "complete" and (fresh or not overwrite)) or (status == "failed" and fresh) else None

    return ended


def strict_verify_failed(children: Sequence[Child]) -> list[str]:
    """Conditions whose strict verify slice disagreed."""
    slices = [(child.manifest["condition"], child.manifest.get("verify_slice") or {}) for child in children]
    return [condition for condition, told in slices if told.get("verdict") == "fail" and told["settings"]["strict"]]
