"""A dataset of the first version: `<id>.jsonl`, and a split file that says by row numbers which rows each split has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylab.errors import ConfigError, options
from tinylab.first_version.reading import Section, read_config

SPLITS = ("train", "val", "test")
UNUSED = "none"
"""The split of rows that the split file leaves out: without one they would belong to every split."""
FIELDS = ("clean_field", "corrupt_field", "target_field", "foil_field")


@dataclass(frozen=True)
class Dataset:
    """A corpus as it is to be written, and the condition's keys that choose its rows."""

    name: str  # of the file, without its suffix
    text: str  # its lines
    condition: dict[str, Any]
    notes: tuple[str, ...]


def read_dataset(section: Section, folders: Sequence[Path]) -> Dataset:
    """The rows of a dataset, each with its split.

    Args:
        section: `dataset` of an old config.
        folders: where datasets are, or their folders `corpora` and `splits`.

    Raises:
        ConfigError: a file is missing or not what it should be, or its text is not the one that was split.
    """
    name, split = section.text("id"), section.text("split")
    if split not in SPLITS:
        raise section.wrong("split", f"one of {', '.join(SPLITS)}")
    corpus = _found(section, f"{name}.jsonl", folders, ("", "corpora"))
    rows = _rows(corpus)
    condition = {key: value for key in FIELDS if (value := section.text(key, None)) is not None}
    notes: list[str] = []
    splits = _split_file(corpus, name, folders)
    if splits is None:
        if not all("split" in row for row in rows):
            raise ConfigError(f"{corpus}: no split file next to it, and rows without a split; expected {name}.split.json with "
                              f"{', '.join(SPLITS)} as lists of row numbers.")
        return Dataset(_file_name(name), _lines(rows), {**condition, "split": split}, ())
    of_row, checked = _splits(splits, corpus, len(rows))
    notes += checked
    field = "split" if not any("split" in row for row in rows) else "split_of_file"
    if field != "split":
        condition["split_field"] = field
    rows = [{**row, field: of_row.get(number, UNUSED)} for number, row in enumerate(rows)]
    if not any(row[field] == split for row in rows):
        raise ConfigError(f"{splits}: {split} is empty; {options(split, [name for name in SPLITS if name in of_row.values()])}.")
    return Dataset(_file_name(name), _lines(rows), {**condition, "split": split}, tuple(notes))


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "dataset"


def _found(section: Section, file: str, folders: Sequence[Path], below: Sequence[str]) -> Path:
    places = [folder / part / file for folder in folders for part in below]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(str(place.parent) for place in places) or "no folder of data"
        raise ConfigError(f"{section.place}: {file} is not there (looked in {looked}); say where datasets are with --data-dir.")
    return found


def _split_file(corpus: Path, name: str, folders: Sequence[Path]) -> Path | None:
    """The split file of a dataset: of its name, with `split` after it, next to the corpus or in a folder of splits."""
    places = [corpus.parent, *(folder / part for folder in folders for part in ("", "splits"))]
    found = [file for place in dict.fromkeys(places) for file in sorted(place.glob("*.json"))
             if re.fullmatch(rf"{re.escape(Path(name).name)}[._-]splits?\.json", file.name)]
    return found[0] if found else None


def _rows(corpus: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = corpus.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{corpus}: cannot be read as UTF-8 text ({error}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{corpus}, line {number}: not valid JSON ({error}); expected one object per line.") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{corpus}, line {number}: got a {type(row).__name__}, expected one JSON object per line.")
        rows.append(row)
    return rows


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _splits(file: Path, corpus: Path, count: int) -> tuple[dict[int, str], list[str]]:
    """The split of each row that has one, and notes.

    Raises:
        ConfigError: the split file is of another text, or a row number is none, or is there twice.
    """
    section = Section(str(file), read_config(file))
    notes = _check_hash(section, corpus)
    section.take("seed", None)  # of the shuffle that made it: the row numbers say what came of it
    of_row: dict[int, str] = {}
    for split in SPLITS:
        numbers = section.take(split, [])
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise section.wrong(split, "a list of row numbers")
        for number in numbers:
            if not 0 <= number < count:
                raise ConfigError(f"{file}: {split} has row {number}, but {corpus} has rows 0 to {count - 1}.")
            if number in of_row:
                twice = f"is twice in {split}" if of_row[number] == split else f"is in {of_row[number]} and in {split}"
                raise ConfigError(f"{file}: row {number} {twice}, which cannot be expressed: a row has one split; take it out of "
                                  "one of them.")
            of_row[number] = split
    return of_row, [*notes, *never_read(section, file.name)]


def never_read(section: Section, file: str) -> list[str]:
    """The note that names the keys which nothing reads, if there are some."""
    return unread_note(section.unread(), file)


def unread_note(keys: Sequence[str], file: str) -> list[str]:
    """The same for keys that are known."""
    return [f"{file}: never read by the first version, nor here: {', '.join(keys)}"] if keys else []


def _check_hash(section: Section, corpus: Path) -> list[str]:
    """Check that a split file is of this text, whatever its line ends were; a note where that cannot be known.

    Raises:
        ConfigError: it is of another text.
    """
    told = section.take("data_hash", None)
    if told is None:
        return [f"{section.place} has no data_hash: that its row numbers are of {corpus.name} as it is cannot be checked"]
    content = corpus.read_bytes()
    plain = content.replace(b"\r\n", b"\n")
    hashes = {hashlib.sha256(text).hexdigest() for text in (content, plain, plain.replace(b"\n", b"\r\n"))}
    if not isinstance(told, str) or told.removeprefix("sha256:").lower() not in hashes:
        raise ConfigError(f"{section.place}: data_hash={told} is not the sha256 of {corpus}, with line ends of either kind: its "
                          "row numbers are of another text; find that text, or make the split again.")
    return []
