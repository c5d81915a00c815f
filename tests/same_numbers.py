"""Are two folders, made by the same command lines with two trees of this project, equal in every number?

Tables are compared as bytes, JSON documents key by key; `ALLOWED` lists what may differ, and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DIFFER, LACK, GAIN = "differ", "lack", "gain"


@dataclass(frozen=True)
class Allowed:
    """One way in which a document may be another one than before: a key's value may differ, or the key be gone, or be new."""

    document: str  # a pattern of its file's name
    key: str  # a pattern of the key with its parents, joined by dots; `*` stands for any number of them
    kind: str
    reason: str


ALLOWED = (
    Allowed("*", "run_id", DIFFER, "what a run is may be told in other words; that it is told may not change"),
    Allowed("*", "*.run_id", DIFFER, "the same, within another document"),
    Allowed("manifest.json", "process.*", DIFFER, "host and process id"),
    Allowed("manifest.json", "started", DIFFER, "a time"),
    Allowed("manifest.json", "provenance.started", DIFFER, "a time"),
    Allowed("manifest.json", "provenance.finished", DIFFER, "a time"),
    Allowed("manifest.json", "provenance.*_seconds", DIFFER, "a time"),
    Allowed("manifest.json", "provenance.peak_memory_bytes", DIFFER, "depends on what the process did before"),
    Allowed("manifest.json", "provenance.git.*", DIFFER, "one tree is a checkout, the other its commit without git"),
    Allowed("manifest.json", "provenance.packages.*", DIFFER, "the version of tinylab itself"),
    Allowed("manifest.json", "provenance.results_version", DIFFER, "raised since, for prompts of other kinds than these"),
    Allowed("manifest.json", "provenance.corpus.sha256", DIFFER, "rows of the shipped corpora name parts of their prompts"),
    Allowed("manifest.json", "provenance.self_check_max_difference", DIFFER, "the self-check tries fewer interventions"),
    Allowed("manifest.json", "provenance.config_digest", DIFFER, "a hash of the config, which may gain keys"),
    Allowed("manifest.json", "failures.*.error.message", DIFFER, "words for a person"),
    Allowed("manifest.json", "*", GAIN, "a manifest may tell more"),
    Allowed("config.yaml", "*", GAIN, "an option may be added"),
    Allowed("config.yaml", "battery._target_", LACK, "where a battery's class lies is no number"),
    Allowed("config.yaml", "battery._target_", DIFFER, "the same"),
    Allowed("manifest.json", "battery._target_", LACK, "the same"),
    Allowed("manifest.json", "battery._target_", DIFFER, "the same"),
    Allowed("summary.json", "*battery._target_", LACK, "the same; a run's summary has its manifest's battery"),
    Allowed("summary.json", "*battery._target_", DIFFER, "the same"),
    Allowed("summary.json", "*battery.*", GAIN, "a battery may tell more of its settings"),
    Allowed("summary.json", "failed.*.error.message", DIFFER, "words for a person"),
    Allowed("invariants.json", "groups.*.battery_digest", DIFFER, "a hash of the battery in the manifest"),
    Allowed("invariants.json", "groups.*.described", GAIN, "the battery's settings in words, for titles"),
    Allowed("invariants.json", "groups.*.component", GAIN, "the columns of a component, whatever the kind of table"),
    Allowed("invariants.json", "groups.*.settings", GAIN, "what the sweep varied, so that it is not averaged"),
    *(Allowed("invariants.json", f"*{name}", GAIN, "claims are tested; the strongest are told beside them, with their chance")
      for name in ("intersection", "conjunction", "sign_agreement", "by_chance", "groups.*.runs")),
    *(Allowed("invariants.json", f"*{name}", kind, "words for a person; what a test lacks is said too")
      for name in ("note", "notes") for kind in (GAIN, DIFFER)),
    Allowed("manifest.json", "model", DIFFER, "a folder's weights are called by its name, not by the path that was typed"),
    Allowed("summary.json", "model", DIFFER, "the same"),
    Allowed("summary.json", "conditions.*.model", DIFFER, "the same, in a sweep's summary"),
    Allowed("config.yaml", "model.name", DIFFER, "a folder's weights are called by their folder, not by a key beside it"),
)
MORE_COLUMNS = ("head_matrix.parquet", "layer_matrix.parquet")
"""Tables that may have more columns than before, after those that were there: settings that a sweep varies."""
UNCOMPARED = {
    "heatmap.png": "titles are words and may change; its numbers are those of the tables",
    "run.log": "words, times and paths",
    "multirun.yaml": "what Hydra composed, help texts and folders included; every run has its own config.yaml",
}
"""Files that must be there, whatever is in them."""
NO_EFFECT = re.compile(r"\b0 of \d+ components change ")
OF_ITS_LISTS = ("heads", "layers", "expected_by_chance", "notes", "per_metric")
"""What a group of runs in which nothing has an effect told of the components that came first, which it lists no more."""
ID = re.compile(r"_[0-9a-f]{12}(?![0-9A-Za-z])")
"""How a run id ends the name of a folder."""


