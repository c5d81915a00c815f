"""What a launcher is told: how many jobs run at once, and what each may use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from omegaconf import DictConfig

from tinylab.errors import ConfigError, install
from tinylab.machine.threads import cores, job_threads, workers
from tinylab.schema import Config
from tinylab.sweep.room import room, uses_gpu

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """How the jobs of a sweep are launched."""

    workers: int | None = None  # how many run at once, where the launcher lets it be chosen
    overrides: tuple[str, ...] = ()
    own_ray: bool = False


def plan_launch(base: DictConfig, configs: Sequence[Config]) -> Launch:
    """Decide what the chosen launcher is told.

    Raises:
        ConfigError: the launcher is not installed, or its number of jobs is none.
    """
    launcher = base.hydra.launcher
    _check_installed(str(launcher._target_), str(base.hydra.runtime.choices["hydra/launcher"]))
    if launcher.get("n_jobs") is not None:
        found = _workers(launcher.n_jobs, configs)
        return Launch(found, (f"hydra.launcher.n_jobs={found}",))
    if launcher.get("ray") is not None and launcher.ray.init.get("address") == "local":
        return _ray(launcher.ray, configs)
    return Launch()


def _check_installed(target: str, name: str) -> None:
    package = ".".join(target.split(".")[:2])
    if package.startswith("hydra_plugins.") and find_spec(package) is None:
        raise ConfigError(f"hydra/launcher={name}: its package {package.partition('.')[2].replace('_', '-')} is not installed; "
                          f"{install(name)} (in a checkout: pip install -e '.[{name}]').")


def _workers(asked: int, configs: Sequence[Config]) -> int:
    if asked == 0:
        raise ConfigError("hydra.launcher.n_jobs=0: expected how many jobs may run at once, or -1 for what the machine holds.")
    threads = [config.threads for config in configs]
    by_cores, found = workers(asked, threads), workers(asked, threads, room(configs))
    if found < by_cores:
        log.warning("%d jobs at once and not %d: more do not fit into the free memory or on the GPUs; give both threads=… and "
                    "hydra.launcher.n_jobs=… if they do", found, by_cores)
    elif found < asked:
        log.warning("hydra.launcher.n_jobs=%d: only %d at once, their threads fill the %d cores; give threads=… too for more",
                    asked, found, cores())
    return found


def _ray(ray: DictConfig, configs: Sequence[Config]) -> Launch:
    """A Ray of our own: each job has its threads as CPUs, and Ray as many CPUs as jobs at once need."""
    each = max(job_threads(config.threads, multirun=True) for config in configs)
    found = workers(-1, [config.threads for config in configs], room(configs))
    told = {
        "init.num_cpus": found * each,
        "remote.num_cpus": each,
        "remote.num_gpus": 1 if any(map(uses_gpu, configs)) else 0,
    }
    given = [key for key in told if ray[key.split(".")[0]].get(key.split(".")[1]) is not None]
    return Launch(
        None if given else found,
        tuple(f"++hydra.launcher.ray.{key}={value}" for key, value in told.items() if key not in given),
        own_ray=True,
    )
