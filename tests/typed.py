"""The command line typed in a folder of one's choice, for runs that several tests of a file read."""

from __future__ import annotations

import atexit
import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.program import main
from tinylab.schema import Config, validate
from warm import Warm

SHORT = ("condition.n_examples=4", "battery.layers=[0]", "plots=false")
"""Overrides that keep a run of the embedded model under a second or two."""

TIMEOUT = 600.0
"""Seconds for a command in a process of its own; on a quiet core the longest takes twenty."""


def composed(*overrides: str, flags: tuple[str, ...] = ()) -> Config:
    """The checked config of a command line."""
    with Composer(flags_parser().parse_args(flags)) as opened:
        return validate(opened.compose(overrides))


def type_in(folder: Path, *args: str) -> int:
    """Run a command line in this process, in a folder; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.chdir(folder)
        return main(args)


def type_in_shell(
    folder: Path, *args: str, fresh: bool | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python …` in a process of its own, in a folder.

    Args:
        folder: the working folder.
        args: `-m module …` or `-c code …`, say.
        fresh: whether Python starts anew for it; if not, it is a fork of a process with all imported (`warm.py`), as it is for
            `-m` unless another choice is given here.
        environment: further variables.
    """
    own = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    together = {**own, "OMP_WAIT_POLICY": "PASSIVE", **environment}
    if not (args[0] != "-m" if fresh is None else fresh) and (process := _warm()).serves(together):
        return process.run(args, folder, together, TIMEOUT)
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=together, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


@cache
def _warm() -> Warm:
    process = Warm({**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    atexit.register(process.end)
    return process


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every path under a folder, with the modification time and sha256 of files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        if path.is_file()
        else (0, "folder")
        for path in sorted(folder.rglob("*"))
    }
