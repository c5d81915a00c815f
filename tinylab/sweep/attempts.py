"""Workers that die: how often a job is started in one command, and going on where a pool of workers broke.

A worker that is killed cannot say so itself.

Launchers start a job again whose worker died. One that dies each time, for want of memory for example, would take its
launcher with it, or be started for ever. So every start leaves a line in the run's folder, every end removes the file,
and a job that finds too many lines of its own command fails, like any other.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from tinylab.errors import WorkerDied
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import write_text

ATTEMPTS = 2
"""Starts of a job in one command."""
COMMAND = "TINYLAB_COMMAND"
"""The environment variable in which workers inherit which command they work for."""
FILE = RunFolder(Path()).attempts.name
ONE_AT_A_TIME = ("hydra.launcher.pre_dispatch=1",)
"""Makes joblib hand out a job when the one before has ended. With n_jobs=1 jobs would run in the parent, and kill it too."""
log = logging.getLogger(__name__)


def launch_with_retries(launch: Callable[..., object], sweep_folder: Path) -> Exception | None:
    """Launch a sweep's jobs; where a pool of workers breaks, those that are not finished are launched again.

    joblib ends all workers of a pool when one dies, the innocent ones too. So after that jobs go one at a time.

    Args:
        launch: launches all jobs, and takes more overrides; finished runs are reused.
        sweep_folder: of the sweep.

    Returns:
        What the launcher died of, None if it did not.
    """
    before: dict[str, int] = _traces(sweep_folder)
    more: tuple[str, ...] = ()
    in_vain = 0
    while True:
        try:
            launch(*more)
        except Exception as error:  # of any launcher: what its jobs have done is on disk
            after = _traces(sweep_folder)
            in_vain = in_vain + 1 if after == before else 0  # a worker may be killed before its job begins
            if not _pool_broke(error) or in_vain == ATTEMPTS:
                log.error("the launcher failed: %s", error)
                return error
            log.warning("a worker process was killed (out of memory?): running the unfinished jobs again, one at a time")
            before, more = after, ONE_AT_A_TIME
        else:
            return None


def _pool_broke(error: Exception) -> bool:
    return any(cls.__name__ == "BrokenProcessPool" for cls in type(error).__mro__)


def _traces(sweep_folder: Path) -> dict[str, int]:
    """What jobs have left behind so far: when each file that tells of one was last written."""
    files = [*sweep_folder.glob(f"*/{FILE}"), *sweep_folder.glob("*/manifest.json")]
    return {str(file): file.stat().st_mtime_ns for file in files if file.is_file()}


def begin_command() -> None:
    """Name this command, for the workers that it is going to start."""
    os.environ[COMMAND] = uuid4().hex


def last_attempt(folder: Path) -> int | None:
    """The process that started a run last and did not come to its end, None if there is none."""
    entries = _entries(folder / FILE)
    return int(entries[-1]["pid"]) if entries else None


def _entries(file: Path) -> list[dict[str, Any]]:
    """The starts of a job that did not come to an end; what is no such line does not count."""
    found = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if os.path.isfile(file) else []
        for line in lines:
            entry = json.loads(line)
            found.append({"command": str(entry["command"]), "pid": int(entry["pid"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): it does not count", file, error)
    return found


@contextmanager
def attempt(folder: Path) -> Iterator[None]:
    """Run a job in this block: its start is noted in the run's folder, and forgotten when the block is left alive.

    Raises:
        WorkerDied: this command started the job `ATTEMPTS` times already.
    """
    file = folder / FILE
    command = os.environ.get(COMMAND, "")
    entries = _entries(file)
    died = [entry for entry in entries if entry["command"] == command]
    try:
        if len(died) >= ATTEMPTS:
            pids = " and ".join(str(entry["pid"]) for entry in died)
            raise WorkerDied(f"the processes {pids} that ran this job were killed (out of memory?), and one command starts a job "
                             f"{ATTEMPTS} times at most; give it more memory, or lower engine.max_states=…, and type it again.")
        entries.append({"command": command, "pid": os.getpid()})
        write_text(file, "".join(f"{json.dumps(entry)}\n" for entry in entries))
        yield
    finally:
        with suppress(OSError):  # of a folder that turned read-only, say: the job's own error is the one to tell
            file.unlink(missing_ok=True)
