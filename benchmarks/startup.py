"""What a whole run of the command line waits for: imports, and the run itself."""

from __future__ import annotations

import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

STARTS = 3
"""Fresh processes per number."""
IMPORTS = {
    "Python itself": "pass",
    "import hydra": "from hydra._internal.utils import _run_hydra",
    "import torch": "import torch",
    "import torch and transformers": "from tinylab.machine.imports import large_import\n"
                                     "with large_import('transformers'): import tinylab.engine.choose",
    "import pandas, pyarrow": "import pandas, pyarrow.parquet",
    "import matplotlib": "import matplotlib.figure, matplotlib.backends.backend_agg",
    "import scipy": "import scipy.special",
}
PARTS = {
    "of it: importing torch": ("torch/__init__.py", "<module>"),
    "of it: importing transformers and the engines": ("tinylab/engine/choose.py", "<module>"),
    "of it: importing pandas, pyarrow, pydantic": ("tinylab/experiment.py", "<module>"),
    "of it: Hydra composing the config": ("hydra/_internal/hydra.py", "compose_config"),
    "of it: loading the model": ("tinylab/models/loading.py", "kept_model"),
    "of it: the battery": ("tinylab/computing.py", "_evaluate"),
    "of it: intervals and labels, importing scipy": ("tinylab/experiment.py", "_effects"),
    "of it: the picture, importing matplotlib": ("tinylab/report/observers.py", "_draw"),
}
"""Parts of a run that do not overlap, each by the function in which it passes."""


def startup(starts: int) -> dict[str, float]:
    """Seconds by what is waited for; medians of so many fresh processes."""
    found = {name: median(_seconds(["-c", code]) for _ in range(starts)) for name, code in IMPORTS.items()}
    runs = [_run() for _ in range(starts)]
    for name in runs[0]:
        found[name] = median(run[name] for run in runs)
    return {**found, **_parts(found["the whole run"])}


def _parts(whole: float) -> dict[str, float]:
    """Where a whole run's seconds go, by their shares under Python's profiler, which stretches some parts more than others."""
    with tempfile.TemporaryDirectory() as folder:
        command, own = ["-m", "tinylab", f"output_dir={folder}"], {"TINYLAB_CACHE": f"{folder}/cache"}
        _seconds(command, **own)
        profile = f"{folder}/profile"
        _seconds(["-m", "cProfile", "-o", profile, *command, "overwrite=true"], **own)
        calls = pstats.Stats(profile)
    stats: dict[tuple[str, int, str], Any] = calls.stats  # type: ignore[attr-defined]  # typeshed lacks it
    total = sum(times[2] for times in stats.values())
    shares = {
        name: sum(times[3] for (path, _, function), times in stats.items() if path.endswith(file) and function == wanted) / total
        for name, (file, wanted) in PARTS.items()
    }
    return {**{name: share * whole for name, share in shares.items()}, "of it: all the rest": (1 - sum(shares.values())) * whole}


def _seconds(arguments: Sequence[str], **environment: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - began


def _run() -> dict[str, float]:
    """A whole default run on a model that is new to the user's cache and on one that is not, and what its manifest tells."""
    with tempfile.TemporaryDirectory() as folder:
        command, own = ["-m", "tinylab", f"output_dir={folder}"], {"TINYLAB_CACHE": f"{folder}/cache"}
        first = _seconds(command, **own)
        whole = _seconds([*command, "overwrite=true"], **own)
        manifest = json.loads(next(Path(folder).glob("runs/*/manifest.json")).read_text(encoding="utf-8"))
    return {
        "the battery, in the engine": manifest["provenance"]["engine_seconds"],
        "the whole run, self-check included": first,
        "the whole run": whole,
    }
