"""What Hydra makes of the same config files, made once in a process of tests: half of what a command of a tiny run takes.

Hundreds of commands compose the forty files of `conf/` two or three times each. Which files a choice of options takes, and what
they give together before any value is overridden, is remembered as bytes, under everything that it is made of: the choice, and
the name, size and time of every file of every folder of configs. Each command gets a copy of its own, overrides its own values in
it and resolves them. What is no success is never remembered, and processes of their own (`typed.type_in_shell`) remember nothing.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any

import pytest
from hydra._internal import config_loader_impl as loader
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

OWN = {"create_defaults_list": loader.create_defaults_list,
       "_compose_config_from_defaults_list": ConfigLoaderImpl._compose_config_from_defaults_list}
"""Hydra's own."""
OF_HYDRA = ("pkg", "hydra.conf")


def _state(repo: Any) -> Hashable | None:
    """Everything that a composition reads but its overrides; None if that cannot be known."""
    found: list[Hashable] = [frozenset((k, v) for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST")]
    for source in repo.get_sources():
        found.append((source.scheme(), source.provider, source.path))
        if source.scheme() == "file":
            for folder, _, names in os.walk(os.path.abspath(source.path), followlinks=True):
                for name in names:
                    file = os.path.join(folder, name)
                    stat = os.stat(file) if os.path.exists(file) else None
                    found.append((file, stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
        elif source.scheme() != "structured" and (source.scheme(), source.path) != OF_HYDRA:
            return None
    return tuple(found)


def _chooses(repo: Any, override: Any) -> bool:
    """Whether an override may decide which files are taken."""
    return override.is_sweep_override() or (repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict))


@contextmanager
def remembered() -> Iterator[None]:
    """Remember, until the end."""
    parse, choose, compose = OmegaConf.load, loader.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    parsed, chosen, composed = dict[str, bytes](), dict[Hashable, bytes](), dict[Hashable, bytes]()

    def load(file: Any) -> Any:
        if not hasattr(file, "read"):
            return parse(file)
        text = file.read()
        if text not in parsed:
            file.seek(0)
            parsed[text] = pickle.dumps(parse(file))
        return pickle.loads(parsed[text])

    def create_defaults_list(
        repo: Any, config_name: str | None, overrides_list: Sequence[Any], prepend_hydra: bool, skip_missing: bool
    ) -> Any:
        choices, values = list[Any](), list[Any]()
        for override in overrides_list:
            (choices if _chooses(repo, override) else values).append(override)
        state = _state(repo)
        key = (state, config_name, tuple(override.input_line for override in choices), prepend_hydra, skip_missing)
        if key not in chosen:
            made = choose(repo, config_name, list(overrides_list), prepend_hydra, skip_missing)
            if state is None or made.config_overrides != values:
                return made
            made.config_overrides = made.overrides.config_overrides = []
            chosen[key] = pickle.dumps(made)
        copy = pickle.loads(chosen[key])
        copy.config_overrides = copy.overrides.config_overrides = values
        return copy

    def compose_config(self: Any, defaults: Sequence[Any], repo: Any) -> Any:
        state = _state(repo)
        key = (state, tuple(astuple(default) for default in defaults))
        if state is None:
            return compose(self, list(defaults), repo)
        if key not in composed:
            composed[key] = pickle.dumps(compose(self, list(defaults), repo))
        return pickle.loads(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(load))
        patch.setattr(loader, "create_defaults_list", create_defaults_list)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_config)
        patch.setattr(ConfigStore, "__deepcopy__", lambda self, _: self, raising=False)  # it is copied for every composition
        yield
