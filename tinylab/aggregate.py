"""`tinylab aggregate FOLDER …`: join a finished or interrupted sweep again, with other settings, or compare single runs.

Runs that are given together are joined as if one command had swept over them, into a folder of outputs/sweeps or --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tinylab.config.flags import Flags
from tinylab.config.groups import RANKS, SETS, check_set
from tinylab.errors import ConfigError, TinylabError
from tinylab.machine.printing import unfailing

PROGRAM = "python -m tinylab.aggregate"
GRAVEST_FIRST = (3, 4, 2, 1)
"""Which exit code several folders give."""


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Aggregate every sweep given, whatever became of the others, and all runs together; returns the gravest exit code.

    3: missing runs, 4: a strict verify slice failed, 2: not the folder of a sweep, or one that cannot be written.
    """
    parser = Flags(prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER",
                        help="a sweep's folder, or its artifacts/cross_condition; or the folders of two runs or more")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of runs that are compared: where their tables go")
    parser.add_argument("--k", type=_positive, help="how many components of each condition count as its strongest")
    parser.add_argument("--metrics", nargs="+", help="by which metrics: those of the runs")
    parser.add_argument("--rank", choices=RANKS, help="magnitude: |change|; highest, lowest: the level itself")
    parser.add_argument("--set", choices=SETS, help="what is claimed: effects of one sign in every condition, tested; among the "
                                                    "k strongest of every condition; effects in one condition at least")
    parser.add_argument("--at-least", type=_positive, metavar="R",
                        help="of partial_conjunction: in R conditions at least; --set alone means in every one")
    parser.add_argument("--allow-partial", action="store_true", default=None, help="even if a condition is missing")
    parser.add_argument("--cross", action="store_true", help="try conditions with the components that matter in each other")
    args = parser.parse_args(argv)
    with unfailing():
        codes = {_told(program, command) for command in _commands(args)}
    return next((code for code in GRAVEST_FIRST if code in codes), 0)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


def _commands(args: argparse.Namespace) -> list[Callable[[], int]]:
    """What is to be done: each sweep, and all runs together."""
    from tinylab.sweep.single import is_run, plan_of_runs

    def compare() -> int:
        return _aggregate(plan_of_runs(runs, args.out, Settings()), args)

    try:
        from tinylab.sweep.aggregate import Settings

        runs = [folder for folder in args.folders if is_run(folder)]
    except TinylabError:  # a damaged manifest: whoever reads it next says so
        runs = []
    sweeps = [folder for folder in args.folders if folder not in runs]
    if args.out is not None and not runs:
        return [lambda: _no_runs(args.out)]
    return [*([compare] if runs else []), *(partial(_aggregate, folder, args) for folder in sweeps)]


def _no_runs(out: Path) -> int:
    raise ConfigError(f"--out {out}: is where single runs are joined, but no folder given is a run's; a sweep is joined where it "
                      "is.")


def _told(program: str, command: Callable[[], int]) -> int:
    """Carry out and return the exit code; what went wrong is one sentence."""
    try:
        return command()
    except TinylabError as error:
        sys.stderr.write(f"{program.removeprefix('python -m ')}: {error}\n")
        return error.exit_code


def _aggregate(path: Path, args: argparse.Namespace) -> int:
    """Aggregate one sweep; settings not given are those of its manifest."""
    from tinylab.records.checking import check_read
    from tinylab.records.manifests import InvariantsSettings
    from tinylab.records.storage import read_json
    from tinylab.report.observers import sweep_ended
    from tinylab.sweep.aggregate import Settings, aggregate, sweep_folder
    from tinylab.sweep.cross_controls import add_cross_controls

    folder = sweep_folder(path)
    file = folder / "manifest.json"
    told = read_json(file).get("invariants") if file.is_file() else None
    if told is not None:
        check_read(InvariantsSettings, told, f"{file}: invariants")
    settings = {key: (told or {}).get(key, value) for key, value in vars(Settings()).items()}
    if args.set is not None:  # in how many conditions goes with it
        settings["at_least"] = None
    settings.update({key: value for key in settings if (value := getattr(args, key)) is not None})
    check_set(settings["set"], settings["at_least"])
    outcome = aggregate(folder, Settings(**{**settings, "metrics": tuple(settings["metrics"])}), asked=args.metrics or ())
    if args.cross:
        add_cross_controls(folder, True)
    sweep_ended(folder, outcome)
    return 3 if outcome["failures"] else 4 if outcome["verify_failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
