"""Recovery: how far a patch brings the target run towards the source run, as a fraction of the way.

Source: Heimersheim & Nanda 2404.15255.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

RECOVERY_FLOOR = 0.1
"""Logits; where source and target runs differ by less there is no way to go a part of."""


def recovery(
    patched: Float64[np.ndarray, "*n"], target_run: Float64[np.ndarray, "*n"], source_run: Float64[np.ndarray, "*n"]
) -> Float64[np.ndarray, "*n"]:
    """(patched − target run) / (source run − target run), number by number; NaN where |source − target| is under the floor.

    Args:
        patched: logit differences under the patch: of examples, or means over examples.
        target_run: those of the unmodified run that was patched.
        source_run: those of the unmodified run that the activations came from.
    """
    whole = np.asarray(source_run - target_run)
    defined = np.abs(whole) >= RECOVERY_FLOOR
    found: Float64[np.ndarray, "*n"] = np.divide(patched - target_run, whole, out=np.full_like(whole, np.nan), where=defined)
    return found
