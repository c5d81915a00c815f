"""The program `tinylab`, and `python -m tinylab`: the first word chooses a command; without one the line is a run's or a sweep's.

`tinylab battery=h1 condition=cond_a` and every other line of overrides and of Hydra's flags goes to `tinylab.app` as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tinylab import __version__
from tinylab.command import COMMANDS, LONGEST, NAME, run_command
from tinylab.config.composing import Composer, config_folders
from tinylab.config.hydra_internals import flags_parser
from tinylab.config.options import called, groups, in_yaml, options_of, root_keys
from tinylab.errors import ConfigError, options

MODULES = {
    "aggregate": "tinylab.aggregate",
    "convert": "tinylab.convert",
    "list": "tinylab.listing",
    "report": "tinylab.report.__main__",
    "reproduce": "tinylab.reproduce",
    "selftest": "tinylab.selftest",
    "validate": "tinylab.contracts",
}
"""The commands that have a parser of their own, each with its module; the others are in this one."""
VERSIONS = ("hydra-core", "torch", "transformers")
"""Packages whose versions go with ours."""
LIST_FLAG = re.compile(r"--list(?:-(\w+))?")
"""`--list-models`, as others call what `list models` is here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else ""
    if first in COMMANDS:
        return _command(first, words[1:])
    if (asked := LIST_FLAG.fullmatch(first)) is not None:
        return _command("list", [*([asked[1]] if asked[1] else []), *words[1:]])
    if "--version" in words:
        return _version()
    plain = [word for word in words if not word.startswith("-") and "=" not in word]
    if plain and {"--help", "-h"} & {*words} and (topic := _topic(words, plain)) is not None:
        return topic
    if "query=" in "".join(words[1:2]) and first in ("-sc", "--shell-completion"):
        _complete_commands(os.environ.get("COMP_LINE", ""))
    return _app(words)


def _command(name: str, words: Sequence[str]) -> int:
    if name in MODULES:
        command: Callable[..., int] = import_module(MODULES[name]).main
        return command(words, program=f"tinylab {name}")
    if name == "help":
        return _help(words)
    if name == "run" and (done := _old_configs(words)) is not None:
        return done
    if {"-h", "--help"} & {*words}:
        return _app(words)
    flags = ["--multirun"] if name == "sweep" and not {"-m", "--multirun"} & {*words} else []
    return _app([*flags, *words])


def _app(words: Sequence[str]) -> int:
    """Run a line of overrides and flags; imported here, as --version, list and help do without, in half of the time."""
    from tinylab import app

    return app.main(words)


def _old_configs(words: Sequence[str]) -> int | None:
    """Run configs of the first version; None where the words have none."""
    from tinylab.first_version.command import is_old_config, run

    return run(words) if any(map(is_old_config, words)) else None


def _version() -> int:
    """Print our version, and of the packages that matter most."""
    others = []
    for name in VERSIONS:
        try:
            others.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            others.append(f"{name} is not installed")
    sys.stdout.write(f"tinylab {__version__} ({', '.join(others)}, Python {sys.version.split()[0]})\n")
    return 0


def _help(words: Sequence[str]) -> int:
    """`tinylab help [TOPIC]`: what is available, or a command, a group or an option."""
    if not words:
        sys.stdout.write(overview())
        return 0
    return run_command("tinylab help", lambda: _explained(words))


def _topic(words: Sequence[str], plain: Sequence[str]) -> int | None:
    """The answer to `--help TOPIC`; None where the words are values of flags."""
    args = flags_parser().parse_intermixed_args(list(words))
    topics = [word for word in args.overrides if word in plain]
    flags = [] if args.config_dir is None else ["--config-dir", args.config_dir]
    return _help([*flags, *topics]) if topics else None


