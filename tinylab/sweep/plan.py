"""The plan of a multirun: every job composed and checked before the first one starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tinylab.config.checks import at_least
from tinylab.config.composing import GROUPS, Composer, is_hydra_override
from tinylab.config.hydra_internals import split_arguments
from tinylab.config.messages import one_sentence
from tinylab.config.plugins import check_plugins
from tinylab.errors import ConfigError, CorpusError, OutputError
from tinylab.models.device import resolve_device
from tinylab.records.identity import run_id, unlike_default
from tinylab.records.storage import read_json
from tinylab.records.tables import MATRIX_COLUMNS
from tinylab.schema import Config, validate
from tinylab.sweep.launch import plan_launch
from tinylab.sweep.naming import is_explicit, job_folder, number_job, sweep_folder
from tinylab.sweep.slurm import check_launcher
from tinylab.task.sources import corpus_sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One planned run of a sweep."""

    overrides: list[str]
    condition: str
    battery: str
    run_id: str
    folder: str  # relative to the sweep's folder
    settings: dict[str, str] = field(default_factory=dict)  # what the sweep varies, beside what every matrix tells


@dataclass(frozen=True)
class Plan:
    """A checked command: one run, or the jobs of a sweep."""

    configs: list[Config]
    folders: list[Path]  # of the runs
    sweep_folder: Path | None
    explicit_folder: bool
    jobs: list[Job]
    workers: int | None = None  # how many jobs run at once, where the launcher lets it be chosen
    launcher: tuple[str, ...] = ()  # overrides that tell the launcher
    own_ray: bool = False  # whether a Ray is started for the sweep
    submitit: str | None = None  # submitit_local or submitit_slurm, None for the other launchers
    mode: RunMode | None = None  # what the config says of hydra.mode

    @property
    def first(self) -> Config:
        """The first run's config: what concerns the whole command is read from it."""
        return self.configs[0]

    @property
    def workers_are_children(self) -> bool:
        """Whether the jobs run in processes that this one starts: joblib's, submitit_local's. A Ray ends its own."""
        return self.submitit == "submitit_local" or (self.workers is not None and not self.own_ray)

    def write_manifest(self) -> None:
        """Tell the sweep's folder what is planned, before anything runs."""
        from tinylab.records.checking import write_document  # not for the command line's help: pydantic takes a while
        from tinylab.records.manifests import SweepManifest

        assert self.sweep_folder is not None
        file = self.sweep_folder / "manifest.json"
        if self.explicit_folder and file.is_file():
            planned = {job.run_id for job in self.jobs}
            strangers = [str(job["folder"]) for job in read_json(file).get("jobs", []) if job["run_id"] not in planned]
            if strangers:
                raise OutputError(f"hydra.sweep.dir={self.sweep_folder}: holds another sweep (with {min(strangers)}); "
                                  "choose another folder.")
        write_document(SweepManifest, self.sweep_folder / "manifest.json", {
            "status": "running",
            "sweep_name": self.first.sweep_name,
            "invariants": asdict(self.first.invariants),
            "plots": self.first.plots,
            "report": self.first.report,
            "jobs": [asdict(job) for job in self.jobs],
        })


def make_plan(composer: Composer, overrides: Sequence[str], multirun: bool) -> Plan:
    """Compose and check everything that a command line would run.

    Raises:
        ConfigError: any job cannot be composed, a value is wrong, two jobs are the same run, or two corpora share a tag.
        DeviceError: a device is not there.
    """
    if sys.flags.optimize > 1:
        raise ConfigError("PYTHONOPTIMIZE=2 (python -OO) takes away the docstrings that transformers reads when imported, so "
                          "no model can be loaded; unset it, or use 1.")
    parsed = composer.parse(overrides)
    fixed = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    if not multirun and len(fixed) < len(parsed):
        swept = next(override for override in parsed if override.is_sweep_override())
        a_list = "" if swept.key_or_group in GROUPS else f", or write {swept.key_or_group}=[…] for a list"
        raise ConfigError(f"{swept.input_line}: several values; add -m before the overrides to sweep over them{a_list}.")
    base = composer.compose(fixed)
    multirun = multirun or base.hydra.mode == RunMode.MULTIRUN
    check_plugins(base.hydra, multirun=multirun)
    if not multirun:
        composer.check_sources(parsed)
        config = validate(base)
        _check_device(config)
        run_id(config)  # a finished run that it names and is none is an error here: an interpolation would lose the sentence
        return Plan([config], [Path(str(base.hydra.run.dir))], None, is_explicit(parsed, "hydra.run.dir"), [],
                    mode=base.hydra.mode)
    launcher = check_launcher(str(base.hydra.launcher._target_))
    jobs, configs = _jobs(composer, overrides, base, devices_are_here=launcher != "submitit_slurm")
    if not jobs:
        raise ConfigError(f"{' '.join(overrides)}: a sweep over nothing; no option or value fits.")
    _check(jobs, configs)
    folder = sweep_folder(composer, parsed, composer.parse(_arguments(overrides, base)), base, configs)
    launch = plan_launch(base, configs)
    return Plan(configs, [folder / job.folder for job in jobs], folder, is_explicit(parsed, "hydra.sweep.dir"), jobs,
                launch.workers, launch.overrides, launch.own_ray, launcher, base.hydra.mode)


def _arguments(overrides: Sequence[str], base: DictConfig) -> list[str]:
    """What is swept: the config's own hydra.sweeper.params first, then the command line, as the sweeper does."""
    params = base.hydra.sweeper.get("params") or {}
    return [*(f"{key}={value}" for key, value in params.items()), *overrides]


