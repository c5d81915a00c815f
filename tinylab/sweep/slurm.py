"""What became of the jobs that submitit was given for a sweep: SLURM's, or processes of this machine.

The launcher raises when it comes to the first job that left no result, while others may still wait or run. So after it
raised: `wait` for the others, `note_endings` of those that were killed, then aggregate. After an interruption: `cancel`.
Everything is found from the folder in which submitit keeps what a command submitted: `submitted` in the sweep's folder. So
another command that runs the same sweep keeps its jobs.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import psutil

from tinylab.errors import ConfigError, install
from tinylab.records.storage import read_json
from tinylab.sweep.attempts import COMMAND

SUBMITTED = ".submitit"
LAUNCHERS = {"SlurmLauncher": "submitit_slurm", "LocalLauncher": "submitit_local"}
PACKAGE = "hydra_plugins.hydra_submitit_launcher."
log = logging.getLogger(__name__)


def check_launcher(target: str) -> str | None:
    """Say before anything starts what a submitit launcher lacks here; any other launcher passes.

    Args:
        target: the launcher's class, `hydra.launcher._target_`.

    Returns:
        submitit_slurm or submitit_local; None for any other launcher.

    Raises:
        ConfigError: the extra is not installed, or there is no SLURM on this machine.
    """
    if not target.startswith(PACKAGE):
        return None
    name = LAUNCHERS.get(target.rpartition(".")[2], target)
    if find_spec("submitit") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise ConfigError(f"hydra/launcher={name}: submitit is not installed; install the extra: {install('slurm')}.")
    missing = [program for program in ("sbatch", "srun", "squeue", "scontrol", "scancel") if shutil.which(program) is None]
    if name == "submitit_slurm" and missing:
        raise ConfigError(f"hydra/launcher=submitit_slurm: no {missing[0]} here; type this on a machine of the cluster from "
                          "which jobs are submitted, or choose hydra/launcher=joblib.")
    return name


def submitted(sweep_folder: Path) -> Path:
    """The folder in which submitit keeps what this command has submitted for a sweep; the launcher's presets name it too."""
    return sweep_folder / SUBMITTED / os.environ[COMMAND]


def job_ids(folder: Path) -> list[str]:
    """The ids of every job that submitit keeps below a folder, oldest first; those of an array end in `_0`, `_1` and so on."""
    return [file.parent.name for file in _submissions(folder)]


def active(folder: Path) -> list[str]:
    """The jobs kept below a folder that wait or run, in SLURM or as processes here; they end of their own accord.

    Raises:
        subprocess.CalledProcessError: SLURM does not answer.
    """
    return [*_queued(folder), *(str(process.pid) for process in _processes(folder))]


def wait(folder: Path, poll_seconds: float = 2) -> None:
    """Wait until no job kept below a folder waits or runs any more, however long SLURM does not answer."""
    while True:
        try:
            if not active(folder):
                return
        except subprocess.CalledProcessError as error:
            log.warning("squeue: %s; asking again", (error.stderr or "no answer").strip())
        time.sleep(poll_seconds)


def cancel(folder: Path) -> list[str]:
    """Cancel the jobs kept below a folder that wait or run; returns their ids.

    Processes here are gone at once. SLURM takes jobs that wait off its queue at once, and gives those that run its
    KillWait (30 seconds, unless the cluster says otherwise) before it kills them.
    """
    try:
        queued = _queued(folder)
    except subprocess.CalledProcessError as error:
        log.error("squeue: %s; jobs of %s may still run", (error.stderr or "no answer").strip(), folder)
        queued = []
    if queued:
        subprocess.run(["scancel", *queued], check=False, start_new_session=True)
    processes = _processes(folder)
    for process in [child for parent in processes for child in _children(parent)] + processes:
        _kill(process)
    return [*queued, *(str(process.pid) for process in processes)]


def settle(sweep_folder: Path, launcher: str, error: Exception) -> None:
    """After the launcher raised: wait for the jobs that still wait or run, and note how those ended that returned nothing.

    Raises:
        ConfigError: nothing was ever submitted for this sweep.
    """
    manifest, jobs = sweep_folder / "manifest.json", submitted(sweep_folder)
    if not job_ids(jobs) and manifest.is_file():
        raise ConfigError(f"hydra/launcher={launcher}: nothing was submitted: {' '.join(str(error).split())}") from error
    wait(jobs)
    if manifest.is_file():  # otherwise the folder was moved or removed, and with it what the jobs left there
        note_endings(sweep_folder)


def endings(sweep_folder: Path) -> dict[int, tuple[str, str]]:
    """How this command's jobs ended that returned nothing, each in a sentence, and where their output is, by their number."""
    newest = {_number(file): file for file in _submissions(submitted(sweep_folder))}
    return {number: (_ending(file, output := str(file.parent.relative_to(sweep_folder))), output)
            for number, file in sorted(newest.items()) if not _result(file).is_file()}


