"""Interruptions: what must be done is done, no child stays, and the exit code is the interruption's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from conftest import Command, only
from tinylab import app
from tinylab.errors import OutputError
from tinylab.machine.interrupts import HungUp, Terminated, terminable, uninterrupted
from tinylab.records.storage import read_json
from tinylab.sweep import aggregate, attempts
from typed import SHORT


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """A shell that starts something in the background has it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.mark.parametrize(("number", "error"), [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, HungUp),
])
def test_an_interruption_waits_until_what_must_be_done_is_done(number: int, error: type[KeyboardInterrupt]) -> None:
    done = []
    with pytest.raises(error), terminable():
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("all")
        done.append("and more")
    assert done == ["all"]


def test_without_an_interruption_nothing_is_raised_and_the_handlers_are_those_of_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_who_has_ctrl_c_ignored_has_it_ignored_still() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with terminable():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_who_has_a_closed_terminal_ignored_as_nohup_does_goes_on() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with terminable(), uninterrupted():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_in_a_thread_that_no_signal_reaches_there_is_nothing_to_wait_for() -> None:
    def run() -> None:
        with uninterrupted():
            ran.append(True)

    ran: list[bool] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [True]


STUBBORN = """
import signal, subprocess, sys
from tinylab.machine.interrupts import end_children, terminable
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
                          "print('ready', flush=True); time.sleep(100)"], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
with terminable():
    try:
        print(child.pid, flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        end_children()
"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_child_that_does_not_listen_is_killed_and_at_once_by_a_second_interruption(times: int) -> None:
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{STUBBORN}"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        for _ in range(times):
            assert child.is_running()
            os.kill(parent.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                parent.wait(0.5)
        parent.wait(20)
    assert (parent.returncode == 0) == (times == 1)
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not alive


@pytest.mark.parametrize(("interruption", "code"), [(KeyboardInterrupt, 130), (Terminated, 143), (HungUp, 129)])
@pytest.mark.parametrize("full", [False, True], ids=["runs are missing", "and the disk is full"])
def test_an_interruption_goes_before_every_other_exit_code(
    full: bool, interruption: type[KeyboardInterrupt], code: int, tinylab: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise interruption

    def broken(*_: object) -> None:
        raise OutputError("no room")

    monkeypatch.setattr(attempts, "launch_with_retries", interrupted)
    monkeypatch.setattr(app, "end_children", lambda: None)
    if full:
        monkeypatch.setattr(aggregate, "aggregate", broken)
    assert tinylab("-m", "condition=cond_a,cond_b", *SHORT) == code
    status = read_json(only(tmp_path, "outputs/sweeps/*") / "manifest.json")["status"]
    assert status == ("running" if full else "failed")
