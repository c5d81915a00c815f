"""What the forked engine itself costs: its share of a run's seconds, by a clock that is switched wherever code changes hands.

The engine calls the model, whose modules the engine hooks, which call the model's own code again. Whoever runs owns the
seconds: the model (its modules and attention), the metrics, or the engine, which is all the rest: tries and batches, indices
and masks, gathers and copies of rows, interventions, and Python's bookkeeping for them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.measure import synchronise
from tinylab.engine.forked import engine
from tinylab.engine.forked.passes import Pass
from tinylab.measures import readings
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel

ENGINE, MODEL, SCORES = "engine", "model", "metrics"


class Clock:
    """Seconds of each owner; one owns at a time."""

    def __init__(self, device: torch.device) -> None:
        """The engine begins."""
        self.seconds: Counter[str] = Counter()
        self._device = device
        self._owners = [ENGINE]
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Book what has passed for who owns it."""
        synchronise(self._device)
        now = time.perf_counter()
        self.seconds[self._owners[-1]] += now - self._since
        self._since = now

    def owned(self, owner: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose seconds belong to an owner."""

        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.stop()
            self._owners.append(owner)
            try:
                return call(*args, **kwargs)
            finally:
                self.stop()
                self._owners.pop()

        return timed


def share(model: CausalModel, run: Callable[[], object]) -> float:
    """The engine's share of a run's seconds."""
    with _clocked(model) as clock:
        run()
        clock.stop()
    return clock.seconds[ENGINE] / sum(clock.seconds.values())


@contextmanager
def _clocked(model: CausalModel) -> Iterator[Clock]:
    clock = Clock(model.device)

    def tap(own: Callable[..., Any]) -> Callable[..., Any]:
        def layered(self: Pass, layer: int, call: Callable[..., Any], arguments: Any) -> Any:
            return own(self, layer, clock.owned(MODEL, call), arguments)

        return clock.owned(ENGINE, layered)

    def attend(own: Callable[..., Any]) -> Callable[..., Any]:
        def over(self: Pass, compute: Callable[..., Any], *args: Any) -> Any:
            return own(self, clock.owned(MODEL, compute), *args)

        return clock.owned(ENGINE, over)

    with ExitStack() as stack:
        for name in ("block", "attention", "projection", "mlp"):
            stack.enter_context(patch.object(Pass, name, tap(getattr(Pass, name))))
        stack.enter_context(patch.object(Pass, "attend", attend(Pass.attend)))
        stack.enter_context(patch.object(Scorer, "score", clock.owned(SCORES, Scorer.score)))
        stack.enter_context(patch.object(engine, "clean_run", clock.owned(SCORES, readings.clean_run)))
        forward = type(model.model).forward
        stack.enter_context(patch.object(type(model.model), "forward", clock.owned(MODEL, forward)))
        yield clock
