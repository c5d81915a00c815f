"""Commands in poor surroundings: no home, few files, another umask, no UTF-8, no docstrings, no standard output."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd

from conftest import only
from typed import SHORT, type_in, type_in_shell

SWEEP = ("-m", "condition=cond_a,cond_b", *SHORT, "threads=1")


def poorly(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command whose process has 64 files, no home, an ASCII locale, and lets nobody else read what it writes."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent.parent), "LC_ALL": "C"}
    limits = "ulimit -n 64; umask 077; "
    return subprocess.run(["bash", "-c", limits + command], cwd=folder, env=own, capture_output=True, text=True, encoding="utf-8",
                          timeout=120, check=False)


def test_a_sweep_in_poor_surroundings_has_the_same_numbers(tmp_path: Path) -> None:
    (tmp_path / "poor").mkdir()
    (tmp_path / "rich").mkdir()
    typed = " ".join(SWEEP)
    done = poorly(tmp_path / "poor", f"{sys.executable} -m tinylab {typed}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert type_in(tmp_path / "rich", *SWEEP) == 0
    poor, rich = (only(tmp_path, f"{desk}/outputs/sweeps/*") for desk in ("poor", "rich"))
    matrices = [pd.read_parquet(sweep / "artifacts/cross_condition/head_matrix.parquet") for sweep in (poor, rich)]
    pd.testing.assert_frame_equal(*matrices, check_exact=True)
    modes = {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in poor.rglob("*")}
    assert modes == {0}


def test_without_docstrings_the_sentence_names_transformers_and_not_the_model(tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, "-OO", "-m", "tinylab", "condition=facts")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "docstrings that transformers reads" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_needs_no_docstrings(tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, "-OO", "-m", "tinylab", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "== Groups" in done.stdout


def test_a_closed_standard_output_changes_neither_the_run_nor_the_exit_code(tmp_path: Path) -> None:
    done = poorly(tmp_path, f"{sys.executable} -m tinylab {' '.join(SHORT)} threads=1 >&-")
    assert done.returncode == 0, done.stderr
    assert json.loads(only(tmp_path, "outputs/runs/*/manifest.json").read_text())["status"] == "complete"