def _jobs(
    composer: Composer, overrides: Sequence[str], base: DictConfig, *, devices_are_here: bool
) -> tuple[list[Job], list[Config]]:
    at_least("hydra.sweeper.max_batch_size", base.hydra.sweeper.get("max_batch_size"), 1)
    target = str(base.hydra.sweeper._target_)
    if not target.endswith("BasicSweeper"):
        raise ConfigError(f"hydra/sweeper: {target} chooses its jobs as it goes, but tinylab checks every job before the first "
                          "starts; use the basic sweeper.")
    parsed = composer.parse(_arguments(overrides, base))
    hydra_lines = [override.input_line or "" for override in parsed if is_hydra_override(override)]
    try:
        batches = split_arguments([o for o in parsed if not is_hydra_override(o)])
    except HydraException as error:
        raise ConfigError(one_sentence(error)) from error
    typed = {override.key_or_group for override in composer.parse(overrides)}
    jobs, configs = [], []
    for number, lines in enumerate(batches[0]):
        composer.check_sources(composer.parse([*lines, *hydra_lines]))
        composed = composer.compose([*lines, *hydra_lines])
        number_job(composed, number)
        _check_one_sweep(base, composed, lines, typed)
        config = validate(composed)
        if devices_are_here:
            _check_device(config)
        jobs.append(Job(list(lines), config.condition.tag, config.battery.name, run_id(config), job_folder(composed)))
        configs.append(config)
    return _with_settings(composer, jobs), configs


def _check_one_sweep(base: DictConfig, composed: DictConfig, lines: Sequence[str], typed: set[str]) -> None:
    """Refuse a job whose swept preset says how to sweep: Hydra reads that before it knows the job, and would ignore it.

    Raises:
        ConfigError: there is such a preset.
    """
    said, used = composed.hydra.sweeper.get("params") or {}, base.hydra.sweeper.get("params") or {}
    ignored = [f"{key}={value}" for key, value in said.items() if key not in typed and used.get(key) != value]
    if ignored:
        raise ConfigError(f"[{' '.join(lines)}]: contains a sweep, {' '.join(ignored)}, which a sweep over presets "
                          f"does not do; type each preset alone, or add {' '.join(ignored)} to sweep all of them over it.")
    for name in ("launcher", "sweep"):
        if OmegaConf.to_container(composed.hydra[name]) != OmegaConf.to_container(base.hydra[name]):
            raise ConfigError(f"[{' '.join(lines)}]: sets hydra.{name}, but a sweep has one for all of its jobs; give it on the "
                              "command line, or type each preset alone.")


def _with_settings(composer: Composer, jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each with its value of every setting that differs between them."""
    settings = [{override.key_or_group: _text(override) for override in composer.parse(job.overrides)} for job in jobs]
    keys = dict.fromkeys(key for one in settings for key in one)
    swept = [key for key in keys if key not in MATRIX_COLUMNS and len({one.get(key) for one in settings}) > 1]
    return [replace(job, settings={key: one.get(key, "") for key in swept}) for job, one in zip(jobs, settings, strict=True)]


def _text(override: Override) -> str:
    """The value of an override as a matrix tells it: without quotes, true and false as YAML has them."""
    value = override.value()
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(override.get_value_string())


def _check(jobs: Sequence[Job], configs: Sequence[Config]) -> None:
    runs: dict[str, Job] = {}
    folders: dict[str, Job] = {}
    for job in jobs:
        if (same := runs.setdefault(job.run_id, job)) is not job:
            raise ConfigError(f"two jobs of this sweep are the same run: [{' '.join(same.overrides)}] and "
                              f"[{' '.join(job.overrides)}]; leave one out.")
        if (other := folders.setdefault(job.folder, job)) is not job:
            raise ConfigError(f"hydra.sweep.subdir={job.folder}: one folder for two jobs, [{' '.join(other.overrides)}] and "
                              f"[{' '.join(job.overrides)}]; expected one of each job's own, such as ${{run_name}}_${{run_id:}}.")
    one_corpus_per_tag([(config.condition.tag, _corpus(config)) for config in configs])
    if configs[0].invariants.at_least is not None:
        _check_at_least(configs)


def _check_at_least(configs: Sequence[Config]) -> None:
    """Invariants that would need more conditions than there are are refused before anything runs."""
    from tinylab.sweep.invariants import ConditionRun, check_at_least  # not for the command line's help: pandas takes a while
    from tinylab.sweep.joining import corpus_of

    corpora = [corpus_of({**unlike_default(config.condition), "path": _corpus(config)}) for config in configs]
    check_at_least(configs[0].invariants.at_least, [
        ConditionRun(config.condition.tag, {}, corpus=corpus) for config, corpus in zip(configs, corpora, strict=True)])


def _check_device(config: Config) -> None:
    """Devices that are not there are told before anything starts."""
    resolve_device(config.device.type)
    if config.verify_slice.device is not None:
        resolve_device(config.verify_slice.device)


def _corpus(config: Config) -> str:
    try:
        return corpus_sha256(config.condition.path)
    except CorpusError:
        return config.condition.path


def one_corpus_per_tag(corpora: Sequence[tuple[str, str]]) -> None:
    """Check that no two corpora of a sweep go by one tag.

    Args:
        corpora: (tag, corpus identity) of each run.

    Raises:
        ConfigError: the tag that two corpora share.
    """
    seen: dict[str, str] = {}
    for tag, identity in corpora:
        if seen.setdefault(tag, identity) != identity:
            raise ConfigError(f"condition.tag={tag}: two different corpora of this sweep have this tag; "
                              "give each its own condition.tag, for example in its own YAML.")
