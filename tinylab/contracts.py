"""`tinylab validate FOLDER …`: is every file of a run or a sweep what was written, and does it keep its contract?

Nothing is written. Exit code 0: each is; 1: a table or document breaks its contract; 2: a folder is neither a run nor a sweep,
is not complete, or a file of it is missing or not what was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylab.command import run_command
from tinylab.config.flags import Flags
from tinylab.errors import OutputError, TinylabError

if TYPE_CHECKING:
    import pandas as pd

    from tinylab.results import Run, Sweep

PROGRAM = "python -m tinylab.contracts"
GRAVEST_FIRST = (2, 1)
"""Which exit code several folders give."""


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Check every folder given, whatever the others are; returns the gravest exit code."""
    parser = Flags(prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run or a sweep")
    args = parser.parse_args(argv)
    codes = {run_command(program, partial(_one, folder)) for folder in args.folders}
    return next((code for code in GRAVEST_FIRST if code in codes), max(codes))


def _one(path: Path) -> int:
    """Check a folder and say what it is; returns 0.

    Raises:
        OutputError: it is none of tinylab's, or no longer what was written.
        SchemaError: a file of it breaks its contract.
    """
    from tinylab.records.storage import read_json
    from tinylab.results import load_run, load_sweep

    manifest = path / "manifest.json"
    if not path.is_dir():
        raise OutputError(f"{path}: no such folder; expected one of a run or a sweep, such as outputs/runs/NAME.")
    if manifest.is_file() and "jobs" not in read_json(manifest):
        tables = check_run(load_run(path))
        told = f"a complete run, {_counted(tables)}"
    else:
        sweep = load_sweep(path)
        tables = check_sweep(sweep)
        told = f"a sweep of {len(sweep.runs)} complete runs, {_counted(tables)}"
    sys.stdout.write(f"{path}: {told}, every document and digest as it was written\n")
    return 0


def _counted(tables: int) -> str:
    return f"{tables} table{'' if tables == 1 else 's'} by contract"


def check_run(run: Run) -> int:
    """Check the tables of a run that was loaded; returns how many.

    Raises:
        SchemaError: one breaks its contract.
    """
    from tinylab.validate import validate_effects_schema, validate_synergy_schema

    own = _validators().get(str(run.manifest["table"]))
    if own is None:  # of a battery of the user's own: loading it has compared its columns with what the manifest declares
        return 0
    checks: list[tuple[str, Callable[[pd.DataFrame], None], Any]] = [
        ("impact", own, run.impact), ("effects", validate_effects_schema, run.effects),
        ("synergy", validate_synergy_schema, run.synergy)]
    there = [(name, check, table) for name, check, table in checks if table is not None]
    for name, check, table in there:
        _named(f"{run.path}, {name}", check, table)
    return len(there)


def check_sweep(sweep: Sweep) -> int:
    """Check the tables of a sweep that was loaded, and of its runs; returns how many.

    Raises:
        SchemaError: one breaks its contract.
    """
    from tinylab.interventions.components import SHIPPED, TableKind
    from tinylab.records.tables import SYNERGY_MATRICES
    from tinylab.validate import validate_cross_condition_matrix, validate_synergy_matrix

    count = sum(map(check_run, sweep.runs))
    shipped = {kind.matrix for kind in SHIPPED}
    conditions: dict[str, list[str]] = {}
    for run in sweep.runs:
        conditions.setdefault(TableKind.of_manifest(run.manifest).matrix, []).append(run.manifest["condition"])
    for name in sweep.matrices.keys() & shipped:
        check = partial(validate_cross_condition_matrix, conditions=conditions.get(name, []))
        _named(f"{sweep.path}, {name}", check, sweep.matrices[name])
        count += 1
    for pairs, name in SYNERGY_MATRICES.items():
        if (table := sweep.synergies.get(name)) is not None:
            _named(f"{sweep.path}, {name}", partial(validate_synergy_matrix, conditions=conditions.get(pairs, [])), table)
            count += 1
    return count


def _named(where: str, check: Callable[[pd.DataFrame], None], table: pd.DataFrame) -> None:
    try:
        check(table)
    except TinylabError as error:
        raise type(error)(f"{where}: {error}") from error


def _validators() -> dict[str, Callable[[pd.DataFrame], None]]:
    from tinylab import validate

    return {
        "head_impact": validate.validate_head_impact_schema,
        "layer_impact": validate.validate_layer_impact_schema,
        "pair_impact": validate.validate_pair_impact_schema,
        "subset_impact": validate.validate_subset_impact_schema,
        "position_impact": validate.validate_position_impact_schema,
    }


if __name__ == "__main__":
    sys.exit(main())
