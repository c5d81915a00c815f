"""The types of every config group, and the one place where a composed config is checked.

Hydra composes plain YAML; `validate` then merges the result into these dataclasses. One mechanism therefore
checks every key and every value, whether it came from a shipped YAML, a user's YAML, the command line or a
`+key=value` (which would bypass schemas that Hydra itself holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinylab.errors import ConfigError, options

DTYPES = ("float32", "float16", "bfloat16", "float64")
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("auto", "forked", "reference")
GRANULARITIES = ("layer_resid", "mlp_out", "head_out")
DIRECTIONS = ("clean->corrupt", "corrupt->clean")
RANKS = ("magnitude", "highest", "lowest")
BASIC_METRICS = ("logit_diff", "kl_div", "acc_flip_rate", "p_drop")
PATCHING_METRICS = (*BASIC_METRICS, "recovery")

T = TypeVar("T")


def _one_of(key: str, got: object, known: Sequence[str]) -> None:
    if got not in known:
        raise ConfigError(f"{key}={got}: not an option; {options(got, known)}.")


def _at_least(key: str, got: int | float | None, least: int) -> None:
    if got is not None and got < least:
        raise ConfigError(f"{key}={got}: expected a number of at least {least}.")


def _distinct(key: str, got: Sequence[Any] | None) -> None:
    if got is not None and (len(got) == 0 or len(set(got)) != len(got)):
        raise ConfigError(f"{key}={list(got)}: expected a list of distinct values, not empty (null means all).")


@dataclass(kw_only=True)
class HeadsZeroConfig:
    """Battery `heads_zero` (H1): every head's output times every scale."""

    name: str
    method: str = "heads_zero"
    scales: list[float] = field(default_factory=lambda: [0.0])
    layers: list[int] | None = None
    heads: list[int] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        _distinct("battery.scales", self.scales)
        _distinct("battery.layers", self.layers)
        _distinct("battery.heads", self.heads)


@dataclass(kw_only=True)
class ActivationPatchConfig:
    """Battery `activation_patch` (H2): replace activations of one run by those of the other."""

    name: str
    method: str = "activation_patch"
    granularity: str = "layer_resid"
    patch_direction: str = "clean->corrupt"
    positions: Any = None
    layers: list[int] | None = None
    sham_control: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("battery.granularity", self.granularity, GRANULARITIES)
        _one_of("battery.patch_direction", self.patch_direction, DIRECTIONS)
        _distinct("battery.layers", self.layers)
        self._check_positions()

    def _check_positions(self) -> None:
        got = self.positions
        listed = isinstance(got, list) and all(isinstance(p, int) and not isinstance(p, bool) for p in got)
        if got not in ("last", "all") and not listed:
            raise ConfigError(
                f"battery.positions={got}: expected last, all, or a list of token indices such as [3,4] "
                "(position 0 is the first token, BOS included)."
            )
        if listed:
            _distinct("battery.positions", got)
            for position in got:
                _at_least("battery.positions", position, 0)
        if got == "all" and self.granularity == "layer_resid":
            raise ConfigError(
                "battery.positions=all with battery.granularity=layer_resid turns the target run into the source run: "
                "every layer would return the same number; use positions=last, a list, or another granularity."
            )


BATTERIES: dict[str, type[HeadsZeroConfig] | type[ActivationPatchConfig]] = {
    "heads_zero": HeadsZeroConfig,
    "activation_patch": ActivationPatchConfig,
}


@dataclass(kw_only=True)
class ConditionConfig:
    """A named task: a corpus of prompt pairs, and which of its rows to use."""

    tag: str
    path: str
    split: str | None = "test"
    n_examples: int | None = None
    single_token: bool = False
    strict: bool = False
    clean_field: str = "clean"
    corrupt_field: str = "corrupt"
    target_field: str = "target"
    foil_field: str = "foil"
    template_field: str = "template"
    split_field: str = "split"

    def __post_init__(self) -> None:
        """Check the values."""
        _at_least("condition.n_examples", self.n_examples, 1)
        if not self.tag or "/" in self.tag:
            raise ConfigError(f"condition.tag={self.tag!r}: expected a name without '/'.")


@dataclass(kw_only=True)
class ModelConfig:
    """A causal language model: a hub id (`name`), or a local folder (`path`)."""

    name: str | None = None
    path: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    add_bos: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("model.dtype", self.dtype, DTYPES)
        if self.name is None and self.path is None:
            raise ConfigError("model: expected model.name=<hub id> or model.path=<folder>, got neither.")


@dataclass(kw_only=True)
class DeviceConfig:
    """Where the model runs; `auto` takes cuda, then mps, then cpu."""

    type: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("device.type", self.type, DEVICES)


@dataclass(kw_only=True)
class EngineConfig:
    """Which engine evaluates the interventions, and the budget of states per forward pass."""

    name: str = "auto"
    max_states: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("engine.name", self.name, ENGINES)
        _at_least("engine.max_states", self.max_states, 1)


