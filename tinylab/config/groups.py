"""The types of the config groups: condition, model, device, engine, verify_slice, effects, controls, invariants."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tinylab.config.checks import at_least, distinct, one_of
from tinylab.errors import ConfigError

DTYPES = ("float32", "float16", "bfloat16", "float64")

DEVICES = ("auto", "cpu", "cuda", "mps")

AUTO = "auto"
"""Of model.add_bos: what the tokenizer itself puts before a text; of controls: where it costs little."""

ENGINES = ("auto", "forked", "reference")

SELF_CHECKS = ("cached", "always")

DEVICE_MAPS = ("auto",)

QUANTIZATIONS = ("none", "8bit", "4bit")

MEMORY = re.compile(r"[1-9][0-9]*(KB|MB|GB|KiB|MiB|GiB)")
"""An amount of memory, as accelerate reads it."""

FIRST, FULL, SET = ANSWERS = ("first", "full", "set")
"""Of condition.answer: an answer's first token, all of its tokens, or any of several answers."""

CORRECTIONS = ("holm", "bh", "maxt")
"""Of effects.correction: see `tinylab.statistics.labels`."""

RANKS = ("magnitude", "highest", "lowest")

LAST, STRATIFIED = "last", "stratified"
"""Of verify_slice.sample: the last examples of the run, or of each template."""

PARTIAL_CONJUNCTION, INTERSECTION, UNION = SETS = ("partial_conjunction", "intersection", "union")
"""Of invariants.set: see `tinylab.sweep.invariants`."""

TAG_BYTES = 200
"""Of a condition's tag: file names have at most 255, and a run's has its battery and its identity in addition to the tag."""

VARIANTS = ("ledger", "gates", "twins", "llama")
"""Of model=planted: folders of `tinylab/assets/planted`."""


