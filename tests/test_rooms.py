"""The house: rooms import lower ones only, without circles; no function and no module is longer than a reader likes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "tinylab").rglob("*.py"))
LONGEST_FUNCTION, LONGEST_MODULE = 60, 300
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package in a folder, by the contracts that lie beside it."""
    return subprocess.run([sys.executable, "-c", LINT, "--no-cache"], cwd=folder, env={"PYTHONPATH": str(folder), "PATH": ""},
                          capture_output=True, text=True, check=False)


def a_copy(folder: Path) -> Path:
    """The package's sources and its contracts, to be broken."""
    for file in MODULES:
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    return folder


def test_rooms_import_lower_ones_only_and_there_is_no_circle() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("interventions/sites.py", "from tinylab.engine.base import Engine", "interventions is not allowed to import"),
        ("measures/metrics.py", "if TYPE_CHECKING:\n    from tinylab.schema import Config", "measures is not allowed to import"),
        ("engine/reference.py", "from tinylab.engine.forked.trie import build", "is not allowed to import tinylab.engine.forked"),
        ("sweep/room.py", "from tinylab.sweep.launch import Launch", "No room has an import circle BROKEN"),
    ],
    ids=["upwards", "for types alone", "the oracle", "circle"],
)
def test_an_import_that_runs_up_or_round_is_noticed(tmp_path: Path, file: str, line: str, broken: str) -> None:
    module = a_copy(tmp_path) / "tinylab" / file
    module.write_text(f"{module.read_text()}\n\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert broken in done.stdout


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT / "tinylab")))
def test_no_function_and_no_module_is_long(file: Path) -> None:
    text = file.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}
    assert len(text.splitlines()) <= LONGEST_MODULE
