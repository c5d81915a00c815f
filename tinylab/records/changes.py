"""What changed since an earlier run: the same run but for its corpus, its weights, or the code that makes numbers or identities.

Such a run has another identity, so it is never taken for this one. A person who types the same command again is told why
it computes.
"""

from __future__ import annotations

import glob
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from tinylab.errors import OutputError
from tinylab.records.identity import Resolved, digest
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_yaml

TAIL = "_" + "[0-9a-f]" * 12
UNRECORDED = {"results version": 2, "identity version": 1}
"""The versions of runs whose manifest has none."""


def since_earlier_run(resolved: Resolved) -> str | None:
    """A sentence on the newest finished run that differs from this one in corpus, weights or versions alone, if any does.

    Args:
        resolved: this run; the other has its name.
    """
    if resolved.model is None or resolved.corpus is None:
        return None  # the run itself will tell why
    config = resolved.config
    root = Path(config.output_dir)
    pattern = glob.escape(config.run_name) + TAIL
    found = [(path, manifest) for path in chain(root.glob(f"runs/{pattern}"), root.glob(f"sweeps/*/{pattern}"))
             if (manifest := RunFolder(path).finished()) is not None and _same_paths(manifest, resolved)]
    for path, manifest in sorted(found, key=lambda one: str(one[1]["provenance"]["finished"]), reverse=True):
        if manifest["run_id"] != resolved.run_id and _asked_the_same(path, manifest, resolved):
            changes = _differences(manifest, resolved)
            return (f"{path} is an earlier run with the same settings, but another {' and another '.join(changes)} "
                    f"({', '.join(f'{what} {told}' for what, told in changes.items())}): it stays as it is and is not reused")
    return None


def _same_paths(manifest: dict[str, Any], resolved: Resolved) -> bool:
    """Whether corpus and model are called what they were: others are not changed ones."""
    config = resolved.config
    same_corpus = manifest["provenance"]["corpus"]["path"] == config.condition.path
    return same_corpus and manifest["model"] in (config.model.label, config.model.path)  # the path: before identity version 2


def _asked_the_same(path: Path, manifest: dict[str, Any], resolved: Resolved) -> bool:
    """Whether a finished run was asked for what is asked for now; one that does not tell, or is damaged, was not."""
    try:
        return _same_settings(path, manifest, resolved)
    except (OutputError, KeyError, TypeError, AttributeError):
        return False


def _same_settings(path: Path, manifest: dict[str, Any], resolved: Resolved) -> bool:
    """Whether a finished run was asked for what is asked for now."""
    then = manifest["provenance"].get("identity")
    if then is None:
        return _same_config(path, manifest, resolved)
    return digest(_without_what_changes(then)) == digest(_without_what_changes(resolved.identity))


def _without_what_changes(identity: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in identity.items() if key not in ("identity_version", "results_version")}
    kept["condition"] = {key: value for key, value in identity["condition"].items() if key not in ("sha256", "path")}
    if "reference" in identity:
        kept["reference"] = {key: value for key, value in identity["reference"].items() if key not in ("sha256", "path")}
    kept["model"] = {key: value for key, value in identity["model"].items() if key in ("dtype", "add_bos", "quantize")}
    return kept


def _same_config(path: Path, manifest: dict[str, Any], resolved: Resolved) -> bool:
    """The same for a run of before identities were recorded: by its config.yaml, as far as its settings went then."""
    now, then = asdict(resolved.config), read_yaml(path / manifest["config"])
    groups = {group: {key: value for key, value in then[group].items() if key not in ("_target_", "path", "name", "max_states")}
              for group in ("battery", "condition", "model")}
    return (
        all(now[group].get(key) == value for group, settings in groups.items() for key, value in settings.items())
        and (then["seeds"], then["engine"]["name"]) == (now["seeds"], now["engine"]["name"])
        and manifest["provenance"]["device"] == resolved.device
    )


def _differences(manifest: dict[str, Any], resolved: Resolved) -> dict[str, str]:
    """What is another one now, each with what it was and is."""
    provenance, now = manifest["provenance"], resolved.identity
    versions = {**provenance, **(provenance.get("identity") or {})}
    values = [
        ("corpus", provenance["corpus"]["sha256"], resolved.corpus),
        ("corpus of the reference set", *(one.get("reference", {}).get("sha256") for one in (versions, now))),
        ("weights", *(one["digest"] or one["revision"] for one in (provenance["model"], now["model"]))),
        *((what, versions.get(key := what.replace(" ", "_"), before), now[key]) for what, before in UNRECORDED.items()),
    ]
    return {what: f"{str(old)[:12]} then, {str(new)[:12]} now" for what, old, new in values if old != new}
