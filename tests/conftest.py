"""What several test files share: the command line in this process, and small models made on the spot."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slurm_cluster import Cluster, NoCluster, cluster, install

Command = Callable[..., int]
has_ray = find_spec("hydra_plugins") is not None and find_spec("hydra_plugins.hydra_ray_launcher") is not None
needs_ray = pytest.mark.skipif(not has_ray, reason="the extra `ray` is not installed here; make test-ray installs it")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write the tables in docs/ that tests measure")
    parser.addoption("--device", default="cpu", help="where tests/test_families.py puts its models: cpu (the default), or cuda")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") != "cpu":
        import torch

        torch.set_default_device(config.getoption("--device"))


@pytest.fixture
def tinylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, run in this process from an empty folder; returns the exit code."""
    from tinylab.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(*args: str) -> int:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        return main(args)

    return run


@pytest.fixture(scope="session")
def machine() -> Iterator[Cluster]:
    """A cluster without accounting, as many small ones are."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        try:
            install()
            with cluster(Path(folder), accounts=False) as running:
                yield running
        except NoCluster as reason:
            pytest.skip(f"NO SLURM HERE, nothing of it was tested: {reason}")


def only(folder: Path, pattern: str) -> Path:
    """The one path under a folder that matches."""
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A corpus file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
