"""`python -m tinylab.convert FILE.gguf FOLDER`: a GGUF file as a folder that `model=local model.path=FOLDER` loads at once.

The folder has config.json, model.safetensors and the tokenizer's files, with the same numbers. Exit code 2: something that
you can fix; nothing was written.

`python -m tinylab.convert FILE.json… --out CONF_DIR`: configs of the first version, see `tinylab.first_version.command`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tinylab.command import run_command
from tinylab.config.checks import one_of
from tinylab.config.flags import Flags
from tinylab.config.groups import DTYPES, ModelConfig
from tinylab.errors import ConfigError, OutputError
from tinylab.first_version.command import is_old_config
from tinylab.first_version.command import main as convert_configs
from tinylab.machine.imports import large_import
from tinylab.models.gguf import SUFFIX, is_gguf

PROGRAM = "python -m tinylab.convert"


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Convert one file; returns the exit code."""
    if any(map(is_old_config, sys.argv[1:] if argv is None else argv)):
        return convert_configs(argv, program)
    parser = Flags(prog=program, description=__doc__, usage=(
        f"{program} [-h] [--dtype DTYPE] FILE.gguf FOLDER\n       {program} FILE.json … [--data-dir DIR] --out CONF_DIR"))
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new, or empty")
    parser.add_argument("--dtype", default="float32", help=f"of the weights that are written: {', '.join(DTYPES)}")
    args = parser.parse_args(argv)
    return run_command(program, lambda: convert(args.file, args.folder, args.dtype), "nothing was written")


def convert(file: Path, folder: Path, dtype: str = "float32") -> int:
    """Write a GGUF file's model as a folder of safetensors, whole or not at all; returns 0.

    Args:
        file: the GGUF file.
        folder: where the model goes; new, or empty.
        dtype: of the weights that are written.

    Raises:
        ConfigError: the folder is in use, or the file none of the format.
        ModelError: see `tinylab.models.loading.load_model`.
        OutputError: the folder cannot be written.
    """
    one_of("--dtype", dtype, DTYPES)
    if not is_gguf(file):
        raise ConfigError(f"{file}: expected a {SUFFIX} file; other folders and hub models need no conversion.")
    place = folder.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{folder}: is in use; expected a new or empty folder.")
    with large_import("transformers"):
        from tinylab.models.loading import load_model, quiet_transformers

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".tinylab-", dir=place.parent) as beside:
            model = load_model(ModelConfig(path=str(file), dtype=dtype), "cpu")
            whole = Path(beside) / place.name
            whole.mkdir()
            with quiet_transformers():
                model.model.save_pretrained(whole)
            model.tokenizer.save_pretrained(whole)
            whole.rename(place)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder.") from error
    sys.stdout.write(f"{folder}: {model.n_layers} layers × {model.n_heads} heads in {dtype}; "
                     f"python -m tinylab model=local model.path={folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
