"""Folders as `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write them, made with pyarrow alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

CLASSES = {"dtype": "int64", "_type": "ClassLabel"}


def save(folder: Path, table: pa.Table, *, shards: int = 1, labels: Mapping[str, Sequence[str]] | None = None) -> Path:
    """A table as a Dataset of so many files; `labels` names the classes of columns of numbers."""
    folder.mkdir(parents=True)
    files = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    for shard, name in enumerate(files):
        begin, end = shard * table.num_rows // shards, (shard + 1) * table.num_rows // shards
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table.slice(begin, end - begin), max_chunksize=2)
    features: dict[str, Any] = {field.name: feature(field.type) for field in table.schema}
    features |= {name: {"names": list(names), **CLASSES} for name, names in (labels or {}).items()}
    state = {"_data_files": [{"filename": name} for name in files], "_fingerprint": "d27f3ed323014d72", "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True))
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True))
    return folder


def save_splits(folder: Path, tables: Mapping[str, pa.Table]) -> Path:
    """Tables as the splits of a DatasetDict."""
    for split, table in tables.items():
        save(folder / split, table)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(tables)}))
    return folder


def feature(kind: pa.DataType) -> Any:
    """How `datasets` describes the type of a column."""
    if pa.types.is_struct(kind):
        return {kind.field(place).name: feature(kind.field(place).type) for place in range(kind.num_fields)}
    if pa.types.is_list(kind):
        return {"feature": feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}
