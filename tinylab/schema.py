"""The types of every config group, and the one place where a composed config is checked.

Hydra composes plain YAML; `validate` then merges the result into these dataclasses. One mechanism therefore
checks every key and every value, whether it came from a shipped YAML, a user's YAML, the command line or a
`+key=value` (which would bypass schemas that Hydra itself holds).
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from tinylab.config.checks import at_least, at_most, distinct, folder_name, one_of, storable
from tinylab.config.groups import (
    ConditionConfig,
    ControlsConfig,
    DeviceConfig,
    EffectsConfig,
    EngineConfig,
    InvariantsConfig,
    ModelConfig,
    VerifySliceConfig,
)
from tinylab.config.messages import wrong_type
from tinylab.config.plugins import imported
from tinylab.config.trackers import TrackerConfig
from tinylab.errors import ConfigError, options
from tinylab.measures.metrics import LOGIT_DIFF, LOGPROB_DIFF, SHIPPED, Metric, available, labelled, nameable, named

if TYPE_CHECKING:
    from tinylab.batteries.base import Battery


T = TypeVar("T")
MOST_THREADS = 1024
"""No machine of today computes faster with more threads; far more cannot be started."""
JSON = "json"
"""Of dry_run: what would run as data."""
SHIPPED_NAMES = {"h1": "heads_zero", "h2": "activation_patch", "pairs": "heads_pair_zero", "subset": "heads_subset_zero"}
"""Names of batteries, and the kind that alone may bear each: what a result calls a battery is what it is."""


@dataclass(kw_only=True)
class RootConfig:
    """The keys of the root, outside every group."""

    run_name: str
    sweep_name: str
    output_dir: str
    seeds: list[int]
    metrics: list[str] | None
    overwrite: bool
    plots: bool
    dry_run: Any  # true, false or json
    threads: int | None
    report: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("seeds", self.seeds)
        for seed in self.seeds:
            at_least("seeds", seed, 0)
        distinct("metrics", self.metrics)
        at_least("threads", self.threads, 1)
        at_most("threads", self.threads, MOST_THREADS)
        if not isinstance(self.dry_run, bool) and self.dry_run != JSON:
            raise ConfigError(f"dry_run={self.dry_run}: expected true, false, or {JSON} (the same as data for other programs).")
        if not self.output_dir.strip():
            raise ConfigError(f"output_dir={self.output_dir!r}: expected a folder; '.' is where the command is typed.")
        for key, name in (("run_name", self.run_name), ("sweep_name", self.sweep_name)):
            folder_name(key, name, room=len("_0123456789ab"))


@dataclass(kw_only=True)
class Config(RootConfig):
    """A whole, checked configuration."""

    battery: Battery
    condition: ConditionConfig
    model: ModelConfig
    device: DeviceConfig
    engine: EngineConfig
    verify_slice: VerifySliceConfig
    effects: EffectsConfig
    controls: ControlsConfig
    tracker: TrackerConfig
    invariants: InvariantsConfig
    reference: ConditionConfig | None = None  # another condition, of whose pairs the battery's reference set is made

    def __post_init__(self) -> None:
        """Check what involves several groups."""
        super().__post_init__()
        for metric in map(named, self.metrics or []):
            if metric.needs_source and self.battery.source is None:
                one_of(f"battery={self.battery.name} metrics", metric.name, nameable(source=False))
            self._check_defined(metric)
        for name in self.invariants.metrics:
            named(name)

    def _check_defined(self, metric: Metric) -> None:
        """Refuse a metric that is not defined for what counts as the answer."""
        answer = self.condition.answer
        if answer in metric.answers:
            return
        told = f"metrics={metric.name}: not defined for condition.answer={answer}"
        if metric not in SHIPPED:
            raise ConfigError(f"{told}: a metric of your own is of first tokens, unless it declares answers=(…).")
        there = ", ".join(nameable(self.battery.source is not None, answer))
        instead = f"{LOGPROB_DIFF}, its like for answers of any length" if metric.name == LOGIT_DIFF else f"some of {there}"
        raise ConfigError(f"{told}, it is of one token; use {instead}.")

    @property
    def labelled(self) -> str:
        """The metric by which effects are labelled."""
        return labelled(self.condition.answer)

    @property
    def metric_names(self) -> list[str]:
        """The metrics to compute: the chosen ones, or all that the battery has."""
        if self.metrics is None:
            return available(self.battery.source is not None, self.condition.answer)
        return [named(name).name for name in self.metrics]


_GROUPS: dict[str, type[Any]] = {
    "condition": ConditionConfig,
    "model": ModelConfig,
    "device": DeviceConfig,
    "engine": EngineConfig,
    "verify_slice": VerifySliceConfig,
    "effects": EffectsConfig,
    "controls": ControlsConfig,
    "tracker": TrackerConfig,
    "invariants": InvariantsConfig,
}


def validate(cfg: DictConfig) -> Config:
    """Check a composed config and return it as typed objects.

    Args:
        cfg: what Hydra composed; its `hydra` node, if there is one, is left aside.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, a value that is not an option.
    """
    raw = _plain(cfg)
    told = raw.pop("reference", None)  # in the config.yaml of a finished run
    groups = {name: _typed(name, cls, raw.pop(name, None) or {}) for name, cls in _GROUPS.items()}
    battery = _battery(raw.pop("battery", None) or {})
    reference = _reference(battery, told, cfg)
    known = [f.name for f in fields(Config) if f.name != "reference"]
    for key in raw:
        if key not in known:
            inside = [f"{group}.{key}" for group, cls in _GROUPS.items() if key in [f.name for f in fields(cls)]]
            hint = f"did you mean {' or '.join(map(repr, inside))}? known" if inside else options(key, known).partition(": ")[0]
            raise ConfigError(f"{key}: unknown key; {hint}: {', '.join(known)}.")
    needed = [f.name for f in fields(Config) if f.default is MISSING]
    missing = [name for name in needed if name not in raw and name not in groups and name != "battery"]
    if missing:
        raise ConfigError(f"{missing[0]}: missing from the composed config; conf/config.yaml sets it.")
    root = _typed("", RootConfig, raw)
    return Config(battery=battery, reference=reference, **groups, **vars(root))


def _reference(battery: Battery, told: Any, cfg: DictConfig) -> ConditionConfig | None:
    """The other condition of whose pairs the battery's reference set is made, composed by its name unless it is given."""
    from tinylab.interventions.sources import OWN_SETS

    rule = battery.reference_set
    if rule is None or (name := rule.elsewhere) is None:
        if told is not None:
            raise ConfigError("reference: nothing uses it here; name the condition with battery.reference=…, and leave it out.")
        return None
    from tinylab.config.elsewhere import other_condition

    values = other_condition("battery.reference", name, OWN_SETS, cfg) if told is None else dict(told)
    return _typed(f"battery.reference={name}: condition", ConditionConfig, values)


