"""Run folders: where every file of a run lies, its status, and where its numbers came from."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinylab.batteries.base import Battery
from tinylab.errors import OutputError
from tinylab.interventions.components import TABLE_KINDS
from tinylab.records.digests import fault
from tinylab.records.identity import Resolved, battery_identity, battery_settings, digest
from tinylab.records.provenance import now
from tinylab.records.storage import half_written

STAGE = ".new"
"""Where new files of a run wait until all of them are there (`tinylab.records.renewing`)."""


class RunFolder:
    """Owns every path of a run, and its manifest."""

    ARTIFACTS = {
        "config": "config.yaml",
        "per_example": "metrics/per_example.parquet",
        "effects": "metrics/effects.parquet",
        "synergy": "metrics/synergy.parquet",
        "examples": "metrics/examples.parquet",
        "summary": "metrics/summary.json",
        "verify": "metrics/verify.json",
        "heatmap": "heatmap.png",
        "report": "report.html",
        "log": "run.log",
    }

    DRAWN = ("heatmap", "report")
    """What shows numbers that are there; where they change it is made anew."""
    RESULTS = ("config", "per_example", "summary")
    """What a finished run cannot do without, beside its table; a picture, a log or a verify slice can be made again."""

    def __init__(self, path: Path) -> None:
        """The run folder at a path; it need not exist yet."""
        self.path = path

    @property
    def manifest(self) -> Path:
        """The manifest's path."""
        return self.path / "manifest.json"

    @property
    def checkpoint(self) -> Path:
        """What an unfinished run has computed so far (`tinylab.records.checkpoint`)."""
        return self.path / "checkpoint.npz"

    @property
    def stage(self) -> RunFolder:
        """Where new files wait until all of them are there."""
        return RunFolder(self.path / STAGE)

    @property
    def attempts(self) -> Path:
        """Who started this run as a job of a sweep and did not come to its end (`tinylab.sweep.attempts`)."""
        return self.path / ".attempts"

    @property
    def marker(self) -> Path:
        """Says that a folder that somebody chose is this run's: it was free when the run began."""
        return self.path / ".tinylab"

    @property
    def damaged(self) -> Path:
        """A manifest that was set aside."""
        return self.manifest.with_name(f"{self.manifest.name}.damaged")

    def file(self, artifact: str) -> Path:
        """The path of an artifact, by its key in the manifest; what is not listed is an impact table."""
        return self.path / self.ARTIFACTS.get(artifact, f"metrics/{artifact}.parquet")

    def table(self, content: dict[str, Any]) -> Path:
        """The path of the impact table that a manifest tells of."""
        return self.file(content["table"])

    def artifacts(self, content: dict[str, Any]) -> list[str]:
        """The keys of what a run of this manifest may have written, in order."""
        config, *rest = self.ARTIFACTS
        return [config, *([content["table"]] if "table" in content else []), *rest]

    def read(self) -> dict[str, Any] | None:
        """The manifest, None if there is none.

        Raises:
            OutputError: it cannot be read, or is none of ours.
        """
        from tinylab.records.checking import read_document
        from tinylab.records.manifests import RunManifest

        return read_document(RunManifest, self.manifest) if os.path.lexists(self.manifest) else None

    def set_aside(self) -> OutputError | None:
        """Rename a manifest that is damaged, or none of ours, so that the run can be computed; returns what is wrong.

        Raises:
            OutputError: the disk does not let it be read.
        """
        try:
            self.read()
        except OutputError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise  # a disk that fails for now, say: what is in it is not known to be damaged
            with suppress(OSError):  # who cannot rename it cannot write another one either, and will be told
                self.manifest.replace(self.damaged)
            return error
        return None

    def write(self, content: dict[str, Any], *, staged: bool = False) -> None:
        """Write the manifest, with the relative path of every artifact that exists.

        Args:
            content: of the manifest.
            staged: whether it goes with files that are not in place yet, and waits with them; then the files that it tells of
                count as existing.

        Raises:
            SchemaError: it breaks its contract; nothing was written.
        """
        from tinylab.records.checking import write_document  # not for the command line's help: pydantic takes a while
        from tinylab.records.manifests import RunManifest

        artifacts = {key: str(self.file(key).relative_to(self.path)) for key in self.artifacts(content)}
        kept = {key: value for key, value in content.items() if key not in (*artifacts, "digests")}
        there = {key: path for key, path in artifacts.items() if self._has(key, content, staged=staged)}
        digests = {key: one for key, one in (content.get("digests") or {}).items() if key in there}
        told = {**kept, **({"digests": digests} if digests else {}), **there}
        write_document(RunManifest, self.stage.manifest if staged else self.manifest, told)

    def _has(self, key: str, content: dict[str, Any], *, staged: bool) -> bool:
        if staged and self.stage.file(key).is_file():
            return True
        return self.file(key).is_file() and (not staged or key in content or key == "log")

    def fail(self, run_id: str | None, error: BaseException) -> None:
        """Record that the run failed, and how."""
        self.set_aside()
        before = self.read() or {}
        if run_id is not None and before.get("run_id") not in (None, run_id):  # of another run
            before = {}
        self.write({**before, "status": "failed", "run_id": run_id or before.get("run_id"), "error": describe(error)})

    def finished(self) -> dict[str, Any] | None:
        """The manifest if any finished run is here with all its files, else None."""
        try:
            content = self.read()
        except OutputError:
            return None
        return None if content is None else self.complete(content.get("run_id"))

    def holds_another(self, run_id: str | None) -> bool:
        """Whether a finished run of another identity is here, whatever became of its files: its manifest is its own."""
        try:
            content = self.read()
        except OutputError:
            return False
        return content is not None and content["status"] == "complete" and run_id is not None and content["run_id"] != run_id

    def note_failed_attempt(self, finished: dict[str, Any], error: BaseException) -> None:
        """Record that computing a finished run again failed; what it had stays."""
        self.write({**finished, "attempt_failed": describe(error)})

    def there(self) -> set[Path]:
        """What is here, of the names that a run writes, before a command begins: it leaves that as it is."""
        ours = (*self.files(), self.marker, self.path, self.path / "metrics")
        return {path.resolve() for path in ours if os.path.lexists(path)}

    def discard(self, kept: Collection[Path] = ()) -> None:
        """Remove what a run that never computed anything has written, and its folder if nothing else is in it.

        Args:
            kept: what was here before (`there`).
        """
        for file in (*self.files(), self.marker):
            if file.resolve() not in kept:
                file.unlink(missing_ok=True)
        for folder in (self.path / "metrics", self.path):
            if folder.is_dir() and folder.resolve() not in kept and not any(folder.iterdir()):
                folder.rmdir()

    def leavings(self) -> list[Path]:
        """Result files that are here, whatever the manifest says."""
        return [file for file in self.files() if file.suffix in (".parquet", ".json") and os.path.isfile(file)]

    def half_written(self) -> list[Path]:
        """What processes were writing here that were killed."""
        found = [half for file in (*self.files(), self.attempts) for half in half_written(file)]
        waiting = self.stage
        return [*found, waiting.path] if waiting.path.is_dir() and not waiting.manifest.is_file() else found

    def files(self) -> list[Path]:
        """What a run writes here, whatever the kind of its table."""
        metrics = self.path / "metrics"
        tables = metrics.glob("*.parquet") if os.path.isdir(metrics) else ()
        shipped = (self.file(name) for name in TABLE_KINDS)
        listed = (self.path / path for path in self.ARTIFACTS.values())
        return list(dict.fromkeys([self.manifest, self.checkpoint, *listed, *shipped, *tables]))

    def tidy(self) -> None:
        """Remove what killed processes were writing here; only for whoever computes this run, or knows that nobody does."""
        for file in self.half_written():
            with suppress(OSError):  # it can stay: nothing reads it
                if file.is_dir():
                    shutil.rmtree(file)
                else:
                    file.unlink(missing_ok=True)

    def forget_attempt(self) -> None:
        """Remove what was kept of an evaluation in the making, once the run is finished."""
        with suppress(OSError):  # it can stay: nothing reads it any more
            self.checkpoint.unlink(missing_ok=True)

    def claimed(self, run_id: str | None) -> dict[str, Any] | None:
        """The manifest if it says that this very run is finished, whatever became of its files; else None."""
        try:
            content = self.read()
        except OutputError:
            return None
        if content is None or not run_id or (content.get("status"), content.get("run_id")) != ("complete", run_id):
            return None
        return content

    def complete(self, run_id: str | None) -> dict[str, Any] | None:
        """The manifest if this very run is finished and all its files are there, else None."""
        content = self.claimed(run_id)
        return content if content is not None and all(map(os.path.isfile, self._results(content).values())) else None

    def intact(self, run_id: str | None) -> dict[str, Any] | None:
        """The manifest if this very run is finished and all its files are what it wrote, else None."""
        content = self.claimed(run_id)
        return content if content is not None and self.fault(content) is None else None

    def fault(self, content: dict[str, Any], *keys: str) -> str | None:
        """A clause on the first file of a finished run that is missing or is not what it wrote; None where all is well.

        Args:
            content: the manifest.
            keys: which files; left out, those that it cannot do without.
        """
        files = {key: self.file(key) for key in keys} or self._results(content)
        return fault(files, (content.get("digests") or {}))

    def _results(self, content: dict[str, Any]) -> dict[str, Path]:
        later = [key for key in ("effects", "synergy", "examples") if key in content]  # runs of before, and most, lack some
        return {key: self.file(key) for key in (content["table"], *self.RESULTS, *later)}


def describe(error: BaseException) -> dict[str, str]:
    """An error as data."""
    return {"type": type(error).__name__, "message": str(error)}


def _positions(battery: Battery) -> str:
    """Where a battery acts, in a word or a list."""
    at = battery.acts_at
    return "each" if battery.each else str(list(at) if isinstance(at, tuple) else at)


def started(resolved: Resolved) -> dict[str, Any]:
    """What the manifest of a run says from the first moment on."""
    config, battery = resolved.config, resolved.config.battery
    return {
        "status": "running",
        "run_id": resolved.run_id,
        "run_name": config.run_name,
        "condition": config.condition.tag,
        "battery": battery_settings(battery),
        "battery_digest": digest(battery_identity(battery)),
        **({} if resolved.chosen_from is None else {"chosen_from": resolved.chosen_from}),
        "described": battery.describe(),
        "table": battery.table.name,
        "table_kind": battery.table.as_json(),
        "metrics": config.metric_names,
        "direction": "none" if battery.source is None else f"{battery.source.run}->{battery.target}",
        "target_run": battery.target,
        "positions": _positions(battery),
        "model": config.model.label,
        "process": {"host": socket.gethostname(), "pid": os.getpid()},
        "started": now(),
    }
