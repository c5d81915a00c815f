"""tinylab: which heads and layers of a language model matter for a task, and for the next one too?

On the command line `python -m tinylab --help` tells what there is. In Python:

    >>> import tinylab
    >>> run = tinylab.load_run("outputs/runs/h1_cond_a_…")      # doctest: +SKIP
    >>> run.head_impact.sort_values("value")                    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinylab.results import Run, Sweep

__version__ = "0.1.0"
__all__ = ["__version__", "load_run", "load_sweep"]


def load_run(path: str) -> Run:
    """Load a run's folder: tables as DataFrames, manifest and summary as dicts (see `tinylab.results.Run`)."""
    from tinylab.results import load_run as load

    return load(path)


def load_sweep(path: str) -> Sweep:
    """Load a sweep's folder: matrices as DataFrames, the rest as dicts (see `tinylab.results.Sweep`)."""
    from tinylab.results import load_sweep as load

    return load(path)
