"""How many torch threads a job has, and how many jobs of a sweep run at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf import OmegaConf


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_threads(asked: int | None, multirun: bool) -> int:
    """Torch threads of a job: all cores alone; in a sweep half of them, the same for every launcher.

    A job that submitit gave to SLURM has as many as CPUs were reserved for it (`hydra.launcher.cpus_per_task`): half the
    cores of the machine where the sweep was typed, if nothing else was asked for.
    """
    if asked is None and os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and "SLURM_CPUS_PER_TASK" in os.environ:
        return int(os.environ["SLURM_CPUS_PER_TASK"])
    return asked or (max(1, cores() // 2) if multirun else cores())


def workers(n_jobs: int, threads: Sequence[int | None], room: int | None = None) -> int:
    """How many jobs a sweep runs at once: as many as asked for, and at most what the machine holds.

    Both numbers asked for are taken as they are: whoever gives them knows the machine.

    Args:
        n_jobs: as joblib means it, not 0; -1 is one for each core.
        threads: what each job's config says, None for the default.
        room: how many jobs the machine has room for, whatever its cores; None if that is not known.
    """
    if n_jobs > 0 and None not in threads:
        return n_jobs
    fit = cores() // max(job_threads(asked, multirun=True) for asked in threads)
    if room is not None:
        fit = min(fit, room)
    return min(n_jobs if n_jobs > 0 else max(1, cores() + 1 + n_jobs), max(1, fit))


def set_threads(threads: int | None) -> None:
    """Give torch its threads in this process; None leaves them as they are."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


OmegaConf.register_new_resolver("job_threads", lambda asked: job_threads(asked, multirun=True), replace=True)
