"""What happens to a sweep whose workers, parent or disk fail: nothing finished is lost, nothing is silent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import only
from tinylab.results import load_sweep
from typed import snapshot

pytestmark = pytest.mark.faults
CONDITIONS = ("facts", "negation", "logic", "ioi")
SWEEP = ("-m", f"condition={','.join(CONDITIONS)}", "condition.n_examples=12", "plots=false", "report=false", "threads=1")
SLOW = ("engine=reference", "battery.scales=[0.0,0.5]", "condition.n_examples=24")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
LONGEST = 300
"""Seconds that anything here may take."""


def until(happened: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait for something to happen, and return it."""
    end = time.monotonic() + LONGEST
    while not (found := happened()):
        assert time.monotonic() < end, "it never happened"
        assert process is None or process.poll() is None, "the process ended before"
        time.sleep(0.01)
    return found


@contextmanager
def started(
    folder: Path, *overrides: str, environment: dict[str, str] | None = None, group: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command that is running, in a process group of its own and maybe a control group, with Ctrl-C as in a terminal."""
    code = ("import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # whoever runs the tests may have it ignored, as nohup does
            "from tinylab.app import main; sys.exit(main())")
    if group is not None:
        code = f"import os; open({str(group)!r}, 'w').write(str(os.getpid())); {code}"
    environment = {**(environment or os.environ), "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("HYDRA_FULL_ERROR", None)
    with (folder / "said").open("w") as said, subprocess.Popen(
        [sys.executable, "-c", code, *overrides], cwd=folder, env=environment, stdout=said, stderr=said, text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def typed(folder: Path, *overrides: str) -> tuple[int, str]:
    """Run a command to its end: exit code, and what it said."""
    with started(folder, *overrides) as process:
        code = process.wait(LONGEST)
    return code, (folder / "said").read_text()


def sweep_of(folder: Path) -> Path:
    return only(folder, "outputs/sweeps/*")


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return content


def running(folder: Path, condition: str) -> int | None:
    """The process that computes a job right now."""
    for file in folder.glob(f"outputs/sweeps/*/h1_{condition}_*/.attempts"):
        try:
            return int(json.loads(file.read_text().splitlines()[-1])["pid"])
        except (OSError, IndexError, ValueError):  # it is just being written or removed
            return None
    return None


def computed(folder: Path) -> int:
    """How often a run was computed, as the logs of all runs say."""
    return sum(file.read_text().count("forward passes") for file in folder.glob("outputs/sweeps/*/h1_*/run.log"))


def failed(folder: Path) -> dict[str, str]:
    return {failure["condition"]: failure["error"]["type"] for failure in manifest(sweep_of(folder))["failures"]}


@contextmanager
def killing(folder: Path, condition: str, times: int) -> Iterator[list[int]]:
    """While open, processes that run a job are killed, so many of them."""
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while len(killed) < times and not done.is_set():
            pid = running(folder, condition)
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


def tables(folder: Path) -> dict[str, Any]:
    return {run.manifest["condition"]: pq.read_table(run.path / "metrics/head_impact.parquet")
            for run in load_sweep(sweep_of(folder)).runs}


def finished_work(folder: Path) -> dict[str, tuple[int, str]]:
    """The files of a sweep's complete runs, with time and content; logs go on."""
    runs = [file.parent for file in folder.glob("outputs/sweeps/*/*/manifest.json")]
    complete = [run for run in runs if manifest(run)["status"] == "complete"]
    return {f"{run.name}/{name}": state for run in complete for name, state in snapshot(run).items() if name != "run.log"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tables of a sweep to which nothing happens."""
    folder = tmp_path_factory.mktemp("expected")
    code, said = typed(folder, *SWEEP)
    assert code == 0, said
    return tables(folder)


# --- failure ---


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path: Path, expected: dict[str, Any]) -> None:
    with killing(tmp_path, "negation", 1) as killed:
        code, said = typed(tmp_path, *SWEEP, *JOBLIB)
    assert len(killed) == 1
    assert code == 0, said
    assert "a worker process was killed" in said
    assert all(table.equals(expected[condition]) for condition, table in tables(tmp_path).items())
    assert set(tables(tmp_path)) == set(CONDITIONS)


def test_a_job_that_kills_its_workers_is_named_and_the_others_finish(tmp_path: Path, expected: dict[str, Any]) -> None:
    with killing(tmp_path, "negation", 2) as killed:
        code, said = typed(tmp_path, *SWEEP, *JOBLIB)
    assert len(killed) == 2
    assert (code, failed(tmp_path)) == (3, {"negation": "WorkerDied"}), said
    message = manifest(sweep_of(tmp_path))["failures"][0]["error"]["message"]
    assert all(str(pid) in message for pid in killed)
    assert "withheld" in json.loads((sweep_of(tmp_path) / "artifacts/cross_condition/invariants.json").read_text())
    before = finished_work(tmp_path)
    code, said = typed(tmp_path, *SWEEP, *JOBLIB)
    assert code == 0, said
    after = finished_work(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(table.equals(expected[condition]) for condition, table in tables(tmp_path).items())


def test_the_basic_launcher_dies_with_its_job_and_the_next_command_recovers(tmp_path: Path, expected: dict[str, Any]) -> None:
    with killing(tmp_path, "negation", 1):
        code, _ = typed(tmp_path, *SWEEP)
    assert code == -signal.SIGKILL
    assert manifest(sweep_of(tmp_path))["status"] == "running"
    lock = tmp_path / f"outputs/.locks/{only(tmp_path, 'outputs/sweeps/*/h1_negation_*').name[-12:]}.lock"
    assert lock.is_file(), "a stale lock"
    before = finished_work(tmp_path)
    command = [sys.executable, "-m", "tinylab.aggregate", str(sweep_of(tmp_path))]
    aggregated = subprocess.run(command, capture_output=True, check=False)
    assert (aggregated.returncode, failed(tmp_path)) == (3, {"negation": "Interrupted", "logic": "NotRun", "ioi": "NotRun"})
    code, said = typed(tmp_path, *SWEEP)
    assert code == 0, said
    assert "waiting for it" not in said, "the lock of a process that was killed is open"
    after = finished_work(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(table.equals(expected[condition]) for condition, table in tables(tmp_path).items())


# --- resume, extend, share ---


def test_a_longer_sweep_reuses_the_runs_of_earlier_ones_where_they_lie(tmp_path: Path, expected: dict[str, Any]) -> None:
    assert typed(tmp_path, SWEEP[0], "condition=facts,negation", *SWEEP[2:])[0] == 0
    first = sweep_of(tmp_path)
    before = snapshot(first)
    code, said = typed(tmp_path, *SWEEP, "sweep_name=longer")
    assert code == 0, said
    assert computed(tmp_path) == len(CONDITIONS), "only what is missing is computed"
    assert snapshot(first) == before
    longer = only(tmp_path, "outputs/sweeps/longer_*")
    places = {job["condition"]: job["folder"] for job in manifest(longer)["jobs"]}
    assert {condition for condition, place in places.items() if place.startswith("..")} == {"facts", "negation"}
    found = load_sweep(longer)
    assert {run.manifest["condition"] for run in found.runs} == set(CONDITIONS)
    for run in found.runs:
        assert pq.read_table(run.path / "metrics/head_impact.parquet").equals(expected[run.manifest["condition"]])


@pytest.mark.parametrize("second", ["sweep_name=sweep", "sweep_name=other"], ids=["the same sweep", "another sweep"])
def test_two_commands_at_once_compute_each_run_once(second: str, tmp_path: Path, expected: dict[str, Any]) -> None:
    (tmp_path / "outputs").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    sweep = (*SWEEP, f"output_dir={tmp_path / 'outputs'}")
    with started(tmp_path / "one", *sweep) as one, started(tmp_path / "two", *sweep, second) as two:
        assert (one.wait(LONGEST), two.wait(LONGEST)) == (0, 0)
    assert computed(tmp_path) == len(CONDITIONS)
    for sweep_folder in tmp_path.glob("outputs/sweeps/*"):
        assert manifest(sweep_folder)["status"] == "complete"
        for run in load_sweep(sweep_folder).runs:
            assert pq.read_table(run.path / "metrics/head_impact.parquet").equals(expected[run.manifest["condition"]])


# --- disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
