"""Recovery: how far a patch brings the target run towards the source run, as a fraction of the way, or over to its answer.

Sources: Heimersheim & Nanda 2404.15255; interchange intervention accuracy, Geiger et al. 2106.02997.
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


def same_preference(
    patched: Float64[np.ndarray, "*n"], _target_run: Float64[np.ndarray, "*n"], source_run: Float64[np.ndarray, "*n"]
) -> Float64[np.ndarray, "*n"]:
    """1 where the better of target and foil under the patch is that of the source run, else 0; equal ones are neither's.

    Args:
        patched: logit differences under the patch.
        _target_run: those of the unmodified run that was patched, which do not matter.
        source_run: those of the unmodified run that the activations came from.
    """
    return np.asarray(np.sign(patched) == np.sign(source_run), dtype=np.float64)
