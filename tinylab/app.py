"""The command line: one thin wrapper around Hydra that owns the process and its exit code.

Hydra composes, sweeps and launches. The wrapper checks everything before Hydra starts, turns the user's mistakes
into one sentence and exit code 2, and reads what came of a sweep from disk: exit codes are listed in
`tinylab.errors`, and 3 means that runs of a sweep are missing.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tinylab.command import check_dashes, check_flags, hydras_own_errors, run_command
from tinylab.config.composing import CONFIG_NAME, Composer, config_folders
from tinylab.config.groups import AUTO
from tinylab.config.hydra_internals import flags_parser, run_hydra
from tinylab.errors import ConfigError, OutputError, TinylabError, UserError
from tinylab.machine.interrupts import end_children, uninterrupted
from tinylab.machine.parent import end_with_parent, name_parent
from tinylab.machine.printing import unfailing
from tinylab.machine.progress import AT_THE_END, jobs_bar, log_over_bar, one_of_many
from tinylab.models.weights import check_reachable
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import check_writable
from tinylab.records.strangers import planned_folders, refuse_strange_sweep, refuse_strangers
from tinylab.sweep.globs import without_globs
from tinylab.sweep.naming import passed_on
from tinylab.sweep.plan import Plan, make_plan

EXIT_MISSING_RUNS = 3
log = logging.getLogger(__name__)

_failures: list[Exception] = []
"""What a single run raised: Hydra would print a line of its own before passing it on."""
_there: set[Path] = set()
"""What was in a single run's folder before Hydra began to write there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    parser = flags_parser()
    parser.prog = "tinylab"

    def command() -> int:
        words = sys.argv[1:] if argv is None else list(argv)
        check_dashes(words)
        args = parser.parse_intermixed_args(words)
        check_flags(args)
        return _command(args, parser)

    return run_command("tinylab", command)


def _command(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        if args.multirun and (args.cfg or args.info):
            raise ConfigError(f"--multirun with --{'cfg' if args.cfg else 'info'}: Hydra shows the config of one run; leave out "
                              "--multirun, or see every run of a sweep with dry_run=true.")
        if args.cfg:
            with Composer(args) as composer:
                composer.compose([override.input_line or "" for override in composer.parse(args.overrides)])
        with hydras_own_errors():
            _hydra(args, parser)
        return 0
    return carry_out(args, parser, planned(args))


def planned(args: argparse.Namespace) -> Plan:
    """What a command line would run, composed and checked; globs in its overrides are written out, for Hydra too.

    Raises:
        TinylabError: see `tinylab.sweep.plan.make_plan`.
    """
    with Composer(args) as composer:
        args.overrides = without_globs(composer, args.overrides)
        return make_plan(composer, args.overrides, args.multirun)


def carry_out(args: argparse.Namespace, parser: argparse.ArgumentParser, plan: Plan) -> int:
    """Run what was planned; returns the exit code.

    Raises:
        TinylabError: what went wrong in a single run.
    """
    if plan.sweep_folder is None:
        check_reachable(plan.first.model)  # before torch is imported, which takes seconds
    if plan.first.dry_run:
        from tinylab.forecast import dry_run

        dry_run(plan.configs, plan.folders)
        return 0
    if plan.sweep_folder is None:
        args.overrides.append(passed_on("hydra.run.dir", plan.folders[0]))
        return _run(args, parser, plan)
    return _sweep(args, parser, plan)


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser, plan: Plan) -> int:
    """Run one job; raises what went wrong in it. After a user's mistake no empty folders are left."""
    folder, key = RunFolder(plan.folders[0]), "hydra.run.dir" if plan.explicit_folder else "output_dir"
    refuse_strangers(folder, "hydra.run.dir")
    _there.clear()
    _there.update(folder.there())
    made: list[Path] = []
    try:
        for place, by in ((Path(plan.first.output_dir), "output_dir"), (folder.path, key)):  # the first for locks
            made = [*check_writable(place, by), *made]
    except OutputError:
        _remove_empty(made)
        raise
    if plan.explicit_folder:
        folder.marker.touch()
    _failures.clear()
    try:
        with hydras_own_errors():
            _hydra(args, parser, mode=plan.mode)
    except ConfigError as error:
        _failures.append(error)
    if not _failures:
        return 0
    if isinstance(_failures[0], UserError):
        if folder.marker.resolve() not in _there and [*folder.path.glob("*")] == [folder.marker]:
            folder.marker.unlink()
        _remove_empty(made)
    raise _failures[0]


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _sweep(args: argparse.Namespace, parser: argparse.ArgumentParser, plan: Plan) -> int:
    """Run a multirun; what came of it is read from disk."""
    from tinylab.report.observers import sweep_ended
    from tinylab.sweep import slurm
    from tinylab.sweep.attempts import begin_command, launch_with_retries
    from tinylab.sweep.jobs import ended_since
    from tinylab.sweep.local_ray import local_ray

    assert plan.sweep_folder is not None
    if plan.explicit_folder and plan.sweep_folder.is_dir():
        refuse_strange_sweep(plan.sweep_folder)
    own = planned_folders(plan.sweep_folder)
    for path in plan.folders:
        refuse_strangers(RunFolder(path), "hydra.sweep.dir", own=path.resolve() in own)
    check_writable(plan.sweep_folder, "hydra.sweep.dir" if plan.explicit_folder else "output_dir")
    plan.write_manifest()
    args.multirun, args.run = True, False
    args.overrides += [passed_on("hydra.sweep.dir", plan.sweep_folder), *plan.launcher]
    begin_command()
    name_parent(plan.workers_are_children)
    if plan.submitit == "submitit_slurm":
        slurm.ask_the_controller()
    error: Exception | None = None
    try:
        with jobs_bar(plan.first.sweep_name, [path / "manifest.json" for path in plan.folders],
                      ended_since(time.time(), overwrite=plan.first.overwrite)), \
                local_ray(plan.own_ray) as overrides:
            args.overrides += overrides
            error = launch_with_retries(lambda *more: _hydra(args, parser, more, plan.mode), plan.sweep_folder)
        if error is not None and plan.submitit is not None:  # a job left no result; others may still run
            slurm.settle(plan.sweep_folder, plan.submitit, error)
    except (KeyboardInterrupt, SystemExit, TinylabError) as end:  # SystemExit: Ray's answer to SIGTERM
        if isinstance(end, KeyboardInterrupt):
            _stop(plan)
        try:
            _joined(plan, error)
        except TinylabError as broken:  # the end itself is graver
            log.error("%s", broken)
        raise
    outcome = _joined(plan, error)
    _try_conditions(plan)
    sweep_ended(plan.sweep_folder, outcome)
    if outcome["failures"]:
        return EXIT_MISSING_RUNS
    return 4 if outcome["verify_failed"] else 0


