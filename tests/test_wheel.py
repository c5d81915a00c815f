"""The built wheel works from an empty folder, with its own configs, model and corpora."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import tinylab
from conftest import only

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*install, str(only(tmp_path, "*.whl"))], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import tinylab.config.composing as c; print(c.config_folder())"],
        cwd=empty, env=environment, capture_output=True, text=True, check=True,
    )
    assert where.stdout.strip() == str(site / "tinylab/conf")
    run = subprocess.run(
        [sys.executable, "-m", "tinylab", "condition.n_examples=4"],
        cwd=empty, env=environment, capture_output=True, text=True, check=False,
    )
    assert run.returncode == 0, run.stderr
    manifest = only(empty, "outputs/runs/*/manifest.json")
    program = subprocess.run(
        [site / "bin/tinylab", "list", "runs"], cwd=empty, env=environment, capture_output=True, text=True, check=False,
    )
    assert program.returncode == 0 and manifest.parent.name in program.stdout, program.stderr


def test_an_extra_is_installed_by_the_name_of_the_distribution_alone() -> None:
    """What PyPI has as `tinylab` is another project."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    extra = re.compile(r"(?<![.\w])([a-z][\w-]*)\[(?:report|gguf|large|slurm|xarray|bitsandbytes|ray)\]")
    folders = {"tinylab": "py", "conf": "yaml", "docs": "md"}
    files = [ROOT / "README.md", *(file for folder, kind in folders.items() for file in (ROOT / folder).rglob(f"*.{kind}"))]
    named = {found for file in files for found in extra.findall(file.read_text(encoding="utf-8"))}
    assert named == {name}


def test_one_version_is_said_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == citation["version"] == tinylab.__version__
    assert project["license"] == citation["license"]
