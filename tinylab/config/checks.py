"""Small checks of values, for every config group and battery: each raises one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinylab.errors import ConfigError, options


def one_of(key: str, got: object, known: Sequence[str]) -> None:
    """Raise ConfigError unless `got` is one of the known options."""
    if got not in known:
        raise ConfigError(f"{key}={got}: not an option; {options(got, known)}.")


def at_least(key: str, got: int | float | None, least: int) -> None:
    """Raise ConfigError if `got` is a number below `least`."""
    if got is not None and got < least:
        raise ConfigError(f"{key}={got}: expected a number of at least {least}.")


def distinct(key: str, got: Sequence[Any] | None) -> None:
    """Raise ConfigError if `got` is an empty list or has a value twice; None (all) is fine."""
    if got is not None and (len(got) == 0 or len(set(got)) != len(got)):
        raise ConfigError(f"{key}={list(got)}: expected a list of distinct values, not empty.")
