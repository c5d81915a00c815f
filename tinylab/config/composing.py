"""Composing configs ahead of time: what Hydra would run, checked before anything is started or written."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinylab.config.files import check_aliases, check_encoding
from tinylab.config.hydra_internals import main_hydra, search_path
from tinylab.config.messages import meant, one_sentence, unknown_key
from tinylab.config.options import Option, in_yaml, options_of
from tinylab.errors import ConfigError, options
from tinylab.paths import PACKAGE_SCHEME, locate

CONFIG_NAME = "config"
GROUPS = ("battery", "condition", "model", "device", "engine", "verify_slice", "experiment")


BROKEN_CONFIG = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, AssertionError, LookupError,
                 AttributeError, OSError)
"""What Hydra raises where it meets a config that it did not expect."""

SOURCES = {"model.name": ("model", "hf"), "model.path": ("model", "local"), "condition.path": ("condition", "jsonl")}
"""The keys that say where weights and rows come from, each with its group and the option whose source is for the user to give."""


def config_folder() -> Path:
    """The shipped `conf/`: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def config_folders(args: argparse.Namespace) -> tuple[str, str | None]:
    """Where configs are looked for: the user's own folder before the shipped one, or before the one of --config-path.

    Returns:
        The folder that goes first, and the one after it, if there is one.

    Raises:
        ConfigError: a folder given by a flag does not exist.
    """
    found = [str(config_folder())]
    for flag, given in (("--config-path", args.config_path), ("--config-dir", args.config_dir)):
        if given is None:
            continue
        folder = os.path.abspath(locate(given) if given.startswith(PACKAGE_SCHEME) else given)
        if not os.path.isdir(folder):
            raise ConfigError(f"{flag} {given}: no such folder; expected one with groups such as condition/.")
        found = [folder] if flag == "--config-path" else [folder, *found]
    return found[0], found[1] if len(found) > 1 else None


def ignore_schema_notice() -> None:
    """Let a launcher's preset in `conf/` be checked against its plugin's schema without Hydra's notice that it is.

    Presets have the names of the launchers that they are for, which Hydra calls deprecated.
    """
    notice = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
    warnings.filterwarnings("ignore", message=notice, category=UserWarning)


ignore_schema_notice()  # at import: workers compose too


