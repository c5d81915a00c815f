"""Conditions: load a corpus of prompt pairs, check it, choose the rows of a run.

A corpus is a `.jsonl`, `.csv` or `.parquet` file whose rows hold a clean and a corrupt prompt and the right
answer to each (`target`, `foil`). This room knows text only: token lengths belong to `tinylab.task.tokens`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tinylab.config.groups import ConditionConfig
from tinylab.errors import CorpusError, options
from tinylab.paths import locate

SUFFIXES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class PromptPair:
    """One row of a corpus: `target` is the right answer to `clean`, `foil` the right answer to `corrupt`."""

    row: int
    clean: str
    corrupt: str
    target: str
    foil: str
    template: str | None = None


@dataclass(frozen=True)
class Condition:
    """A named task: its usable pairs, the corpus they came from, the counts of what was left out and of what is to be known."""

    tag: str
    path: str
    sha256: str
    pairs: tuple[PromptPair, ...]
    dropped: dict[str, int]
    noted: dict[str, int] = field(default_factory=dict)  # of the pairs that are used all the same (`tinylab.task.notes`)


def corpus_sha256(path: str) -> str:
    """The corpus file's sha256, in hex.

    Raises:
        CorpusError: the file cannot be read.
    """
    file = locate(path)
    try:
        return _sha256(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise CorpusError(f"condition.path={path}: {error.strerror or error}; expected a readable file "
                          f"({', '.join(SUFFIXES)}).") from error


@lru_cache(maxsize=256)
def _sha256(file: Path, _mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_condition(config: ConditionConfig) -> Condition:
    """Read the corpus, keep the rows of the active split, drop what cannot be used with a counted reason.

    Raises:
        CorpusError: missing, empty or unreadable file, a row without a field, no usable row; with
            `strict=true` any row that would be dropped.
    """
    sha256 = corpus_sha256(config.path)
    pairs: list[PromptPair] = []
    splits: Counter[str] = Counter()
    for place, row, values in _rows(config):
        split = _optional(values, config.split_field)
        if split is not None:
            splits[split] += 1
        if config.split is None or split is None or split == config.split:
            pairs.append(_pair(config, place, row, values))
    if not pairs and splits:
        raise CorpusError(f"condition.split={config.split}: no row of {config.path} has it; {options(config.split, splits)}.")
    if not pairs:
        raise CorpusError(f"condition.path={config.path}: the file is empty; expected at least one row.")
    condition = Condition(config.tag, config.path, sha256, tuple(pairs), {})
    return drop(condition, {pair.row: reason for pair in pairs if (reason := _unusable(pair))}, config.strict)


def drop(condition: Condition, reasons: dict[int, str], strict: bool) -> Condition:
    """Leave out rows, by row number, with a reason each; the reasons are counted in the result.

    Raises:
        CorpusError: `strict` and there is something to drop, or nothing would be left.
    """
    if not reasons:
        return condition
    counts = Counter(reasons.values())
    told = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
    first = min(reasons)
    if strict:
        raise CorpusError(f"{condition.path}: row {first} cannot be used ({reasons[first]}) and condition.strict=true; "
                          f"mend it or drop such rows with condition.strict=false ({told}).")
    pairs = tuple(pair for pair in condition.pairs if pair.row not in reasons)
    if not pairs:
        raise CorpusError(f"{condition.path}: none of its {len(condition.pairs)} rows can be used ({told}); "
                          "mend the corpus or the fields that condition.*_field names.")
    return replace(condition, pairs=pairs, dropped=dict(Counter(condition.dropped) + counts))


def subsamples(condition: Condition, n_examples: int | None, seeds: Sequence[int]) -> dict[int, list[int]]:
    """For each seed, which of the condition's pairs it uses (indices into `pairs`, in corpus order).

    Without `n_examples`, or where it is not less than the number of pairs, every seed uses all of them.
    """
    total = len(condition.pairs)
    if n_examples is None or n_examples >= total:
        return {seed: list(range(total)) for seed in seeds}
    return {
        seed: sorted(int(i) for i in np.random.default_rng(seed).choice(total, size=n_examples, replace=False))
        for seed in seeds
    }


def _rows(config: ConditionConfig) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every row as (place for messages, row number from 0, values)."""
    file = locate(config.path)
    if file.suffix not in SUFFIXES:
        raise CorpusError(f"condition.path={config.path}: expected a file ending in {', '.join(SUFFIXES)}.")
    try:
        yield from _READERS[file.suffix](file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"condition.path={config.path}: cannot be read ({error}).") from error


def _jsonl_rows(file: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    row = 0
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{place}: not valid JSON ({error.msg}); expected one object per line.") from error
            if not isinstance(values, dict):
                raise CorpusError(f"{place}: got a {type(values).__name__}, expected one JSON object per line.")
            yield place, row, values
            row += 1


def _csv_rows(file: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets put a byte-order mark first
        reader = csv.DictReader(stream)
        for row, values in enumerate(reader):
            values.pop(None, None)  # cells beyond the header
            yield f"{file}, line {reader.line_num}", row, values


def _parquet_rows(file: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{file}: not a readable parquet file ({error}).") from error
    for row, values in enumerate(rows):
        yield f"{file}, row {row}", row, values


_READERS = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}


def _pair(config: ConditionConfig, place: str, row: int, values: dict[str, Any]) -> PromptPair:
    text: dict[str, str] = {}
    for name in ("clean", "corrupt", "target", "foil"):
        field = getattr(config, f"{name}_field")
        if values.get(field) is None:
            raise CorpusError(f"{place}: no field '{field}'; {options(field, values)}. "
                              f"Name another one with condition.{name}_field=….")
        if not isinstance(values[field], str):
            raise CorpusError(f"{place}: field '{field}' is {values[field]!r}, expected text.")
        text[name] = values[field]
    return PromptPair(row=row, template=_optional(values, config.template_field), **text)


def _optional(values: dict[str, Any], field: str) -> str | None:
    """A field that a row need not have; an empty one, as csv writes it, is none."""
    value = values.get(field)
    return None if value is None or value == "" else str(value)


def _unusable(pair: PromptPair) -> str | None:
    """Why a pair cannot be used, as far as its text tells."""
    if not pair.clean.strip() or not pair.corrupt.strip():
        return "empty prompt"
    if not pair.target.strip() or not pair.foil.strip():
        return "empty answer"
    if _ends_with(pair.clean, pair.target) or _ends_with(pair.corrupt, pair.foil):
        return "prompt ends with its answer"
    return None


def _ends_with(prompt: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(answer.strip())}\W*$", prompt) is not None
