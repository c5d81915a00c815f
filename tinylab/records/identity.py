"""What makes two runs the same: a hash of everything that determines the numbers, and of nothing else.

In the hash: the battery, the condition with its corpus' sha256 in place of the path, the model's commit or
weights digest in place of its path, its dtype and BOS policy, the device type that `auto` chose, the engine,
the seeds, the metrics, and `RESULTS_VERSION`. Not in it: names, folders, launcher, logging, plots, threads,
`verify_slice`, `engine.max_states`, `invariants`, `dry_run`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tinylab.errors import CorpusError, DeviceError, ModelError
from tinylab.models.device import resolve_device
from tinylab.models.weights import identify
from tinylab.schema import Config, validate
from tinylab.task.corpus import corpus_sha256

RESULTS_VERSION = 3
"""Raised when a change of the code changes numbers."""


LATER = {"keep_value_bias": False, "per_head": False}
"""Settings of batteries that came later: at these values they are left out, so that runs from before keep their ids."""


def digest(content: Any) -> str:
    """Twelve hex digits of the sha256 of a JSON-able value."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def battery_content(config: Config) -> dict[str, Any]:
    """The battery's class and settings, as they count for what a run is."""
    settings = battery_settings(config)
    return {key: value for key, value in settings.items() if key not in LATER or value != LATER[key]}


def battery_settings(config: Config) -> dict[str, Any]:
    """The battery's class and all its settings."""
    cls = type(config.battery)
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **asdict(config.battery)}  # type: ignore[call-overload]


def run_id(config: Config) -> str:
    """The run's identity, as its folder's name ends with it."""
    return digest(identity(config))


def identity(config: Config) -> dict[str, Any]:
    """Everything that determines a run's numbers. Where corpus, model or device cannot be read, their names stand in for them."""
    condition = asdict(config.condition)
    path = condition.pop("path")
    try:
        condition["sha256"] = corpus_sha256(path)
    except CorpusError:
        condition["path"] = path
    try:
        model: dict[str, Any] = asdict(identify(config.model))
        if model["digest"] is not None:
            del model["name"]
    except ModelError:
        model = asdict(config.model)
    try:
        device = resolve_device(config.device.type)
    except DeviceError:
        device = config.device.type
    return {
        "results_version": RESULTS_VERSION,
        "battery": battery_content(config),
        "condition": condition,
        "model": {**model, "dtype": config.model.dtype, "add_bos": config.model.add_bos},
        "device": device,
        "engine": config.engine.name,
        "seeds": config.seeds,
        "metrics": config.metric_names,
    }


def _resolve(_root_: DictConfig) -> str:
    """`${run_id:}` in a config, evaluated with each job's own overrides."""
    return run_id(validate(_root_))


OmegaConf.register_new_resolver("run_id", _resolve, replace=True)  # at import: whoever composes imports this, workers too