def _try_conditions(plan: Plan) -> None:
    """Try the conditions of a sweep with each other's components, in this process, which has to hold the model."""
    from tinylab.report.observers import sweep_tried

    assert plan.sweep_folder is not None
    asked = plan.first.controls.cross
    elsewhere = plan.submitit is not None or plan.own_ray  # what other machines hold may not fit here
    sweep_tried(plan.sweep_folder, False if asked == AUTO and elsewhere else asked)


def _stop(plan: Plan) -> None:
    """End what an interrupted sweep has started. A second interruption cuts waiting short, and skips nothing."""
    from tinylab.sweep import slurm
    from tinylab.sweep.finished import tidy

    assert plan.sweep_folder is not None
    with ExitStack() as ending:
        ending.callback(tidy, [(Path(c.output_dir), job.run_id, path)
                               for c, job, path in zip(plan.configs, plan.jobs, plan.folders, strict=True)])
        if not plan.own_ray:  # Ray ends its own
            ending.callback(end_children)
        if plan.submitit is not None:
            with uninterrupted():
                slurm.cancel(slurm.submitted(plan.sweep_folder))


def _joined(plan: Plan, launcher_error: Exception | None) -> dict[str, Any]:
    """The sweep's manifest when all has ended; Hydra's callback has joined the runs, unless it never ran or it broke."""
    from tinylab.records.storage import read_json
    from tinylab.sweep.aggregate import Settings, aggregate

    assert plan.sweep_folder is not None
    if not (plan.sweep_folder / "manifest.json").is_file():
        log.error("%s was moved or removed while the sweep ran: runs that are not there now are missing", plan.sweep_folder)
        plan.write_manifest()
    outcome = read_json(plan.sweep_folder / "manifest.json")
    if outcome["status"] == "running":
        outcome = aggregate(plan.sweep_folder, Settings.of(plan.first.invariants), launcher_error)
    return outcome


def _hydra(
    args: argparse.Namespace, parser: argparse.ArgumentParser, more: Sequence[str] = (), mode: RunMode | None = None
) -> None:
    asked = argparse.Namespace(**{**vars(args), "overrides": [*args.overrides, *more]})
    run_hydra(asked, parser, task, config_folders(args), CONFIG_NAME, mode=mode)


def task(cfg: DictConfig) -> None:
    """One job, in whatever process the launcher chose.

    It never raises: what went wrong in a single run is kept for the wrapper. In a multirun every failure is
    written to the job's manifest, the others go on, and the truth is on disk.
    """
    with unfailing():
        _task(cfg)


def _task(cfg: DictConfig) -> None:
    from tinylab.experiment import run_experiment
    from tinylab.machine.threads import job_threads
    from tinylab.records.identity import resolve
    from tinylab.schema import validate
    from tinylab.sweep.attempts import attempt
    from tinylab.sweep.finished import locate_run, run_lock
    from tinylab.sweep.jobs import keep_failure

    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, must not fill the screen with tracebacks
    hydra = HydraConfig.get()
    multirun = hydra.mode == RunMode.MULTIRUN
    if multirun:
        end_with_parent()
        one_of_many(verbose=bool(hydra.verbose))
    log_over_bar()
    folder = RunFolder(Path(hydra.runtime.output_dir))
    fresh = not folder.manifest.is_file()
    run_id = None
    try:
        config = validate(cfg)
        resolved = resolve(config, job_threads(config.threads, multirun))
        run_id = resolved.run_id
        with run_lock(Path(config.output_dir), run_id):
            fresh = not folder.manifest.is_file()  # another process may have computed it just now
            folder = locate_run(folder, run_id, config.overwrite) if multirun else folder
            with attempt(folder.path) if multirun else nullcontext():
                run_experiment(resolved, folder, alone=not multirun)
    except Exception as error:  # whatever it is: it must reach the manifest
        if not multirun:
            _failures.append(error)
        if not multirun and fresh and isinstance(error, UserError):
            folder.discard(_there)  # nothing was computed, leave nothing
            return
        kept = keep_failure(folder, run_id, error, again=multirun)
        if multirun:  # where the folder could not take it, of a full disk, say, the log is all there is
            log.error("%s failed: %s", folder.path, error, exc_info=not isinstance(error, TinylabError), extra={AT_THE_END: kept})
