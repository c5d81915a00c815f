"""Has a sham changed what it should not have? Then a way of intervening does something by itself, and so do all cells."""

from __future__ import annotations

from collections.abc import Mapping

from tinylab.batteries.shams import SHAM
from tinylab.checks.verify import TOLERANCES
from tinylab.measures.metrics import METRICS


def sham_failed(controls: Mapping[str, Mapping[str, float]], dtype: str) -> str | None:
    """What the shams of a run changed beyond what a verify slice allows, for people; None if nothing.

    Args:
        controls: of summary.json.
        dtype: of the run.
    """
    allowed = TOLERANCES[dtype]
    judged = {name: size for name, size in controls.get(SHAM, {}).items() if name in METRICS and METRICS[name].judged}
    worst = max(judged, key=judged.__getitem__, default=None)
    if worst is None or judged[worst] <= allowed:
        return None
    return (f"SHAM FAILED: interventions that should change nothing change {worst} by {judged[worst]:.3g} (tolerance "
            f"{allowed:g}); do not trust these numbers until you know why: python -m tinylab.selftest with the same model looks "
            "closer")
