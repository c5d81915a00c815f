"""Single runs compared as if one command had swept over them: a sweep's folder whose jobs are runs that lie elsewhere."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tinylab.errors import ConfigError, OutputError
from tinylab.records.checking import write_document
from tinylab.records.identity import digest
from tinylab.records.manifest import RunFolder
from tinylab.records.manifests import SweepManifest
from tinylab.records.storage import check_writable, read_json
from tinylab.records.strangers import refuse_strange_sweep
from tinylab.sweep.finished import output_root
from tinylab.sweep.invariants import Settings
from tinylab.sweep.naming import IGNORED_IN_ID
from tinylab.sweep.plan import one_corpus_per_tag

NAMES = {"condition": ("tag",), "battery": ("name",), "model": ("name", "path")}
"""By what matrices tell the options of a group apart: other settings of theirs count where they differ under one name."""
TOLD = ("battery.name", "battery._target_", "device.type", "run_name", "condition.path", "condition.tag", "model.name",
        "model.path")
"""Settings that matrices tell of in columns of their own, or not at all."""


def is_run(folder: Path) -> bool:
    """Whether a folder has the manifest of a run, whatever became of it."""
    file = folder / "manifest.json"
    return file.is_file() and "jobs" not in (content := read_json(file)) and "run_id" in content


def plan_of_runs(folders: Sequence[Path], out: Path | None, settings: Settings) -> Path:
    """Write the plan of a sweep that has given runs for jobs; joining it is left to `tinylab.sweep.aggregate`.

    Args:
        folders: of complete runs, two or more.
        out: the sweep's folder; None for one of the runs' own output folder, named by what they are.
        settings: how to look for invariants, unless the folder has this plan already.

    Returns:
        The sweep's folder.

    Raises:
        ConfigError: one run alone, the same one twice, or two corpora by one tag.
        OutputError: a run is not complete, or the sweep's folder is in use or cannot be written.
    """
    runs = [folder.resolve() for folder in folders]
    manifests = [_complete(folder) for folder in runs]
    if len(runs) < 2:
        raise ConfigError(f"{folders[0]}: one run; expected two or more to compare, or a sweep's folder.")
    ids = [str(manifest["run_id"]) for manifest in manifests]
    for number, run_id in enumerate(ids):
        if run_id in ids[:number]:
            raise ConfigError(f"{folders[number]}: the same run as {folders[ids.index(run_id)]} ({run_id}); give each once.")
    one_corpus_per_tag([(manifest["condition"], manifest["provenance"]["corpus"]["sha256"]) for manifest in manifests])
    folder = _root(runs[0]) / "sweeps" / f"runs_{digest(sorted(ids))}" if out is None else out.resolve()
    if folder.is_dir():
        refuse_strange_sweep(folder)
    planned = read_json(file)["jobs"] if (file := folder / "manifest.json").is_file() else None
    if planned is not None and {job["run_id"] for job in planned} != set(ids):
        raise OutputError(f"{folder}: holds another sweep; choose another folder with --out.")
    if planned is None:
        check_writable(folder, "--out")
        jobs = [{"overrides": [], "condition": manifest["condition"], "battery": manifest["battery"]["name"],
                 "run_id": manifest["run_id"], "folder": os.path.relpath(run, folder), "settings": told}
                for run, manifest, told in zip(runs, manifests, varied([_config(run) for run in runs]), strict=True)]
        write_document(SweepManifest, file, {
            "status": "running", "sweep_name": "runs", "plots": True, "jobs": jobs,
            "invariants": {**asdict(settings), "metrics": list(settings.metrics)}})
    return folder


def _complete(folder: Path) -> dict[str, Any]:
    manifest = RunFolder(folder).read() or {}
    if manifest.get("status") != "complete":
        raise OutputError(f"{folder}: not a complete run (status {manifest.get('status')}); the command that made it resumes it.")
    return manifest


def _root(run: Path) -> Path:
    """The output folder that a run belongs to, alone or in a sweep; for one that lies elsewhere `outputs` where this is typed."""
    if run.parent.name == "runs":
        return run.parent.parent
    return output_root(run.parent) or Path("outputs").resolve()


def _config(run: Path) -> dict[str, Any]:
    """A run's settings by key, but for those that change no number."""
    try:
        content = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OutputError(f"{run}/config.yaml: cannot be read; the command that made this run writes it again with "
                          "overwrite=true.") from error
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if key not in IGNORED_IN_ID:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value for key, value in flat.items() if key != "metrics"}


def varied(configs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What runs differ in beside what every matrix tells: as if it had been swept, by key, a value for each run.

    A setting of a condition, a battery or a model counts where runs of one and the same differ in it: else its name tells.
    """
    kept = []
    for key in dict.fromkeys(key for config in configs for key in config):
        group = key.partition(".")[0]
        values = defaultdict(set)
        for config in configs:
            values[tuple(str(config.get(f"{group}.{name}")) for name in NAMES.get(group, ()))].add(_text(config.get(key)))
        if key not in TOLD and any(len(different) > 1 for different in values.values()):
            kept.append(key)
    return [{key: _text(config.get(key)) for key in kept} for config in configs]


def _text(value: Any) -> str:
    """A value as a command line has it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "'")
