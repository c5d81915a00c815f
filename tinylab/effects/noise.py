"""What is noise: what a sham or a verify slice finds, and rounding. An effect is told from nothing where it is over that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

    from tinylab.arrays import FloatArray
    from tinylab.statistics.estimates import Estimate

NOISES = 10
"""An effect is told from nothing where it is over so many times what a sham or a verify slice finds."""
ROUNDING = 1e-6
"""The least that counts as noise, as a fraction of levels over 1: float32 and the forked engine round as much."""


def noise_of(controls: Mapping[str, Mapping[str, float]], verified: Mapping[str, Any]) -> dict[str, float]:
    """By metric, the largest difference that a sham or a verify slice found.

    Args:
        controls: of summary.json.
        verified: the metrics of verify.json; empty where there is none.
    """
    found = dict(controls.get("sham", {}))
    for name, one in verified.items():
        found[name] = max(found.get(name, 0.0), one.get("max_abs_diff") or 0.0)
    return found


def floor_of(noise: float, baseline: Float64[np.ndarray, " B"]) -> float:
    """The size from which on a change is more than noise.

    Args:
        noise: the largest difference that a sham or a verify slice found.
        baseline: the unmodified run's numbers.
    """
    return max(NOISES * noise, ROUNDING * max(1.0, float(np.abs(baseline).mean())))


def p_beyond_noise(
    fixed: Estimate, change: Float64[np.ndarray, "V B"], baseline: Float64[np.ndarray, " B"], floor: float
) -> Float64[np.ndarray, " V"]:
    """Two-sided p-values of no effect; where changes vary by no more than rounding, 1 if their mean is noise.

    t takes anything for an effect that is the same in every example, such as a rounding.

    Args:
        fixed: the effects.
        change: of each cell and example.
        baseline: the unmodified run's numbers.
        floor: as `floor_of` gives it.
    """
    means = change.mean(axis=1, keepdims=True)
    still = (np.abs(change - means) <= floor_of(0.0, baseline)).all(axis=1) | (fixed.se == 0)
    noise = still & (np.abs(means[:, 0]) <= floor) & ~np.isnan(fixed.se)
    p: FloatArray = np.where(noise, 1.0, fixed.nonzero())
    return p
