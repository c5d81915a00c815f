"""The Hydra callback that turns a multirun into a sweep. It runs in the parent process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepCallback(Callback):
    """Joins the runs when the last one has ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Aggregate the sweep's folder; failures of its jobs are in their manifests.

        Where the folder was removed meanwhile its plan went with it: then the wrapper around Hydra, which has it, does this.
        """
        from tinylab.config.groups import InvariantsConfig
        from tinylab.machine.progress import log_over_bar
        from tinylab.sweep.aggregate import Settings, aggregate

        log_over_bar()
        folder = Path(config.hydra.sweep.dir)
        if (folder / "manifest.json").is_file():
            aggregate(folder, Settings.of(InvariantsConfig(**config.invariants)))