@dataclass(kw_only=True)
class VerifySliceConfig:
    """The verify slice; it runs as soon as any field is set."""

    device: str | None = None
    n_examples: int | None = None
    dtype: str | None = None
    tolerance: float | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.device is not None:
            _one_of("verify_slice.device", self.device, DEVICES)
        if self.dtype is not None:
            _one_of("verify_slice.dtype", self.dtype, DTYPES)
        _at_least("verify_slice.n_examples", self.n_examples, 1)
        _at_least("verify_slice.tolerance", self.tolerance, 0)

    @property
    def asked(self) -> bool:
        """Whether the user asked for a verify slice at all."""
        return any(getattr(self, f.name) is not None for f in fields(self))


@dataclass(kw_only=True)
class InvariantsConfig:
    """How a sweep looks for components that matter in every condition."""

    k: int = 10
    metrics: list[str] = field(default_factory=lambda: ["logit_diff"])
    rank: str = "magnitude"
    allow_partial: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        _at_least("invariants.k", self.k, 1)
        _one_of("invariants.rank", self.rank, RANKS)
        _distinct("invariants.metrics", self.metrics)


@dataclass(kw_only=True)
class Config:
    """A whole, checked configuration."""

    battery: Any
    condition: ConditionConfig
    model: ModelConfig
    device: DeviceConfig
    engine: EngineConfig
    verify_slice: VerifySliceConfig
    invariants: InvariantsConfig
    run_name: str
    sweep_name: str
    output_dir: str
    seeds: list[int]
    metrics: list[str] | None
    overwrite: bool
    plots: bool
    threads: int | None

    def __post_init__(self) -> None:
        """Check what involves several groups."""
        _distinct("seeds", self.seeds)
        for seed in self.seeds:
            _at_least("seeds", seed, 0)
        _distinct("metrics", self.metrics)
        _at_least("threads", self.threads, 1)
        patching = isinstance(self.battery, ActivationPatchConfig)
        known = PATCHING_METRICS if patching else BASIC_METRICS
        for metric in self.metrics or []:
            _one_of(f"metrics for battery.method={self.battery.method}", metric, known)
        for metric in self.invariants.metrics:
            _one_of("invariants.metrics", metric, (*PATCHING_METRICS, "recovery_mean"))
        for key, name in (("run_name", self.run_name), ("sweep_name", self.sweep_name)):
            if not name or "/" in name:
                raise ConfigError(f"{key}={name!r}: expected a name without '/'.")

    @property
    def metric_names(self) -> list[str]:
        """The metrics to compute: the chosen ones, or all that the battery has."""
        if self.metrics is not None:
            return list(self.metrics)
        return list(PATCHING_METRICS if isinstance(self.battery, ActivationPatchConfig) else BASIC_METRICS)


_GROUPS: dict[str, type[Any]] = {
    "condition": ConditionConfig,
    "model": ModelConfig,
    "device": DeviceConfig,
    "engine": EngineConfig,
    "verify_slice": VerifySliceConfig,
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
    groups = {name: _typed(name, cls, raw.pop(name, None) or {}) for name, cls in _GROUPS.items()}
    battery = raw.pop("battery", None) or {}
    method = battery.get("method")
    _one_of("battery.method", method, tuple(BATTERIES))
    known = [f.name for f in fields(Config)]
    for key in raw:
        if key not in known:
            raise ConfigError(f"{key}: unknown key; {options(key, known)}.")
    missing = [name for name in known if name not in raw and name not in groups and name != "battery"]
    if missing:
        raise ConfigError(f"{missing[0]}: missing from the composed config; conf/config.yaml sets it.")
    root = _typed("", _Root, raw)
    return Config(battery=_typed("battery", BATTERIES[method], battery), **groups, **vars(root))


@dataclass(kw_only=True)
class _Root:
    run_name: str
    sweep_name: str
    output_dir: str
    seeds: list[int]
    metrics: list[str] | None
    overwrite: bool
    plots: bool
    threads: int | None


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Everything but the hydra node, interpolations resolved."""
    keys = [str(key) for key in cfg if key != "hydra"]
    missing = sorted(str(key) for key in OmegaConf.missing_keys(cfg) if not str(key).startswith("hydra"))
    if missing:
        raise ConfigError(f"{missing[0]}: a value is required; give it as {missing[0]}=… on the command line.")
    try:
        return {key: OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
                for key in keys}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_first_line(error)}: an interpolation that cannot be resolved.") from error


def _typed(group: str, cls: type[T], values: dict[str, Any]) -> T:
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    prefix = f"{group}." if group else ""
    for key in values:
        if key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key; {options(key, known)}.")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        raise ConfigError(f"{prefix}{key}={_at(values, key)}: {_first_line(error)}.") from error
    assert isinstance(typed, cls)
    return typed


def _at(values: dict[str, Any], key: str) -> object:
    return values.get(key.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0], "missing")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
