"""What all passes over the same affected states share, and in which parts their rows go through an MLP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tinylab.engine.forked.attention import TreeAttention
from tinylab.engine.forked.batches import AffectedStates
from tinylab.interventions.variants import Intervention

IN_PLACE = (("norm", "in"), ("projection", "in"), ("projection", "out"), ("down", "in"), ("mlp", "out"), ("block", "out"))
"""Points whose activation may be changed as it is: nothing else uses it, or (a norm's input) what does is meant too."""
MLP_NUMBERS = {"cpu": 2**22}
"""Numbers in the widest activation of the rows that an MLP gets at once, by device type (1,365 rows of GPT-2 small). With fewer,
matmuls get small and slow; more cost memory, a large model's above all."""


def mlp_rows(device: str, widest: int) -> int | None:
    """How many rows an MLP gets at once, None for all."""
    return max(1, MLP_NUMBERS[device] // widest) if device in MLP_NUMBERS else None


class Stopped(Exception):
    """Leaves a block as soon as its keys and values are known."""


@dataclass(frozen=True)
class PassLayout:
    """Affected states on a device: the gathers that all passes over them share."""

    affected: AffectedStates
    attention: tuple[TreeAttention, TreeAttention]  # of all states, and of the reading rows

    @staticmethod
    def of(affected: AffectedStates, device: torch.device, most: int, variants: int = 1) -> PassLayout:
        """Prepare states for passes of some variants at most; `most` keys are gathered by one attention call."""
        every = TreeAttention(affected, np.arange(len(affected)), device, most, variants)
        if len(affected.read) == len(affected):
            return PassLayout(affected, (every, every))
        return PassLayout(affected, (every, TreeAttention(affected, affected.read, device, most, variants)))


def parts(rows: int, most: int, variant: int | None = None) -> list[int]:
    """How many of some rows go through an MLP at once, one part after the other.

    Args:
        rows: all of them, variant by variant.
        most: at once.
        variant: rows of one variant, where a part must hold whole variants or rows of one; None where that does not matter.
    """
    if variant is None:
        step = -(-rows // -(-rows // most))
    elif variant > most:
        return parts(variant, most) * (rows // variant)
    else:
        step = most // variant * variant
    return [min(step, rows - start) for start in range(0, rows, step)]


def numbers(intervention: Intervention, width: int, units: int) -> slice:
    """Which numbers of a row of this width the intervention means: those of one of its units, or all."""
    if intervention.head is None:
        return slice(None)
    each = width // units
    return slice(intervention.head * each, (intervention.head + 1) * each)
