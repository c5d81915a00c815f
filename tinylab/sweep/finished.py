"""Finished runs, wherever in an output folder they lie, and who computes a run right now."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from tinylab.errors import OutputError, UserError
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import half_written
from tinylab.records.strangers import IDENTITY

LOCKS = ".locks"
CROSS_CONDITION = "artifacts/cross_condition"
"""Where a sweep's joined files are."""
log = logging.getLogger(__name__)


def run_folders(root: Path) -> dict[str, list[Path]]:
    """The run folders of an output folder, alone and in sweeps, by the identity that their names end with."""
    found: dict[str, list[Path]] = {}
    for path in sorted(chain(root.glob("runs/*_*"), root.glob("sweeps/*/*_*"))):
        identity = IDENTITY.search(path.name)
        if identity is not None:
            found.setdefault(identity.group(1), []).append(path)
    return found


def finished_run(root: Path, run_id: str) -> RunFolder | None:
    """A finished run of this identity, wherever in an output folder it lies."""
    folders = map(RunFolder, run_folders(root).get(run_id, ()))
    return next((folder for folder in folders if folder.intact(run_id) is not None), None)


def output_root(sweep_folder: Path) -> Path | None:
    """The output folder that a sweep belongs to; None for a sweep whose folder was chosen (hydra.sweep.dir)."""
    return sweep_folder.parent.parent if sweep_folder.parent.name == "sweeps" else None


def locate_run(folder: RunFolder, run_id: str, overwrite: bool) -> RunFolder:
    """Where a job of a sweep finds its run: in its own folder, or finished by an earlier command in another one."""
    root = output_root(folder.path.parent)
    if overwrite or root is None or folder.intact(run_id) is not None:
        return folder
    return finished_run(root, run_id) or folder


@contextmanager
def run_lock(root: Path, run_id: str) -> Iterator[None]:
    """Compute a run in this block: no other process does at the same time, others wait.

    The lock opens when its process ends, however it ends.

    Args:
        root: the output folder that the processes share.
        run_id: the run's identity.

    Raises:
        OutputError: the output folder cannot be written.
    """
    file = root / LOCKS / f"{run_id}.lock"
    lock = FileLock(file, thread_local=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process computes run %s: waiting for it", run_id)
            lock.acquire()
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror or error}); expected a folder with room and the right to "
                          "write, choose one with output_dir=….") from error
    try:
        yield
    except UserError:  # nothing was computed, leave nothing behind
        with suppress(OSError):  # nothing can be removed: that is not what went wrong
            file.unlink(missing_ok=True)
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
        raise
    finally:
        lock.release()


def tidy(runs: Sequence[tuple[Path, str, Path]]) -> None:
    """Remove what killed processes were writing, from runs that nobody computes.

    Args:
        runs: of each its output folder, its identity and its own folder.
    """
    for root, run_id, path in runs:
        folder = RunFolder(path)
        if folder.half_written() and not is_computed(root, run_id):
            folder.tidy()


def tidy_sweep(folder: Path) -> None:
    """Remove what killed processes were writing into a sweep's own files."""
    cross = folder / CROSS_CONDITION
    hidden = [path for ending in ("json", "parquet", "png") for path in cross.glob(f".*.{ending}.*.{ending}")]
    targets = {path.with_name(path.name[1:].rsplit(".", 2)[0]) for path in hidden}
    for file in (folder / "manifest.json", *targets):
        for half in half_written(file):
            with suppress(OSError):  # it can stay: nothing reads it
                half.unlink(missing_ok=True)


def is_computed(root: Path, run_id: str) -> bool:
    """Whether some process computes a run right now; in a folder that cannot be written none does."""
    file = root / LOCKS / f"{run_id}.lock"
    if not file.is_file():
        return False
    try:
        with FileLock(file, thread_local=False).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
