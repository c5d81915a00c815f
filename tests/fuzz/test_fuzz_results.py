"""Files of finished runs and sweeps of any content: readers answer in one sentence, and other finished work stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import answered, broken, changed, in_time, seeded
from hypothesis import given
from hypothesis import strategies as st

from conftest import only
from tinylab.aggregate import main as aggregate
from tinylab.errors import TinylabError
from tinylab.results import load_run, load_sweep

pytestmark = pytest.mark.fuzz
SWEEP = ("-m", "condition=facts,negation", "condition.n_examples=2", "battery.layers=[0]", "plots=false", "threads=1")
RUN_FILES = ("manifest.json", "config.yaml", "metrics/summary.json", "metrics/head_impact.parquet", "metrics/per_example.parquet")
SWEEP_FILES = ("manifest.json", "artifacts/cross_condition/summary.json", "artifacts/cross_condition/invariants.json",
               "artifacts/cross_condition/head_matrix.parquet")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep of two runs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        from tinylab.app import main

        assert main(SWEEP) == 0
    return folder


def damage(data: st.DataObject, file: Path) -> None:
    content = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(content)))).encode("utf-8", "surrogatepass")
    else:
        content = data.draw(broken(content))
    file.write_bytes(content)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> bool:
    """Bit for bit: what loads has to be what was written."""
    return found.equals(expected) or bool(np.all(found.to_numpy() == expected.to_numpy()))


@given(data=st.data())
@seeded(300)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_run_loads_as_it_was_or_not_at_all(
    name: str, data: st.DataObject, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = only(whole, "outputs/sweeps/*/h1_facts_*")
    copy = tmp_path_factory.mktemp("run") / run.name
    shutil.copytree(run, copy)
    damage(data, copy / name)
    expected = load_run(run)
    with in_time():
        try:
            found = load_run(copy)
        except TinylabError as error:
            assert "\n" not in str(error)
            return
    assert same(found.impact, expected.impact)
    assert same(found.per_example, expected.per_example)


@given(data=st.data())
@seeded(150)
@pytest.mark.parametrize("name", SWEEP_FILES)
def test_a_damaged_sweep_loads_as_it_was_or_not_at_all(
    name: str, data: st.DataObject, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sweep = only(whole, "outputs/sweeps/*")
    copy = tmp_path_factory.mktemp("sweep") / sweep.name
    shutil.copytree(sweep, copy)
    damage(data, copy / name)
    expected = load_sweep(sweep)
    with in_time():
        try:
            found = load_sweep(copy)
        except TinylabError as error:
            assert "\n" not in str(error)
            return
    assert found.head_matrix is not None and expected.head_matrix is not None
    assert same(found.head_matrix, expected.head_matrix)


@given(data=st.data())
@seeded(8)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_sweep_with_a_damaged_run_is_mended_by_the_same_command(
    name: str, data: st.DataObject, whole: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The join names the job and keeps the other; the same command computes what is broken, and the tables are what they were."""
    copy = tmp_path_factory.mktemp("again")
    shutil.copytree(whole / "outputs", copy / "outputs")
    damage(data, only(copy, "outputs/sweeps/*/h1_facts_*") / name)
    sweep = only(copy, "outputs/sweeps/*")
    other = (only(sweep, "h1_negation_*") / "metrics/head_impact.parquet").read_bytes()
    with in_time():
        assert aggregate([str(sweep)]) in {0, 3}
    assert "Traceback" not in "".join(capsys.readouterr())
    code = answered(capsys, copy, *SWEEP)
    run = only(sweep, "h1_facts_*")
    if code == 3:  # what is there says that it is another run, as after two folders were swapped: it is named and left alone
        assert name == "manifest.json" and not run.name.endswith(json.loads((run / name).read_text())["run_id"])
        return
    assert code == 0
    assert (only(sweep, "h1_negation_*") / "metrics/head_impact.parquet").read_bytes() == other
    expected = load_sweep(only(whole, "outputs/sweeps/*")).head_matrix
    found = load_sweep(sweep).head_matrix
    assert expected is not None and found is not None and same(found, expected)
