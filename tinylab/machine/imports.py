"""Importing what is large without the garbage collector looking on."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_import(package: str) -> Iterator[None]:
    """Import a large package in this block: while it is open no garbage is collected.

    Importing torch and transformers makes a million objects and hardly any garbage. The collector would walk through
    them many times, and once more at exit: two seconds for nothing. So they are also frozen, once.

    Args:
        package: what the block imports; if it already was, nothing is done.
    """
    if package in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
