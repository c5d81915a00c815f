"""The flags of a command line: what is wrong with them is one sentence, without usage lines."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from tinylab.errors import ConfigError, options

FLAG = r"argument ([^\s:]+): "


class Flags(argparse.ArgumentParser):
    """The parser of a command; a mistake ends it with one sentence and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print what was found and exit."""
        self.exit(ConfigError.exit_code, f"{self.prog.removeprefix('python -m ')}: {mistake(self, message)}\n")


def mistake(parser: argparse.ArgumentParser, message: str, more: str | None = None) -> str:
    """What argparse says is wrong, as one sentence.

    Args:
        parser: that found it.
        message: as argparse has it.
        more: what says more; None for the parser's own help.
    """
    more = f"{parser.prog} --help says more" if more is None else more
    actions = {name: action for action in parser._actions for name in action.option_strings or (str(action.metavar),)}
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        if found[1].startswith("-"):
            return f"{found[1]}: no such flag; {options(found[1], [name for name in actions if name.startswith('--')])}."
        return f"{found[1]}: one word too many; {more}."
    if found := re.match(r"the following arguments are required: (.+)", message):
        names = found[1].split(", ")
        told = [f"{name} ({about})" if (about := actions[name].help) else name for name in names if name in actions]
        return f"{' and '.join(told)} {'is' if len(names) == 1 else 'are'} missing; {more}."
    if found := re.match(rf"{FLAG}invalid choice: '([^']*)'", message):
        choices = actions[found[1].partition("/")[0]].choices or ()
        return f"{found[1]} {found[2]}: not an option; {options(found[2], choices)}."
    if found := re.match(rf"{FLAG}(\S+: expected .+)", message):  # as a type of ours has it
        return f"{found[1]} {found[2]}; {more}."
    return f"{message.removeprefix('argument ')}; {more}."
