"""Where a run's numbers come from: versions, commit, time, memory."""

from __future__ import annotations

import resource
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinylab.models.network import CausalModel
    from tinylab.task.preparation import Prepared

PACKAGES = ("tinylab", "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "hydra-core", "omegaconf")


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """The versions of what computes."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on PYTHONPATH
            found[name] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of tinylab's own checkout; both None where it is not one."""
    root = Path(__file__).resolve().parent.parent.parent
    none = {"commit": None, "dirty": None}
    if not (root / ".git").exists():
        return none
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return none
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def command_line() -> list[str] | None:
    """What to type for this run alone, whatever launched it; None where no command line did."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    told = HydraConfig.get()
    own = [source.path for source in told.runtime.config_sources if source.provider == "command-line"]
    return ["python", "-m", "tinylab", *(word for path in own for word in ("--config-dir", path)), *told.overrides.task]


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def provenance(model: CausalModel, prepared: Prepared, device: str) -> dict[str, Any]:
    """Where the numbers come from: model, corpus, software."""
    import torch

    from tinylab.models.placement import spread

    return {
        "model": asdict(model.identity),
        "architecture": type(model.model).__name__,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "quantisation": model.quantisation,
        "tokenizer": model.describe_tokenizer(),
        "bos": prepared.bos,
        **({} if prepared.chat is None else {"chat": prepared.chat}),
        "corpus": {
            "path": prepared.condition.path,
            "sha256": prepared.condition.sha256,
            "kept": prepared.kept,
            "used": len(prepared.condition.pairs),
            "dropped": prepared.condition.dropped,
            "noted": prepared.condition.noted,
        },
        **({} if prepared.reference is None else {"reference": prepared.reference}),
        **({} if prepared.position_tokens is None else {"position_tokens": prepared.position_tokens}),
        "device": device,
        "device_map": spread(model.model),
        "threads": torch.get_num_threads(),
        "attention": model.model.config._attn_implementation,
        "packages": package_versions(),
        "git": git_state(),
        **({} if (typed := command_line()) is None else {"command": typed}),
    }
