"""H1, heads_zero: multiply one head's output by a scale, at every position, and see what the task loses.

With `site`, a head's queries, keys or values instead; keys and values are those of key-value heads, which are then counted.

Zero ablation is one baseline among several: it removes the head's value bias with the head, unless `keep_value_bias` leaves
that where it is. `ablation` chooses another (`tinylab.batteries.ablation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinylab.batteries.ablation import HEADS, Ablation
from tinylab.errors import ConfigError


@dataclass(kw_only=True)
class HeadsZero(Ablation):
    """Every chosen head times every scale, on the clean run."""

    kind: ClassVar[str] = "heads_zero"

    def __post_init__(self) -> None:
        """Check the values; heads are its only units."""
        super().__post_init__()
        if self.site not in HEADS:
            raise ConfigError(f"battery.site={self.site} with battery={self.name}: expected a site of heads "
                              f"({', '.join(HEADS)}); use battery=mlps, battery=neurons or battery=blocks.")
