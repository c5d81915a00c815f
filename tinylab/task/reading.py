"""The rows of a corpus file as it is written: what could be read in two ways, or would not fit, is refused with its line.

Only regular files of a known suffix are opened. The limits are far above what experiments use; they keep a file that is
not what it looks like from filling the memory.
"""

from __future__ import annotations

import csv
import json
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tinylab.errors import CorpusError
from tinylab.paths import locate
from tinylab.task.hub import SCHEME, hub_file

SUFFIXES = (".jsonl", ".csv", ".parquet")
FILE_BYTES = 2**30
"""Of a corpus file."""
LINE = 8 * 2**20
"""Characters of one line."""
CELL = 2**20
"""Characters of one text."""
ROWS = 1_000_000
"""Rows of a corpus."""
ALTERNATIVES = 2**22
"""Answers in the lists of a parquet column."""
TEXT = 2**28
"""Characters of all prompts and answers that a run keeps, and bytes of the columns of a parquet file."""

BATCH = 256
"""Rows of a parquet file in memory at once."""
_DIGITS = 4300
"""Python makes no number of more digits."""
_QUOTED = re.compile(r'(?:^|(?<=,))"(?:[^"]|"")*+"(?=[,\r\n]|$)')
"""A cell in quotes, within the text of one record."""


class Row(NamedTuple):
    """A row: where it is for messages, its number from 0, its values, the names that the file has for them, its file's split."""

    place: str
    number: int
    values: Mapping[str, Any]
    names: Sequence[str]
    split: str | None = None


