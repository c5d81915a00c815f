"""What changed since an earlier run: the same run but for its corpus, its weights, or the code that makes the numbers.

Such a run has another identity, so it is never taken for this one. A person who types the same command again is told why
it computes.
"""

from __future__ import annotations

import glob
from itertools import chain
from pathlib import Path
from typing import Any

from tinylab.records.identity import digest, identity
from tinylab.records.manifest import RunFolder
from tinylab.schema import Config

TAIL = "_" + "[0-9a-f]" * 12
UNRECORDED = 2
"""The results version of runs whose manifest has none."""


def since_earlier_run(config: Config) -> str | None:
    """A sentence on the newest finished run that differs from this one in corpus, weights or results version alone, if any does.

    Args:
        config: of this run; the other has its name.
    """
    root = Path(config.output_dir)
    now = identity(config)
    pattern = glob.escape(config.run_name) + TAIL
    found = [(path, manifest) for path in chain(root.glob(f"runs/{pattern}"), root.glob(f"sweeps/*/{pattern}"))
             if (manifest := RunFolder(path).finished()) is not None and _same_names(manifest, config)]
    for path, manifest in sorted(found, key=lambda one: str(one[1]["provenance"]["finished"]), reverse=True):
        then = _then(now, manifest["provenance"])
        if digest(then) == manifest["run_id"] != digest(now):
            changes = _differences(then, now)
            return (f"{path} is an earlier run with the same settings, but another {' and another '.join(changes)} "
                    f"({', '.join(f'{what} {told}' for what, told in changes.items())}): it stays as it is and is not reused")
    return None


def _same_names(manifest: dict[str, Any], config: Config) -> bool:
    """Whether corpus and model are called what they were: others are not changed ones."""
    corpus = manifest["provenance"]["corpus"]["path"]
    return (corpus, manifest["model"]) == (config.condition.path, config.model.name or config.model.path)


def _then(now: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """This run's identity with an earlier one's corpus, weights and results version in it."""
    condition = {key: value for key, value in now["condition"].items() if key != "path"}
    model = provenance["model"]
    return {
        **now,
        "results_version": provenance.get("results_version", UNRECORDED),
        "condition": {**condition, "sha256": provenance["corpus"]["sha256"]},
        "model": {**now["model"], "revision": model["revision"], "digest": model["digest"]},
    }


def _differences(then: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What is another one now, each with what it was and is."""
    values = [
        ("corpus", *(content["condition"].get("sha256") for content in (then, now))),
        ("weights", *(content["model"].get("digest") or content["model"].get("revision") for content in (then, now))),
        ("results version", then["results_version"], now["results_version"]),
    ]
    return {what: f"{str(old)[:12]} then, {str(new)[:12]} now" for what, old, new in values if old != new}
