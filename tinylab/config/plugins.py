"""What a config may make objects of: batteries (`tinylab.schema`), and Hydra's own plugins where Hydra documents them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tinylab.errors import ConfigError, first_sentence, options

LAUNCHERS = ("basic", "joblib", "ray", "submitit_local", "submitit_slurm")


def imported(path: str) -> Any:
    """What a path names in a module that Python finds.

    Raises:
        ImportError: nothing, or its module breaks; the message is one sentence.
    """
    logger = logging.getLogger("hydra.utils")
    before, logger.disabled = logger.disabled, True  # it would print what is raised, on several lines
    try:
        return get_object(path)
    except (ImportError, ValueError) as error:
        cause = error.__cause__
        why = first_sentence(error) if cause is None else f"{type(cause).__name__}: {first_sentence(cause)}"
        raise ImportError(why) from error
    finally:
        logger.disabled = before


def check_plugins(hydra: DictConfig, *, multirun: bool) -> None:
    """Check the `hydra` node before anything in it is called: each `_target_` is where Hydra looks for a plugin.

    Hydra itself takes launchers and sweepers from its plugins only, and restricts what handlers of logs may be.

    Raises:
        ConfigError: a target is elsewhere or is no callback, a launcher or sweeper is missing, or jobs would change folder.
    """
    for part in ("launcher", "sweeper") if multirun else ():
        if not isinstance(OmegaConf.select(hydra, f"{part}._target_"), str):
            known = f"choose one with hydra/launcher=…; {options('', LAUNCHERS)}" if part == "launcher" else "leave it out"
            raise ConfigError(f"hydra.{part}: none; a sweep needs one, {known}.")
    if hydra.job.chdir:
        raise ConfigError("hydra.job.chdir=true: paths are counted from where the command is typed, so jobs stay there; leave it "
                          "out, and give folders with output_dir=….")
    plain: Any = OmegaConf.to_container(hydra)
    callbacks: dict[str, Any] = plain["callbacks"]
    allowed = {"launcher._target_", "sweeper._target_", *(f"callbacks.{name}._target_" for name in callbacks)}
    for key, value in _targets(plain, ""):
        if key not in allowed and not _makes_a_log(key, value):
            raise ConfigError(f"hydra.{key}={value}: configs make no objects here; only batteries, launchers, sweepers and "
                              "callbacks have a _target_.")
    for name, node in callbacks.items():
        _check_callback(f"hydra.callbacks.{name}", node)


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every key that makes an object, and what of."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key in ("_target_", "()"):
            yield f"{prefix}{key}", value
        yield from _targets(value, f"{prefix}{key}.")


def _makes_a_log(key: str, value: Any) -> bool:
    """Whether it is what logging itself lets be chosen: a formatter, a filter or a handler of a log."""
    if not key.endswith(".()") or key.partition(".")[0] not in ("job_logging", "hydra_logging"):
        return False
    try:
        made = imported(str(value))
    except ImportError:
        return False
    return isinstance(made, type) and issubclass(made, logging.Formatter | logging.Filter | logging.Handler)


def _check_callback(key: str, node: Any) -> None:
    target = node.get("_target_") if isinstance(node, dict) else node
    try:
        found = imported(str(target))
        fine, why = isinstance(found, type) and issubclass(found, Callback), "is no callback"
    except ImportError as error:
        fine, why = False, str(error)
    if not fine:
        raise ConfigError(f"{key}._target_={target}: {why}; expected the path of a hydra.experimental.callback.Callback.")
