"""A corpus in a folder that the package `datasets` saved, by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`.

It holds Arrow streams, which `state.json` names in their order, and `dataset_info.json` with the names of class labels; of a
DatasetDict `dataset_dict.json` names the splits, each a folder of that kind. pyarrow reads it, `datasets` need not be installed.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylab.errors import CorpusError, first_sentence
from tinylab.task.reading import BATCH, FILE_BYTES, TEXT, Row, check_type, twice

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
AGAIN = "save it again with Dataset.save_to_disk, or to a .parquet file with Dataset.to_parquet"


@dataclass(frozen=True)
class Part:
    """One Dataset: the split that a DatasetDict calls it, its Arrow files in order, what class labels of a column are called."""

    split: str | None
    files: tuple[Path, ...]
    labels: Mapping[str, Sequence[str]]


def is_saved(folder: Path) -> bool:
    """Whether a folder looks as if `datasets` had saved it."""
    return any((folder / name).is_file() for name in (STATE, SPLITS))


def parts_in(folder: Path) -> list[Part]:
    """The Datasets in such a folder, in the order of the splits; nothing of their rows is read.

    Raises:
        CorpusError: the files that describe it are missing or broken, or it is too large.
    """
    if (folder / STATE).is_file():
        parts = [_part(folder, None)]
    else:
        splits = _object(folder / SPLITS).get("splits")
        if not isinstance(splits, list) or not splits or not all(map(_is_name, splits)):
            raise CorpusError(f"{folder / SPLITS}: expected the names of splits; {AGAIN}.")
        parts = [_part(folder / split, split) for split in dict.fromkeys(splits)]
    size = sum(file.stat().st_size for part in parts for file in part.files)
    if size > FILE_BYTES:
        raise CorpusError(f"{folder}: its files have {size:,} bytes, at most {FILE_BYTES:,} are read; leave out rows, or columns "
                          "that are not used.")
    return parts


def digest(folder: Path, of_file: Callable[[Path], str]) -> str:
    """The sha256 of what determines the rows of such a folder, in hex: its splits' names, Arrow files and class labels.

    Args:
        folder: which.
        of_file: the sha256 of a file.

    Raises:
        CorpusError: see `parts_in`.
    """
    told = [[part.split, part.labels, [of_file(file) for file in part.files]] for part in parts_in(folder)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def saved_rows(folder: Path, fields: Sequence[str], lists: Sequence[str]) -> Iterator[Row]:
    """Every row of such a folder, those of a DatasetDict with their split; see `tinylab.task.reading.read_rows`.

    Raises:
        CorpusError: it cannot be read, or not in one way only.
    """
    number = 0
    for part in parts_in(folder):
        for file in part.files:
            for row in _rows(part, file, fields, lists):
                yield row._replace(number=number)
                number += 1


def _part(folder: Path, split: str | None) -> Part:
    state, info = _object(folder / STATE), _object(folder / INFO)
    if state.get("_indices_data_files"):
        raise CorpusError(f"{folder}: an early version of datasets saved it with its rows in another order than its files have; "
                          f"{AGAIN}.")
    data = state.get("_data_files")
    names = [one.get("filename") if isinstance(one, dict) else None for one in data] if isinstance(data, list) else [None]
    if not all(map(_is_name, names)):
        raise CorpusError(f"{folder / STATE}: expected _data_files, with the name of each; {AGAIN}.")
    files = tuple(folder / str(name) for name in names)
    for file in files:
        if not file.exists() or not stat.S_ISREG(file.stat().st_mode):
            raise CorpusError(f"{file}: there is no such file, but {STATE} names it; {AGAIN}.")
    features = info.get("features")
    labels = {name: feature["names"] for name, feature in (features if isinstance(features, dict) else {}).items()
              if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)}
    return Part(split, files, labels)


def _object(file: Path) -> dict[str, Any]:
    """A JSON file that describes a Dataset."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CorpusError(f"{file}: there is no such file, which a folder of datasets has; {AGAIN}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{file}: cannot be read ({first_sentence(error)}); {AGAIN}.") from error
    if not isinstance(found, dict):
        raise CorpusError(f"{file}: got a {type(found).__name__}, expected an object; {AGAIN}.")
    return found


def _is_name(name: Any) -> bool:
    """Whether it is the name of something in a folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _rows(part: Part, file: Path, fields: Sequence[str], lists: Sequence[str]) -> Iterator[Row]:
    """The rows of one Arrow stream, numbered from 0."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
            names = batches.schema.names
            columns = [name for name in dict.fromkeys(fields) if name in names]
            if (double := twice([name for name in names if name in columns])) is not None:
                raise CorpusError(f"{file}: has the column {double!r} twice; leave one out.")
            for name in columns:
                _check_type(file, name, batches.schema.field(name).type, name in lists)
            yield from _of_batches(part, file, columns, batches)
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise CorpusError(f"{file}: not a readable Arrow file ({' '.join(str(error).split())}); {AGAIN}.") from error


def _of_batches(part: Part, file: Path, columns: Sequence[str], batches: Any) -> Iterator[Row]:
    number, held = 0, 0
    for every in batches:
        batch = every.select(columns)
        batch.validate(full=True)  # no offset leads out of it
        held += batch.nbytes
        if held > TEXT:
            raise CorpusError(f"{file}: its columns have more than {TEXT:,} bytes, which are all that is read; leave out rows.")
        for begin in range(0, batch.num_rows, BATCH):
            for values in batch.slice(begin, BATCH).to_pylist():
                place = f"{file}, row {number}"
                named = {name: _label(place, name, value, part.labels[name]) if name in part.labels else value
                         for name, value in values.items()}
                yield Row(place, number, named, batches.schema.names, part.split)
                number += 1


def _check_type(file: Path, name: str, kind: Any, may_be_list: bool) -> None:
    """Refuse what could take more room than its bytes, and what is no text; named parts of prompts are lists of it by name."""
    from pyarrow import types

    spans = types.is_struct(kind) and all(_is_list_of_text(kind.field(place).type) for place in range(kind.num_fields))
    if spans or (may_be_list and _is_list_of_text(kind)):
        return
    if types.is_dictionary(kind) or types.is_string_view(kind) or types.is_binary_view(kind):
        raise CorpusError(f"{file}: column {name!r} has cells of type {kind}, expected text.")
    check_type(file, name, kind)


def _is_list_of_text(kind: Any) -> bool:
    from pyarrow import types

    listed = types.is_list(kind) or types.is_large_list(kind)
    return bool(listed and (types.is_string(kind.value_type) or types.is_large_string(kind.value_type)))


def _label(place: str, name: str, value: Any, names: Sequence[str]) -> str | None:
    """What a class label's number is called; -1 is none."""
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise CorpusError(f"{place}: field {name!r} is {value!r}, but {INFO} names {len(names)} classes; {AGAIN}.")
    return str(names[value])
