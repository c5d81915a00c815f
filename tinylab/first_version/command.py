"""`python -m tinylab.first_version FILE.json… --data-dir DIR --out CONF_DIR`: configs of the first version as experiments.

CONF_DIR gets experiment/NAME.yaml for each run (and model/NAME.yaml for a model without a preset), and corpora/ with the rows
of the datasets, each with its split; python -m tinylab --config-dir CONF_DIR experiment=NAME runs one. Exit code 2: something
that you can fix; nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tinylab.app import main as run_tinylab
from tinylab.command import run_command
from tinylab.config.composing import Composer
from tinylab.config.flags import Flags
from tinylab.config.hydra_internals import flags_parser
from tinylab.errors import ConfigError, OutputError
from tinylab.first_version.converting import Conversion, convert_config, dumped
from tinylab.records.storage import write_text
from tinylab.schema import validate

PROGRAM = "python -m tinylab.first_version"
SUFFIX = ".json"
OUT = Path("outputs/first_version")
"""Where `tinylab run old.json` writes what it converts."""
ON_PURPOSE = """\
unlike the first version, on purpose: the answer is read at each prompt's own last token (prompts of a batch were padded to
one length, and read at the last place, padding or not); acc_flip_rate is the fraction of all examples that are right in the
unmodified run and wrong under the intervention; what else differs is in the notes
"""


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Convert some files; returns the exit code."""
    parser = _parser(program)
    parser.description = __doc__
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="CONF_DIR", help="where the YAMLs go")
    args = parser.parse_args(argv)
    return run_command(program, lambda: _convert(args.files, args.data_dir, args.out), "nothing was written")


def is_old_config(word: str) -> bool:
    """Whether a word of a command line is a config of the first version."""
    return word.endswith(SUFFIX) and "=" not in word


def run(argv: Sequence[str]) -> int:
    """`tinylab run old.json [--data-dir DIR] [--out CONF_DIR] [overrides]`: convert a file and run it; returns the exit code."""
    parser = _parser("tinylab run")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, default=OUT, metavar="CONF_DIR", help=f"where the YAMLs go; {OUT} if left out")
    args, overrides = parser.parse_known_args(list(argv))
    found: list[Conversion] = []

    def convert() -> int:
        found.extend(convert_files([args.file], args.data_dir, args.out))
        return 0

    code = run_command("tinylab run", convert, "nothing was written")
    if code:
        return code
    sys.stdout.write(told(found, args.out))
    return run_tinylab([*command_of(found[0], args.out), *overrides])


def _parser(program: str) -> Flags:
    parser = Flags(prog=program, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data-dir", type=Path, metavar="DIR",
                        help="where the datasets are, or corpora/ and splits/ with them; else data/ or lab/data/ above the file")
    return parser


def _convert(files: Sequence[Path], data: Path | None, out: Path) -> int:
    sys.stdout.write(told(convert_files(files, data, out), out))
    return 0


def convert_files(files: Sequence[Path], data: Path | None, out: Path) -> list[Conversion]:
    """Convert configs of the first version and write what they are, all of it or nothing.

    Args:
        files: run files and orchestrated files.
        data: where datasets are; None for where the first version had them.
        out: the folder for --config-dir.

    Raises:
        ConfigError: a config cannot be read, or says something that cannot be expressed.
        OutputError: a file that would be written is there with another content, or cannot be written.
    """
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data-dir {data}: no such folder; expected one with datasets, or with corpora/ and splits/.")
    corpora = out.resolve() / "corpora"
    conversions = [convert_config(file, [] if data is None else [data], corpora) for file in files]
    texts: dict[str, str] = {}
    for conversion in conversions:
        for name, text in _files(conversion).items():
            if texts.setdefault(name, text) != text:
                raise ConfigError(f"{conversion.source}: its {name} is also another one's, with different content; give them "
                                  "different names (run_name), or convert them into two folders.")
    for name, text in texts.items():
        there = out / name
        if there.exists() and (not there.is_file() or there.read_text(encoding="utf-8") != text):
            raise OutputError(f"{there}: exists with different content; choose another --out, or remove it.")
    _check(conversions, texts)
    for name, text in texts.items():
        write_text(out / name, text)
    return conversions


def _files(conversion: Conversion) -> dict[str, str]:
    """The files of a conversion, by their paths in the folder."""
    found: dict[str, str] = {}
    for one in conversion.experiments:
        found[f"corpora/{one.corpus[0]}.jsonl"] = one.corpus[1]
        if one.model is not None:
            found[f"model/{one.model[0]}.yaml"] = dumped(one.model[1])
        if found.setdefault(f"experiment/{one.name}.yaml", text := one.yaml(conversion.source)) != text:
            raise ConfigError(f"{conversion.source}: two conditions are called {one.name}; give each its own tag.")
    return found


def _check(conversions: Sequence[Conversion], texts: dict[str, str]) -> None:
    """Compose every experiment before anything is written.

    Raises:
        ConfigError: one cannot be composed, or has a value that is none.
    """
    with TemporaryDirectory(prefix="tinylab-") as staged:
        for name, text in texts.items():
            if name.endswith(".yaml"):
                write_text(Path(staged) / name, text)
        with Composer(flags_parser().parse_args(["--config-dir", staged])) as composer:
            for conversion in conversions:
                for one in conversion.experiments:
                    try:
                        validate(composer.compose([f"experiment={one.name}"]))
                    except ConfigError as error:
                        raise ConfigError(f"{conversion.source}: {error}") from error


def command_of(conversion: Conversion, out: Path) -> list[str]:
    """The words that run what was converted, after `python -m tinylab`."""
    names = ",".join(one.name for one in conversion.experiments)
    words = ["--config-dir", str(out), f"experiment={names}"]
    return words if conversion.sweep is None else ["-m", *words, f"sweep_name='{conversion.sweep}'"]


def told(conversions: Sequence[Conversion], out: Path) -> str:
    """What was converted, what is to be known of it, and how it is run."""
    lines = []
    for conversion in conversions:
        lines.append(f"{conversion.source}: {', '.join(f'experiment/{one.name}.yaml' for one in conversion.experiments)}")
        notes = [*conversion.notes, *(note for one in conversion.experiments for note in one.notes)]
        lines += [f"  note: {note}" for note in dict.fromkeys(notes)]
        lines.append(f"  python -m tinylab {' '.join(command_of(conversion, out))}")
    return "\n".join([*lines, ON_PURPOSE])
