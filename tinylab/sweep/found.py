"""The runs that lie in an output folder, as their manifests tell of them: quickly, and without opening a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinylab.errors import OutputError
from tinylab.records.storage import read_json
from tinylab.sweep.finished import is_computed, run_folders


def found_runs(root: Path) -> list[dict[str, Any]]:
    """Every run of an output folder, alone and in sweeps, the last one first; of a damaged manifest its folder alone.

    Args:
        root: the output folder.
    """
    found = [_told(path, root) for paths in run_folders(root).values() for path in paths
             if os.path.isfile(path / "manifest.json")]
    return sorted(found, key=lambda run: (run["started"] or "", run["folder"]), reverse=True)


def _told(path: Path, root: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path / "manifest.json")
    except OutputError:
        manifest = {"status": "damaged"}
    status = manifest.get("status")
    if status == "running" and not is_computed(root, str(manifest.get("run_id"))):
        status = "interrupted"
    provenance, battery = manifest.get("provenance") or {}, manifest.get("battery") or {}
    return {
        "folder": str(path),
        "status": status,
        "run_id": manifest.get("run_id"),
        "condition": manifest.get("condition"),
        "battery": battery.get("name"),
        "model": (provenance.get("model") or {}).get("name") or manifest.get("model"),
        "device": provenance.get("device"),
        "dtype": provenance.get("dtype"),
        "metrics": manifest.get("metrics"),
        "started": provenance.get("started") or manifest.get("started"),
        "finished": provenance.get("finished"),
    }
