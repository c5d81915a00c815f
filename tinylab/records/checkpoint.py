"""What a run has computed so far, kept beside its results, so that a run that was cut off goes on from its last chunk."""

from __future__ import annotations

import json
import logging
import math
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.engine.base import EvaluationState
from tinylab.errors import OutputError
from tinylab.interventions.sources import RunName
from tinylab.records.storage import replacing

WAIT = 1.0
"""Seconds before a run is worth keeping."""
SHARE = 20
"""Keeping takes at most one part in so many of the time."""
log = logging.getLogger(__name__)


class Checkpoint:
    """A file with an evaluation in the making. It counts only for the very same work on the same software."""

    def __init__(self, path: Path, work: dict[str, Any]) -> None:
        """Nothing is read or written yet.

        Args:
            path: the file.
            work: everything that must be equal for two attempts to be one evaluation, bit for bit.
        """
        self._path = path
        self._work = json.dumps(work, sort_keys=True)
        self._pause, self._kept_at = WAIT, time.monotonic()

    def restore(self, empty: EvaluationState) -> EvaluationState:
        """See `tinylab.engine.base.Checkpointer`. A file of other work, or that cannot be read, does not count."""
        if not self._path.is_file():
            return empty
        try:
            found = _read(self._path, self._work, empty)
        except Exception as error:  # whatever is in the file: it is a short cut, and the way is there without it
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s cannot be read (%s): starting from the beginning", self._path, reason)
            return empty
        if found is None:
            return empty
        log.info("resuming where an earlier attempt was interrupted: %.0f %% is there", 100 * found.done.mean())
        return found

    def keep(self, state: EvaluationState) -> None:
        """See `tinylab.engine.base.Checkpointer`. What cannot be kept is told once, and fails nothing."""
        if time.monotonic() - self._kept_at < self._pause:
            return
        began = time.monotonic()
        try:
            with replacing(self._path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, work=np.array(self._work), **_arrays(state))  # type: ignore[arg-type]  # none is allow_pickle
        except OutputError as error:
            log.warning("%s The run goes on; if it is cut off, it starts from the beginning", error)
            self._pause = math.inf
            return
        self._kept_at = time.monotonic()
        self._pause = max(WAIT, SHARE * (self._kept_at - began))

    def discard(self) -> None:
        """Remove the file: the work is finished, or begins anew."""
        with suppress(OSError):  # it can stay: it counts for the very same work only
            self._path.unlink(missing_ok=True)


def _arrays(state: EvaluationState) -> dict[str, np.ndarray]:
    return {"clean": state.baselines["clean"], "corrupt": state.baselines["corrupt"], "values": state.values,
            "clean_ability": state.ability["clean"], "corrupt_ability": state.ability["corrupt"],
            "begun": state.begun, "done": state.done, "counts": np.array([state.forwards, state.states])}


def _read(path: Path, work: str, empty: EvaluationState) -> EvaluationState | None:
    """What a file keeps of an evaluation; None if it is of other work.

    Nothing is read before it is known to be as large as it should be: uncompressed arrays, of this shape.

    Raises:
        ValueError: it is no file of ours, or one of another shape; zipfile has errors of its own.
    """
    with zipfile.ZipFile(path) as stored, np.load(path, allow_pickle=False) as arrays:
        for entry in stored.infolist():
            if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                raise ValueError(f"{entry.filename} is encrypted or compressed")
        shape, dtype = _header(stored, "work")
        if shape or dtype.kind != "U" or dtype.itemsize > stored.getinfo("work.npy").file_size:
            raise ValueError("it does not say what work it belongs to")
        if str(arrays["work"]) != work:
            return None
        for name, array in _arrays(empty).items():
            if _header(stored, name) != (array.shape, array.dtype):
                raise ValueError(f"{name} has another shape or type than {array.shape} of {array.dtype}")
        forwards, states = (int(count) for count in arrays["counts"])
        baselines: dict[RunName, FloatArray] = {"clean": arrays["clean"], "corrupt": arrays["corrupt"]}
        ability: dict[RunName, FloatArray] = {"clean": arrays["clean_ability"], "corrupt": arrays["corrupt_ability"]}
        return EvaluationState(baselines, arrays["values"], arrays["begun"], arrays["done"], ability, forwards, states)


def _header(stored: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, without the array."""
    with stored.open(f"{name}.npy") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is in another format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return shape, dtype
