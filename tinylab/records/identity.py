"""What makes two runs the same: a hash of everything that determines the numbers, and of nothing else.

In the hash: the battery's kind, name and settings, the condition's settings with its corpus' sha256 in place of the path, those
of another condition that a reference set is made of (but for its split and n_examples, which do not matter there), the
model's commit or weights digest in place of its path, its dtype, quantisation and BOS policy, the device type that `auto` chose,
the engine, the seeds, and `RESULTS_VERSION`. Settings at their defaults are left out, so that an option that comes later changes
no identity; where code lies is not in it. Neither are names, folders, launcher, logging, plots, report, threads, `verify_slice`,
`engine.max_states`, `engine.self_check`, `model.verify_digest`, `model.device_map`, `model.max_memory`, `effects`, `controls`,
`tracker`, `invariants`, `dry_run`;
nor `metrics`: a metric that a finished run lacks is added to it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tinylab.batteries.base import Battery, default_of
from tinylab.config.groups import ConditionConfig
from tinylab.errors import CorpusError, DeviceError, ModelError
from tinylab.models.device import resolve_device
from tinylab.models.weights import ModelIdentity, identify
from tinylab.records.choosing import strongest_of_run
from tinylab.schema import Config, validate
from tinylab.task.sources import corpus_sha256

RESULTS_VERSION = 5
"""Raised when a change of the code changes numbers."""
IDENTITY_VERSION = 2
"""Raised when the rules of this module change: runs then get other ids, although their numbers are what they were."""


def digest(content: Any) -> str:
    """Twelve hex digits of the sha256 of a JSON-able value."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Resolved:
    """A config and what it names outside itself, found once. None where it cannot be found: the run itself tells why."""

    config: Config
    corpus: str | None  # sha256
    model: ModelIdentity | None
    device: str | None  # the type that the config's device means on this machine
    threads: int | None = None  # torch's, in this process
    chosen_from: dict[str, Any] | None = None  # the finished run whose components the battery was given, as the manifest tells it
    screen: dict[str, Any] | None = None  # what the battery's screen found when the run was computed before; it stays
    reference: str | None = None  # sha256 of the corpus of the other condition that the battery's reference set is made of

    @cached_property
    def run_id(self) -> str:
        """The run's identity, as its folder's name ends with it."""
        return digest(self.identity)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the run's numbers. What could not be found is there by the name that the config gives it."""
        config = self.config
        model = {"name": config.model.name, "path": config.model.path, "revision": config.model.revision}
        if self.model is not None:
            model = {"name": self.model.name, "revision": self.model.revision, "digest": self.model.digest}
            if self.model.digest is not None:
                del model["name"]
        quantized = {} if config.model.quantize == "none" else {"quantize": config.model.quantize}
        return {
            "identity_version": IDENTITY_VERSION,
            "results_version": RESULTS_VERSION,
            "battery": battery_identity(config.battery),
            "condition": _condition_identity(config.condition, self.corpus),
            **({} if config.reference is None else {
                "reference": _condition_identity(replace(config.reference, split=None, n_examples=None), self.reference)}),
            "model": {**model, "dtype": config.model.dtype, "add_bos": config.model.add_bos, **quantized},
            "device": config.device.type if self.device is None else self.device,
            "engine": config.engine.name,
            "seeds": config.seeds,
        }


def _condition_identity(settings: ConditionConfig, corpus: str | None) -> dict[str, Any]:
    """A condition's settings that are not at their defaults, with its corpus' sha256 in place of the path."""
    found = unlike_default(settings)
    path = found.pop("path")
    return {**found, **({"path": path} if corpus is None else {"sha256": corpus})}


def resolve(config: Config, threads: int | None = None) -> Resolved:
    """Find what a config names: the corpus' digest, the weights' identity, the device, components of a finished run.

    A battery that asks for those of a run gets them here, so that it is the same as one in which they are named.

    Raises:
        ConfigError: there is no such run, or it is not one to take components from.
    """
    corpus = model = device = reference = None
    try:
        corpus = corpus_sha256(config.condition.path)
    except CorpusError:
        pass
    try:
        reference = None if config.reference is None else corpus_sha256(config.reference.path)
    except CorpusError:
        pass
    try:
        model = identify(config.model)
    except ModelError:
        pass
    try:
        device = resolve_device(config.device.type)
    except DeviceError:
        pass
    if (asked := config.battery.of_run) is None:
        return Resolved(config, corpus, model, device, threads, reference=reference)
    components, chosen_from = strongest_of_run(asked, Path(config.output_dir), model)
    battery = config.battery.with_components(components)
    return Resolved(replace(config, battery=battery), corpus, model, device, threads, chosen_from, reference=reference)


def battery_identity(battery: Battery) -> dict[str, Any]:
    """What a battery is: its kind, its name, and its settings that are not at their defaults."""
    return {"kind": battery.kind, "name": battery.name, **battery.unlike_default()}


def battery_settings(battery: Battery) -> dict[str, Any]:
    """A battery's kind and all its settings."""
    return {"kind": battery.kind, **asdict(battery)}


def unlike_default(settings: Any) -> dict[str, Any]:
    """A config group's settings that are not at the defaults of its type; those without a default are always there."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)
            if getattr(settings, field.name) != default_of(field)}


def run_id(config: Config) -> str:
    """A run's identity, as its folder's name ends with it."""
    return resolve(config).run_id


def _of_composed(_root_: DictConfig) -> str:
    """`${run_id:}` in a config, evaluated with each job's own overrides."""
    return run_id(validate(_root_))


OmegaConf.register_new_resolver("run_id", _of_composed, replace=True)  # at import: whoever composes imports this, workers too
