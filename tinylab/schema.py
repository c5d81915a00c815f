"""The types of every config group, and the one place where a composed config is checked.

Hydra composes plain YAML; `validate` then merges the result into these dataclasses. One mechanism therefore
checks every key and every value, whether it came from a shipped YAML, a user's YAML, the command line or a
`+key=value` (which would bypass schemas that Hydra itself holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinylab.errors import ConfigError, options

if TYPE_CHECKING:
    from tinylab.batteries.base import Battery

DTYPES = ("float32", "float16", "bfloat16", "float64")
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("auto", "forked", "reference")
RANKS = ("magnitude", "highest", "lowest")
VARIANTS = ("ledger", "gates", "twins", "llama")
"""Of model=planted: folders of `tinylab/assets/planted`."""
BASIC_METRICS = ("logit_diff", "kl_div", "acc_flip_rate", "p_drop")
PATCHING_METRICS = (*BASIC_METRICS, "recovery")

T = TypeVar("T")


def one_of(key: str, got: object, known: Sequence[str]) -> None:
    """Raise ConfigError unless `got` is one of the known options."""
    if got not in known:
        raise ConfigError(f"{key}={got}: not an option; {options(got, known)}.")


def at_least(key: str, got: int | float | None, least: int) -> None:
    """Raise ConfigError if `got` is a number below `least`."""
    if got is not None and got < least:
        raise ConfigError(f"{key}={got}: expected a number of at least {least}.")


def distinct(key: str, got: Sequence[Any] | None) -> None:
    """Raise ConfigError if `got` is an empty list or has a value twice; None (all) is fine."""
    if got is not None and (len(got) == 0 or len(set(got)) != len(got)):
        raise ConfigError(f"{key}={list(got)}: expected a list of distinct values, not empty.")


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
        at_least("condition.n_examples", self.n_examples, 1)
        if not self.tag or "/" in self.tag:
            raise ConfigError(f"condition.tag={self.tag!r}: expected a name without '/'.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A causal language model: a hub id (`name`), or a local folder (`path`), of which there may be a `variant`."""

    name: str | None = None
    path: str | None = None
    variant: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    add_bos: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("model.dtype", self.dtype, DTYPES)
        if self.name is None and self.path is None:
            raise ConfigError("model: expected model.name=<hub id> or model.path=<folder>, got neither.")
        if self.variant is not None:
            one_of("model.variant", self.variant, VARIANTS)
            if self.path is None or not self.path.endswith(f"/planted/{self.variant}"):
                raise ConfigError(f"model.variant={self.variant}: only model=planted has variants, got model.path={self.path}; "
                                  "leave model.variant out, or use model=local for a folder of your own.")


@dataclass(kw_only=True)
class DeviceConfig:
    """Where the model runs; `auto` takes cuda, then mps, then cpu."""

    type: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("device.type", self.type, DEVICES)


@dataclass(kw_only=True)
class EngineConfig:
    """Which engine evaluates the interventions, and the budget of states per forward pass."""

    name: str = "auto"
    max_states: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("engine.name", self.name, ENGINES)
        at_least("engine.max_states", self.max_states, 1)


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
            one_of("verify_slice.device", self.device, DEVICES)
        if self.dtype is not None:
            one_of("verify_slice.dtype", self.dtype, DTYPES)
        at_least("verify_slice.n_examples", self.n_examples, 1)
        at_least("verify_slice.tolerance", self.tolerance, 0)

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
        at_least("invariants.k", self.k, 1)
        one_of("invariants.rank", self.rank, RANKS)
        distinct("invariants.metrics", self.metrics)


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
    dry_run: bool
    threads: int | None

    def __post_init__(self) -> None:
        """Check the values."""
        distinct("seeds", self.seeds)
        for seed in self.seeds:
            at_least("seeds", seed, 0)
        distinct("metrics", self.metrics)
        at_least("threads", self.threads, 1)
        for key, name in (("run_name", self.run_name), ("sweep_name", self.sweep_name)):
            if not name or "/" in name:
                raise ConfigError(f"{key}={name!r}: expected a name without '/'.")


@dataclass(kw_only=True)
class Config(RootConfig):
    """A whole, checked configuration."""

    battery: Battery
    condition: ConditionConfig
    model: ModelConfig
    device: DeviceConfig
    engine: EngineConfig
    verify_slice: VerifySliceConfig
    invariants: InvariantsConfig

    def __post_init__(self) -> None:
        """Check what involves several groups."""
        super().__post_init__()
        for metric in self.metrics or []:
            one_of(f"battery={self.battery.name} metrics", metric, self.battery.metrics)
        for metric in self.invariants.metrics:
            one_of("invariants.metrics", metric, (*PATCHING_METRICS, "recovery_mean"))

    @property
    def metric_names(self) -> list[str]:
        """The metrics to compute: the chosen ones, or all that the battery has."""
        return list(self.battery.metrics if self.metrics is None else self.metrics)


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
    battery = _battery(raw.pop("battery", None) or {})
    known = [f.name for f in fields(Config)]
    for key in raw:
        if key not in known:
            raise ConfigError(f"{key}: unknown key; {options(key, known)}.")
    missing = [name for name in known if name not in raw and name not in groups and name != "battery"]
    if missing:
        raise ConfigError(f"{missing[0]}: missing from the composed config; conf/config.yaml sets it.")
    root = _typed("", RootConfig, raw)
    return Config(battery=battery, **groups, **vars(root))


def _battery(values: dict[str, Any]) -> Battery:
    """The battery that the node's `_target_` names."""
    target = values.pop("_target_", None)
    try:
        cls = get_class(str(target))
        if not is_dataclass(cls):
            raise ValueError("not a battery")
    except (ImportError, ValueError) as error:
        expected = "expected the path of a battery's class, as in conf/battery/h1.yaml"
        raise ConfigError(f"battery._target_={target}: {expected}.") from error
    return cast("Battery", _typed("battery", cls, values))


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
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "").split("[", maxsplit=1)[0].split(".", maxsplit=1)[0]
        reason = _first_line(error)
        if "is not a ListConfig" in reason:
            reason = f"expected a list, such as {prefix}{key}=[{values.get(key)}]"
        raise ConfigError(f"{prefix}{key}={values.get(key)}: {reason}.") from error
    assert isinstance(typed, cls)
    return typed


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
