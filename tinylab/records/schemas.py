"""`python -m tinylab.records.schemas` writes the JSON Schemas of every document, for programs in other languages.

A schema tells keys, types and ranges. What relates several keys, such as abs_diff = |main - verify|, only the models check.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from tinylab.records.baselines import Baselines
from tinylab.records.controls import CrossControls
from tinylab.records.documents import RunSummary, SweepSummary, Verify
from tinylab.records.invariants import Invariants
from tinylab.records.manifests import RunManifest, SweepManifest
from tinylab.records.storage import write_text

FOLDER = Path("docs/schemas")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: dict[str, type[BaseModel]] = {
    "run_manifest": RunManifest,
    "run_summary": RunSummary,
    "verify": Verify,
    "sweep_manifest": SweepManifest,
    "sweep_summary": SweepSummary,
    "invariants": Invariants,
    "cross_controls": CrossControls,
    "baselines": Baselines,
}
"""Every kind of document, by its schema's name."""


def schema_text(model: type[BaseModel]) -> str:
    """A document's JSON Schema, as its file holds it."""
    return json.dumps({"$schema": DIALECT, **model.model_json_schema()}, indent=2, allow_nan=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write `NAME.schema.json` of every document into a folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    for name, model in DOCUMENTS.items():
        write_text(folder / f"{name}.schema.json", schema_text(model))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the schemas; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tinylab.records.schemas", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, metavar="FOLDER", help=f"where to; {FOLDER} if left out")
    write_schemas(parser.parse_args(argv).folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