def overview() -> str:
    """What `tinylab help` prints: a line for each command."""
    lines = "\n".join(f"  tinylab {name:<11}{about}" for name, about in COMMANDS.items())
    return ("tinylab: which heads and layers of a language model matter for a task, and for the next one too?\n\n"
            f"{lines}\n\n"
            "Without a command it makes a run, with -m a sweep: tinylab battery=h2 condition=facts\n"
            "tinylab help TOPIC explains a command, a group (condition) or an option (condition=facts); tinylab --help lists\n"
            "every group and value. python -m tinylab is the same program.\n")


def _explained(words: Sequence[str]) -> int:
    """Explain a command, a group of options or one option.

    Raises:
        ConfigError: there is nothing of that name.
    """
    args = flags_parser().parse_intermixed_args(list(words))
    topic = (args.overrides or [""])[0]
    if topic in MODULES:
        return _command(topic, ["--help"])
    if topic in COMMANDS:
        sys.stdout.write(overview() if topic == "help" else f"tinylab {topic}: {COMMANDS[topic]}\n\n")
        return 0 if topic == "help" else _app(["--help"])
    folders = [Path(folder) for folder in config_folders(args) if folder is not None]
    if topic in (roots := root_keys(folders)):
        value, about = roots[topic]
        _columns("a setting of the whole experiment, changed with key=value", {f"{topic}={in_yaml(value)}": about})
        return 0
    group, dot, key = topic.partition("=")[0].partition(".")
    if group not in (known := groups(folders)):
        meant = called(topic, folders) if NAME.fullmatch(topic) and len(topic) < LONGEST else []
        meant += [f"{one}.{topic}" for one in known if any(topic in option.values for option in options_of(one, folders))]
        hint = f"did you mean {meant[0]!r}?" if meant else f"{options(topic, [*COMMANDS, *known, *roots])}."
        raise ConfigError(f"{topic}: nothing of that name to explain; {hint}")
    if dot:
        _explain_key(group, key, folders)
    else:
        _explain_group(group, topic.partition("=")[2] or None, args)
    return 0


def _explain_group(group: str, name: str | None, args: argparse.Namespace) -> None:
    """Print the options of a group, unless one is named, and the values of that one or the usual one."""
    with Composer(args) as composer:
        chosen, values = composer.composed_group(group, name)
        there = {option.name: option for option in composer.options(group)}
    if name is None:
        _columns(f"{group}=…, one of", {option.name: option.about for option in there.values()})
    comments = {} if chosen is None or chosen not in there else there[chosen].comments
    if values:
        told = {f"{group}.{key}={value}": comments.get(key, "") for key, value in values.items()}
        _columns(f"values{'' if chosen is None else f' of {group}={chosen}'}, each changed with key=value", told)


def _explain_key(group: str, key: str, folders: Sequence[Path]) -> None:
    """Print a setting of a group, and which of its options have it.

    Raises:
        ConfigError: none has.
    """
    there = options_of(group, folders)
    having = [option for option in there if key in option.values]
    if not having:
        known = dict.fromkeys(name for option in there for name in option.values)
        raise ConfigError(f"{group}.{key}: unknown key; {options(key, known)}.")
    told = {f"{group}.{key}={in_yaml(one.values[key])}": one.comments.get(key, "") for one in reversed(having)}
    where = f"every {group}" if len(having) == len(there) else ", ".join(f"{group}={one.name}" for one in having)
    _columns(f"a setting of {where}, changed with key=value", told)


def _columns(title: str, lines: dict[str, str]) -> None:
    """Print a title, and below it names with what is said of each."""
    width = min(40, max(map(len, lines)))
    told = "".join(f"  {name:<{width}}  {about}".rstrip() + "\n" for name, about in lines.items())
    sys.stdout.write(f"{title}\n{told}\n")


def _complete_commands(line: str) -> None:
    """Print the commands that a shell may complete, where the first word is being typed; Hydra's own words come after."""
    words = line.split()
    if len(words) == 1 or (len(words) == 2 and not line.endswith(" ")):
        begun = words[1] if len(words) == 2 else ""
        sys.stdout.write(" ".join(name for name in COMMANDS if name.startswith(begun)) + " ")


if __name__ == "__main__":
    sys.exit(main())