def compare(before: Path, after: Path) -> list[str]:
    """Every way in which a folder is not what it was before, one line each."""
    old, new = _files(before), _files(after)
    found = [f"{name}: is gone" for name in old if name not in new]
    found += [f"{name}: was not there" for name in new if name not in old]
    for name in old.keys() & new.keys():
        found += (f"{name}: {line}" for line in _compare_file(old[name], new[name]))
    return sorted(found)


def _files(folder: Path) -> dict[str, Path]:
    """Every file by its relative path without run ids; hidden folders, of locks named by run ids, are left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or any(part.startswith(".") for part in relative.parts):
            continue
        name = _without_ids(str(relative))
        assert name not in found, f"{path} and {found[name]} differ by their run ids alone: give the runs names"
        found[name] = path
    return found


def _without_ids(text: str) -> str:
    return ID.sub("_ID", text)


def _compare_file(before: Path, after: Path) -> Iterator[str]:
    if before.name in UNCOMPARED:
        return
    if before.suffix == ".parquet":
        yield from compare_tables(pq.read_table(before), pq.read_table(after), more=before.name in MORE_COLUMNS)
    elif before.suffix in (".json", ".yaml"):
        yield from _compare_values(before.name, "", *(_by_rank(_document(file)) for file in (before, after)))
    elif before.read_bytes() != after.read_bytes():
        yield "other bytes"


def _document(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)


def _by_rank(document: Any) -> Any:
    """invariants.json with the strongest of every condition as what is claimed, which they once were; others as they are."""
    if not isinstance(document, dict) or "intersection" not in document:
        return document
    groups = [{**group, **group["intersection"]} for group in document["groups"]]
    return {**document, **document["intersection"], "groups": groups, "set": "intersection"}


# --- tables ---


def compare_tables(before: pa.Table, after: pa.Table, *, more: bool = False) -> Iterator[str]:
    """Columns by name, order and type, values bit for bit; of run ids only which rows have the same one."""
    old, new = ([(field.name, str(field.type)) for field in table.schema] for table in (before, after))
    if more:
        new = new[: len(old)]
    if old != new:
        yield f"columns {old}, now {new}"
    elif len(before) != len(after):
        yield f"{len(before)} rows, now {len(after)}"
    else:
        for name, _ in old:
            yield from _compare_columns(name, before[name].combine_chunks(), after[name].combine_chunks())


def _compare_columns(name: str, before: pa.Array, after: pa.Array) -> Iterator[str]:
    old, new = _bits(name, before), _bits(name, after)
    if not old.equals(new):
        different = [row for row, (one, other) in enumerate(zip(old.to_pylist(), new.to_pylist(), strict=True)) if one != other]
        row = different[0]
        yield f"column {name}: {len(different)} of {len(old)} rows, first row {row}: {before[row]}, now {after[row]}"


def _bits(name: str, column: pa.Array) -> pa.Array:
    """A column as what can be compared exactly: floats as integers of the same bits, run ids as numbers of first appearance."""
    if name == "run_id":
        return column.dictionary_encode().indices
    return column.view(pa.int64()) if pa.types.is_float64(column.type) else column


# --- documents ---


def _compare_values(document: str, key: str, before: Any, after: Any) -> Iterator[str]:
    """Compare what is under a key. Types and the order of lists count; numbers are equal where they are read as the same bits."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _compare_keys(document, key, _named(before), _named(after))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _compare_values(document, _under(key, number), one, other)
    elif _told(before) != _told(after) and not _allowed(document, key, DIFFER):
        yield f"{key}: {before!r}, now {after!r}"


def _compare_keys(document: str, key: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    if document == "invariants.json" and any(NO_EFFECT.search(str(note)) for note in after.get("notes", [])):
        before, after = ({name: value for name, value in group.items() if name not in OF_ITS_LISTS} for group in (before, after))
    for name in before.keys() | after.keys():
        inner = _under(key, name)
        if name not in after:
            if not _allowed(document, inner, LACK):
                yield f"{inner}: is gone"
        elif name not in before:
            if not _allowed(document, inner, GAIN):
                yield f"{inner}: was not there"
        else:
            yield from _compare_values(document, inner, before[name], after[name])


def _named(values: dict[Any, Any]) -> dict[str, Any]:
    named = {_without_ids(str(name)): value for name, value in values.items()}
    assert len(named) == len(values), f"keys that differ by run ids alone: {list(values)}"
    return named


def _under(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _told(value: Any) -> tuple[type, str]:
    """A value as what can be compared exactly: -0.0 is not 0.0, 1 is not 1.0, true is not 1."""
    return type(value), _without_ids(value) if isinstance(value, str) else repr(value)


def _allowed(document: str, key: str, kind: str) -> bool:
    return any(rule.kind == kind and fnmatchcase(document, rule.document) and fnmatchcase(key, rule.key) for rule in ALLOWED)
