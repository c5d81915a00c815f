"""What tinylab takes from Hydra's private packages, all in one place.

Hydra has no public way to read its own flags, to run a job from parsed flags, or to compose ahead of a run with the
search path of a command line. When a new Hydra breaks one of these (tests/config/test_hydra_internals.py says which), look here:

| name | what it is for | what must stay true |
|---|---|---|
| `flags_parser` | Hydra's own flags | `parse_args` gives overrides, multirun, cfg, info, config_dir and so on |
| `run_hydra` | the entry point of `hydra.main` | takes parsed flags, a task; looks in `config_path` before `config_dir` |
| `_knowing` | a composition less before each run | only the entry point asks `Hydra.get_mode`, for `hydra.mode` |
| `search_path`, `main_hydra` | composing as the entry point will | as in `hydra._internal.utils._run_hydra` |
| `split_arguments` | the jobs of a multirun | as `BasicSweeper` splits them |
| `loader_of` | composing another option of a group inside a job | sources as `hydra.runtime.config_sources` tells them |
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.types import Override
from hydra.types import RunMode

from tinylab.config.flags import mistake
from tinylab.errors import ConfigError


def flags_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's command line; what it cannot parse is a ConfigError."""
    parser = get_args_parser()
    parser.__class__ = _Flags
    return parser


class _Flags(argparse.ArgumentParser):
    """A parser that says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise what was found.

        Raises:
            ConfigError: an unknown flag, or one without its value.
        """
        raise ConfigError(mistake(self, message, "tinylab --hydra-help lists the flags"))


def run_hydra(
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    task: Callable[..., Any],
    folders: tuple[str, str | None],
    name: str,
    *,
    mode: RunMode | None = None,
) -> None:
    """Run Hydra as `hydra.main` does.

    Args:
        args: parsed flags and overrides.
        parser: that parsed them, for --help.
        task: of a job.
        folders: of the configs, the first one first; Hydra by itself would look into --config-dir last.
        name: of the root config.
        mode: what the composed config says of `hydra.mode`.
    """
    first, second = folders
    asked = argparse.Namespace(**{**vars(args), "config_path": first, "config_dir": second})
    with _knowing(mode):
        _run_hydra(asked, parser, task, config_path=first, config_name=name)


@contextmanager
def _knowing(mode: RunMode | None) -> Iterator[None]:
    """Answer Hydra's question for the mode, for which it would compose the whole config once more."""
    own = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = own  # type: ignore[method-assign]


def search_path(first: str, second: str | None = None) -> ConfigSearchPath:
    """Where configs are looked for: in a folder, then in another, in addition to what Hydra brings."""
    path = create_config_search_path(first)
    if second is not None:
        path.prepend("command-line", f"file://{second}", SearchPathQuery(provider="schema"))
    return path


def main_hydra(task_name: str, path: ConfigSearchPath) -> Hydra:
    """The object that composes; one at a time in a process."""
    return Hydra.create_main_hydra2(task_name=task_name, config_search_path=path)


def split_arguments(overrides: Sequence[Override]) -> list[list[list[str]]]:
    """The overrides of each job of a multirun, in batches (one, without a limit on their size)."""
    batches: list[list[list[str]]] = BasicSweeper.split_arguments(list(overrides), None)
    return batches


def loader_of(sources: Sequence[tuple[str, str]]) -> ConfigLoader:
    """What composes from the places of a composed config, and leaves Hydra's own state alone.

    Args:
        sources: provider and address of each, in order, without the schemas, which go last.
    """
    path = ConfigSearchPathImpl()
    for provider, address in sources:
        path.append(provider, address)
    path.append("schema", "structured://")
    return ConfigLoaderImpl(path)
