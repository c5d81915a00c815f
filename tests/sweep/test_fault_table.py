"""Every fault under every launcher: the other runs finish, nothing is silent, the same command again makes it whole.

The fault table of docs/sweeps.md says what each of these shows. `make test-faults` runs them with the launchers that need
nothing, `make test-slurm` and `make test-ray` with theirs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from _pytest.mark import ParameterSet
from test_faults import CONDITIONS, JOBLIB, LONGEST, SLOW, SWEEP, expected, manifest, small_disk, started, tables, typed, until

from conftest import needs_ray, only
from slurm_cluster import Cluster
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json
from tinylab.results import load_sweep
from tinylab.sweep import slurm
from typed import snapshot

__all__ = ["expected", "small_disk"]  # fixtures
OVERRIDES = {
    "basic": (),
    "joblib": JOBLIB,
    "submitit_local": ("hydra/launcher=submitit_local",),
    "submitit_slurm": ("hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2"),
    "ray": ("hydra/launcher=ray",),
}
MARKS = {"submitit_slurm": [pytest.mark.slurm], "ray": [pytest.mark.ray, needs_ray]}
TWO = ("-m", "condition=facts,negation", *SWEEP[2:])
SENT = {
    "Ctrl-C": (os.killpg, signal.SIGINT, 130),
    "SIGINT": (os.kill, signal.SIGINT, 130),
    "SIGTERM": (os.kill, signal.SIGTERM, 143),
    "SIGHUP": (os.kill, signal.SIGHUP, 129),
}
"""What interrupts a sweep, to the whole group or the parent, and the exit code."""


def with_launchers(*names: str, **more: Any) -> pytest.MarkDecorator:
    """A test for each of these launchers, in the tier to which it belongs; `more` is a last parameter for each."""
    return pytest.mark.parametrize(("desk", *more), list(_parameters(names, more)), indirect=["desk"])


def _parameters(names: tuple[str, ...], more: dict[str, Any]) -> Iterator[ParameterSet]:
    rows = [()] if not more else [(value,) for value in next(iter(more.values()))]
    for name in names:
        for row in rows:
            yield pytest.param(name, *row, marks=MARKS.get(name, [pytest.mark.faults]))


@dataclass(frozen=True)
class Desk:
    """A folder in which commands are typed with a launcher."""

    launcher: str
    folder: Path
    environment: dict[str, str]
    cluster: Cluster | None

    def started(self, *overrides: str, **more: Any) -> Any:
        return started(self.folder, *overrides, *OVERRIDES[self.launcher], environment=self.environment, **more)

    def typed(self, *overrides: str, **more: Any) -> tuple[int, str]:
        with self.started(*overrides, **more) as process:
            code = process.wait(LONGEST)
        return code, self.said()

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def sweep(self, name: str = "sweep") -> Path:
        return only(self.folder, f"outputs/sweeps/{name}_*")

    def failures(self, name: str = "sweep") -> list[dict[str, Any]]:
        return cast(list[dict[str, Any]], manifest(self.sweep(name))["failures"])


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    cluster: Cluster | None = request.getfixturevalue("machine") if request.param == "submitit_slurm" else None
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"} if cluster is None else cluster.environment
    return Desk(request.param, tmp_path, environment, cluster)


def computing(folder: Path, condition: str = "negation", pattern: str = "outputs/sweeps/*") -> Path | None:
    """What a run has computed so far, if it has come so far."""
    return next(folder.glob(f"{pattern}/h1_{condition}_*/checkpoint.npz"), None)


def nothing_is_half_written(folder: Path, killed_later: bool = False) -> None:
    """Every file of a sweep's runs is whole, and no other is beside them, unless jobs lived on for a while."""
    hidden = [path for path in folder.rglob(".*.*") if path.is_file() and ".submitit" not in path.parts]
    assert killed_later or not hidden
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in folder.rglob("*.parquet"):
        pq.read_table(path)
    for path in folder.rglob("checkpoint.npz"):
        with np.load(path) as arrays:
            assert all(len(arrays[name].shape) >= 0 for name in arrays.files)


# --- a job fails ---


