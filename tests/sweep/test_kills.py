"""SIGKILL at twenty random moments: the same command then ends well, with the tables of an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tinylab.results import load_run, load_sweep

pytestmark = pytest.mark.faults
KILLS = 20
LONGEST = 120
"""Seconds that a command may take."""
SLOW = ("engine=reference", "battery.scales=[0.0,0.5]", "condition.n_examples=16", "plots=false", "threads=1")
"""Long enough for a checkpoint or two."""
COMMANDS = {"run": ("condition=facts", *SLOW), "sweep": ("-m", "condition=facts,negation", *SLOW)}


@dataclass(frozen=True)
class Whole:
    """An undisturbed command: how long it took, how often files changed while it ran, and its tables."""

    seconds: float
    changes: int
    tables: dict[str, list[bytes]]


def command(folder: Path, what: str) -> None:
    """The command line in a process of its own, which is a fork of one that has imported torch: that saves half of the time."""
    from tinylab.app import main

    os.setsid()
    os.chdir(folder)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.exit(main(COMMANDS[what]))


def start(folder: Path, what: str) -> BaseProcess:
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.gpt2.modeling_gpt2", "pandas", "pyarrow.parquet", "hydra"])
    process = context.Process(target=command, args=(folder, what))
    process.start()
    return process


def watch(folder: Path, process: BaseProcess, enough: Callable[[int, float], bool]) -> tuple[int, float]:
    """Wait until there were enough changes of files or seconds, or the process has ended; returns how many there were."""
    began, changes, before = time.monotonic(), 0, state(folder)
    while process.is_alive() and not enough(changes, time.monotonic() - began):
        assert time.monotonic() - began < LONGEST
        now = state(folder)
        changes, before = changes + (now != before), now
        time.sleep(0.001)
    return changes, time.monotonic() - began


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's size and time; what is renamed or removed while we look is not there."""
    found = {}
    for path, _, names in os.walk(folder / "outputs"):
        for name in names:
            try:
                stat = os.stat(f"{path}/{name}")
            except FileNotFoundError:
                continue
            found[f"{path}/{name}"] = (stat.st_size, stat.st_mtime_ns)
    return found


def tables(folder: Path, what: str) -> dict[str, list[bytes]]:
    """The tables of each run, which has to be complete, as their columns' own bytes."""
    if what == "run":
        (path,) = (folder / "outputs/runs").iterdir()
        runs = [load_run(path)]
    else:
        (path,) = (folder / "outputs/sweeps").iterdir()
        runs = load_sweep(path).runs
    files = ("metrics/head_impact.parquet", "metrics/per_example.parquet")
    return {run.path.name: [repr(pq.read_table(run.path / file).to_pydict()).encode() for file in files] for run in runs}


@pytest.fixture(scope="module", params=COMMANDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Whole]:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, request.param)
    changes, seconds = watch(folder, process, lambda *_: False)
    assert process.exitcode == 0, (folder / "said").read_text()
    return request.param, Whole(seconds, changes, tables(folder, request.param))


def test_a_command_that_is_killed_at_any_moment_ends_well_when_it_is_typed_again(
    whole: tuple[str, Whole], tmp_path: Path
) -> None:
    """Half of the moments are counted in seconds, half in changes of files: so most fall where something is written."""
    what, undisturbed = whole
    drawn = random.Random(0)
    kills, trial = 0, 0
    folder = tmp_path / "0"
    folder.mkdir()
    while kills < KILLS:
        process = start(folder, what)
        if kills % 2:
            after = drawn.uniform(0.0, undisturbed.seconds)
            watch(folder, process, lambda _, seconds, after=after: seconds >= after)
        else:
            number = drawn.randint(1, undisturbed.changes)
            watch(folder, process, lambda changes, _, number=number: changes >= number)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        else:  # it went on from what the killed ones had left, to its end
            assert process.exitcode == 0, (folder / "said").read_text()
            assert tables(folder, what) == undisturbed.tables
            trial += 1
            folder = tmp_path / str(trial)
            folder.mkdir()
    process = start(folder, what)
    process.join(LONGEST)
    assert process.exitcode == 0, (folder / "said").read_text()
    assert tables(folder, what) == undisturbed.tables
    left = [path for path in folder.rglob(".*") if path.is_file() and path.parent.name != ".hydra"]
    assert not left, left
