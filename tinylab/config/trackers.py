"""The type of the config group tracker: where a run that ends is logged in addition to its folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from tinylab.config.checks import one_of
from tinylab.errors import ConfigError, install

NONE, MLFLOW, WANDB = TRACKERS = ("none", "mlflow", "wandb")
MODES = ("online", "offline")
"""Of tracker.mode."""


@dataclass(kw_only=True)
class TrackerConfig:
    """Where a run that ends is logged in addition to its folder, and under which project."""

    name: str = NONE
    project: str = "tinylab"
    uri: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        """Check the values, and that the tracker's package is there."""
        one_of("tracker.name", self.name, TRACKERS)
        if not self.project.strip():
            raise ConfigError("tracker.project=: empty; expected the name of a project.")
        if self.uri is not None and self.name != MLFLOW:
            raise ConfigError(f"tracker.uri={self.uri}: only tracker=mlflow has one; leave it out.")
        if self.mode is not None:
            one_of("tracker.mode", self.mode, MODES)
            if self.name != WANDB:
                raise ConfigError(f"tracker.mode={self.mode}: only tracker=wandb has one; leave it out.")
        if self.name != NONE and find_spec(self.name) is None:
            raise ConfigError(f"tracker={self.name}: its package is not installed; {install(self.name)}.")
