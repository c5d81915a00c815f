"""`python -m tinylab.reproduce NAME [OVERRIDE …]`: run an experiment and compare it with the published numbers.

Without a name it lists what can be reproduced. A finished run is reused. Exit code 0: all numbers agree; 1: some
differ, or are not in the run; 2: something that you can fix.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tinylab.app import carry_out, planned
from tinylab.checks import published
from tinylab.command import run_command
from tinylab.config.flags import Flags
from tinylab.config.hydra_internals import flags_parser
from tinylab.errors import ConfigError

EXIT_DIFFERENT = 1
PROGRAM = "python -m tinylab.reproduce"


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Reproduce one experiment, or list them; returns the exit code."""
    parser = Flags(prog=program, description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME OVERRIDE",
                        help="the experiment, then overrides as python -m tinylab takes them: model=local model.path=my_model")
    parser.add_argument("--config-dir", metavar="FOLDER", help="your own YAML files")
    args = parser.parse_intermixed_args(argv)
    return run_command(program, lambda: _reproduce(*args.words, config_dir=args.config_dir) if args.words else _list())


def _list() -> int:
    from tinylab.report import console as report

    report.print_published([published.load(name) for name in published.names()])
    return 0


def _reproduce(name: str, *overrides: str, config_dir: str | None) -> int:
    """Run an experiment as `python -m tinylab experiment=NAME` does, and compare."""
    expected = published.load(name)
    if any(word.startswith("experiment=") for word in overrides):
        raise ConfigError(f"{' '.join(overrides)}: the experiment is {name} already; expected overrides of its other values.")
    parser = flags_parser()
    folder = [] if config_dir is None else ["--config-dir", config_dir]
    args = parser.parse_args([*folder, f"experiment={name}", *overrides])
    plan = planned(args)
    if plan.sweep_folder is not None:
        raise ConfigError(f"{' '.join(overrides)}: makes a sweep; expected overrides of a single run.")
    code = carry_out(args, parser, plan)
    if code != 0 or plan.first.dry_run:
        return code
    from tinylab.report import console as report
    from tinylab.results import load_run

    comparisons = published.compare(expected, load_run(plan.folders[0]))
    report.print_comparison(expected, comparisons)
    return 0 if all(comparison.agrees for comparison in comparisons) else EXIT_DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
