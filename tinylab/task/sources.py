"""What a corpus is read from: a file, of the user's or of the hub, or a folder that the package `datasets` saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from tinylab.errors import CorpusError
from tinylab.paths import locate
from tinylab.task.hub import SCHEME
from tinylab.task.reading import SUFFIXES, Row, corpus_file, read_rows
from tinylab.task.saved import digest, is_saved, saved_rows


def corpus_sha256(path: str) -> str:
    """The sha256 of a corpus file, or of what determines the rows of a folder that `datasets` saved, in hex.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        if (folder := _saved_folder(path)) is not None:
            return digest(folder, _of_file)
        return _of_file(corpus_file(path))
    except OSError as error:
        raise CorpusError(f"condition.path={path}: {error.strerror or error}; expected a readable file.") from error


def corpus_rows(path: str, fields: Sequence[str], lists: Sequence[str] = ()) -> Iterator[Row]:
    """Every row of a corpus; see `tinylab.task.reading.read_rows`.

    Raises:
        CorpusError: it cannot be read, or not in one way only.
    """
    folder = _saved_folder(path)
    return read_rows(path, fields, lists) if folder is None else saved_rows(folder, fields, lists)


def _saved_folder(path: str) -> Path | None:
    """The folder that `datasets` saved which a path means; None where it means no folder.

    Raises:
        CorpusError: it means another folder.
    """
    if not path or path.startswith(SCHEME):
        return None
    with suppress(OSError, RuntimeError, ValueError):  # whoever reads it says so
        folder = locate(path)
        if folder.is_dir():
            if is_saved(folder):
                return folder
            raise CorpusError(f"condition.path={path}: is a folder, but none saved by the package datasets (save_to_disk); "
                              f"expected one of those, or a file ({', '.join(SUFFIXES)}).")
    return None


def _of_file(file: Path) -> str:
    return _sha256(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(file: Path, _mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
