"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): all interrupt, and no process that was started is left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

EXIT_HUNG_UP = 129
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""Where there are terminals that hang up."""
GRACE = 2.0
"""Seconds that a process has to end when it is asked to."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. Not SystemExit, which libraries catch and jobs would take for their own end."""


class HungUp(Terminated):
    """SIGHUP: the terminal was closed."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What the command line ends with."""
    if isinstance(interrupt, HungUp):
        return EXIT_HUNG_UP
    return EXIT_TERMINATED if isinstance(interrupt, Terminated) else EXIT_INTERRUPTED


@contextmanager
def terminable() -> Iterator[None]:
    """While open, SIGTERM and SIGHUP interrupt as Ctrl-C does (in the main thread: no other can receive signals).

    Who interrupts twice does not want to wait: the second time, wherever it comes, every child is killed first.
    """
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            _tell_all(children(), signal.SIGKILL)
        raise HungUp if number == SIGHUP else Terminated if number == signal.SIGTERM else KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # otherwise somebody wants it ignored, as a shell does
        numbers.append(signal.SIGINT)
    if SIGHUP is not None and signal.getsignal(SIGHUP) == signal.SIG_DFL:  # otherwise too: nohup
        numbers.append(SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """While open, what interrupts waits: for what takes a moment and must be done. One that came takes effect at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM, SIGHUP) if number is not None]
    before = {number: signal.signal(number, lambda got, _frame: came.append(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def end(processes: Sequence[psutil.Process]) -> None:
    """End processes: those that do not in a while when they are asked to are killed."""
    _tell_all(processes, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    _tell_all(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=GRACE)


def end_children() -> None:
    """End every process that this one has started, and theirs."""
    end(children())


def children() -> list[psutil.Process]:
    """Every process that this one has started, and theirs, but for joblib's resource tracker.

    It ends by itself after its parent, when it has removed what workers left.
    """
    return [child for child in psutil.Process().children(recursive=True) if not _tracks_resources(child)]


def _tracks_resources(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def _tell_all(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            process.send_signal(number)
