"""How often a job is started: killed processes leave a line, living ones do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinylab.errors import WorkerDied
from tinylab.sweep.attempts import COMMAND, FILE, ONE_AT_A_TIME, attempt, launch_with_retries

DIE = """
import os, signal, sys
from pathlib import Path
from tinylab.sweep.attempts import attempt
with attempt(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path) -> int:
    """A process that is killed in its attempt; returns its id."""
    process = subprocess.Popen([sys.executable, "-c", DIE, str(folder)])
    assert process.wait() == -9
    return process.pid


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND, "this")


def test_a_job_that_was_killed_once_is_run_again_and_forgets_it(tmp_path: Path) -> None:
    killed(tmp_path)
    with attempt(tmp_path):
        assert len((tmp_path / FILE).read_text().splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_was_killed_twice_fails_and_may_be_tried_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = [killed(tmp_path), killed(tmp_path)]
    with pytest.raises(WorkerDied, match=f"{pids[0]} and {pids[1]}"), attempt(tmp_path):
        pytest.fail("it was started")
    killed(tmp_path)
    killed(tmp_path)
    monkeypatch.setenv(COMMAND, "the next")
    with attempt(tmp_path):
        pass


def test_a_job_that_fails_by_itself_was_not_killed(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match="its own"), attempt(tmp_path):
            raise ValueError("its own")
    assert list(tmp_path.iterdir()) == []


class BrokenProcessPool(Exception):
    """As joblib's is called."""


@pytest.mark.parametrize(("breaks", "ends_well"), [(0, True), (1, True), (2, False)])
def test_a_pool_that_breaks_before_any_job_began_is_started_once_more(breaks: int, ends_well: bool, tmp_path: Path) -> None:
    launches: list[tuple[str, ...]] = []

    def launch(*more: str) -> None:
        launches.append(more)
        if len(launches) <= breaks:
            raise BrokenProcessPool("a worker was killed")

    error = launch_with_retries(launch, tmp_path)
    assert (error is None) == ends_well
    assert launches == [(), ONE_AT_A_TIME, ONE_AT_A_TIME][: min(breaks, 1) + 1]


def test_any_other_end_of_a_launcher_is_its_end(tmp_path: Path) -> None:
    def launch(*_: str) -> None:
        raise ValueError("not a pool")

    assert isinstance(launch_with_retries(launch, tmp_path), ValueError)
