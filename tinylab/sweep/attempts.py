"""How often a job is started in one command: a worker that is killed cannot say so itself.

Launchers start a job again whose worker died. One that dies each time, for want of memory for example, would take its
launcher with it, or be started for ever. So every start leaves a line in the run's folder, every end removes the file,
and a job that finds too many lines of its own command fails, like any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tinylab.errors import WorkerDied

ATTEMPTS = 2
"""Starts of a job in one command."""
COMMAND = "TINYLAB_COMMAND"
"""The environment variable in which workers inherit which command they work for."""
FILE = ".attempts"


def begin_command() -> None:
    """Name this command, for the workers that it is going to start."""
    os.environ[COMMAND] = uuid4().hex


@contextmanager
def attempt(folder: Path) -> Iterator[None]:
    """Run a job in this block: its start is noted in the run's folder, and forgotten when the block is left alive.

    Raises:
        WorkerDied: this command started the job `ATTEMPTS` times already.
    """
    file = folder / FILE
    command = os.environ.get(COMMAND, "")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    died = [entry for entry in map(json.loads, lines) if entry["command"] == command]
    try:
        if len(died) >= ATTEMPTS:
            pids = " and ".join(str(entry["pid"]) for entry in died)
            raise WorkerDied(f"the processes {pids} that ran this job were killed (out of memory?), and one command starts a job "
                             f"{ATTEMPTS} times at most; give it more memory, or lower engine.max_states=…, and type it again.")
        entry = json.dumps({"command": command, "pid": os.getpid()})
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in [*lines, entry]), encoding="utf-8")
        yield
    finally:
        file.unlink(missing_ok=True)
