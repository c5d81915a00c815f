"""`tinylab list [WHAT]`: the models, conditions, batteries, metrics and experiments to choose from, and the runs that are there.

Options of your own count too (--config-dir). With --json the same as data, for other programs. Nothing is composed, loaded or
computed; runs are those of an output folder, alone and in sweeps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinylab.command import run_command
from tinylab.config.composing import config_folders
from tinylab.config.flags import Flags
from tinylab.config.options import MISSING, Option, options_of
from tinylab.errors import ConfigError, options

PROGRAM = "python -m tinylab.listing"
Row = dict[str, Any]
SHOWN = {
    "models": ("name", "source", "about"),
    "conditions": ("name", "corpus", "about"),
    "batteries": ("name", "kind", "about"),
    "metrics": ("name", "unit", "of", "about"),
    "experiments": ("name", "about"),
    "runs": ("folder", "status", "battery", "condition", "model", "started"),
}
"""What can be listed, and the columns that a person sees of it."""


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """List what is available; returns the exit code."""
    parser = Flags(prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", metavar="WHAT", help=f"{', '.join(SHOWN)}; without it how many there are of each")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--config-dir", metavar="FOLDER", help="your own YAML files")
    parser.add_argument("--output-dir", metavar="FOLDER", default="outputs", type=Path, help="where runs are (outputs)")
    args = parser.parse_intermixed_args(argv)
    args.config_path = None
    return run_command(program, lambda: _list(args))


def _list(args: argparse.Namespace) -> int:
    """Print what was asked for.

    Raises:
        ConfigError: there is nothing of that name to list, or no such folder of configs.
    """
    folders = [Path(folder) for folder in config_folders(args) if folder is not None]
    if args.what is None:
        every = {what: rows(what, folders, args.output_dir) for what in SHOWN}
        _print(every) if args.json else _overview(every)
        return 0
    if (what := plural(args.what)) is None:
        raise ConfigError(f"{args.what}: nothing of that name to list; {options(args.what, SHOWN)}.")
    found = rows(what, folders, args.output_dir)
    _print(found) if args.json else _table(what, found, args.output_dir)
    return 0


def plural(word: str) -> str | None:
    """What a word means of what can be listed, in either number."""
    return next((what for what in SHOWN if word in (what, what.removesuffix("s"), what.removesuffix("ies") + "y")), None)


def rows(what: str, folders: Sequence[Path], output_dir: Path) -> list[Row]:
    """What there is of one kind.

    Args:
        what: one of `SHOWN`.
        folders: of configs, the one that goes first before the others.
        output_dir: where runs are.
    """
    if what == "metrics":
        return _metrics()
    if what == "runs":
        from tinylab.sweep.found import found_runs

        return found_runs(output_dir)
    group = {"batteries": "battery"}.get(what, what.removesuffix("s"))
    told: Callable[[Option], Row] = {"model": _model, "condition": _condition, "battery": _battery}.get(group, lambda _: {})
    return [{"name": option.name, **told(option), "about": option.about, "required": option.required, "file": str(option.file)}
            for option in options_of(group, folders)]


def _model(option: Option) -> Row:
    name, path = option.values.get("name"), option.values.get("path")
    return {"source": name if name is not None else path, "dtype": option.values.get("dtype")}


def _condition(option: Option) -> Row:
    return {"corpus": option.values.get("path"), "tag": option.values.get("tag")}


def _battery(option: Option) -> Row:
    """What kind a battery is: of tinylab's classes their own name for it, of a user's the path of the class."""
    from tinylab.schema import SHIPPED_NAMES

    called = str(option.values.get("name"))
    return {"kind": SHIPPED_NAMES.get(called, called), "called": called}


def _metrics() -> list[Row]:
    from tinylab.measures.metrics import SHIPPED

    return [{"name": one.name, "unit": one.unit, "of": "patching" if one.needs_source else "every battery", "usual": one.usual,
             "about": _about(one.score or one.relative, named=not one.usual)} for one in SHIPPED if one.chosen]


def _about(function: Callable[..., Any] | None, *, named: bool) -> str:
    """The first line of a function's docstring, without its shape; whether a metric has to be asked for by name."""
    line = ((function.__doc__ if function is not None else None) or "").splitlines()[0]
    said = line.replace(", [B]", "").rstrip(".")
    return f"{said} (only where metrics=… names it)" if named else said


def _print(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _overview(every: dict[str, list[Row]]) -> None:
    """A line for each kind: how many there are, and their names as far as they fit."""
    for what, found in every.items():
        names = ", ".join(str(row["folder"] if what == "runs" else row["name"]) for row in found)
        shown = names if len(names) <= 90 else names[:90].rsplit(", ", 1)[0] + ", …"
        sys.stdout.write(f"{f'tinylab list {what}':<24}{len(found):>4}  {shown}\n")


def _table(what: str, found: Sequence[Row], output_dir: Path) -> None:
    from rich.table import Table

    from tinylab.report.screen import console

    if not found:
        sys.stdout.write(f"no {what}{f' in {output_dir}' if what == 'runs' else ''}\n")
        return
    view = Table(title=f"{len(found)} {what}", title_justify="left")
    for name in SHOWN[what]:
        view.add_column(name, overflow="fold", no_wrap=name in ("name", "status", "kind", "started"))
    for row in found:
        view.add_row(*(_told(name, row) for name in SHOWN[what]))
    out = console()
    if what == "runs" and not out.is_terminal:  # a line each, for other programs too
        out.width = 10**4
    out.print(view)


def _told(column: str, row: Row) -> str:
    """A cell for people: of what is said about an option its first sentence, of what is for the user to give that it is."""
    value = row.get(column)
    if value is None:
        return "–"
    if value == MISSING:
        return f"yours, {', '.join(row['required'])}=…"
    if column == "started":
        return str(value)[:len("2026-01-01T00:00")].replace("T", " ")
    return str(value).split(". ", maxsplit=1)[0].rstrip(".") if column == "about" else str(value)


if __name__ == "__main__":
    sys.exit(main())
