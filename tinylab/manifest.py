"""Run folders: where every file of a run lies, its status, and where its numbers came from."""

from __future__ import annotations

import resource
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tinylab.errors import OutputError
from tinylab.storage import half_written, read_json

PACKAGES = ("tinylab", "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "hydra-core", "omegaconf")


class RunFolder:
    """Owns every path of a run, and its manifest."""

    ARTIFACTS = {
        "config": "config.yaml",
        "head_impact": "metrics/head_impact.parquet",
        "layer_impact": "metrics/layer_impact.parquet",
        "per_example": "metrics/per_example.parquet",
        "summary": "metrics/summary.json",
        "verify": "metrics/verify.json",
        "heatmap": "heatmap.png",
        "log": "run.log",
    }

    RESULTS = ("config", "head_impact", "layer_impact", "per_example", "summary")
    """What a finished run cannot do without; a picture, a log or a verify slice can be made again."""

    def __init__(self, path: Path) -> None:
        """The run folder at a path; it need not exist yet."""
        self.path = path

    @property
    def manifest(self) -> Path:
        """The manifest's path."""
        return self.path / "manifest.json"

    @property
    def checkpoint(self) -> Path:
        """What an unfinished run has computed so far (`tinylab.checkpoint`)."""
        return self.path / "checkpoint.npz"

    def file(self, artifact: str) -> Path:
        """The path of an artifact, by its key in the manifest."""
        return self.path / self.ARTIFACTS[artifact]

    def read(self) -> dict[str, Any] | None:
        """The manifest, None if there is none."""
        return read_json(self.manifest) if self.manifest.is_file() else None

    def write(self, content: dict[str, Any]) -> None:
        """Write the manifest, with the relative path of every artifact that exists.

        Raises:
            SchemaError: it breaks its contract; nothing was written.
        """
        from tinylab.records.checking import write_document  # not for the command line's help: pydantic takes a while
        from tinylab.records.manifests import RunManifest

        kept = {key: value for key, value in content.items() if key not in self.ARTIFACTS}
        there = {key: path for key, path in self.ARTIFACTS.items() if (self.path / path).is_file()}
        write_document(RunManifest, self.manifest, {**kept, **there})

    def fail(self, run_id: str | None, error: BaseException) -> None:
        """Record that the run failed, and how."""
        before = self.read() or {}
        self.write({**before, "status": "failed", "run_id": run_id or before.get("run_id"), "error": describe(error)})

    def finished(self) -> dict[str, Any] | None:
        """The manifest if any finished run is here with all its files, else None."""
        try:
            content = self.read()
        except OutputError:
            return None
        return None if content is None else self.complete(content.get("run_id"))

    def note_failed_attempt(self, finished: dict[str, Any], error: BaseException) -> None:
        """Record that computing a finished run again failed; what it had stays."""
        self.write({**finished, "attempt_failed": describe(error)})

    def discard(self) -> None:
        """Remove what a run that never computed anything has written, and its folder if nothing else is in it."""
        for file in (self.manifest, self.checkpoint, *(self.path / path for path in self.ARTIFACTS.values())):
            file.unlink(missing_ok=True)
        for folder in (self.path / "metrics", self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def half_written(self) -> list[Path]:
        """What processes were writing here that were killed, or write right now."""
        files = (self.manifest, self.checkpoint, *(self.path / path for path in self.ARTIFACTS.values()))
        return [found for file in files for found in half_written(file)]

    def tidy(self) -> None:
        """Remove what killed processes were writing here; only for whoever computes this run, or knows that nobody does."""
        for file in self.half_written():
            with suppress(OSError):  # it can stay: nothing reads it
                file.unlink(missing_ok=True)

    def complete(self, run_id: str | None) -> dict[str, Any] | None:
        """The manifest if this very run is finished and all its files are there, else None."""
        try:
            content = self.read()
        except OutputError:
            return None
        if content is None or not run_id or (content.get("status"), content.get("run_id")) != ("complete", run_id):
            return None
        listed = [self.path / content[key] for key in self.RESULTS if key in content]
        return content if all(path.is_file() for path in listed) else None


def describe(error: BaseException) -> dict[str, str]:
    """An error as data."""
    return {"type": type(error).__name__, "message": str(error)}


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
    root = Path(__file__).resolve().parent.parent
    none = {"commit": None, "dirty": None}
    if not (root / ".git").exists():
        return none
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return none
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
