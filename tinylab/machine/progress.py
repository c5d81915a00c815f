"""How far a command is: one bar on a terminal. In a sweep it counts jobs, in whatever processes they run."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

POLL_SECONDS = 0.5
LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs, {elapsed} so far, {remaining} left{postfix}"
ERASE = "\r\x1b[K"
"""What a terminal takes for the line where its cursor is being empty again."""
AT_THE_END = "at_the_end"
"""Attribute of what is logged in a job and printed when its sweep ends: the screen gets it once."""
_of_a_sweep: list[bool] = []


def no_bar() -> bool | None:
    """Whether a run shows no bar of its own, as tqdm's `disable` has it: True in a sweep, None for none but on a terminal."""
    return True if _of_a_sweep else None


def one_of_many(*, verbose: bool) -> None:
    """In a job of a sweep: what it logs goes to its own run.log, errors alone to the screen, and it has no bar.

    Args:
        verbose: everything goes to the screen too, as `hydra.verbose=true` asks.
    """
    if not _of_a_sweep:
        _of_a_sweep.append(True)
    for handler in _of_the_screen():
        if not verbose:
            handler.setLevel(logging.ERROR)
            handler.addFilter(_is_for_now)


def _is_for_now(record: logging.LogRecord) -> bool:
    return not getattr(record, AT_THE_END, False)


def log_over_bar() -> None:
    """What this process logs to a terminal takes the place of the bar, whichever process draws it; it is drawn again below."""
    for handler in _of_the_screen():
        if handler.stream.isatty() and not isinstance(handler.formatter, _Erasing):
            handler.setFormatter(_Erasing(handler.formatter))


class _Erasing(logging.Formatter):
    """Another formatter's lines, the first of them in place of what is on the terminal's line."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return f"{ERASE}{self._inner.format(record)}"


def _of_the_screen() -> list[logging.StreamHandler[TextIO]]:
    return [handler for handler in logging.getLogger().handlers
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)]


@contextmanager
def jobs_bar(title: str, manifests: Sequence[Path], ended: Callable[[Path], str | None]) -> Iterator[None]:
    """While open, a bar over the jobs of a sweep and the time that they will take, as the disk has it.

    Args:
        title: of the sweep.
        manifests: each job's own, whether or not it is there.
        ended: how a manifest that is there says that its job has ended; None if it has not.
    """
    if not sys.stderr.isatty():
        yield
        return
    with tqdm(total=len(manifests), desc=title, bar_format=LAYOUT, dynamic_ncols=True) as bar:
        seen: dict[Path, int] = {}
        over: dict[Path, str] = {}

        def count() -> int:
            for file in manifests:
                if file not in over and (written := _written(file)) is not None and seen.get(file) != written:
                    seen[file] = written
                    if (how := ended(file)) is not None:
                        over[file] = how
            return len(over)

        def look() -> None:
            log_over_bar()  # Hydra sets up logging again, between jobs too
            bar.n = count()
            if failed := [*over.values()].count("failed"):
                bar.set_postfix_str(f"{failed} failed", refresh=False)
            bar.refresh()

        bar.initial = count()  # reused runs say nothing about how long the others take
        look()
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(POLL_SECONDS):
                look()

        watcher = threading.Thread(target=watch, name="jobs", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            look()


def _written(file: Path) -> int | None:
    """When a file was last written, None if it is not there."""
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return None