def _battery(values: dict[str, Any]) -> Battery:
    """The battery that the node's `_target_` names."""
    from tinylab.batteries.base import Battery

    target = values.pop("_target_", None)
    expected = "expected the path of a dataclass that is a tinylab.batteries.base.Battery, as in conf/battery/h1.yaml"
    if target is None:
        raise ConfigError(f"battery._target_: is missing; {expected}.")
    try:
        cls = imported(str(target))
    except ImportError as error:
        raise ConfigError(f"battery._target_={target}: {error}; {expected}.") from error
    if not (isinstance(cls, type) and is_dataclass(cls) and issubclass(cls, Battery)):
        raise ConfigError(f"battery._target_={target}: not a battery; {expected}.")
    if inspect.isabstract(cls) or "kind" not in vars(cls):
        missing = sorted(getattr(cls, "__abstractmethods__", ())) + ["kind"] * ("kind" not in vars(cls))
        raise ConfigError(f"battery._target_={target}: a battery declares {', '.join(missing)} (tinylab/batteries/base.py).")
    battery = _typed("battery", cls, {cls.spelt.get(key, key): value for key, value in values.items()})
    if SHIPPED_NAMES.get(battery.name, battery.kind) != battery.kind:
        raise ConfigError(f"battery.name={battery.name}: results call {SHIPPED_NAMES[battery.name]} so, and this battery is "
                          f"{battery.kind}; give it another name.")
    return battery


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Everything but the hydra node (which may refer to the run id, and so to us), interpolations resolved."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(own))
    if missing:
        raise ConfigError(f"{missing[0]}: a value is required; give it as {missing[0]}=… on the command line.")
    try:
        plain = OmegaConf.to_container(own, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_first_line(error)}: an interpolation that cannot be resolved.") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _typed(group: str, cls: type[T], values: dict[str, Any]) -> T:
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    prefix = f"{group}." if group else ""
    for key in values:
        if key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key; {options(key, known)}.")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(_structured(cls), values))  # type: ignore[arg-type]  # a class is hashable
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "").split("[", maxsplit=1)[0].split(".", maxsplit=1)[0]
        if key not in values or isinstance(error, InterpolationResolutionError):
            got = f"={values[key]}" if key in values else ""
            raise ConfigError(f"{prefix}{key or 'config'}{got}: {_first_line(error)}.") from error
        raise ConfigError(wrong_type(f"{prefix}{key}", values[key], get_type_hints(cls)[key])) from error
    assert isinstance(typed, cls)
    for name, value in vars(typed).items():
        storable(f"{prefix}{name}", value)
    return typed


@cache
def _structured(cls: type[Any]) -> DictConfig:
    """The types and defaults of a dataclass; merging copies it."""
    made: DictConfig = OmegaConf.structured(cls)
    return made


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
