"""What result files were when they were written: sha256 and rows, so that nothing else is ever taken for them.

Manifests hold it by the file's key, under `digests`. Those of earlier versions have none: their files are not checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tinylab.errors import OutputError


def measured(file: Path) -> dict[str, Any]:
    """The sha256 of a file, and of a table its rows.

    Raises:
        OutputError: it cannot be read.
    """
    found: dict[str, Any] = {"sha256": _sha256(file)}
    return {**found, "rows": pq.read_metadata(file).num_rows} if file.suffix == ".parquet" else found


def fault(files: Mapping[str, Path], digests: Mapping[str, Any]) -> str | None:
    """A clause on the first file that is missing or not what was written; None where all are as they were.

    Args:
        files: by key.
        digests: as `measured` gave them when the files were written; a file without one has to be there, no more.
    """
    for key, file in files.items():
        if not os.path.isfile(file):
            return f"{file} is missing"
        if key not in digests:
            continue
        try:
            found = _sha256(file)
        except OutputError as error:
            return str(error).rstrip(".")
        if found != digests[key]["sha256"]:
            return f"{file} is not what was written (sha256 {found[:12]}…, expected {digests[key]['sha256'][:12]}…)"
    return None


def _sha256(file: Path) -> str:
    try:
        stat = file.stat()
        return _of_content(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise OutputError(f"{file}: cannot be read ({error.strerror or error}); expected a file written by tinylab.") from error


@lru_cache(maxsize=4096)
def _of_content(file: Path, _inode: int, _size: int, _mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