@with_launchers("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
def test_a_corrupt_corpus_and_a_job_that_raises_cost_their_own_jobs_only(desk: Desk) -> None:
    (desk.folder / "bad.jsonl").write_text("{no json\n", encoding="utf-8")
    own = desk.folder / "conf/condition/bad.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [jsonl, _self_]\npath: bad.jsonl\ntag: bad\n", encoding="utf-8")
    code, said = desk.typed("-m", "--config-dir", "conf", "condition=bad,facts", "battery.heads=[0],[98]", *SWEEP[2:])
    assert code == 3, said
    assert [(one["condition"], one["error"]["type"]) for one in desk.failures()] == [
        ("bad", "CorpusError"), ("bad", "CorpusError"), ("facts", "ConfigError")
    ]
    assert "out of range" in desk.failures()[-1]["error"]["message"]
    for one in desk.failures():
        assert one["error"]["message"] in (desk.sweep() / one["log"]).read_text()
    cross = desk.sweep() / "artifacts/cross_condition"
    assert read_json(cross / "summary.json")["failed"] == [
        {key: one[key] for key in ("condition", "error", "log")} for one in desk.failures()
    ]
    assert manifest(desk.sweep())["status"] == "partial"
    assert [run.manifest["condition"] for run in load_sweep(desk.sweep()).runs] == ["facts"]
    assert "invariants withheld: no complete run of bad" in said
    assert "bad" in read_json(cross / "invariants.json")["withheld"]


@contextmanager
def little_memory(mebibytes: int) -> Iterator[Path]:
    """A control group whose processes the kernel kills when together they take more than so much."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    base, limit = (first, "memory.limit_in_bytes") if first.is_dir() else (second, "memory.max")
    group = base / f"tinylab-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(mebibytes * 2**20))
    except OSError as reason:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group with a limit of memory can be made here: {reason}")
    try:
        yield group / "cgroup.procs"
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


HUNGRY = """
from dataclasses import dataclass
from typing import ClassVar

from tinylab.batteries.heads_zero import HeadsZero


@dataclass(kw_only=True)
class Hungry(HeadsZero):
    kind: ClassVar = "hungry"

    def cells(self, n_layers, n_heads):
        self.eaten = [bytearray(b"x" * 2**26) for _ in range(64)]
        return super().cells(n_layers, n_heads)
"""
"""A battery that takes four gigabytes before it has any cells."""


@with_launchers("basic", "joblib", "submitit_local", "ray")
def test_a_job_that_the_kernel_kills_for_want_of_memory_is_named(desk: Desk) -> None:
    (desk.folder / "hungry.py").write_text(HUNGRY, encoding="utf-8")
    desk.environment["PYTHONPATH"] = os.pathsep.join([str(desk.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = desk.folder / "conf/battery/hungry.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [h1, _self_]\nname: hungry\n_target_: hungry.Hungry\n", encoding="utf-8")
    with little_memory(3000 if desk.launcher == "ray" else 1300) as group:  # Ray's own processes take some
        code, said = desk.typed("-m", "--config-dir", "conf", "battery=h1,hungry", "condition=facts", *SWEEP[2:], group=group)
    if desk.launcher == "basic":
        assert code == -signal.SIGKILL
        command = [sys.executable, "-m", "tinylab.aggregate", str(desk.sweep())]
        code = subprocess.run(command, capture_output=True, check=False, env=desk.environment).returncode
    assert code == 3, said
    assert [(one["battery"], one["error"]["type"]) for one in desk.failures()] == [
        ("hungry", "WorkerDied" if desk.launcher in {"joblib", "ray"} else "Interrupted")
    ]
    assert "killed" in desk.failures()[0]["error"]["message"]
    assert [run.manifest["battery"]["name"] for run in load_sweep(desk.sweep()).runs] == ["h1"]


# --- interruption ---


@with_launchers("basic", "joblib", "submitit_local", sent=[*SENT])
def test_a_signal_ends_everything_and_what_is_complete_is_joined(desk: Desk, sent: str) -> None:
    interrupted(desk, sent)


@with_launchers("submitit_slurm", sent=["Ctrl-C", "SIGTERM"])
def test_a_signal_cancels_slurms_jobs_and_what_is_complete_is_joined(desk: Desk, sent: str) -> None:
    interrupted(desk, sent)
    cancelled(desk, "cut")


def cancelled(desk: Desk, name: str = "sweep") -> None:
    """SLURM's last job of a sweep, which waited or ran, is cancelled, and no other is left."""
    assert desk.cluster is not None
    ids, states = slurm.job_ids(desk.sweep(name)), desk.cluster.jobs
    until(lambda: states()[ids[-1]] == "CANCELLED" and {states()[job] for job in ids} <= {"CANCELLED", "COMPLETED"})


@with_launchers("ray", sent=["Ctrl-C"])
def test_ctrl_c_to_the_group_takes_ray_along_and_what_is_complete_is_joined(desk: Desk, sent: str) -> None:
    interrupted(desk, sent)


