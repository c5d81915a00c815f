"""Sources: where the activations come from that an operation puts in place of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunName = Literal["clean", "corrupt"]
"""The two runs of a prompt pair. `target` and `source` say which of them is intervened on, and which one gives activations."""
RUNS: tuple[RunName, ...] = ("clean", "corrupt")


@dataclass(frozen=True)
class Own:
    """The unmodified run of this very example: its clean or its corrupt prompt, at the same positions.

    `last` is each run's own last token, so that prompts of unequal length are fine there.
    """

    run: RunName


Source = Own
"""What a variant's `source` may be."""
