"""What `tinylab.run` and `tinylab.sweep` are asked for, as overrides; and a place for what is not to be kept."""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tinylab.api.prompts import write_pairs
from tinylab.config.composing import Composer
from tinylab.config.messages import one_sentence
from tinylab.errors import ConfigError
from tinylab.records.storage import write_text

MODEL_KEYS = ("model", "model.name", "model.path", "model.revision", "model.variant", "model.dtype", "model.device_map",
              "model.max_memory", "model.quantize", "device", "device.type")
"""What a model that is in memory has decided already."""
CONDITION_KEYS = ("condition", "condition.path")
NOT_HERE = ("dry_run", "hydra/launcher", "hydra.run.dir", "hydra.sweep.dir", "hydra.mode")
"""What belongs to the command line."""


class Folder:
    """A temporary folder that is removed when nothing holds it any more, at the latest when Python ends."""

    def __init__(self) -> None:
        """Make one."""
        self.path = Path(tempfile.mkdtemp(prefix="tinylab-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove it now."""
        self._finalizer()


@dataclass(frozen=True)
class Asked:
    """A composer, and the overrides of a run or sweep."""

    composer: Composer
    overrides: list[str]
    folder: Folder | None  # of what is not kept


@contextmanager
def asked(
    overrides: Sequence[str], chosen: Mapping[str, Any], *, tokenizer: Any, pairs: Any, output_dir: str | PathLike[str] | None,
    config_dir: str | PathLike[str] | None,
) -> Iterator[Asked]:
    """What is asked for, while the block is open; a model that was given is lent for so long.

    Args:
        overrides: as on the command line.
        chosen: an option of the groups battery, condition and model, or the model itself; None where it is not given.
        tokenizer: of a model that was given itself.
        pairs: prompt pairs in memory, or several of them by name.
        output_dir: where results are kept; None keeps none.
        config_dir: a folder of configs of the user's own.

    Raises:
        ConfigError: something of it cannot be used, or not together.
        ModelError: see `tinylab.models.lent.lending`.
    """
    keys = _keys(overrides)
    if (own := next((key for key in NOT_HERE if key in keys), None)) is not None:
        raise ConfigError(f"{own}=…: is for the command line; tinylab.run and tinylab.sweep compute one run after another here, "
                          "and keep files where output_dir says.")
    if output_dir is not None and "output_dir" in keys:
        raise ConfigError(f"output_dir={output_dir}: is among the overrides too; give it once.")
    folder = Folder() if output_dir is None and "output_dir" not in keys else None
    place = folder.path if folder is not None else output_dir or _value(overrides, "output_dir")
    args = argparse.Namespace(config_dir=None if config_dir is None else str(config_dir), config_path=None, config_name=None)
    try:
        with _hydras_errors(), ExitStack() as stack:
            words = [*overrides, *([] if "output_dir" in keys else [_quoted("output_dir", place)])]
            words += ["plots=false"] if folder is not None and "plots" not in keys else []
            words += _of_model(stack, chosen.get("model"), tokenizer, keys)
            words += _of_pairs(pairs, keys, Path(place) / "corpora")
            for group in ("battery", "condition"):
                words += _option(group, chosen.get(group), keys)
            stack.enter_context(_alone())
            yield Asked(stack.enter_context(Composer(args)), words, folder)
    except BaseException:
        if folder is not None:
            folder.remove()
        raise


@contextmanager
def _hydras_errors() -> Iterator[None]:
    """Raise what Hydra says of a config as a ConfigError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error


def _keys(overrides: Sequence[str]) -> set[str]:
    """The keys of overrides.

    Raises:
        ConfigError: one is not a text, or is a flag of the command line's.
    """
    for one in overrides:
        if not isinstance(one, str) or "=" not in one or one.startswith("-"):
            raise ConfigError(f"{one!r}: expected overrides such as \"battery=h1\"; a sweep is tinylab.sweep(…), and a folder of "
                              "your own configs config_dir=….")
    return {one.partition("=")[0].lstrip("+~") for one in overrides}


def _value(overrides: Sequence[str], key: str) -> str:
    """The value of an override, without its quotes."""
    line = next(one for one in reversed(overrides) if one.partition("=")[0].lstrip("+") == key)
    return line.partition("=")[2].strip("'\"")


def _quoted(key: str, value: object) -> str:
    """An override whose value is a text, whatever is in it."""
    literal = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", str(value))
    return f"{key}={QuotedString(literal, Quote.single).with_quotes()}"


def _option(group: str, value: Any, keys: set[str]) -> list[str]:
    """The override that chooses an option of a group."""
    if value is None:
        return []
    if not isinstance(value, str):
        raise ConfigError(f"{group}={type(value).__name__}: expected the name of an option, as a text.")
    if group in keys:
        raise ConfigError(f"{group}={value}: is among the overrides too; give it once.")
    return [f"{group}={value}"]


def _of_model(stack: ExitStack, model: Any, tokenizer: Any, keys: set[str]) -> list[str]:
    """The overrides that mean a model; one that is in memory is lent until the stack is left."""
    if model is None or isinstance(model, str):
        if tokenizer is not None:
            raise ConfigError("tokenizer: is for a model that is in memory; models by name have their own.")
        return _option("model", model, keys)
    if clash := sorted(keys & {*MODEL_KEYS}):
        raise ConfigError(f"{clash[0]}=…: the model is given itself, with its weights, dtype and device; leave it out.")
    if not hasattr(model, "parameters"):
        raise ConfigError(f"model={type(model).__name__}: expected the name of an option of model=…, or a causal language model "
                          "of transformers.")
    from tinylab.models.lent import dtype_of, lending

    lent = stack.enter_context(lending(model, tokenizer))
    return ["model=hf", _quoted("model.name", lent.identity.name), f"model.dtype={dtype_of(model)}", f"device={lent.device.type}"]


def _of_pairs(pairs: Any, keys: set[str], folder: Path) -> list[str]:
    """The overrides that mean prompt pairs in memory: one condition, or several by name to sweep over."""
    if pairs is None:
        return []
    if clash := sorted(keys & {*CONDITION_KEYS}):
        raise ConfigError(f"{clash[0]}=…: prompt pairs are given themselves; leave it out, or pairs.")
    if isinstance(pairs, Mapping) and isinstance(pairs.get("clean"), str):
        raise ConfigError("pairs: a single pair; expected a list, as in pairs=[pair].")
    if not isinstance(pairs, Mapping):
        named = [] if "condition.tag" in keys else ["condition.tag=pairs"]
        return ["condition=jsonl", _quoted("condition.path", write_pairs(pairs, folder).resolve()), *named]
    import yaml

    for name, own in pairs.items():
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise ConfigError(f"pairs: {name!r} cannot be a condition's name; expected letters, digits and _, a letter first.")
        content = {"defaults": ["jsonl", "_self_"], "path": str(write_pairs(own, folder).resolve()), "tag": str(name)}
        write_text(folder / "condition" / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False))
    return [f"condition={','.join(map(str, pairs))}", f"hydra.searchpath=[{_quoted('', folder.resolve())[1:]}]"]


@contextmanager
def _alone() -> Iterator[None]:
    """Put aside what another program in this process has of Hydra's; then it is there again."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = hydra
        HydraConfig.instance().cfg = config
