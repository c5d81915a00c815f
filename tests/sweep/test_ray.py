"""Sweeps on a local Ray (make test-ray): the other launchers' tables, killed workers, nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd
import psutil
import pytest

from conftest import needs_ray, only
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.machine import threads
from tinylab.sweep.attempts import FILE
from tinylab.sweep.plan import make_plan
from typed import SHORT, snapshot

pytestmark = [pytest.mark.ray, needs_ray]

CONDITIONS: Final = ("cond_a", "cond_b", "facts", "logic")
SWEEP: Final = ("-m", f"condition={','.join(CONDITIONS)}", "device=cpu", "threads=1", *SHORT)
RAY: Final = "hydra/launcher=ray"
PATIENCE: Final = 180
"""Seconds after which a command is given up."""


class Command:
    """A command line in a process of its own, whose every descendant is remembered."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir(exist_ok=True)
        environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "disabled", "OMP_WAIT_POLICY": "PASSIVE"}
        environment.pop("HYDRA_FULL_ERROR", None)
        command = [sys.executable, "-m", "tinylab", *args]
        with (folder / "output").open("w") as output:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        self.descendants: set[psutil.Process] = set()
        self.rays: set[str] = set()  # folders that Ray was given, by its processes' command lines
        self.killed: list[int] = []

    def running(self) -> bool:
        """Whether it still runs; looks at its descendants, too, and gives it up after a while."""
        me = psutil.Process(self.process.pid)
        try:
            for child in me.children(recursive=True):
                self.descendants.add(child)
                self.rays.update(re.findall(r"(/[^\s=]*/tinylab-ray-\w+)", " ".join(child.cmdline())))
            assert time.time() - me.create_time() < PATIENCE, self.said()
        except psutil.NoSuchProcess:
            pass
        return self.process.poll() is None

    def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        while self.running():
            time.sleep(0.05)
        return self.process.returncode

    def kill_worker_of(self, condition: str) -> int:
        """Kill the process that runs a condition's job, as soon as there is one that was not killed yet; returns its id."""
        while self.running():
            for file in self.folder.glob(f"outputs/sweeps/*/h1_{condition}_*/{FILE}"):
                pid = self._newest(file)
                if pid is not None and pid not in self.killed:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)
                    return pid
            time.sleep(0.02)
        raise AssertionError(f"no process ran {condition}:\n{self.said()}")

    @staticmethod
    def _newest(file: Path) -> int | None:
        try:
            return int(json.loads(file.read_text().splitlines()[-1])["pid"])
        except (OSError, ValueError, IndexError):  # just being written or removed
            return None

    def said(self) -> str:
        """What it printed."""
        return (self.folder / "output").read_text()

    def left(self) -> list[str]:
        """Descendants that live on: Ray's last ones have a few seconds."""
        assert self.descendants
        _, alive = psutil.wait_procs(self.descendants, timeout=10)
        return [" ".join(process.cmdline()) for process in alive if process.is_running()]


def swept(folder: Path, *more: str) -> tuple[int, Path, Command]:
    """Type the sweep in a folder; returns the exit code, the sweep's folder and the command."""
    command = Command(folder, *SWEEP, *more)
    code = command.ended()
    return code, only(folder, "outputs/sweeps/*"), command


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def results(sweep: Path) -> dict[str, tuple[int, str]]:
    """Modification time and digest of every file that a sweep's runs hold, but their logs."""
    return {path: facts for path, facts in snapshot(sweep).items() if path.startswith("h1_") and not path.endswith(".log")}


def told(*overrides: str) -> dict[str, str]:
    """What the plan of a sweep tells Ray."""
    args = flags_parser().parse_args(["-m", "condition=cond_a,cond_b", "device=cpu", RAY, *overrides])
    with Composer(args) as composer:
        lines = make_plan(composer, args.overrides, args.multirun).launcher
    return dict(line.removeprefix("++hydra.launcher.ray.").split("=") for line in lines)


