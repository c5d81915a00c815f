"""A run that has ended, logged to a tracker: its settings, the numbers of its summary, its pictures and documents.

The folder stays the truth: a tracker gets copies, under the run's own identity, so that a run which is reused is logged once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylab.config.trackers import MLFLOW, TrackerConfig
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json, read_yaml

RUN_ID = "tinylab.run_id"
"""The tag by which a run is found again in MLflow."""
DOCUMENTS = ("summary", "verify", "heatmap", "report")
"""The files of a run that are logged if they exist, in addition to its manifest and its config."""
_AT_ONCE = 100
"""Parameters that MLflow takes in one request."""


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run's summary by name, such as `clean/accuracy`, `logit_diff/mean`, `effects/matters`."""
    found: dict[str, float] = {}
    for run, told in summary.get("ability", {}).items():
        found |= {f"{run}/{name}": told[name] for name in ("accuracy", "answer_probability")}
    for run, told in summary["baselines"].items():
        found |= {f"{run}/{metric}": value["mean"] for metric, value in told.items()}
    found |= {f"{metric}/mean": value["mean"] for metric, value in summary["metrics"].items()}
    found |= {f"effects/{label}": value for label, value in ((summary.get("effects") or {}).get("counts") or {}).items()}
    return {name: float(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Tracked:
    """What a tracker gets of a run."""

    name: str
    run_id: str
    settings: dict[str, Any]
    numbers: dict[str, float]
    files: list[Path]


def track(folder: RunFolder, tracker: TrackerConfig) -> None:
    """Log a finished run.

    Raises:
        Exception: whatever the tracker raises.
    """
    manifest = folder.read()
    assert manifest is not None
    files = [folder.manifest, folder.file("config"), *(folder.file(name) for name in DOCUMENTS if name in manifest)]
    settings = dict(_flat(read_yaml(folder.file("config"))))
    log = _to_mlflow if tracker.name == MLFLOW else _to_wandb
    log(tracker, Tracked(folder.path.name, manifest["run_id"], settings, numbers(read_json(folder.file("summary"))), files))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _to_mlflow(tracker: TrackerConfig, run: Tracked) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name(tracker.project)
    if experiment is not None:
        place = experiment.experiment_id
    else:
        try:
            place = client.create_experiment(tracker.project)
        except MlflowException:  # another job of a sweep was quicker
            experiment = client.get_experiment_by_name(tracker.project)
            if experiment is None:
                raise
            place = experiment.experiment_id
    if there := client.search_runs([place], f"tags.`{RUN_ID}` = '{run.run_id}'"):
        entry = there[0].info.run_id
    else:
        entry = client.create_run(place, tags={RUN_ID: run.run_id}, run_name=run.name).info.run_id
        values = [Param(key, str(value)) for key, value in run.settings.items()]
        for start in range(0, len(values), _AT_ONCE):
            client.log_batch(entry, params=values[start : start + _AT_ONCE])
    now = int(time.time() * 1000)
    client.log_batch(entry, metrics=[Metric(key, value, now, 0) for key, value in run.numbers.items()])
    for file in run.files:
        client.log_artifact(entry, str(file))
    client.set_terminated(entry)


def _to_wandb(tracker: TrackerConfig, run: Tracked) -> None:
    import wandb

    entry = wandb.init(
        project=tracker.project, id=run.run_id, name=run.name, config=run.settings, resume="allow",
        mode=tracker.mode,  # type: ignore[arg-type]  # a text that was checked
        dir=os.environ.get("WANDB_DIR"), settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        entry.summary.update(run.numbers)
        pictures = {file.stem: wandb.Image(str(file)) for file in run.files if file.suffix == ".png"}
        if pictures:
            entry.log(pictures)
        for file in run.files:
            entry.save(str(file), base_path=str(file.parent), policy="now")
    finally:
        entry.finish()
