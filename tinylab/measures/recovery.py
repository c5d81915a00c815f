"""Recovery: how far a patch brings the target run towards the source run, as a fraction of the way.

Source: Heimersheim & Nanda 2404.15255.
"""

from __future__ import annotations

import numpy as np

from tinylab.arrays import FloatArray

RECOVERY_FLOOR = 0.1
"""Logits; a pair whose source and target runs differ by less has no recovery of its own."""


def recovery_of_means(patched: FloatArray, target_run: FloatArray, source_run: FloatArray) -> float | None:
    """(mean patched − mean target run) / (mean source run − mean target run) of logit_diff; None where undefined.

    Args:
        patched: [B] logit differences under the patch.
        target_run: [B] those of the unmodified run that was patched.
        source_run: [B] those of the unmodified run that the activations came from.
    """
    whole = float(np.mean(source_run) - np.mean(target_run))
    return None if abs(whole) < RECOVERY_FLOOR else float(np.mean(patched) - np.mean(target_run)) / whole


def recovery_by_example(patched: FloatArray, target_run: FloatArray, source_run: FloatArray) -> FloatArray:
    """Each example's own ratio, [B]; NaN where |source − target| is under `RECOVERY_FLOOR` logits."""
    whole = source_run - target_run
    defined = np.abs(whole) >= RECOVERY_FLOOR
    return np.divide(patched - target_run, whole, out=np.full_like(whole, np.nan), where=defined)


def _ratio(means: FloatArray) -> FloatArray:
    """(patched − target) / (source − target) of resampled means [R, 3]; NaN where the whole is under the floor."""
    whole = means[:, 2] - means[:, 1]
    defined = np.abs(whole) >= RECOVERY_FLOOR
    return np.divide(means[:, 0] - means[:, 1], whole, out=np.full_like(whole, np.nan), where=defined)