def corpus_file(path: str) -> Path:
    """The regular file of a known kind that a path means; nothing of it is read.

    Raises:
        CorpusError: another suffix, a missing file, a folder or a device, a file that is too large.
    """
    expected = f"expected a readable file ({', '.join(SUFFIXES)})"
    try:
        file = hub_file(path) if path.startswith(SCHEME) else locate(path)
        if file.suffix not in SUFFIXES:
            raise CorpusError(f"condition.path={path}: expected a file ending in {', '.join(SUFFIXES)}, or a folder "
                              "that datasets saved.")
        status = file.stat()
    except OSError as error:
        raise CorpusError(f"condition.path={path}: {error.strerror or error}; {expected}.") from error
    except (RuntimeError, ValueError) as error:  # an unknown user's home, a null character
        raise CorpusError(f"condition.path={path}: {error}; {expected}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise CorpusError(f"condition.path={path}: is {kind}; {expected}.")
    if status.st_size > FILE_BYTES:
        raise CorpusError(f"condition.path={path}: has {status.st_size:,} bytes, at most {FILE_BYTES:,} are read; "
                          "leave out rows, or fields that are not used.")
    return file


def read_rows(path: str, fields: Sequence[str], lists: Sequence[str] = ()) -> Iterator[Row]:
    """Every row of a corpus file, with at least those of the fields that it has.

    Args:
        path: of the file.
        fields: that are needed.
        lists: those of them whose values may be lists of texts.

    Raises:
        CorpusError: the file cannot be read, or not in one way only.
    """
    file = corpus_file(path)
    try:
        yield from _READERS[file.suffix](file, fields, lists)
    except UnicodeDecodeError as error:
        wrong = error.object[error.start:error.start + 1].hex()
        raise CorpusError(f"condition.path={path}: byte 0x{wrong} is not UTF-8; save the file as UTF-8.") from error
    except OSError as error:
        raise CorpusError(f"condition.path={path}: cannot be read ({error}).") from error


class _KeyTwice(ValueError):
    """A key that a JSON object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _KeyTwice(twice([key for key, _ in pairs]))
    return found


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number)


def _jsonl_rows(file: Path, _fields: Sequence[str], _lists: Sequence[str]) -> Iterator[Row]:
    row = 0
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(_lines(stream, file), start=1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            try:
                values = _JSON.decode(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{place}: not valid JSON ({error.msg}); expected one object per line.") from error
            except _KeyTwice as error:
                raise CorpusError(f"{place}: has the key {ascii(str(error))} twice; leave one out.") from error
            except RecursionError as error:
                raise CorpusError(f"{place}: lists or objects nested too deeply; expected one object with texts.") from error
            if not isinstance(values, dict):
                raise CorpusError(f"{place}: got a {type(values).__name__}, expected one JSON object per line.")
            yield Row(place, row, values, list(values))
            row += 1


def _csv_rows(file: Path, _fields: Sequence[str], _lists: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(CELL)
    with file.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets put a byte-order mark first
        records = _csv_records(stream, file)
        line, header = next(records, (1, []))
        named = [name for name in header if name]
        if len(set(named)) < len(named):
            raise CorpusError(f"{file}, line {line}: has the column {twice(named)!r} twice; leave one out.")
        for row, (line, cells) in enumerate(records):
            if len(cells) != len(header):
                raise CorpusError(f"{file}, line {line}: {len(cells)} cells, but the header has {len(header)}; put cells with "
                                  "commas in double quotes, and leave none out.")
            yield Row(f"{file}, line {line}", row, dict(zip(header, cells, strict=True)), header)


def _csv_records(stream: TextIO, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each record with the number of its last line; blank lines are none."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in _lines(stream, file):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), strict=True)
    while True:
        first = reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(f"{file}, line {first}: not valid CSV ({error}); {_QUOTING}.") from error
        if '"' in _QUOTED.sub("", "".join(taken)):
            raise CorpusError(f"{file}, line {first}: a double quote in a cell that does not begin and end with one; {_QUOTING}.")
        if cells:
            yield reader.line_num, cells


_QUOTING = 'put a cell that has a double quote in double quotes, and write "" for each one in it'


def _parquet_rows(file: Path, fields: Sequence[str], lists: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        with parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            columns = [name for name in dict.fromkeys(fields) if name in names]
            texts = [name for name in columns if names.count(name) == 1 and _is_text(opened.schema_arrow.field(name).type)]
            if (double := twice([name for name in names if name in columns])) is not None:
                raise CorpusError(f"{file}: has the column {double!r} twice; leave one out.")
            for name in columns:
                check_type(file, name, opened.schema_arrow.field(name).type, may_be_list=name in lists)
            _check_room(file, opened.metadata, columns)
            if nested := [name for name in columns if types.is_nested(opened.schema_arrow.field(name).type)]:
                _check_lists(file, opened.metadata, nested)
                every = (opened.schema.column(place).path for place in range(len(opened.schema)))
                texts += [path for path in every if path.split(".")[0] in nested]
        with parquet.ParquetFile(file, read_dictionary=texts) as opened:  # a text that stands often is there once
            _check_texts(file, opened.iter_batches(BATCH, columns=columns, use_threads=False))
            row = 0
            for batch in opened.iter_batches(BATCH, columns=columns, use_threads=False):
                for values in batch.to_pylist():
                    yield Row(f"{file}, row {row}", row, values, names)
                    row += 1
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise CorpusError(f"{file}: not a readable parquet file ({' '.join(str(error).split())}).") from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in tests)


def check_type(file: Path, name: str, kind: Any, *, may_be_list: bool = False) -> None:
    """Refuse a column whose cells are arrays, or lists where none are wanted: few bytes of a file can be any number of them."""
    import pyarrow as pa
    from pyarrow import types

    if may_be_list and (types.is_list(kind) or types.is_large_list(kind)) and _is_text(kind.value_type):
        return
    cell = kind.value_type if types.is_dictionary(kind) else kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not (_is_text(cell) or types.is_primitive(cell) or types.is_decimal(cell) or types.is_null(cell)):
        raise CorpusError(f"{file}: column {name!r} has cells of type {kind}, expected text.")


def _check_room(file: Path, metadata: Any, columns: Sequence[str]) -> None:
    """Refuse by what a parquet file says of itself."""
    if metadata.num_rows > ROWS:
        raise CorpusError(f"{file}: has {metadata.num_rows:,} rows, at most {ROWS:,} are read; leave out rows.")
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    if sum(group.total_byte_size for group in groups) <= TEXT:  # pyarrow may abort where a damaged file describes its columns
        return
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    if size > TEXT:
        raise CorpusError(f"{file}: its columns have {size:,} bytes, at most {TEXT:,} are read; leave out rows.")


def _check_lists(file: Path, metadata: Any, lists: Sequence[str]) -> None:
    """Refuse by how many answers a parquet file says that its lists have."""
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    count = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] in lists)
    if count > ALTERNATIVES:
        raise CorpusError(f"{file}: its lists have {count:,} answers, at most {ALTERNATIVES:,} are read; leave out rows.")


def _check_texts(file: Path, batches: Iterator[Any]) -> None:
    """Refuse by what the texts of a parquet file add up to."""
    held = 0
    for batch in batches:
        held += _text_bytes(batch)
        if held > TEXT:
            raise CorpusError(f"{file}: its texts have more than {TEXT:,} bytes, which are all that is read; leave out rows.")


def _text_bytes(batch: Any) -> int:
    """The bytes of the texts of a batch, each counted as often as it stands there."""
    from pyarrow import compute, types

    columns = [column.flatten() if types.is_nested(column.type) else column for column in batch.columns]
    lengths = [compute.take(compute.binary_length(column.dictionary), column.indices) for column in columns
               if types.is_dictionary(column.type) and _is_text(column.type.value_type)]
    return sum(compute.sum(length).as_py() or 0 for length in lengths)


def _lines(stream: TextIO, file: Path) -> Iterator[str]:
    """The lines of a text, none of them longer than a line may be."""
    number = 0
    while line := stream.readline(LINE + 1):
        number += 1
        if len(line) > LINE:
            raise CorpusError(f"{file}, line {number}: longer than {LINE:,} characters; leave out fields that are not used.")
        yield line


def twice(names: Sequence[str]) -> str | None:
    """The first name that stands twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


_READERS = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
