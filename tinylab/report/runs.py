"""The runs of a sweep, a line for each: whether the model can do the task, how much there is to explain, what was found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylab import errors
from tinylab.errors import OutputError
from tinylab.records.storage import read_json
from tinylab.report.views import View

MOST = 24
"""Runs that are shown."""
WARNING = re.compile(r"^WARNING ", re.MULTILINE)


def runs_view(folder: Path, manifest: dict[str, Any]) -> View:
    """The complete runs of a sweep, the first of many.

    Args:
        folder: of the sweep.
        manifest: of the sweep, joined.
    """
    missing = {failure["folder"] for failure in manifest["failures"]}
    there = [job for job in manifest["jobs"] if job["folder"] not in missing]
    told = [(job, *_read(folder / job["folder"])) for job in there[:MOST]]
    varied = [key for key in ("battery", "model") if len({run[key] for _, run, _ in told}) > 1]
    swept = list(there[0].get("settings") or {}) if there else []
    rows = [[job["condition"], *(run[key] for key in varied), *((job.get("settings") or {}).get(key, "") for key in swept),
             *_numbers(run, summary)] for job, run, summary in told]
    more = f", the first {MOST}" if len(there) > MOST else ""
    return View(f"{len(there)} of {len(manifest['jobs'])} runs{more}",
                ["condition", *varied, *swept, "pairs", "right", "logit_diff", "matter", "mixed", "seconds", "warnings"], rows,
                ("logit_diff",))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run's manifest says, and its summary."""
    manifest = read_json(folder / "manifest.json")
    try:
        summary = read_json(folder / manifest["summary"])
        log = (folder / "run.log").read_text(encoding="utf-8", errors="replace")
    except (OutputError, OSError):
        summary, log = {}, ""
    return {"battery": manifest["battery"]["name"], "model": manifest["model"], "target": manifest["target_run"],
            "seconds": (manifest.get("provenance") or {}).get("wall_seconds"), "warnings": len(WARNING.findall(log))}, summary


def _numbers(run: dict[str, Any], summary: dict[str, Any]) -> list[Any]:
    """Pairs, share of clean prompts answered correctly, unmodified logit difference, components that matter, time, warnings."""
    ability = (summary.get("ability") or {}).get("clean") or {}
    baseline = ((summary.get("baselines") or {}).get(run["target"]) or {}).get("logit_diff") or {}
    counts = (summary.get("effects") or {}).get("counts") or {}
    right = ability.get("accuracy")
    return [baseline.get("n"), None if right is None else f"{right:.2f}", baseline.get("mean"), counts.get("matters"),
            counts.get("mixed"), None if run["seconds"] is None else f"{run['seconds']:.1f}", run["warnings"]]


def warnings_sentence(view: View) -> str | None:
    """Where to read what was warned of, None where nothing was."""
    warned: Sequence[list[Any]] = [row for row in view.rows if row[-1]]
    if not warned:
        return None
    count = sum(row[-1] for row in warned)
    return f"{count} warnings in the run.log of {len(warned)} runs; hydra.verbose=true shows them as they come"


def failures_sentences(manifest: dict[str, Any]) -> dict[str, list[str]]:
    """What went wrong in the runs of a sweep that are missing, each with the logs that say more; what went wrong alike is one.

    Args:
        manifest: of the sweep, joined.
    """
    settings = {job["folder"]: job.get("settings") or {} for job in manifest["jobs"]}
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for failure in manifest["failures"]:
        alike.setdefault((failure["error"]["type"], failure["error"]["message"]), []).append(failure)
    said = {}
    for (kind, message), runs in alike.items():
        swept = [[f"{key}={value}" for key, value in settings.get(run["folder"], {}).items()] for run in runs]
        names = dict.fromkeys(f"{run['condition']} ({', '.join([run['battery'], *own])})"
                              for run, own in zip(runs, swept, strict=True))
        logs = [run["log"] for run in runs if run["log"] is not None]
        traceback = " (the log has the traceback)" if logs and not hasattr(errors, kind) else ""
        said[f"FAILED {', '.join(names)}: {kind}: {message}{traceback}"] = logs
    return said
