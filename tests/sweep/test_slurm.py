"""Sweeps through submitit: on a real SLURM that this file starts (`make test-slurm`), and as local processes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from conftest import Command, only
from slurm_cluster import Cluster
from test_docs import commands
from tinylab.records.storage import read_json
from tinylab.sweep import slurm
from typed import snapshot

CONDITIONS = ("facts", "negation", "logic", "ioi")
SWEEP = ("-m", f"condition={','.join(CONDITIONS)}", "condition.n_examples=8", "plots=false")
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2")
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "submitit_slurm": SLURM,
}
slurm_only = pytest.mark.slurm
T = TypeVar("T")


def start(folder: Path, *args: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Type a command in a process of its own."""
    folder.mkdir(exist_ok=True)
    own = {**(environment or os.environ), "OMP_WAIT_POLICY": "PASSIVE"}
    own.pop("HYDRA_FULL_ERROR", None)
    with (folder / "said").open("w") as said:
        command = ["env", "--default-signal=INT", sys.executable, "-m", "tinylab", *args]  # Ctrl-C as in a terminal
        return subprocess.Popen(command, cwd=folder, env=own, text=True, stdout=said, stderr=said)


def typed(folder: Path, *args: str, environment: dict[str, str] | None = None) -> int:
    process = start(folder, *args, environment=environment)
    try:
        return process.wait(240)
    finally:
        process.kill()


def until(happens: Callable[[], T | None], seconds: float = 60) -> T:
    """The first thing that a question answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = happens()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} seconds")


def worker(folder: Path, variable: str, value: str) -> psutil.Process | None:
    """The process that computes a job of the sweep typed in a folder, known by an environment variable."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        try:
            if words[1:4] == ["-u", "-m", "submitit.core._submit"] and words[-1].startswith(str(folder)):
                if variable in (own := process.environ()) and own[variable] == value:
                    return process
        except psutil.Error:
            continue
    return None


def sweep_of(folder: Path) -> Path:
    return only(folder, "outputs/sweeps/*")


def failures(folder: Path) -> dict[str, dict[str, str]]:
    return {failure["condition"]: failure["error"] for failure in read_json(sweep_of(folder) / "manifest.json")["failures"]}


def complete(folder: Path) -> set[str]:
    manifests = [read_json(file) for file in sweep_of(folder).glob("*/manifest.json")]
    return {content["condition"] for content in manifests if content["status"] == "complete"}


def runs(folder: Path) -> dict[str, Any]:
    """Tables and manifests of the complete runs, with their times and digests."""
    found = snapshot(sweep_of(folder))
    done = [file.parent.name for file in sweep_of(folder).glob("*/manifest.json") if read_json(file)["status"] == "complete"]
    return {path: what for path, what in found.items() if path.split("/")[0] in done and not path.endswith("run.log")}


