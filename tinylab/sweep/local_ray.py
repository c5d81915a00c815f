"""A Ray that is started for one sweep and leaves nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tinylab.machine.interrupts import EXIT_TERMINATED, children, end


@contextmanager
def local_ray(wanted: bool) -> Iterator[list[str]]:
    """While open, the Ray launcher may start a Ray; it is stopped and its files are removed at the end.

    Args:
        wanted: whether there will be one; if not, nothing is done.

    Yields:
        Overrides for the launcher.
    """
    if not wanted:
        yield []
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    short = "/tmp" if Path("/tmp").is_dir() else None  # the path of a socket in it may have 107 bytes at most
    with TemporaryDirectory(prefix="tinylab-ray-", dir=short, ignore_cleanup_errors=True) as folder:
        try:
            yield [f"++hydra.launcher.ray.init._temp_dir={folder}"]
        except SystemExit as ended:  # Ray answers SIGTERM itself, with an exit code of its own
            raise SystemExit(EXIT_TERMINATED) from ended
        finally:
            if "ray" in sys.modules:
                family = children()
                sys.modules["ray"].shutdown()
                end(family)  # its agents would take some seconds to notice