@pytest.mark.parametrize(
    ("overrides", "jobs", "cpus"),
    [([], 2, 4), (["threads=3"], 2, 3), (["threads=1"], 8, 1), (["threads=16"], 1, 16)],
)
def test_ray_has_the_cpus_that_the_jobs_at_once_need(
    overrides: list[str], jobs: int, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    assert told(*overrides) == {"init.num_cpus": str(jobs * cpus), "remote.num_cpus": str(cpus), "remote.num_gpus": "0"}


def test_what_ray_is_told_by_the_user_stays() -> None:
    assert "init.num_cpus" not in told("hydra.launcher.ray.init.num_cpus=1")
    assert told("hydra.launcher.ray.init.address=elsewhere:6379") == {}


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, Command]]:
    """Four conditions swept on a local Ray."""
    yield swept(tmp_path_factory.mktemp("ray"), RAY)


def test_four_conditions_are_swept(on_ray: tuple[int, Path, Command]) -> None:
    code, sweep, command = on_ray
    assert code == 0, command.said()
    manifest = read(sweep / "manifest.json")
    assert (manifest["status"], manifest["failures"], len(manifest["runs"])) == ("complete", [], 4)
    assert set(pd.read_parquet(sweep / "artifacts/cross_condition/head_matrix.parquet")["condition"]) == set(CONDITIONS)
    assert not list(sweep.glob(f"*/{FILE}"))


def test_it_leaves_no_process_no_temporary_folder_and_nothing_at_home(on_ray: tuple[int, Path, Command]) -> None:
    _, _, command = on_ray
    assert command.left() == []
    assert len(command.rays) == 1 and not Path(*command.rays).exists()
    assert list((command.folder / "home").iterdir()) == []


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_the_tables_are_those_of_another_launcher_bit_for_bit(
    launcher: str, on_ray: tuple[int, Path, Command], tmp_path: Path
) -> None:
    code, other, command = swept(tmp_path, f"hydra/launcher={launcher}")
    assert code == 0, command.said()
    _, sweep, _ = on_ray
    tables = sorted(path.relative_to(sweep) for path in sweep.rglob("*.parquet"))
    assert len(tables) == 4 * len(CONDITIONS) + 1
    for table in tables:
        assert (other / table).read_bytes() == (sweep / table).read_bytes(), table


def test_a_job_whose_worker_is_killed_is_run_again(tmp_path: Path) -> None:
    command = Command(tmp_path, *SWEEP, RAY)
    command.kill_worker_of("cond_b")
    assert command.ended() == 0, command.said()
    assert read(only(tmp_path, "outputs/sweeps/*") / "manifest.json")["status"] == "complete"
    assert command.left() == []


def test_a_job_whose_workers_are_all_killed_is_missing_and_the_same_command_runs_it_alone(tmp_path: Path) -> None:
    command = Command(tmp_path, *SWEEP, RAY)
    killed = [command.kill_worker_of("cond_b"), command.kill_worker_of("cond_b")]
    assert command.ended() == 3, command.said()
    assert command.left() == []
    sweep = only(tmp_path, "outputs/sweeps/*")
    manifest = read(sweep / "manifest.json")
    assert [failure["condition"] for failure in manifest["failures"]] == ["cond_b"]
    error = manifest["failures"][0]["error"]
    assert error["type"] == "WorkerDied" and all(str(pid) in error["message"] for pid in killed)
    matrix = pd.read_parquet(sweep / "artifacts/cross_condition/head_matrix.parquet")
    assert set(matrix["condition"]) == set(CONDITIONS) - {"cond_b"}

    before = {path: facts for path, facts in results(sweep).items() if not path.startswith("h1_cond_b")}
    code, _, again = swept(tmp_path, RAY)
    assert code == 0, again.said()
    assert read(sweep / "manifest.json")["status"] == "complete"
    assert {path: facts for path, facts in results(sweep).items() if path in before} == before
    logs = "".join(log.read_text(encoding="utf-8") for log in sweep.glob("*/run.log"))
    assert logs.count("is already complete, reusing") == 3
    assert again.left() == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_takes_its_ray_along_and_is_joined(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    command = Command(tmp_path, *SWEEP, RAY)
    while command.running() and not list(tmp_path.glob(f"outputs/sweeps/*/*/{FILE}")):
        time.sleep(0.02)
    command.process.send_signal(sent)
    assert command.ended() == code, command.said()
    assert command.left() == []
    assert read(only(tmp_path, "outputs/sweeps/*") / "manifest.json")["status"] in {"failed", "partial"}
