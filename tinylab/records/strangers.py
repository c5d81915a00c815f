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


def refuse_strangers(folder: RunFolder) -> None:
    """Check that a folder is free for a run, or holds one: whatever became of it.

    Raises:
        OutputError: it has files of somebody else, or its log is a link to another file.
    """
    if os.path.islink(folder.file("log")):
        raise OutputError(f"{folder.file('log')} is a link, expected a file of the run's own; remove it, or choose "
                          "another folder.")
    if not os.path.isdir(folder.path) or IDENTITY.search(folder.path.resolve().name):
        return
    names = sorted(path.name for path in folder.path.iterdir())
    if names and not _is_a_runs(folder, names):
        more = ", …" if len(names) > SHOWN else ""
        raise OutputError(f"{folder.path} holds files that are no run of tinylab's ({', '.join(names[:SHOWN])}{more}), expected "
                          "an empty folder, a new one or a run's; choose another one with hydra.run.dir=…, or leave that out.")


def _is_a_runs(folder: RunFolder, names: list[str]) -> bool:
    own = {path.relative_to(folder.path).parts[0] for path in folder.files()} | {folder.attempts.name, folder.stage.path.name}
    only_own = all(name in own or name.startswith(tuple(f".{one}." for one in own)) for name in names)
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
        OutputError: it has files that a sweep would write over.
    """
    manifest = folder / "manifest.json"
    if manifest.is_file():
        fine = "jobs" in read_json(manifest)
    else:
        fine = not any((folder / name).exists() for name in ("multirun.yaml", "artifacts"))
        fine = fine or any(IDENTITY.search(path.name) for path in folder.iterdir())
    if not fine:
        raise OutputError(f"{folder} holds files that are no sweep of tinylab's, such as its manifest.json, multirun.yaml or "
                          "artifacts; choose another folder with hydra.sweep.dir=…, or leave that out.")
