"""A real SLURM of one node on this machine: munged, slurmctld and slurmd of its own, on loopback, in a folder of its own.

Nothing outside the folder is touched and an existing munge or SLURM is not disturbed. The processes are children of
the caller and are stopped by their process ids. What the daemons need is Debian's `slurmctld`, `slurmd`, `slurm-client`
and `munge`, which `install` fetches.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SECONDS_TO_START = 60
SECONDS_TO_STOP = 10

SACCT = '''#!{python}
"""Answers what submitit asks of `sacct` from the controller's memory: this cluster keeps no accounts."""
import subprocess, sys
words = sys.argv[1:]
print("JobID|State|NodeList")
for job in (words[i + 1] for i, word in enumerate(words) if word == "-j"):
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True, check=False)
    for line in shown.stdout.splitlines():
        known = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "JobId" not in known:
            continue
        name = known["JobId"]
        if "ArrayTaskId" in known:
            task = known["ArrayTaskId"]
            name = known["ArrayJobId"] + ("_" + task if task.isdigit() else "_[" + task + "]")
        print(name + "|" + known["JobState"] + "|" + known.get("NodeList", ""))
'''


class NoCluster(Exception):
    """SLURM cannot be had here; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    folder: Path
    environment: dict[str, str]  # for its commands, and for whoever submits to it
    pids: tuple[int, ...]

    def ask(self, *command: str, check: bool = True) -> str:
        """What one of the cluster's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of every job that the controller remembers, by its id."""
        lines = self.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split(None, 1) for line in lines)


def install() -> None:
    """Fetch Debian's packages unless they are there.

    Raises:
        NoCluster: it cannot be done; the message says why.
    """
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NoCluster(f"{', '.join(missing)} not found, and there is no apt-get to install {' '.join(PACKAGES)} with")
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if root and shutil.which("sudo") is None:
        raise NoCluster(f"{', '.join(missing)} not found, and only root can install {' '.join(PACKAGES)}")
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--quiet"]
    fetch = [*root, *quiet, "install", "--yes", "--no-install-recommends", *PACKAGES]
    for command in ([*root, *quiet, "update"], fetch):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NoCluster(f"{' '.join(command)} ended with {done.returncode}: {last}")
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        raise NoCluster(f"{', '.join(missing)} not found, even with {' '.join(PACKAGES)} installed")


@contextmanager
def cluster(folder: Path, *, accounts: bool = True) -> Iterator[Cluster]:
    """Start a cluster, and stop exactly what was started.

    Args:
        folder: where everything of it lies; short, for a socket's path has at most 107 characters.
        accounts: whether `sacct` answers; without, it fails, as on a cluster that has no accounting.

    Raises:
        NoCluster: a daemon does not start.
    """
    environment = _write(folder, accounts)
    with ExitStack() as running:
        pids = []
        for name, command, ready in _daemons(folder, environment):
            process = running.enter_context(_daemon(folder, name, command, environment))
            pids.append(process.pid)
            _wait_until(ready, process, folder / f"{name}.log")
        yield Cluster(folder, environment, tuple(pids))


def _write(folder: Path, accounts: bool) -> dict[str, str]:
    """Write what the daemons read; returns the environment for all that belongs to the cluster."""
    folder.chmod(0o755)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    sacct = folder / "bin/sacct"
    sacct.write_text(SACCT.format(python=sys.executable) if accounts else "#!/bin/sh\necho 'no accounts are kept' >&2\nexit 1\n")
    sacct.chmod(0o755)
    config = folder / "slurm.conf"
    config.write_text("".join(f"{line}\n" for line in _config(folder)))
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))},
        "SLURM_CONF": str(config),
        "PATH": os.pathsep.join([str(folder / "bin"), PATH]),
    }


def _config(folder: Path) -> list[str]:
    host = socket.gethostname().split(".")[0]
    user = getpass.getuser()
    controller, node = _free_ports(2)
    memory = psutil.virtual_memory().total // 2**20 * 9 // 10
    return [
        "ClusterName=tinylab",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        f"SlurmdPort={node}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        "CredType=cred/munge",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd.pid",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/affinity",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "JobAcctGatherParams=OverMemoryKill",
        "AccountingStorageType=accounting_storage/none",
        "SchedulerType=sched/backfill",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "ReturnToService=2",
        "KillWait=5",
        "MailProg=/bin/true",
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory} State=UNKNOWN",
        f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _daemons(folder: Path, environment: Mapping[str, str]) -> list[tuple[str, list[str], Callable[[], bool]]]:
    """The daemons in the order of their starting: name, command, and whether it is ready."""

    def answers(*command: str) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
              f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log"]
    return [
        ("munged", munged, (folder / "munge.socket").exists),
        ("slurmctld", ["slurmctld", "-D"], lambda: "is UP" in answers("scontrol", "ping")),
        ("slurmd", ["slurmd", "-D"], lambda: answers("sinfo", "--noheader", "--format=%T") == "idle"),
    ]


@contextmanager
def _daemon(folder: Path, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one daemon as a child; at the end stop it and whatever it still runs."""
    program = shutil.which(command[0], path=PATH)
    assert program is not None, command[0]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([program, *command[1:]], env=dict(environment), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            last = "; ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            how = "did not get ready" if process.poll() is None else f"ended with {process.returncode}"
            raise NoCluster(f"{log.stem} {how}: {last}")
        time.sleep(0.1)
