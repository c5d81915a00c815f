"""Loading results: a run's or a sweep's folder as DataFrames and plain dicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tinylab.errors import OutputError
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json


@dataclass(frozen=True)
class Run:
    """A finished run. Tables it does not have are None."""

    path: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    head_impact: pd.DataFrame | None
    layer_impact: pd.DataFrame | None
    per_example: pd.DataFrame
    verify: dict[str, Any] | None


@dataclass(frozen=True)
class Sweep:
    """A sweep. Matrices it does not have are None; `runs` holds its complete runs."""

    path: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    invariants: dict[str, Any]
    head_matrix: pd.DataFrame | None
    layer_matrix: pd.DataFrame | None
    runs: list[Run]


def load_run(path: str | Path) -> Run:
    """Load a run's folder.

    Raises:
        OutputError: it is not the folder of a complete run.
    """
    folder = RunFolder(Path(path))
    manifest = folder.read()
    if manifest is None or folder.finished() is None:
        status = "no manifest" if manifest is None else f"not a complete run (status {manifest.get('status')})"
        raise OutputError(f"{path}: {status}; expected the folder of a complete run, such as outputs/runs/NAME.")
    tables = {name: pd.read_parquet(folder.file(name)) if name in manifest else None for name in ("head_impact", "layer_impact")}
    return Run(
        path=folder.path,
        manifest=manifest,
        summary=read_json(folder.file("summary")),
        per_example=pd.read_parquet(folder.file("per_example")),
        verify=read_json(folder.file("verify")) if folder.file("verify").is_file() else None,
        **tables,
    )


def load_sweep(path: str | Path) -> Sweep:
    """Load a sweep's folder; its path may end in `artifacts/cross_condition`.

    Raises:
        OutputError: it is not the folder of a sweep that was aggregated.
    """
    from tinylab.sweep.aggregate import sweep_folder

    folder = sweep_folder(Path(path))
    manifest = read_json(folder / "manifest.json")
    artifacts = manifest.get("artifacts")
    if artifacts is None:
        raise OutputError(f"{path}: not aggregated yet; run python -m tinylab.aggregate {path}.")
    matrices = {
        name: pd.read_parquet(folder / artifacts[name]) if name in artifacts else None for name in ("head_matrix", "layer_matrix")
    }
    missing = {failure["folder"] for failure in manifest["failures"]}
    return Sweep(
        path=folder,
        manifest=manifest,
        summary=read_json(folder / artifacts["summary"]),
        invariants=read_json(folder / artifacts["invariants"]),
        runs=[load_run(folder / job["folder"]) for job in manifest["jobs"] if job["folder"] not in missing],
        **matrices,
    )
