"""Folders that hold something else than a run: nothing of theirs is ever written over or tidied away."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tinylab.errors import OutputError
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json

IDENTITY = re.compile(r"_([0-9a-f]{12})$")
"""How the name of a run's folder ends, unless somebody chose another name."""
LOG_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+: ")
SHOWN = 3


def refuse_strangers(folder: RunFolder, key: str, *, own: bool = False) -> None:
    """Check that a folder is free for a run, or holds one: whatever became of it.

    Args:
        folder: of the run.
        key: of the config that chose it.
        own: whether it is known to be the run's, whatever is in it.

    Raises:
        OutputError: it has files of somebody else, or its log is a link to another file.
    """
    if os.path.islink(folder.file("log")):
        raise OutputError(f"{folder.file('log')} is a link, expected a file of the run's own; remove it, or choose "
                          "another folder.")
    own = own or os.path.isfile(folder.marker) or IDENTITY.search(folder.path.resolve().name) is not None
    if own or not os.path.isdir(folder.path):
        return
    names = sorted(path.name for path in folder.path.iterdir() if not path.name.startswith("."))  # which no run writes over
    if names and not _is_a_runs(folder, names):
        more = ", …" if len(names) > SHOWN else ""
        raise OutputError(f"{folder.path} holds files that are no run of tinylab's ({', '.join(names[:SHOWN])}{more}), expected "
                          f"an empty folder, a new one or a run's; choose another one with {key}=…, or leave that out.")


def _is_a_runs(folder: RunFolder, names: list[str]) -> bool:
    own = {path.relative_to(folder.path).parts[0] for path in (*folder.files(), folder.damaged)}
    only_own = own.issuperset(names)
    if folder.manifest.name not in names:
        return only_own and {*names} & own == {"run.log"} and _is_a_log(folder.file("log"))
    try:
        return {"status", "run_id"} <= {*read_json(folder.manifest)}
    except OutputError:  # a damaged manifest, or something else of that name
        return only_own


def _is_a_log(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as stream:
        return LOG_LINE.match(stream.readline(200)) is not None


def refuse_strange_sweep(folder: Path) -> None:
    """Check that a folder is free for a sweep, or holds one.

    Raises:
        OutputError: it has files that a sweep would write over, or a sweep's manifest that is damaged.
    """
    from tinylab.records.checking import check_read  # not for the command line's help: pydantic takes a while
    from tinylab.records.manifests import SweepPlan

    manifest = folder / "manifest.json"
    if manifest.is_file():
        if fine := "jobs" in (content := read_json(manifest)):
            check_read(SweepPlan, content, str(manifest))
    else:
        fine = not any((folder / name).exists() for name in ("multirun.yaml", "artifacts"))
        fine = fine or any(IDENTITY.search(path.name) for path in folder.iterdir())
    if not fine:
        raise OutputError(f"{folder} holds files that are no sweep of tinylab's, such as its manifest.json, multirun.yaml or "
                          "artifacts; choose another folder with hydra.sweep.dir=…, or leave that out.")


def planned_folders(sweep: Path) -> set[Path]:
    """The folders of jobs that a sweep's own manifest lists: they are its own whatever is in them. None without a manifest."""
    from tinylab.records.checking import read_document
    from tinylab.records.manifests import SweepPlan

    try:
        return {(sweep / job["folder"]).resolve() for job in read_document(SweepPlan, sweep / "manifest.json")["jobs"]}
    except OutputError:
        return set()
