"""What several test files share: the command line in this process, and small models made on the spot."""

from __future__ import annotations

import gc
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import validation
from slurm_cluster import Cluster, NoCluster, cluster, install

Command = Callable[..., int]
Within = Callable[[str, float, float], None]
has_ray = find_spec("hydra_plugins") is not None and find_spec("hydra_plugins.hydra_ray_launcher") is not None
REAL = Path(os.environ.get("TINYLAB_REAL_MODELS", Path(__file__).parents[1] / ".real-models"))
needs_ray = pytest.mark.skipif(not has_ray, reason="the extra `ray` is not installed here; make test-ray installs it")

REAL = Path(os.environ.get("TINYLAB_REAL_MODELS", Path(__file__).parents[1] / ".real-models"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write the tables in docs/ that tests measure")
    parser.addoption("--device", default="cpu", help="where test_families.py puts its models: cpu (the default), or cuda")


def pytest_configure(config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):  # threads of two processes on the same cores wait for each other
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    kept = tempfile.TemporaryDirectory(prefix="tinylab-cache-")  # never the user's; for commands that tests start, too
    os.environ["TINYLAB_CACHE"] = kept.name
    config.add_cleanup(kept.cleanup)
    if config.getoption("--device") != "cpu":
        import torch

        torch.set_default_device(config.getoption("--device"))


def pytest_collection_finish() -> None:
    """Garbage is looked for among what tests make, not among all that their imports have made."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    measured = session.config.stash.get(validation.KEPT, {})
    if session.config.getoption("--write-docs") and exitstatus == pytest.ExitCode.OK and measured:
        validation.write(measured)


@pytest.fixture
def within(pytestconfig: pytest.Config) -> Within:
    """Assert that a difference is no larger than allowed; the largest of each of `validation.CLAIMS` is kept for the docs."""
    kept = pytestconfig.stash.setdefault(validation.KEPT, {})

    def check(claim: str, difference: float, allowed: float) -> None:
        before = kept[claim].largest if claim in kept else 0.0
        assert claim in validation.CLAIMS
        kept[claim] = validation.Measured(max(before, float(difference)), allowed)
        assert difference <= allowed

    return check


@pytest.fixture(params=("gpt2", "gpt_neox", "llama", "opt", "gemma3"))
def name(request: pytest.FixtureRequest) -> str:
    """A family of `tests/families.py`, of those that differ in what matters to engines; `test_families.py` has all of them."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_log_of_an_earlier_command() -> Iterator[None]:
    """Hydra points the root logger at a file in the run's folder, which may be gone by the next test."""
    before = list(logging.getLogger().handlers)
    yield
    for handler in set(logging.getLogger().handlers) - set(before):
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True, scope="session")
def each_choice_of_configs_is_composed_once() -> Iterator[None]:
    """Commands of tests compose the same files over and over (`remembered.py`)."""
    from remembered import remembered

    with remembered():
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_waits_for_a_disk() -> Iterator[None]:
    """What is written survives no power cut, and no test waits for a disk that others use too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_page_for_every_sweep() -> Iterator[None]:
    """Sweeps of tests write no report.html, which would take them minutes together, unless a test asks for `pages`."""
    from tinylab.report.page import document

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "PACKAGES", ("no_page_in_tests",))
        yield


@pytest.fixture(scope="module")
def pages(no_page_for_every_sweep: None) -> Iterator[None]:
    """Sweeps of this module write report.html, as they do for users."""
    from tinylab.report.page import document

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "PACKAGES", ("altair", "jinja2", "vl_convert"))
        yield


@pytest.fixture
def tinylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, run in this process from an empty folder; returns the exit code."""
    from tinylab.program import main

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


@pytest.fixture
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: 30 layers × 9 heads, no BOS, a chat template (`make real-models`)."""
    return REAL / "smollm2"


@pytest.fixture
def gemma3() -> Path:
    """Gemma 3 270M: 18 layers × 4 heads, sliding windows, BOS, 262,144 words (`make real-models`)."""
    return REAL / "gemma3"


def only(folder: Path, pattern: str) -> Path:
    """The one path under a folder that matches."""
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A corpus file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