@dataclass(kw_only=True)
class ConditionConfig:
    """A named task: a corpus of prompt pairs, and which of its rows to use."""

    tag: Any  # a text: any type, so that what YAML or the command line makes of 1e3, 1_0 or no is seen
    path: str
    split: str | None = None
    n_examples: int | None = None
    single_token: bool = False
    answer: str = FIRST
    first_tokens: bool = False
    strict: bool = False
    chat: bool = False
    system: str | None = None
    clean_field: str = "clean"
    corrupt_field: str = "corrupt"
    target_field: str = "target"
    foil_field: str = "foil"
    template_field: str = "template"
    item_field: str | None = None
    split_field: str = "split"
    spans_field: str = "spans"

    def __post_init__(self) -> None:
        """Check the values."""
        at_least("condition.n_examples", self.n_examples, 1)
        one_of("condition.answer", self.answer, ANSWERS)
        if self.first_tokens and self.answer != SET:
            raise ConfigError(f"condition.first_tokens=true with condition.answer={self.answer}: it says that a set is one of "
                              "first tokens; use condition.answer=set, or leave condition.first_tokens out.")
        if self.system is not None and not self.chat:
            raise ConfigError("condition.system with condition.chat=false: only a conversation has a system's turn; use "
                              "condition.chat=true, or leave condition.system out.")
        if self.system is not None and not self.system.strip():
            raise ConfigError("condition.system is empty: expected what the system's turn says; leave it out for what the "
                              "model's chat template itself puts there.")
        if not isinstance(self.tag, str):
            raise ConfigError(f"condition.tag={self.tag}: got a {type(self.tag).__name__}, expected text; quote it: tag: 'TEXT' "
                              "in a YAML file, \"condition.tag='TEXT'\" on the command line.")
        if not self.tag.strip() or "/" in self.tag or not self.tag.isprintable():
            raise ConfigError(f"condition.tag={self.tag!r}: expected a name without '/', of characters that can be seen.")
        if (size := len(self.tag.encode())) > TAG_BYTES:
            raise ConfigError(f"condition.tag={self.tag[:20]}…: has {size} bytes, at most {TAG_BYTES} fit into file names; "
                              "shorten it.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A causal language model: a hub id (`name`), or a local folder (`path`), of which there may be a `variant`."""

    name: str | None = None
    path: str | None = None
    variant: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    add_bos: Any = True  # true, false or auto
    verify_digest: bool = False
    device_map: str | None = None
    max_memory: dict[Any, str] | None = None  # by the number of a GPU, or a name
    quantize: str = "none"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("model.dtype", self.dtype, DTYPES)
        self._check_placement()
        if self.verify_digest and self.path is None:
            raise ConfigError(f"model.verify_digest=true: model.name={self.name} is identified by its commit, of which no digest "
                              "is kept; leave it out, it is for folders and files.")
        if not isinstance(self.add_bos, bool) and self.add_bos != AUTO:
            raise ConfigError(f"model.add_bos={self.add_bos}: expected true, false, or {AUTO} (what the tokenizer itself does).")
        if self.name is None and self.path is None:
            raise ConfigError("model: expected model.name=<hub id> or model.path=<folder>, got neither.")
        if self.name is not None and self.path is not None:
            raise ConfigError(f"model.name={self.name} with model.path={self.path}: weights have one source, and are "
                              f"called by it; use model=hf model.name={self.name} for the hub's, or "
                              f"model=local model.path={self.path} alone.")
        if self.path is not None and self.revision is not None:
            raise ConfigError(f"model.revision={self.revision} with model.path={self.path}: a folder has no revisions; leave "
                              "model.revision out, or use model=hf model.name=<hub id> for the hub's.")
        if self.variant is not None:
            one_of("model.variant", self.variant, VARIANTS)
            if self.path is None or not self.path.endswith(f"/planted/{self.variant}"):
                raise ConfigError(f"model.variant={self.variant}: only model=planted has variants, got model.path={self.path}; "
                                  "leave model.variant out, or use model=local for a folder of your own.")

    def _check_placement(self) -> None:
        """Check where the weights go, and in how many bits."""
        if self.device_map is not None:
            one_of("model.device_map", self.device_map, DEVICE_MAPS)
        elif self.max_memory is not None:
            raise ConfigError("model.max_memory: it has no effect without model.device_map=auto; add that, or leave it out.")
        for name, size in (self.max_memory or {}).items():
            if not MEMORY.fullmatch(size):
                raise ConfigError(f"model.max_memory: {name} gets {size}, expected whole KB, MB, GB, KiB, MiB or GiB; "
                                  "write model.max_memory={cpu:8GiB}.")
        one_of("model.quantize", self.quantize, QUANTIZATIONS)
        packed = self.path is not None and self.path.lower().endswith(".gguf")
        if packed and (self.device_map is not None or self.quantize != "none"):
            raise ConfigError(f"model.path={self.path}: a GGUF file is unpacked in memory, so neither model.device_map nor "
                              "model.quantize can be used; python -m tinylab.convert makes a folder of it that can.")
        if self.quantize != "none" and self.dtype == "float64":
            raise ConfigError(f"model.quantize={self.quantize} with dtype=float64: such weights compute in 16 or 32 bits; use "
                              "model.dtype=float32, or model.quantize=none.")

    @property
    def label(self) -> str:
        """What results call the model: its hub id, its folder's name, or which planted one it is."""
        if self.path is None:
            return str(self.name)
        name = Path(self.path.removeprefix("pkg://")).expanduser().resolve().name.removesuffix(".gguf")
        return name if self.variant is None else f"planted-{self.variant}"


@dataclass(kw_only=True)
class DeviceConfig:
    """Where the model runs; `auto` takes cuda, then mps, then cpu."""

    type: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("device.type", self.type, DEVICES)


@dataclass(kw_only=True)
class EngineConfig:
    """Which engine evaluates the interventions, whether a kept self-check will do, and the budget of states per forward pass."""

    name: str = "auto"
    max_states: int | None = None
    self_check: str = "cached"

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("engine.name", self.name, ENGINES)
        at_least("engine.max_states", self.max_states, 1)
        one_of("engine.self_check", self.self_check, SELF_CHECKS)


@dataclass(kw_only=True)
class VerifySliceConfig:
    """The verify slice; it runs as soon as any field is set."""

    device: str | None = None
    n_examples: int | None = None
    sample: str | None = None
    dtype: str | None = None
    tolerance: float | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.device is not None:
            one_of("verify_slice.device", self.device, DEVICES)
        if self.dtype is not None:
            one_of("verify_slice.dtype", self.dtype, DTYPES)
        if self.sample is not None:
            one_of("verify_slice.sample", self.sample, (LAST, STRATIFIED))
        at_least("verify_slice.n_examples", self.n_examples, 1)
        at_least("verify_slice.tolerance", self.tolerance, 0)

    @property
    def asked(self) -> bool:
        """Whether the user asked for a verify slice at all."""
        return any(getattr(self, f.name) is not None for f in fields(self))


@dataclass(kw_only=True)
class EffectsConfig:
    """What counts as an effect: the smallest of interest, the error that is allowed, and which kind of error that is."""

    smallest: float = 0.05
    alpha: float = 0.05
    correction: str = "holm"

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("smallest", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"effects.{name}={getattr(self, name)}: expected a number between 0 and 1, such as 0.05.")
        one_of("effects.correction", self.correction, CORRECTIONS)


@dataclass(kw_only=True)
class ControlsConfig:
    """What is computed so that a battery's numbers can be believed: true, false, or auto (where it costs little)."""

    sham: Any = AUTO
    random_sets: Any = AUTO
    shuffled_donors: Any = AUTO
    cross: Any = AUTO
    draws: int = 100

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("sham", "random_sets", "shuffled_donors", "cross"):
            value = getattr(self, name)
            if not isinstance(value, bool) and value != AUTO:
                raise ConfigError(f"controls.{name}={value}: expected true, false, or {AUTO} (where it costs at most a tenth of "
                                  "the run).")
        at_least("controls.draws", self.draws, 1)


@dataclass(kw_only=True)
class InvariantsConfig:
    """How a sweep looks for components that matter in every condition."""

    k: int = 10
    metrics: list[str] = field(default_factory=lambda: ["logit_diff"])
    rank: str = "magnitude"
    allow_partial: bool = False
    set: str = PARTIAL_CONJUNCTION
    at_least: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        at_least("invariants.k", self.k, 1)
        one_of("invariants.rank", self.rank, RANKS)
        distinct("invariants.metrics", self.metrics)
        check_set(self.set, self.at_least)


def check_set(name: str, conditions: int | None) -> None:
    """Check what invariants are claimed by, and in how many conditions they have to be found.

    Raises:
        ConfigError: it is not an option, or the number is not for it.
    """
    one_of("invariants.set", name, SETS)
    at_least("invariants.at_least", conditions, 1)
    if conditions is not None and name != PARTIAL_CONJUNCTION:
        raise ConfigError(f"invariants.at_least={conditions} with invariants.set={name}: only {PARTIAL_CONJUNCTION} counts "
                          f"conditions; use invariants.set={PARTIAL_CONJUNCTION}, or leave invariants.at_least out.")
