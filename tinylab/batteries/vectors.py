"""A vector that a user gives: a safetensors file with one tensor, for all layers alike or one line for each."""

from __future__ import annotations

import hashlib
import stat
from functools import lru_cache
from pathlib import Path

import numpy as np

from tinylab.errors import ConfigError
from tinylab.interventions.sources import Vector

MOST_BYTES = 2**30
"""Of a vector's file."""
EXPECTED = "expected a safetensors file with one tensor of numbers, [width] or [layers, width]"


def read_vector(path: str) -> Vector:
    """The vector of a file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        file = Path(path).expanduser()
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"battery.vector={path}: is not a file; {EXPECTED}.")
        if status.st_size > MOST_BYTES:
            raise ConfigError(f"battery.vector={path}: has {status.st_size:,} bytes, at most {MOST_BYTES:,} are read; "
                              f"{EXPECTED}.")
        return _read(file, status.st_mtime_ns)
    except (OSError, ValueError, RuntimeError) as error:  # a null character, an unknown user's home
        raise ConfigError(f"battery.vector={path!r}: {getattr(error, 'strerror', None) or error}; {EXPECTED}.") from error


@lru_cache(maxsize=8)
def _read(file: Path, _mtime_ns: int) -> Vector:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = file.read_bytes()
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:  # KeyError: bfloat16, which numpy lacks
        reason = " ".join(str(error).split())
        raise ConfigError(f"battery.vector={file}: cannot be read ({reason}); {EXPECTED} in float32.") from error
    if len(tensors) != 1:
        raise ConfigError(f"battery.vector={file}: has {len(tensors)} tensors; {EXPECTED}.")
    (tensor,) = tensors.values()
    if tensor.ndim not in (1, 2) or not np.issubdtype(tensor.dtype, np.floating) or tensor.size == 0:
        raise ConfigError(f"battery.vector={file}: has {tensor.dtype} of shape {list(tensor.shape)}; {EXPECTED}.")
    if not np.isfinite(tensor).all():
        raise ConfigError(f"battery.vector={file}: has numbers that are not finite; {EXPECTED}.")
    return Vector(hashlib.sha256(content).hexdigest(), np.atleast_2d(tensor).astype(np.float64))
