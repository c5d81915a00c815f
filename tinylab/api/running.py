"""`tinylab.run` and `tinylab.sweep`: what the command line would compute, in this process, and its results.

Nothing is printed but progress; what goes wrong is raised as an error of `tinylab.errors`. Pictures of what is not kept are drawn
when they are asked for (`plot`), not into folders.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from tinylab.api.asking import Asked, asked
from tinylab.api.results import Run, Sweep, load_run, load_sweep
from tinylab.errors import ConfigError, TinylabError, UserError
from tinylab.experiment import run_experiment
from tinylab.machine.imports import large_import
from tinylab.machine.threads import job_threads
from tinylab.records.identity import Resolved, resolve
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import check_writable
from tinylab.records.strangers import planned_folders, refuse_strange_sweep, refuse_strangers
from tinylab.report.observers import sweep_joined
from tinylab.report.page.writing import write_report
from tinylab.schema import Config
from tinylab.sweep.aggregate import aggregate
from tinylab.sweep.cross_controls import add_cross_controls
from tinylab.sweep.finished import locate_run, run_lock
from tinylab.sweep.globs import without_globs
from tinylab.sweep.invariants import Settings
from tinylab.sweep.jobs import keep_failure
from tinylab.sweep.plan import Plan, make_plan

log = logging.getLogger(__name__)


def run(
    *overrides: str,
    battery: str | None = None,
    condition: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    pairs: Any = None,
    output_dir: str | PathLike[str] | None = None,
    config_dir: str | PathLike[str] | None = None,
) -> Run:
    """Run a battery on a condition. See `tinylab.run`."""
    with asked(overrides, {"battery": battery, "condition": condition, "model": model}, tokenizer=tokenizer, pairs=pairs,
               output_dir=output_dir, config_dir=config_dir) as what:
        swept = next((one for one in what.composer.parse(what.overrides) if one.is_sweep_override()), None)
        if swept is not None:
            raise ConfigError(f"{swept.input_line}: several values; use tinylab.sweep for a run of each.")
        plan = make_plan(what.composer, what.overrides, False)
        if plan.sweep_folder is not None:
            raise ConfigError("this is a sweep; use tinylab.sweep.")
        return _run(plan, what)


def sweep(
    *overrides: str,
    battery: str | None = None,
    condition: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    pairs: Any = None,
    output_dir: str | PathLike[str] | None = None,
    config_dir: str | PathLike[str] | None = None,
) -> Sweep:
    """Run every combination of what is given several values of, and join the runs. See `tinylab.sweep`."""
    with asked(overrides, {"battery": battery, "condition": condition, "model": model}, tokenizer=tokenizer, pairs=pairs,
               output_dir=output_dir, config_dir=config_dir) as what:
        plan = make_plan(what.composer, without_globs(what.composer, what.overrides), True)
        return _sweep(plan, what)


def _run(plan: Plan, what: Asked) -> Run:
    config, folder = plan.first, RunFolder(plan.folders[0])
    refuse_strangers(folder, "output_dir")
    for place in (Path(config.output_dir), folder.path):
        check_writable(place, "output_dir")
    resolved = resolve(config, job_threads(config.threads, multirun=False))
    _compute(resolved, folder)
    return load_run(folder.path, what.folder)


def _sweep(plan: Plan, what: Asked) -> Sweep:
    """Compute the runs of a plan, one after another, and join them.

    Raises:
        Exception: what the first run died of, if none could be computed.
    """
    if plan.workers is not None or plan.own_ray or plan.submitit is not None:
        raise ConfigError("hydra/launcher: tinylab.sweep computes one run after another in this process; use "
                          "python -m tinylab -m.")
    place = plan.sweep_folder
    assert place is not None
    if place.is_dir():
        refuse_strange_sweep(place)
    own = planned_folders(place)
    for path in plan.folders:
        refuse_strangers(RunFolder(path), "output_dir", own=path.resolve() in own)
    check_writable(place, "output_dir")
    plan.write_manifest()
    errors = {path.name: error for config, path in zip(plan.configs, plan.folders, strict=True)
              if (error := _job(config, path)) is not None}
    first = next(iter(errors.values()), None)
    manifest = aggregate(place, Settings.of(plan.first.invariants), first)
    for failure in manifest["failures"]:
        error = errors.get(Path(failure["folder"]).name)
        log.error("%s (%s) failed: %s", failure["condition"], failure["battery"], failure["error"]["message"],
                  exc_info=None if isinstance(error, TinylabError) else error)
    if first is not None and len(errors) == len(plan.configs):
        raise first
    add_cross_controls(place, plan.first.controls.cross)
    sweep_joined(place, manifest)
    if plan.first.report:
        write_report(place)
    return load_sweep(place, what.folder)


def _job(config: Config, path: Path) -> Exception | None:
    """Compute one run of a sweep, if it is not finished anywhere; what it dies of is in its manifest, and returned."""
    folder, run_id = RunFolder(path), None
    try:
        resolved = resolve(config, job_threads(config.threads, multirun=True))
        run_id = resolved.run_id
        folder = locate_run(folder, run_id, config.overwrite)
        _compute(resolved, folder)
    except Exception as error:  # whatever it is: the other runs go on
        keep_failure(folder, run_id, error, again=True)
        return error
    return None


def _compute(resolved: Resolved, folder: RunFolder) -> None:
    """Compute a run into its folder; after a user's mistake nothing of it is left."""
    with run_lock(Path(resolved.config.output_dir), resolved.run_id), _same_threads():
        there = {*folder.there()}
        try:
            run_experiment(resolved, folder, alone=False)
        except UserError:
            if folder.finished() is None:
                folder.discard(there)
            raise


@contextmanager
def _same_threads() -> Iterator[None]:
    """While open a run may have torch's threads; then they are as many as before."""
    with large_import("torch"):
        import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
