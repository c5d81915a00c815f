"""Ctrl-C and SIGTERM: both interrupt, and no process that was started is left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
GRACE = 2.0
"""Seconds that a process has to end when it is asked to."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. Not SystemExit, which libraries catch and jobs would take for their own end."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What the command line ends with."""
    return EXIT_TERMINATED if isinstance(interrupt, Terminated) else EXIT_INTERRUPTED


@contextmanager
def terminable() -> Iterator[None]:
    """While open, SIGTERM interrupts as Ctrl-C does (in the main thread: no other can receive signals)."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_children() -> None:
    """End every process that this one has started, and theirs.

    joblib's resource tracker is left alone: it ends by itself behind its parent, when it has removed what workers left.
    """
    children = [child for child in psutil.Process().children(recursive=True) if not _tracks_resources(child)]
    for child in children:
        _tell(child, signal.SIGTERM)
    _, alive = psutil.wait_procs(children, timeout=GRACE)
    for child in alive:
        _tell(child, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=GRACE)


def _tracks_resources(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def _tell(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # it ended by itself
