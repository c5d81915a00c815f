"""Workers end with the command that they work for, however it ended; real processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from conftest import only
from tinylab.machine.parent import COMMANDS_PROCESS, name_parent

COMMAND = """
import subprocess, sys, time
from tinylab.machine.parent import name_parent
name_parent(sys.argv[1] == "children")
worker = ("import time; from tinylab.machine.parent import end_with_parent; end_with_parent(); print('works', flush=True);"
          "time.sleep(60)")
between = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {worker!r}]).returncode)"
child = subprocess.Popen([sys.executable, "-c", {"child": worker, "grandchild": between}[sys.argv[2]]], stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def command(*words: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process and the workers that it has started."""
    with subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        try:
            yield parent, family
        finally:
            parent.kill()
            for process in family:
                if process.is_running():
                    process.kill()


@pytest.mark.parametrize("generation", ["child", "grandchild"])
def test_a_worker_ends_within_seconds_when_its_command_is_killed_and_not_before(generation: str) -> None:
    with command("children", generation) as (parent, family):
        time.sleep(1.5)
        assert family and all(process.is_running() for process in family)
        parent.kill()  # it is not reaped yet
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive


def test_workers_that_are_nobodys_children_live_on() -> None:
    with command("elsewhere", "child") as (parent, family):
        parent.kill()
        _, alive = psutil.wait_procs(family, timeout=2.5)
        assert alive == family


def test_each_command_says_anew_whether_its_workers_are_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMANDS_PROCESS, "1")
    name_parent(workers_are_children=True)
    assert os.environ[COMMANDS_PROCESS] == str(os.getpid())
    name_parent(workers_are_children=False)
    assert COMMANDS_PROCESS not in os.environ


SWEEP = ("-m", "condition=facts,negation", "condition.n_examples=24", "plots=false", "threads=1", "engine=reference",
         "battery.scales=[0.0,0.5]")


@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_the_jobs_of_a_sweep_end_with_it(launcher: str, number: signal.Signals, tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from tinylab.app import main; main({SWEEP!r} + "
    typed = [sys.executable, "-c", f"{code}('hydra/launcher={launcher}',))"]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(
        typed, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True
    ) as parent:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("outputs/sweeps/*/h1_*/checkpoint.npz")):
            assert parent.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        family = psutil.Process(parent.pid).children(recursive=True)
        os.kill(parent.pid, number)
        _, alive = psutil.wait_procs(family, timeout=8)
        assert family and not alive
    assert only(tmp_path, "outputs/sweeps/*").is_dir()
