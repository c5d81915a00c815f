"""Another condition than the run's own, by its name: composed from the same folders as `condition=NAME` would be."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tinylab.config.composing import BROKEN_CONFIG, CONFIG_NAME, config_folder
from tinylab.config.hydra_internals import loader_of
from tinylab.config.messages import one_sentence
from tinylab.errors import ConfigError, options

GROUP = "condition"


def other_condition(key: str, name: str, own: tuple[str, ...], composed: DictConfig) -> dict[str, Any]:
    """The settings of a condition by its name, as plain data.

    Args:
        key: of the setting that names it, for messages.
        name: of a file of `conf/condition`, the user's own folders first.
        own: what the setting can be in place of such a name, for messages.
        composed: the config that names it; where its `hydra` node is not in it, Hydra's own copy of the job's is looked at.

    Raises:
        ConfigError: there is no such condition, or it cannot be composed by its name alone.
    """
    hydra = _hydra_of(composed)
    sources = [("main", f"file://{config_folder()}")] if hydra is None else [
        (source.provider, f"{source.schema}://{source.path}") for source in hydra.runtime.config_sources
        if source.provider != "schema"]
    loader = loader_of(sources)
    folder, _, option = f"{GROUP}/{name}".rpartition("/")
    if option not in loader.get_group_options(folder):
        raise ConfigError(f"{key}={name}: no such condition; {options(name, [*own, *loader.get_group_options(GROUP)])}.")
    root = CONFIG_NAME if hydra is None else hydra.job.config_name
    try:
        found = loader.load_configuration(root, [f"{GROUP}={name}"], RunMode.RUN)
        missing = sorted(OmegaConf.missing_keys(found[GROUP]))
        plain = {} if missing else OmegaConf.to_container(found[GROUP], resolve=True)
    except BROKEN_CONFIG as error:
        raise ConfigError(f"{key}={name}: {one_sentence(error).rstrip('.')}.") from error
    if missing:
        raise ConfigError(f"{key}={name}: that condition leaves {missing[0]} to be given; name one that has a corpus, such "
                          "as a YAML of your own.")
    assert isinstance(plain, dict)
    return {str(one): value for one, value in plain.items()}


def _hydra_of(composed: DictConfig) -> Any:
    """The `hydra` node that a config was composed with; None where nothing says so."""
    if "hydra" in composed:
        return composed.hydra
    return HydraConfig.get() if HydraConfig.initialized() else None
