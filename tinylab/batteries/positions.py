"""The token positions at which a battery acts, as a config gives them: last, all, each, a list, a named part of prompts."""

from __future__ import annotations

import re
from typing import Any

from tinylab.config.checks import at_least, distinct
from tinylab.errors import ConfigError
from tinylab.interventions.variants import Each, Named, Positions

EACH = "each"
"""Every position by itself: a cell for each of them."""

NAMED = re.compile(r"([\w-]+)\.(first|last|all)")
"""A named part of prompts, or one end of it."""


def check_positions(got: Any) -> None:
    """Raise ConfigError unless a value can be positions."""
    listed = isinstance(got, list) and all(isinstance(p, int) and not isinstance(p, bool) for p in got)
    if got not in ("last", "all", EACH) and not listed and not (isinstance(got, str) and NAMED.fullmatch(got)):
        raise ConfigError(
            f"battery.positions={got}: expected last, all, each, a list of token indices such as [3,4] "
            "(position 0 is the first token, BOS included), or a named part of the prompts such as subject.last."
        )
    if listed:
        distinct("battery.positions", got)
        for position in got:
            at_least("battery.positions", position, 0)


def meant_positions(got: Any) -> Positions:
    """The positions that a value means; of `each` the first."""
    if got == EACH:
        return Each(0)
    if isinstance(got, list):
        return tuple(sorted(got))
    named = NAMED.fullmatch(got)
    return got if named is None else Named(named[1], named[2])  # type: ignore[arg-type]  # of the pattern's alternatives
