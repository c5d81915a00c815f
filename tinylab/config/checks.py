"""Small checks of values, for every config group and battery: each raises one sentence."""

from __future__ import annotations

import math
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


def at_most(key: str, got: int | float | None, most: int) -> None:
    """Raise ConfigError if `got` is a number above `most`."""
    if got is not None and got > most:
        raise ConfigError(f"{key}={got}: expected a number of at most {most:,}.")


def storable(key: str, got: object) -> None:
    """Raise ConfigError if a value, or one inside it, is a number that tables and documents cannot hold."""
    for value in got.values() if isinstance(got, dict) else got if isinstance(got, (list, tuple)) else ():
        storable(key, value)
    if isinstance(got, float) and not math.isfinite(got):
        raise ConfigError(f"{key}={got}: expected finite numbers.")
    if isinstance(got, int) and not -(2**63) <= got < 2**63:
        raise ConfigError(f"{key}={got}: expected whole numbers of at most 64 bits, below {2**63}.")


def folder_name(key: str, got: str, room: int) -> None:
    """Raise ConfigError unless a name can be a folder's, with so many bytes more."""
    if not got or "/" in got or not got.isprintable():
        raise ConfigError(f"{key}={got!r}: expected a name without '/', of letters that can be printed.")
    size = len(got.encode())
    if size + room > 255:
        raise ConfigError(f"{key}={got[:20]}…: has {size} bytes; expected at most {255 - room}, a folder is called by it.")


def distinct(key: str, got: Sequence[Any] | None) -> None:
    """Raise ConfigError if `got` is an empty list or has a value twice; None (all) is fine."""
    if got is not None and (len(got) == 0 or len(set(got)) != len(got)):
        raise ConfigError(f"{key}={list(got)}: expected a list of distinct values, not empty.")
