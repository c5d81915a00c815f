"""What a whole run of the command line waits for: imports, and the run itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

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
}


def startup(starts: int) -> dict[str, float]:
    """Seconds by what is waited for; medians of so many fresh processes."""
    found = {name: median(_seconds(["-c", code]) for _ in range(starts)) for name, code in IMPORTS.items()}
    runs = [_run() for _ in range(starts)]
    for name in runs[0]:
        found[name] = median(run[name] for run in runs)
    return found


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
