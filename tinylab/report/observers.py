"""What happens when a run or a sweep has ended: a picture, words on the screen.

The results are on disk by then. What goes wrong here is told, and fails nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tinylab.interventions.components import TableKind
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import read_effects
from tinylab.records.storage import read_json
from tinylab.report import console
from tinylab.report.plots import heatmap
from tinylab.report.views import title_of

log = logging.getLogger(__name__)


def run_ended(folder: RunFolder, *, plots: bool) -> None:
    """A finished run: its picture, if it is asked for and not there, and its strongest components."""
    if plots and not folder.file("heatmap").is_file():
        _observe(f"the picture of {folder.path}", lambda: _draw(folder))
    _observe(f"the report of {folder.path}", lambda: console.print_run(folder))


def sweep_ended(folder: Path, manifest: dict[str, Any]) -> None:
    """A sweep that was joined: its invariants, what is missing, where its files are."""
    _observe(f"the report of {folder}", lambda: console.print_sweep(folder, manifest))


def sweep_tried(folder: Path, asked: Any) -> None:
    """A sweep that was joined: its conditions tried with each other's components (`tinylab.sweep.cross_controls`)."""
    from tinylab.sweep.cross_controls import add_cross_controls

    _observe(f"trying the conditions of {folder} with each other's components", lambda: add_cross_controls(folder, asked))


def _observe(what: str, observer: Callable[[], None]) -> None:
    try:
        observer()
    except Exception as error:  # whatever it is: the results are complete without it
        log.error("%s failed (%s: %s); the results themselves are complete", what, type(error).__name__, error, exc_info=True)


def _labels(folder: RunFolder, manifest: dict[str, Any], kind: TableKind, metric: str) -> pd.DataFrame | None:
    """Each cell's label by a metric; None where it has none."""
    effects = read_effects(folder, manifest)
    if effects is None:
        return None
    rows = effects.to_pandas().query("metric == @metric")
    return None if rows["label"].isna().all() else rows[[*kind.keys, "label"]]


def _draw(folder: RunFolder) -> None:
    """Draw the heat map of the tables that are in a folder, and tell its manifest."""
    manifest = folder.read()
    assert manifest is not None
    baselines = read_json(folder.file("summary"))["baselines"][manifest["target_run"]]
    kind, table = TableKind.of_manifest(manifest), pq.read_table(folder.table(manifest))
    heatmap(folder.file("heatmap"), table, kind, baselines, title=title_of(manifest), patched=manifest["direction"] != "none",
            labels=_labels(folder, manifest, kind, str(table["metric"][0])))
    folder.write(manifest)
