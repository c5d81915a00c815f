"""Loading results in Python: DataFrames and plain dicts, or one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import pandas as pd
import pytest

import tinylab as package
from conftest import only
from tinylab.errors import ConfigError, OutputError
from typed import SHORT, type_in, type_in_shell

HEAVY: Final = {"torch", "transformers", "pandas", "numpy", "pyarrow", "hydra", "matplotlib", "pydantic"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a sweep over two conditions was typed, verified on the way."""
    folder = tmp_path_factory.mktemp("results")
    assert type_in(folder, "-m", "condition=cond_a,cond_b", *SHORT, "verify_slice.n_examples=1") == 0
    return folder


@pytest.fixture(scope="module")
def sweep(made: Path) -> Path:
    return only(made, "outputs/sweeps/*")


def test_a_run_is_its_tables_manifest_summary_and_slice(sweep: Path) -> None:
    folder = only(sweep, "h1_cond_a_*")
    run = package.load_run(str(folder))
    assert run.manifest == json.loads((folder / "manifest.json").read_text())
    assert run.summary == json.loads((folder / "metrics/summary.json").read_text())
    assert run.verify == json.loads((folder / "metrics/verify.json").read_text())
    assert run.layer_impact is None
    assert run.head_impact is not None
    pd.testing.assert_frame_equal(run.head_impact, pd.read_parquet(folder / "metrics/head_impact.parquet"))
    pd.testing.assert_frame_equal(run.per_example, pd.read_parquet(folder / "metrics/per_example.parquet"))


def test_a_relative_path_works_and_a_trailing_slash_too(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep)
    name = only(sweep, "h1_cond_b_*").name
    assert package.load_run(f"{name}/").manifest["condition"] == "cond_b"


@pytest.mark.parametrize("ending", ["", "/", "/artifacts/cross_condition"])
def test_a_sweep_is_its_matrices_documents_and_runs(ending: str, sweep: Path) -> None:
    loaded = package.load_sweep(f"{sweep}{ending}")
    cross = sweep / "artifacts/cross_condition"
    assert loaded.layer_matrix is None
    assert loaded.head_matrix is not None
    pd.testing.assert_frame_equal(loaded.head_matrix, pd.read_parquet(cross / "head_matrix.parquet"))
    assert loaded.summary == json.loads((cross / "summary.json").read_text())
    assert loaded.invariants == json.loads((cross / "invariants.json").read_text())
    assert [run.manifest["condition"] for run in loaded.runs] == ["cond_a", "cond_b"]


def test_a_sweep_with_a_missing_run_loads_the_others(sweep: Path, tmp_path: Path) -> None:
    from tinylab import aggregate

    copy = Path(shutil.copytree(sweep, tmp_path / "copy"))
    shutil.rmtree(only(copy, "h1_cond_a_*"))
    assert aggregate.main([str(copy)]) == 3
    loaded = package.load_sweep(str(copy))
    assert [run.manifest["condition"] for run in loaded.runs] == ["cond_b"]
    assert loaded.manifest["failures"][0]["condition"] == "cond_a"


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_is_not_complete_is_refused_with_its_status(status: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"status": status}))
    with pytest.raises(OutputError, match=f"status {status}.*complete run"):
        package.load_run(str(tmp_path))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(OutputError, match="no manifest"):
            package.load_run(str(path))
        with pytest.raises(OutputError, match=str(path)):
            package.load_sweep(str(path))


def test_a_sweeps_folder_is_no_run_and_a_runs_folder_no_sweep(sweep: Path) -> None:
    with pytest.raises(OutputError, match="a sweep's folder; use load_sweep"):
        package.load_run(str(sweep))
    with pytest.raises(OutputError, match="not a sweep's folder"):
        package.load_sweep(str(only(sweep, "h1_cond_a_*")))


def test_a_pivot_of_what_a_sweep_does_not_have_is_refused_with_what_it_has(sweep: Path) -> None:
    loaded = package.load_sweep(str(sweep))
    for wrong, words in ({"metric": "logit"}, "metric=logit: not an option; did you mean 'logit_diff'?"), (
            {"columns": "conditions"}, "column=conditions: not an option; did you mean 'condition'?"), (
            {"where": {"batery": "h1"}}, "column=batery: not an option; did you mean 'battery'?"):
        with pytest.raises(ConfigError) as refused:
            loaded.pivot(**wrong)
        assert words in str(refused.value)


def test_a_sweep_that_was_not_joined_is_told_the_command(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "running", "jobs": []}))
    with pytest.raises(OutputError, match=r"python -m tinylab\.aggregate"):
        package.load_sweep(str(tmp_path))


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, tinylab\nprint(*{name.partition('.')[0] for name in sys.modules})\nassert callable(tinylab.load_sweep)"
    done = type_in_shell(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()


def test_loading_a_sweep_needs_no_torch(sweep: Path, tmp_path: Path) -> None:
    code = f"import sys, tinylab\ntinylab.load_sweep({str(sweep)!r})\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    done = type_in_shell(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
