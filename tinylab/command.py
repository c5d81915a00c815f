"""What every command line does: what went wrong is one sentence and an exit code, and an interruption ends it well."""

from __future__ import annotations

import argparse
import atexit
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tinylab.config.composing import BROKEN_CONFIG, config_folder, config_folders
from tinylab.config.messages import one_sentence
from tinylab.config.options import called, groups, root_keys
from tinylab.errors import ConfigError, OutputError, TinylabError, first_sentence, options
from tinylab.machine.interrupts import exit_code, terminable
from tinylab.machine.printing import unfailing

NAME = re.compile(r"[\w.-]+")
"""Of an option of a config group."""
LONGEST = 100
"""Characters of such a name."""
COMMANDS = {
    "run": "one run: overrides as in battery=h1 condition=cond_a",
    "sweep": "a run of each combination, joined: condition=cond_a,cond_b",
    "aggregate": "join a sweep again with other settings, or compare single runs",
    "report": "write report.html, an interactive page, into folders of runs and sweeps",
    "list": "models, conditions, batteries, metrics, experiments, runs",
    "selftest": "check whether this model is measured correctly on this machine",
    "reproduce": "run an experiment and compare it with the published numbers",
    "validate": "check that every file of a run or sweep is as written and satisfies its contract",
    "convert": "convert a GGUF file to a folder that loads quickly, or the first version's JSON configs to YAMLs",
    "help": "explain a command, a group or an option",
}
"""The first words of a command line, and what each does."""


def run_command(program: str, command: Callable[[], int], interrupted: str = "the same command resumes from here") -> int:
    """Run a command; returns its exit code, and what went wrong is one sentence after the program's name, without `python -m`.

    `interrupted` says to a person who pressed Ctrl-C what became of the work.
    """
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: other processes may share the cores
    with unfailing():
        return _ended(program, command, interrupted, show_traceback=show_traceback)


def _ended(program: str, command: Callable[[], int], interrupted: str, *, show_traceback: bool) -> int:
    try:
        with _full_errors(), terminable():
            _check_desk()
            return command()
    except KeyboardInterrupt as interrupt:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # what ends a launcher's processes is not cut off again
        return _say(program, f"interrupted; {interrupted}", exit_code(interrupt))
    except TinylabError as error:
        if show_traceback:
            raise
        return _say(program, str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        if show_traceback:
            raise
        return _say(program, one_sentence(error), ConfigError.exit_code)


def _check_desk() -> None:
    """Raise OutputError if the folder in which a command was typed is gone: every path is counted from there."""
    try:
        os.getcwd()
    except OSError as error:
        raise OutputError(f"the folder in which this was typed is gone ({error.strerror}); cd into one that exists.") from error


@contextmanager
def _full_errors() -> Iterator[None]:
    """While open, exceptions reach us instead of Hydra's own formatting and exit code."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _say(program: str, message: str, code: int) -> int:
    sys.stderr.write(f"{program.removeprefix('python -m ')}: {message}\n")
    return code


def check_dashes(words: Sequence[str]) -> None:
    """Refuse settings that are typed as flags, as other programs have them.

    Raises:
        ConfigError: there is one.
    """
    dashed = [word for word in words if word.startswith("--")]
    known = {*groups([config_folder()]), *root_keys([config_folder()])} if dashed else set()
    for word in dashed:
        key, _, value = word.removeprefix("--").partition("=")
        if (key := key.replace("-", "_")).partition(".")[0] in known:
            raise ConfigError(f"{word}: settings are typed without dashes; did you mean '{key}={value or '…'}'?")


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags of Hydra's that would do nothing, and words that are not overrides.

    Raises:
        ConfigError: there is one.
    """
    if args.resolve and not (args.cfg or args.help):
        raise ConfigError("--resolve: shows a config with every interpolation replaced, with --cfg job, --cfg all or --help; "
                          "add --cfg job.")
    if args.package and not args.cfg:
        raise ConfigError(f"--package {args.package}: shows a part of a config, with --cfg; add --cfg job.")
    if args.shell_completion and not any(word.startswith(("install=", "uninstall=", "query=")) for word in args.overrides):
        raise ConfigError("--shell-completion: expected install=bash, install=zsh or install=fish (or uninstall=…); in bash "
                          "eval \"$(tinylab --shell-completion install=bash)\" completes groups and options.")
    stray = next((word for word in args.overrides if "=" not in word and not word.startswith("~")), None)
    if stray is None or args.hydra_help:
        return
    if stray in COMMANDS:
        raise ConfigError(f"{stray}: a command is the first word, as in tinylab {stray}.")
    raise ConfigError(f"{stray}: neither a command nor key=value; {_meant(stray, args) or options(stray, COMMANDS) + ';'} "
                      "tinylab help says more, tinylab --help lists groups and values.")


def _meant(word: str, args: argparse.Namespace) -> str | None:
    """What was meant by an option without its group, or by a corpus without its key; None where nothing says so."""
    from tinylab.task.reading import SUFFIXES
    from tinylab.task.saved import is_saved

    folders = [Path(folder) for folder in config_folders(args) if folder is not None]
    found = called(word, folders) if NAME.fullmatch(word) and len(word) < LONGEST else []
    if os.path.exists(word) and (word.endswith(SUFFIXES) or is_saved(Path(word))):
        found.append(f"condition=jsonl condition.path={word}")
    if word in COMMANDS["list"].split(", "):
        found.append(f"list {word}")
    return f"did you mean {' or '.join(map(repr, found))}?" if found else None


@contextmanager
def hydras_own_errors() -> Iterator[None]:
    """In a single run jobs raise nothing, so what comes out of Hydra is about its own settings and flags: a ConfigError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException):
        raise
    except (*BROKEN_CONFIG, ImportError) as error:
        raise ConfigError(f"Hydra cannot use its settings: {type(error).__name__}: {first_sentence(error)}; leave out what you "
                          "set of hydra.* and hydra/*.") from error
