"""Where a sweep goes: its folder's name, told to Hydra as it was planned, and what its jobs' folders may be called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from tinylab.config.composing import Composer, is_hydra_override
from tinylab.config.messages import one_sentence
from tinylab.errors import ConfigError
from tinylab.paths import PACKAGE_SCHEME, locate
from tinylab.records.identity import digest
from tinylab.schema import Config

IGNORED_IN_ID = ("overwrite", "plots", "report", "dry_run", "threads", "output_dir", "sweep_name", "verify_slice",
                 "effects", "controls", "invariants")
"""Settings that change no run of a sweep: with others of these it is the same sweep, in the same folder."""


def sweep_folder(composer: Composer, parsed: Sequence[Override], swept: Sequence[Override], base: DictConfig,
                 configs: Sequence[Config]) -> Path:
    """The folder of a sweep: as it was asked for (hydra.sweep.dir), or its name and an id of what it runs.

    Args:
        composer: of the command line.
        parsed: its overrides.
        swept: the same, and those that a preset sweeps.
        base: what is composed of those that are not swept.
        configs: of the jobs.

    Raises:
        ConfigError: it is no folder's name, or Hydra would read it otherwise.
    """
    asked = _resolved(base, "hydra.sweep.dir")
    if not asked.strip():
        raise ConfigError("hydra.sweep.dir=: empty; expected a folder, '.' is where the command is typed.")
    folder = Path(asked)
    if not is_explicit(parsed, "hydra.sweep.dir"):
        folder = folder.with_name(f"{folder.name}_{_sweep_id(composer, swept, base, configs)}")
    fixed = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    read = _resolved(composer.compose([*fixed, passed_on("hydra.sweep.dir", folder)]), "hydra.sweep.dir")
    if read != str(folder):
        raise ConfigError(f"hydra.sweep.dir={folder}: Hydra reads this name as {read}; choose a folder without $, quotes and "
                          "backslashes.")
    return folder


def is_explicit(overrides: Sequence[Override], key: str) -> bool:
    """Whether a key was given on the command line."""
    return any(override.key_or_group.lstrip("+") == key for override in overrides)


def passed_on(key: str, folder: Path) -> str:
    """The override that gives Hydra a folder as it was planned: quoted, and what looks like an interpolation is none."""
    literal = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", str(folder))
    return f"{key}={QuotedString(literal, Quote.single).with_quotes()}"


def number_job(composed: DictConfig, number: int) -> None:
    """Tell a job's config its number, as Hydra does when it starts the job."""
    with read_write(composed.hydra.job), open_dict(composed.hydra.job):
        composed.hydra.job.num = number


def job_folder(composed: DictConfig) -> str:
    """A job's folder, relative to that of its sweep.

    Raises:
        ConfigError: it is the sweep's own or outside of it, or cannot be known before the job starts.
    """
    folder = _resolved(composed, "hydra.sweep.subdir")
    normal = os.path.normpath(folder)
    if os.path.isabs(folder) or normal.split(os.sep)[0] in (".", ".."):
        raise ConfigError(f"hydra.sweep.subdir={folder}: expected a folder of each job's own inside the sweep's, such as "
                          "${run_name}_${run_id:}.")
    return normal


def _resolved(composed: DictConfig, key: str) -> str:
    try:
        return str(OmegaConf.select(composed, key, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {one_sentence(error)}: it has to be known before the jobs start.") from error


def _sweep_id(composer: Composer, swept: Sequence[Override], base: DictConfig, configs: Sequence[Config]) -> str:
    """A hash of the overrides; and of what they compose where that is not ours alone, so that they may mean another thing."""
    lines = sorted(override.input_line or "" for override in swept
                   if not is_hydra_override(override) and override.key_or_group.split(".")[0] not in IGNORED_IN_ID)
    paths = [path for config in configs for path in (config.condition.path, config.model.path)
             if path is not None and not path.startswith(PACKAGE_SCHEME)]
    shared = os.path.isabs(configs[0].output_dir) and not all(map(os.path.isabs, paths))
    if not (composer.own_configs or base.hydra.searchpath or shared or any("${" in line for line in lines)):
        return digest(lines)
    return digest([lines, [_composed(config) for config in configs]])


def _composed(config: Config) -> dict[str, object]:
    """What a job's config says of its numbers; its paths as they lie from the output folder, so that both may be moved."""
    told = {key: value for key, value in asdict(config).items() if key not in IGNORED_IN_ID}
    for group in ("condition", "model"):
        path = told[group]["path"]
        if path is not None and not path.startswith(PACKAGE_SCHEME):
            told[group]["path"] = os.path.relpath(locate(path), config.output_dir)
    return told
