"""`python -m tinylab.report FOLDER…`: write report.html, an interactive page, into folders of runs and sweeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tinylab.errors import ConfigError, TinylabError
from tinylab.machine.printing import unfailing

PROGRAM = "tinylab.report"


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Write the report of every folder given, whatever became of the others; returns the gravest exit code, 2 for a mistake."""
    folders = list(sys.argv[1:] if argv is None else argv)
    if any(one in ("-h", "--help") for one in folders):
        sys.stdout.write(f"{__doc__}\n")
        return 0
    with unfailing():
        if not folders:
            sys.stderr.write(f"{program}: no folder; expected those of runs or sweeps, such as outputs/sweeps/NAME.\n")
            return ConfigError.exit_code
        return max(_one(folder, program) for folder in folders)


def _one(folder: str, program: str) -> int:
    """Write one report and say where it is; returns the exit code."""
    from tinylab.report.page.writing import write_report

    try:
        if folder.startswith("-"):
            raise ConfigError(f"{folder}: no such option; expected folders of runs or sweeps, such as outputs/sweeps/NAME.")
        sys.stdout.write(f"{write_report(Path(folder))}\n")
    except TinylabError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