def tables(folder: Path) -> dict[str, bytes]:
    sweep = sweep_of(folder)
    found = [*sweep.glob("*/metrics/*.parquet"), *sweep.glob("artifacts/cross_condition/*.parquet")]
    return {str(file.relative_to(sweep)): file.read_bytes() for file in found}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The folder in which the sweep of four conditions was typed with a launcher, once for each."""
    made: dict[str, Path] = {}

    def sweep(launcher: str) -> Path:
        if launcher not in made:
            environment = request.getfixturevalue("machine").environment if launcher == "submitit_slurm" else None
            made[launcher] = tmp_path_factory.mktemp(launcher)
            code = typed(made[launcher], *SWEEP, *LAUNCHERS[launcher], environment=environment)
            assert code == 0, (made[launcher] / "said").read_text()
        return made[launcher]

    return sweep


# --- the same numbers everywhere ---


@pytest.mark.parametrize("launcher", [
    *(pytest.param(launcher, marks=pytest.mark.slow) for launcher in ("joblib", "submitit_local")),
    pytest.param("submitit_slurm", marks=slurm_only),
])
def test_the_tables_are_the_basic_launchers_bit_for_bit(launcher: str, swept: Callable[[str], Path]) -> None:
    assert complete(swept(launcher)) == set(CONDITIONS)
    assert len(tables(swept(launcher))) == 17
    assert tables(swept(launcher)) == tables(swept("basic"))


@slurm_only
def test_a_job_has_as_many_threads_as_cpus_were_reserved(machine: Cluster, tmp_path: Path) -> None:
    overrides = ("-m", "condition=facts", "condition.n_examples=4", "plots=false", *SLURM)
    assert typed(tmp_path, *overrides, f"hydra.launcher.cpus_per_task={os.cpu_count()}", environment=machine.environment) == 0
    assert read_json(only(tmp_path, "outputs/sweeps/*/h1_*/manifest.json"))["provenance"]["threads"] == os.cpu_count()


# --- one job is lost ---


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=slurm_only) for name in ("submitit_local", "submitit_slurm")])
def test_a_killed_job_is_named_the_others_finish_and_the_same_again_computes_it_alone(
    launcher: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = request.getfixturevalue("machine").environment if launcher == "submitit_slurm" else None
    command = (*SWEEP, *LAUNCHERS[launcher], "engine=reference")
    parent = start(tmp_path, *command, environment=environment)
    running = until(lambda: next(iter(tmp_path.glob("outputs/sweeps/*/h1_negation_*/manifest.json")), None))
    if launcher == "submitit_slurm":
        job = until(lambda: worker(tmp_path, "SLURM_ARRAY_TASK_ID", "1"))
    else:
        number = {slurm._number(file): file.parent.name for file in slurm._submissions(sweep_of(tmp_path))}[1]
        job = until(lambda: worker(tmp_path, "SUBMITIT_LOCAL_JOB_ID", number))
    job.send_signal(signal.SIGKILL)
    assert parent.wait(120) == 3, (tmp_path / "said").read_text()
    assert read_json(running)["status"] == "running"
    assert complete(tmp_path) == {"facts", "logic", "ioi"}
    assert list(failures(tmp_path)) == ["negation"]
    message = failures(tmp_path)["negation"]["message"]
    assert ("FAILED (killed by signal 9, SIGKILL)" if launcher == "submitit_slurm" else "was killed") in message
    assert "Traceback" not in (tmp_path / "said").read_text()
    before = runs(tmp_path)
    assert typed(tmp_path, *command, environment=environment) == 0, (tmp_path / "said").read_text()
    assert complete(tmp_path) == set(CONDITIONS) and not failures(tmp_path)
    after = runs(tmp_path)
    assert {path: after[path] for path in before} == before


@slurm_only
def test_a_job_cancelled_while_it_waits_is_named(machine: Cluster, tmp_path: Path) -> None:
    parent = start(tmp_path, *SWEEP, *SLURM, "hydra.launcher.array_parallelism=1", environment=machine.environment)
    last = until(lambda: next((job for job, state in machine.jobs().items() if job.endswith("_3") and state == "PENDING"), None))
    machine.ask("scancel", last)
    assert parent.wait(120) == 3, (tmp_path / "said").read_text()
    assert complete(tmp_path) == {"facts", "negation", "logic"}
    assert "cancelled while it waited" in failures(tmp_path)["ioi"]["message"]


@slurm_only
def test_a_job_that_takes_more_memory_than_it_asked_for_is_named(machine: Cluster, tmp_path: Path) -> None:
    overrides = ("-m", "condition=facts", "engine=reference", "plots=false", SLURM[0])
    assert typed(tmp_path, *overrides, "hydra.launcher.mem_gb=0.1", environment=machine.environment) == 2  # whole GB only
    assert typed(tmp_path, *overrides, "hydra.launcher.mem_gb=null", "+hydra.launcher.additional_parameters.mem=60M",
                 environment=machine.environment) == 3, (tmp_path / "said").read_text()
    message = failures(tmp_path)["facts"]["message"]
    assert "SIGKILL" in message or "OUT_OF_MEMORY" in message


# --- interruption ---


@slurm_only
def test_an_interrupted_sweep_leaves_nothing_in_the_queue(machine: Cluster, tmp_path: Path) -> None:
    parent = start(tmp_path, *SWEEP, *SLURM, "engine=reference", "hydra.launcher.array_parallelism=1",
                   environment=machine.environment)
    until(lambda: worker(tmp_path, "SLURM_ARRAY_TASK_ID", "0"))
    parent.send_signal(signal.SIGINT)
    assert parent.wait(60) == 130
    ids = slurm.job_ids(sweep_of(tmp_path))
    assert len(ids) == 4
    until(lambda: {machine.jobs().get(job, "forgotten") for job in ids} <= {"CANCELLED", "forgotten"})
    assert not {"negation", "logic", "ioi"} & complete(tmp_path)


@slurm_only
def test_only_the_sweeps_own_jobs_are_cancelled(machine: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    stranger = machine.ask("sbatch", "--parsable", "--mem=1M", "--output=/dev/null", "--wrap=sleep 100")
    until(lambda: machine.jobs()[stranger] == "RUNNING")
    (tmp_path / "sweep/.submitit").mkdir(parents=True)
    script = tmp_path / "sweep/.submitit/job.sh"
    script.write_text("#!/bin/sh\nsleep 100\n")
    own = machine.ask("sbatch", "--parsable", "--hold", "--mem=1M", "--output=/dev/null", str(script))
    assert slurm.active(tmp_path / "sweep") == [own]
    assert slurm.cancel(tmp_path / "sweep") == [own]
    slurm.wait(tmp_path / "sweep", poll_seconds=0.1)
    states = machine.jobs()
    machine.ask("scancel", stranger)
    assert (states[own], states[stranger]) == ("CANCELLED", "RUNNING")


# --- mistakes ---


@slurm_only
def test_what_sbatch_refuses_is_one_sentence(machine: Cluster, tmp_path: Path) -> None:
    assert typed(tmp_path, *SWEEP, *SLURM, "hydra.launcher.partition=nope", environment=machine.environment) == 2
    said = (tmp_path / "said").read_text()
    assert "tinylab: hydra/launcher=submitit_slurm: nothing was submitted" in said and "invalid partition" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("missing", "words"), [("submitit", "tiny-ablation-lab[slurm]"), ("sbatch", "no sbatch here")])
def test_a_launcher_that_cannot_work_here_is_refused_before_anything_is_written(
    missing: str, words: str, tinylab: Command, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    if missing == "submitit":
        monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert tinylab(*SWEEP, *SLURM) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
    assert not list(tmp_path.iterdir())


@slurm_only
@pytest.mark.parametrize("command", [one for one in commands("python -m tinylab ") if "submitit_slurm" in one])
def test_a_command_of_the_documents_runs_on_slurm(command: str, machine: Cluster, tmp_path: Path) -> None:
    words = shlex.split(command)[3:]
    code = typed(tmp_path, *words, "condition.n_examples=4", "hydra.launcher.mem_gb=2", environment=machine.environment)
    assert code == 0, (tmp_path / "said").read_text()
    assert re.search(r"sweep complete", (tmp_path / "said").read_text())
