"""`condition=glob(*)`: a sweep over every option of a group whose name fits, of those that can run.

What cannot run by itself is left out, and named: a template whose values are for the user to give (`condition=jsonl`), and a
condition whose prompts this model cannot use, such as most that were made for planted models. A condition that is broken in
itself stays: its failure is the user's to see.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Glob, Override

from tinylab.config.composing import GROUPS, Composer
from tinylab.config.options import Option
from tinylab.errors import ConfigError, TinylabError, UserError, options
from tinylab.schema import validate

log = logging.getLogger(__name__)


def without_globs(composer: Composer, overrides: Sequence[str]) -> list[str]:
    """The overrides of a command line with every glob over a group written out.

    Raises:
        ConfigError: no option that can run has a name that fits.
    """
    parsed = composer.parse(overrides)
    if not any(_is_glob(override) for override in parsed):
        return list(overrides)
    given = {override.key_or_group.lstrip("+") for override in parsed}
    rest = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    return [_written_out(composer, override, given, rest) if _is_glob(override) else override.input_line or ""
            for override in parsed]


def _is_glob(override: Override) -> bool:
    value: Any = override.value()
    return override.key_or_group in GROUPS and isinstance(value, Glob)


def _written_out(composer: Composer, override: Override, given: set[str], rest: Sequence[str]) -> str:
    group = override.key_or_group
    pattern: Any = override.value()
    every = composer.options(group)
    fitting = [option for option in every if option.name in pattern.filter([one.name for one in every])]
    why = {option.name: reason for option in fitting if (reason := _unfit(composer, group, option, given, rest)) is not None}
    if why:
        told = [f"{', '.join(name for name in why if why[name] == reason)} ({reason})" for reason in dict.fromkeys(why.values())]
        log.warning("%s: without %s", override.input_line, "; ".join(told))
    names = [option.name for option in fitting if option.name not in why]
    if not names:
        raise ConfigError(f"{override.input_line}: no {group} that can run by itself has such a name; "
                          f"{options(' '.join(pattern.include), [option.name for option in every])}.")
    return f"{group}={','.join(names)}"


def _unfit(composer: Composer, group: str, option: Option, given: set[str], rest: Sequence[str]) -> str | None:
    """Why an option cannot run by itself, None if it can as far as is known."""
    if missing := [f"{group}.{key}" for key in option.required if f"{group}.{key}" not in given]:
        return f"needs {', '.join(missing)}=…"
    if group == "condition" and not _usable(composer, [*rest, f"condition={option.name}"]):
        return "has rows that this model cannot use"
    return None


def _usable(composer: Composer, overrides: Sequence[str]) -> bool:
    """Whether the model of a command line can use its condition; one that is broken in itself counts as if it could."""
    from tinylab.machine.imports import large_import
    from tinylab.task.corpus import load_condition

    with large_import("transformers"):
        from tinylab.models.loading import skeleton
        from tinylab.task.preparation import prepare
    try:
        config = validate(composer.compose(overrides))
        condition, model = load_condition(config.condition), skeleton(config.model)
    except TinylabError:  # the run says so
        return True
    try:
        prepare(config, condition, model)
    except UserError:
        return False
    return True
