"""What a run has computed so far, kept beside its results, so that a run that was cut off goes on from its last chunk."""

from __future__ import annotations

import json
import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.engine.base import EvaluationState
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
        """See `tinylab.engine.base.Keeper`. A file of other work, or that cannot be read, does not count."""
        if not self._path.is_file():
            return empty
        try:
            with self._path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                found = _state(arrays) if str(arrays["work"]) == self._work else empty
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s): starting from the beginning", self._path, error)
            return empty
        if found.values.shape != empty.values.shape:
            return empty
        if found is not empty:
            log.info("going on where an earlier attempt was cut off: %.0f %% is there", 100 * found.done.mean())
        return found

    def keep(self, state: EvaluationState) -> None:
        """See `tinylab.engine.base.Keeper`."""
        if time.monotonic() - self._kept_at < self._pause:
            return
        began = time.monotonic()
        with replacing(self._path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, work=self._work, clean=state.baselines["clean"], corrupt=state.baselines["corrupt"],
                     values=state.values, begun=state.begun, done=state.done,
                     counts=np.array([state.forwards, state.states]))
        self._kept_at = time.monotonic()
        self._pause = max(WAIT, SHARE * (self._kept_at - began))

    def discard(self) -> None:
        """Remove the file: the work is finished, or begins anew."""
        self._path.unlink(missing_ok=True)


def _state(arrays: Any) -> EvaluationState:
    forwards, states = (int(count) for count in arrays["counts"])
    baselines: dict[RunName, FloatArray] = {"clean": arrays["clean"], "corrupt": arrays["corrupt"]}
    return EvaluationState(baselines, arrays["values"], arrays["begun"], arrays["done"], forwards, states)
