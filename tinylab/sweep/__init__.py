"""Sweeps: plan the jobs of a multirun, join their tables when it ends, look for invariants.

The room can be called: `tinylab.sweep(…)` runs one from Python (`tinylab.api`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package that is also the function of its name, which it would hide as soon as anything in it is imported."""

    def __call__(self, *overrides: str, **given: Any) -> Any:
        """Run a sweep; see the function `sweep` in `tinylab`."""
        return import_module("tinylab.api.running").sweep(*overrides, **given)  # by name: rooms below import none above


sys.modules[__name__].__class__ = _Room
