"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import fcntl
import glob
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinylab.errors import OutputError

LARGEST = 2**28
"""Bytes of a document; none of ours is near it."""


def check_writable(folder: Path, key: str) -> list[Path]:
    """Try to write where results will go, before anything is computed; returns the folders made for it, deepest first.

    Args:
        folder: where they will go.
        key: of the config that says so.

    Raises:
        OutputError: it cannot be done.
    """
    made: list[Path] = []
    try:
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # has no name that a kill could leave behind
            pass
        for probe in (*folder.glob(".tinylab-probe-*"), *folder.parent.glob(".tinylab-probe-*")):  # of earlier versions, killed
            probe.unlink(missing_ok=True)
    except OSError as error:
        for parent in made:
            if parent.is_dir():
                parent.rmdir()
        reason = f"{folder} cannot be written ({error.strerror})"
        raise OutputError(f"{key}: {reason}; choose another folder with {key}=….") from error
    return made


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it becomes `path`, in one step.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        temporary = Path(name)
        try:
            _lock(handle)  # it opens when this process ends, however it ends
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); expected a folder with room and the "
                          "right to write, choose one with output_dir=….") from error


def half_written(path: Path) -> list[Path]:
    """What processes were writing that were killed before it became `path`; what one writes right now is not among it."""
    return [file for file in path.parent.glob(f".{glob.escape(path.name)}.*") if not _is_written(file)]


def _lock(handle: int) -> bool:
    """Lock an open file, unless somebody has; in a file system without locks nobody can."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_written(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return not _lock(stream.fileno())
    except OSError:
        return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON document atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet table atomically."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@contextmanager
def writing_table(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Yield a writer to which a parquet table is given part by part; when the block ends well the file is there."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield writer


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document; a key that stands twice and numbers that are not finite are none.

    Raises:
        OutputError: it is missing or not JSON.
    """
    return _read(path, "JSON document", _json)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML document.

    Raises:
        OutputError: it is missing or not YAML.
    """
    import yaml

    return _read(path, "YAML document", yaml.safe_load, yaml.YAMLError)


def _read(path: Path, what: str, load: Callable[[str], Any], *broken: type[Exception]) -> dict[str, Any]:
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RecursionError, *broken)  # ValueError: no UTF-8, no JSON
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # a pipe, say, which would be waited for
        if path.stat().st_size > LARGEST:
            raise OSError(f"it has more than {LARGEST} bytes")
        data = load(path.read_text(encoding="utf-8"))
    except errors as error:
        reason = " ".join(str(error).split())
        raise OutputError(f"{path}: cannot be read ({reason}); expected a {what} written by tinylab.") from error
    if not isinstance(data, dict):
        raise OutputError(f"{path}: holds a {type(data).__name__}, expected a {what} with keys, written by tinylab.")
    return data


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is not finite")
    return number
