"""A worker does not outlive the command that it works for.

A command that ends, even by Ctrl-C, ends its workers. One that is killed cannot; so its workers watch over it.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache

import psutil

COMMANDS_PROCESS = "TINYLAB_PARENT"
"""The environment variable in which workers inherit whose descendants they are."""
POLL_SECONDS = 1.0
EXIT_ORPHAN = 129
"""As of a process whose terminal was closed."""


def name_parent(workers_are_children: bool) -> None:
    """Tell the workers that this process is going to start that they end with it, if they are its descendants at all."""
    if workers_are_children:
        os.environ[COMMANDS_PROCESS] = str(os.getpid())
    else:
        os.environ.pop(COMMANDS_PROCESS, None)


@cache
def end_with_parent() -> None:
    """In a worker: end this process within seconds when the command's process is gone, however that ended."""
    pid = int(os.environ.get(COMMANDS_PROCESS, os.getpid()))
    if pid != os.getpid():
        threading.Thread(target=_watch, args=(pid,), name="end_with_parent", daemon=True).start()


def _watch(pid: int) -> None:
    while _descends_from(pid):
        time.sleep(POLL_SECONDS)
    os._exit(EXIT_ORPHAN)  # what is half written stays, as when it is killed: the next command goes on from there


def _descends_from(pid: int) -> bool:
    """Whether a process is an ancestor of this one; one that is gone, or waits to be reaped, has no children any more."""
    try:
        return pid in [ancestor.pid for ancestor in psutil.Process().parents()]
    except psutil.NoSuchProcess:  # an ancestor ended just now: ask again
        return True
    except psutil.AccessDenied:  # /proc hides those of others
        return psutil.pid_exists(pid)