def note_endings(sweep_folder: Path) -> None:
    """Write into the sweep's manifest, beside each job that returned nothing, how it ended and its `output`."""
    from tinylab.records.checking import write_document  # not for the command line's help: pydantic takes a while
    from tinylab.records.manifests import SweepManifest

    manifest = read_json(sweep_folder / "manifest.json")
    for number, (sentence, output) in endings(sweep_folder).items():
        manifest["jobs"][number].update(ended=sentence, output=output)
    write_document(SweepManifest, sweep_folder / "manifest.json", manifest)


def ask_the_controller() -> None:
    """Let submitit ask SLURM's controller how its jobs are, every minute, in place of `sacct`, every ten.

    Where a cluster keeps no accounts `sacct` fails, and submitit would wait for ever for a job that was killed.
    """
    from submitit import SlurmJob
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Controller(SlurmInfoWatcher):
        def update(self) -> None:
            self._num_calls += 1
            try:
                states = _states(self._registered - self._finished)
            except subprocess.CalledProcessError as error:
                log.warning("scontrol: %s; asking again", (error.stderr or "no answer").strip())
            else:
                self._info_dict.update({job: {"JobID": job, "State": state} for job, state in states.items()})
            self._last_status_check = time.time()
            self._finished |= {job for job in self._registered - self._finished if self.is_done(job, mode="cache")}

    SlurmJob.watcher = Controller(delay_s=60)


def _submissions(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/*_submitted.pkl"), key=lambda file: file.stat().st_mtime_ns)


def _result(submission: Path) -> Path:
    return submission.with_name(f"{submission.parent.name}_0_result.pkl")


def _number(submission: Path) -> int:
    """The job's number in its sweep, which the launcher gave it as an argument."""
    from submitit.core.utils import DelayedSubmission

    return int(DelayedSubmission.load(submission).args[2])


def _ending(submission: Path, output: str) -> str:
    job, where = submission.parent.name, f"its output is in {output}"
    if not (submission.parent.parent / job.split("_")[0] / f"{job.split('_')[0]}_submission.sh").is_file():
        return f"the process (submitit's job {job}) ended without a result, it was killed or broke off; {where}"
    try:
        shown = _show(job)
    except subprocess.CalledProcessError:
        shown = []
    if not shown:
        gone = "SLURM does not know it: cancelled while it waited, or ended long ago"
        return f"SLURM's job {job} left no result, and {gone}; {where}"
    state, code, number = shown[0]
    killed = number or (code - 128 if code > 128 else 0)
    how = f"killed by signal {killed}, {_signal_name(killed)}" if killed else f"exit code {code}"
    return f"SLURM's job {job} ended as {state} ({how}); {where}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else "unknown"


def _show(job: str) -> list[tuple[str, int, int]]:
    """State, exit code and signal of a job, or of every element of an array; nothing if SLURM has forgotten it."""
    text = _controller(job)
    return [
        (found[1], int(found[2]), int(found[3]))
        for line in text.splitlines()
        if (found := re.search(r" JobState=(\S+) .* ExitCode=(\d+):(\d+) ", line))
    ]


def _controller(job: str) -> str:
    """What the controller says about a job, a line for each element of an array; empty if it has forgotten it.

    Raises:
        subprocess.CalledProcessError: it does not answer.
    """
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        done.check_returncode()
    return done.stdout if done.returncode == 0 else ""


def _states(jobs: Iterable[str]) -> dict[str, str]:
    """The state of each job; one that the controller has forgotten is FORGOTTEN, which is an end."""
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        arrays.setdefault(job.split("_")[0], []).append(job)
    states = {}
    for array, members in arrays.items():
        command = ["squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i|%T", "--jobs", array]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            done.check_returncode()
        known = dict(line.split("|", 1) for line in done.stdout.splitlines())
        states.update({job: known.get(job, "FORGOTTEN") for job in members})
    return states


def _queued(folder: Path) -> list[str]:
    """Ids of SLURM's jobs that wait or run, known by the script that submitit keeps below the folder."""
    if shutil.which("squeue") is None or not any(folder.glob("**/*.sh")):
        return []
    command = ["squeue", "--noheader", "--all", "--array", "--format=%i|%o"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True)
    own = f"{folder.absolute()}{os.sep}"
    return [job for job, script in (line.split("|", 1) for line in done.stdout.splitlines()) if script.startswith(own)]


def _processes(folder: Path) -> list[psutil.Process]:
    """The controllers of submitit_local's jobs that still run, known by the folder that they were given."""
    own, found = f"{folder.absolute()}{os.sep}", psutil.process_iter(["cmdline", "status"])
    return [one for one in found if (words := one.info["cmdline"] or [])[-3:-1] == ["-m", "submitit.local._local"]
            and words[-1].startswith(own) and one.info["status"] != psutil.STATUS_ZOMBIE]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