def interrupted(desk: Desk, sent: str) -> None:
    send, number, code = SENT[sent]
    assert typed(desk.folder, *SWEEP[:1], "condition=facts", *SWEEP[2:], *SLOW)[0] == 0  # is reused: one run is complete
    with desk.started(*SWEEP, *SLOW, "sweep_name=cut") as process:
        until(lambda: computing(desk.folder, pattern="outputs/sweeps/cut_*"), process)
        family = psutil.Process(process.pid).children(recursive=True)
        send(process.pid, number)
        assert process.wait(15) == code, desk.said()
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
    found = manifest(desk.sweep("cut"))
    assert found["status"] == "partial"
    missing = {one["condition"] for one in found["failures"]}
    assert "negation" in missing and "facts" not in missing
    assert "negation" in read_json(desk.sweep("cut") / "artifacts/cross_condition/invariants.json")["withheld"]
    nothing_is_half_written(desk.folder / "outputs", killed_later=desk.cluster is not None)
    assert computing(desk.folder, pattern="outputs/sweeps/cut_*")


@with_launchers("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_half_written(desk: Desk) -> None:
    with desk.started(*TWO, *SLOW) as process:
        until(lambda: computing(desk.folder), process)
        family = psutil.Process(process.pid).children(recursive=True)
        for child in family:
            if "LokyProcess" in " ".join(child.cmdline()):
                child.suspend()  # it cannot answer when it is asked to end, so the parent waits for it
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        second = time.monotonic()
        assert process.wait(15) in {130, -signal.SIGINT}, desk.said()  # in a shell both are 130
        took = time.monotonic() - second
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
    assert took < 5
    if desk.cluster is not None:
        cancelled(desk)
    nothing_is_half_written(desk.folder / "outputs", killed_later=desk.cluster is not None)
    code, said = desk.typed(*TWO, *SLOW)
    assert code == 0, said
    assert set(tables(desk.folder)) == {"facts", "negation"}
    nothing_is_half_written(desk.folder / "outputs")


# --- two commands, workers killed early ---


@with_launchers("joblib", "submitit_local", "submitit_slurm", "ray")
def test_two_commands_at_once_compute_each_run_once_with_a_launcher(desk: Desk, expected: dict[str, Any]) -> None:
    one, two = (replace(desk, folder=desk.folder / name) for name in ("one", "two"))
    for place in (desk.folder / "outputs", one.folder, two.folder):
        place.mkdir()
    sweep = (*SWEEP, f"output_dir={desk.folder / 'outputs'}")
    with one.started(*sweep) as first, two.started(*sweep, "sweep_name=other") as second:
        assert (first.wait(LONGEST), second.wait(LONGEST)) == (0, 0), one.said() + two.said()
    logs = [path.read_text() for path in desk.folder.glob("outputs/sweeps/*/h1_*/run.log")]
    assert sum(log.count("forward passes") for log in logs) == len(CONDITIONS)
    for folder in (desk.sweep(), desk.sweep("other")):
        assert manifest(folder)["status"] == "complete"
        found = {run.manifest["condition"]: pq.read_table(run.path / "metrics/head_impact.parquet")
                 for run in load_sweep(folder).runs}
        assert set(found) == set(expected)
        assert all(table.equals(expected[condition]) for condition, table in found.items())


@with_launchers("submitit_local", "submitit_slurm")
def test_an_interrupted_command_cancels_its_own_jobs_and_not_those_of_another_that_runs_the_same_sweep(desk: Desk) -> None:
    one, two = (replace(desk, folder=desk.folder / name) for name in ("one", "two"))
    for place in (desk.folder / "outputs", one.folder, two.folder):
        place.mkdir()
    sweep = (*TWO, *SLOW, "condition.n_examples=120", f"output_dir={desk.folder / 'outputs'}")
    with one.started(*sweep) as first:
        until(lambda: computing(desk.folder), first)
        with two.started(*sweep) as second:
            until(lambda: len(slurm.job_ids(desk.sweep())) == 4, second)
            assert computing(desk.folder)
            os.killpg(second.pid, signal.SIGINT)
            assert second.wait(15) == 130, two.said()
        assert first.wait(LONGEST) == 0, one.said()
    assert manifest(desk.sweep())["status"] == "complete"
    assert set(tables(desk.folder)) == {"facts", "negation"}


@with_launchers("joblib")
def test_a_worker_that_is_killed_before_its_job_begins_costs_nothing(desk: Desk) -> None:
    def worker() -> psutil.Process | None:
        children = psutil.Process(process.pid).children()
        return next((child for child in children if "LokyProcess" in " ".join(child.cmdline())), None)

    with desk.started(*TWO) as process:
        until(worker, process).kill()
        assert process.wait(LONGEST) == 0, desk.said()
    assert "a worker process was killed" in desk.said()
    assert set(tables(desk.folder)) == {"facts", "negation"}


# --- disk ---


@with_launchers("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
def test_a_full_disk_is_said_and_the_resume_works_once_there_is_room(
    desk: Desk, small_disk: Path, expected: dict[str, Any]
) -> None:
    output = f"output_dir={small_disk}"
    finished, before = one_finished(desk, small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 24_000))
    code, said = desk.typed(*SWEEP, output)
    assert code in {2, 3}, said
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert snapshot(finished) == before
    filler.unlink()
    whole(desk, small_disk, finished, before, expected)


def one_finished(desk: Desk, disk: Path) -> tuple[Path, dict[str, Any]]:
    """A finished run on a disk, and what is in its folder."""
    assert typed(desk.folder, SWEEP[0], "condition=facts", *SWEEP[2:], f"output_dir={disk}")[0] == 0
    finished = only(disk, "sweeps/*/h1_facts_*")
    return finished, snapshot(finished)


def whole(desk: Desk, disk: Path, finished: Path, before: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same command again makes the sweep complete, and leaves alone what was finished."""
    code, said = desk.typed(*SWEEP, f"output_dir={disk}")
    assert code == 0, said
    assert snapshot(finished) == before
    sweep = next(path for path in disk.glob("sweeps/*") if len(manifest(path)["jobs"]) == len(CONDITIONS))
    runs = load_sweep(sweep).runs
    assert {run.manifest["condition"] for run in runs} == set(CONDITIONS)
    for run in runs:
        assert pq.read_table(run.path / "metrics/head_impact.parquet").equals(expected[run.manifest["condition"]])


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """While open, nothing can be written in a folder, by root neither."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    locked = ["mount", "-o", "remount,bind,ro", str(folder)]  # which fails while a file is open for writing
    try:
        until(lambda: subprocess.run(locked, check=False, capture_output=True).returncode == 0)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@with_launchers("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
def test_a_folder_that_turns_read_only_in_the_middle_is_said_and_the_resume_works(
    desk: Desk, small_disk: Path, expected: dict[str, Any]
) -> None:
    output = f"output_dir={small_disk}"
    finished, before = one_finished(desk, small_disk)
    with desk.started(*TWO, *SLOW, output, "sweep_name=cut") as process:
        until(lambda: computing(small_disk, pattern="sweeps/cut_*"), process)
        with read_only(small_disk):
            assert process.wait(LONGEST) in {2, 3}, desk.said()
    assert "Read-only file system" in desk.said()
    assert "Traceback" not in desk.said()
    assert snapshot(finished) == before
    whole(desk, small_disk, finished, before, expected)


@with_launchers("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
def test_a_folder_that_is_read_only_from_the_start_is_one_sentence_before_anything_runs(desk: Desk, small_disk: Path) -> None:
    with read_only(small_disk):
        code, said = desk.typed(*SWEEP, f"output_dir={small_disk}")
    assert code == 2
    assert "cannot be written (Read-only file system); choose another folder with output_dir=" in said
    assert said.count("\n") == 1
    assert not list(small_disk.iterdir())


@with_launchers("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
def test_a_folder_that_vanishes_in_the_middle_is_said_and_the_same_again_makes_it_whole(desk: Desk) -> None:
    with desk.started(*TWO, *SLOW) as process:
        until(lambda: computing(desk.folder), process)
        desk.sweep().rename(desk.folder / "moved")
        code = process.wait(LONGEST)
    assert "was moved or removed while the sweep ran" in desk.said()
    assert "Traceback" not in desk.said()
    found = manifest(desk.sweep())
    there = {run.manifest["condition"] for run in load_sweep(desk.sweep()).runs}
    assert there == {"facts", "negation"} - {one["condition"] for one in found["failures"]}
    if desk.launcher == "basic":
        assert there == {"negation"}, "facts was finished, and is gone; negation goes on in a new folder"
        assert RunFolder(only(desk.folder, "moved/h1_facts_*")).finished() is not None
    assert (code, found["status"]) in {(0, "complete")} if len(there) == 2 else {(3, "partial"), (3, "failed")}
    code, said = desk.typed(*TWO, *SLOW)
    assert code == 0, said
    assert {run.manifest["condition"] for run in load_sweep(desk.sweep()).runs} == {"facts", "negation"}