class Composer:
    """Composes the shipped config, with the user's own folder before it, as `run_hydra` will.

    Use it in a `with` block: Hydra allows one such object at a time.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Read what the command line says about where configs are.

        Raises:
            ConfigError: the folder given by --config-dir does not exist.
        """
        ignore_schema_notice()
        folders = config_folders(args)
        self._folders = [Path(folder) for folder in folders if folder is not None]
        self.own_configs = any(given is not None for given in (args.config_dir, args.config_path, args.config_name))
        self._name = args.config_name or CONFIG_NAME
        self._hydra = main_hydra("tinylab", search_path(*folders))
        self._before = {source.provider: source for source in self._hydra.config_loader.get_sources()}
        self._checked: set[str] = set()
        self._given = [folder for folder in folders if folder is not None and folder != str(config_folder())]
        self._own_folders: list[str] = []
        self._own = None if args.config_dir is None else (f"--config-dir {args.config_dir}", folders[0])

    def __enter__(self) -> Self:
        """Open.

        Raises:
            ConfigError: a file of the user's cannot be a config, or Hydra would not look at it.
        """
        try:
            for folder in self._given:
                self._check_aliases(folder)
            if self._own is not None:
                self._check_used(*self._own, [self._before["hydra"]])
        except ConfigError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Make room for Hydra's own entry point."""
        HydraConfig.instance().cfg = None
        GlobalHydra.instance().clear()

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Overrides as Hydra understands them.

        Raises:
            ConfigError: one cannot be parsed.
        """
        try:
            parsed = OverridesParser.create(config_loader=self._hydra.config_loader).parse_overrides(list(overrides))
        except HydraException as error:
            wrong = getattr(error, "override", None)
            if wrong is None:
                raise ConfigError(one_sentence(error)) from error
            raise ConfigError(f"{wrong}: cannot be read as key=value; quote a value with special characters, and "
                              "the whole, as in \"battery.patch_direction='corrupt->clean'\".") from error

        for override in parsed:
            self._check_choice(override)
            if override.key_or_group.lstrip("+") == "hydra.searchpath" and isinstance(places := override.value(), list):
                for place in places:
                    self._check_aliases(str(place).removeprefix("file://"))
        return parsed

    def _check_aliases(self, folder: str) -> None:
        if folder not in self._own_folders and os.path.isdir(folder):
            check_aliases(folder)
            self._own_folders.append(folder)

    def _check_choice(self, override: Override) -> None:
        """A group takes one option; Hydra would take a list and keep the last, and break on null."""
        group = override.key_or_group
        if override.is_sweep_override() or override.is_delete() or not self._is_group(group):
            return
        value = override.value()
        if isinstance(value, (int, float)):
            raise ConfigError(f"{override.input_line}: expected the name of an option; {options(value, self._known(group))}.")
        if group not in GROUPS and (group != "hydra" or isinstance(value, str)):
            return
        if isinstance(value, list):
            names = ",".join(str(name) for name in value)
            raise ConfigError(f"{override.input_line}: one option at a time; sweep over several with -m {group}={names}.")
        if value is None and group != "experiment":
            raise ConfigError(f"{override.input_line}: expected an option; known: {', '.join(self._known(group))}.")

    def _known(self, group: str) -> list[str]:
        return self._hydra.config_loader.get_group_options(group)

    def _is_group(self, key: str) -> bool:
        return key in GROUPS or key == "hydra" or ("." not in key and bool(self._known(key)))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """One job's config, its `hydra` node included.

        Raises:
            ConfigError: it cannot be composed; the message says what would work.
        """
        HydraConfig.instance().cfg = None  # of the job before: a config that needs it must not take another's
        try:
            cfg = self._hydra.compose_config(self._name, list(overrides), run_mode=RunMode.RUN, with_log_configuration=False)
        except RecursionError as error:
            raise ConfigError(f"{' '.join(overrides)}: a config leads back to itself through its defaults; take it out of "
                              "its own defaults list.") from error
        except UnicodeDecodeError as error:
            for folder in self._own_folders:
                check_encoding(folder)
            raise ConfigError(f"a config is not UTF-8 ({one_sentence(error)}); save it as UTF-8.") from error
        except BROKEN_CONFIG as error:
            unknown = re.search(r"Could not override '([^']+)'", str(error))
            if unknown:
                raise ConfigError(self._unknown_key(unknown[1], overrides)) from error
            raise ConfigError(f"{one_sentence(error)}{meant(str(error))}") from error
        for source in cfg.hydra.runtime.config_sources:
            if source.provider.startswith("hydra.searchpath"):
                folder = str(locate(f"{PACKAGE_SCHEME}{source.path}")) if source.schema == "pkg" else source.path
                self._check_used(f"hydra.searchpath=[{source.path}]", folder, list(self._before.values()))
        HydraConfig.instance().set_config(cfg)  # ${hydra:…} means the job's
        return cfg

    def options(self, group: str) -> list[Option]:
        """The options of a group in the folders of configs, those of `hydra.searchpath` aside."""
        return options_of(group, self._folders)

    def composed_group(self, group: str, option: str | None) -> tuple[str | None, dict[str, str]]:
        """The option of a group that is chosen unless another is given, and its values as YAML has them, by key.

        Raises:
            ConfigError: it cannot be composed.
        """
        cfg = self.compose([] if option is None else [f"{group}={option}"])
        node = OmegaConf.select(cfg, group)
        values: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
        return cfg.hydra.runtime.choices.get(group), {str(key): in_yaml(value) for key, value in values.items()}

    def _check_used(self, given: str, folder: str, before: Sequence[ConfigSource]) -> None:
        """Refuse a folder of the user's with a file that would be ignored: a source that goes before has one of its name.

        Raises:
            ConfigError: there is one.
        """
        if (key := f"{folder} is used") in self._checked:
            return
        for source in before:
            for name in _options(source) if source.provider != "schema" else ():
                if os.path.isfile(os.path.join(folder, f"{name}.yaml")):
                    instead = "give it another name" if source.provider == "hydra" else "use --config-dir, which goes first"
                    raise ConfigError(f"{given}: its {name}.yaml would be ignored, as {source.full_path()} has one of this name "
                                      f"and goes before it; {instead}.")
        self._checked.add(key)

    def check_sources(self, overrides: Sequence[Override]) -> None:
        """Refuse to put another corpus or other weights under the name of a preset that has its own, or to rename a battery.

        Raises:
            ConfigError: a preset's source or name is overridden; the message says what was meant.
        """
        for own in overrides:
            if own.key_or_group.lstrip("+") == "battery.name" and not own.is_sweep_override():
                others = [o.input_line or "" for o in overrides if o is not own and not o.is_sweep_override()]
                self._check_battery_name(own, others)
            if own.is_sweep_override() or (found := SOURCES.get(own.key_or_group.lstrip("+"))) is None or own.value() is None:
                continue
            group, option = found
            lines = [o.input_line or "" for o in overrides if o is not own and not o.is_sweep_override()]
            composed = self.compose(lines)
            choice = composed.hydra.runtime.choices[group]
            sources = [OmegaConf.select(composed, key, throw_on_missing=False) for key, (of, _) in SOURCES.items() if of == group]
            has_its_own = any(source is not None for source in sources)
            if has_its_own and choice != option:
                raise ConfigError(f"{own.input_line}: {group}={choice} has a source of its own, and would give its name to "
                                  f"another; use {group}={option} {own.input_line}.")

    def _check_battery_name(self, own: Override, others: Sequence[str]) -> None:
        """Refuse a battery's name that is not its YAML's: tables and manifests call it by that."""
        composed = self.compose(others)
        name = OmegaConf.select(composed, "battery.name", throw_on_missing=False)
        if name is not None and own.value() != name:
            choice = composed.hydra.runtime.choices["battery"]
            raise ConfigError(f"{own.input_line}: battery={choice} is called {name} in every result; choose another battery with "
                              "battery=…, or name one of your own in a YAML of your own.")

    def _unknown_key(self, key: str, overrides: Sequence[str]) -> str:
        """The message for a mistyped key: its known siblings, found by composing without it."""
        rest = [text for text in overrides if text.lstrip("+~").split("=")[0].split("@")[0] != key]
        if len(rest) == len(overrides):
            return f"{key}: unknown key."
        return unknown_key(key, self.compose(rest))


def _options(source: ConfigSource, group: str = "") -> Iterator[str]:
    """Every config of a source, as group/option."""
    for kind in (ObjectType.CONFIG, ObjectType.GROUP):
        for name in source.list(group, kind) if source.available() else ():
            path = f"{group}/{name}" if group else name
            yield from [path] if kind == ObjectType.CONFIG else _options(source, path)


def is_hydra_override(override: Override) -> bool:
    """Whether an override concerns Hydra itself and not the experiment."""
    return override.key_or_group.startswith(("hydra.", "hydra/"))
