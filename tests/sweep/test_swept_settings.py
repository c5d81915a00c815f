"""What a sweep varies is not lost: a column of the matrix, a part of the titles, and never averaged over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import tinylab as lab
from tinylab.errors import ConfigError
from tinylab.records.tables import MATRIX_COLUMNS
from tinylab.results import Sweep
from tinylab.validate import validate_cross_condition_matrix
from typed import SHORT, type_in

CONTRACT = ["run_id", "seed", "layer", "head", "scale", "metric", "value", *MATRIX_COLUMNS]


def swept(folder: Path, *overrides: str) -> Sweep:
    assert type_in(folder, "-m", *SHORT, *overrides) == 0
    (sweep,) = folder.glob("outputs/sweeps/*")
    return lab.load_sweep(str(sweep))


@pytest.fixture(scope="module")
def biases(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Both conventions of the value bias, on two conditions."""
    return swept(tmp_path_factory.mktemp("biases"), "condition=cond_a,cond_b", "battery.keep_value_bias=false,true")


def test_a_swept_setting_is_a_column_behind_those_of_the_contract(biases: Sweep) -> None:
    matrix = biases.head_matrix
    assert matrix is not None
    assert list(matrix.columns) == [*CONTRACT, "battery.keep_value_bias"]
    assert set(matrix["battery.keep_value_bias"]) == {"false", "true"}
    assert matrix.groupby("run_id")["battery.keep_value_bias"].nunique().eq(1).all()
    validate_cross_condition_matrix(matrix, ["cond_a", "cond_b"])


def test_a_pivot_over_a_hidden_setting_is_refused_and_says_how_to_choose(biases: Sweep) -> None:
    with pytest.raises(ConfigError) as refused:
        biases.pivot("logit_diff")
    assert "battery.keep_value_bias (false, true) too, and would be averaged" in str(refused.value)
    assert "columns=['condition', 'battery.keep_value_bias']" in str(refused.value)
    assert "where={'battery.keep_value_bias': 'false'}" in str(refused.value)


def test_a_pivot_that_tells_settings_apart_has_every_runs_own_numbers(biases: Sweep) -> None:
    both = biases.pivot("logit_diff", columns=["condition", "battery.keep_value_bias"])
    for run in biases.runs:
        table = run.impact.query("metric == 'logit_diff'").set_index(["layer", "head", "scale"])["value"]
        kept = str(run.manifest["battery"]["keep_value_bias"]).lower()
        pd.testing.assert_series_equal(both[run.manifest["condition"], kept], table.sort_index(), check_names=False)
        chosen = biases.pivot("logit_diff", where={"battery.keep_value_bias": kept})[run.manifest["condition"]]
        pd.testing.assert_series_equal(chosen, table.sort_index(), check_names=False)


def test_runs_with_different_settings_are_groups_with_titles_of_their_own(biases: Sweep) -> None:
    groups = biases.invariants["groups"]
    assert [group["conditions"] for group in groups] == [["cond_a", "cond_b"]] * 2
    assert [group["described"] for group in groups] == ["h1, head × 0, layers [0]", "h1, head × 0, value bias kept, layers [0]"]


def test_two_granularities_have_two_titles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = swept(tmp_path, "battery=h2", "battery.granularity=mlp_out,layer_resid", "condition=cond_a,cond_b")
    titles = [line for line in capsys.readouterr().out.splitlines() if "with one sign in every condition (" in line]
    assert len(set(titles)) == len(titles) == 2
    assert sweep.layer_matrix is not None
    assert list(sweep.layer_matrix.columns[-1:]) == ["battery.granularity"]


def test_a_sweep_over_conditions_alone_has_the_contracts_columns_and_pivots(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "condition=cond_a,cond_b")
    assert sweep.head_matrix is not None
    assert list(sweep.head_matrix.columns) == CONTRACT
    assert list(sweep.pivot("logit_diff").columns) == ["cond_a", "cond_b"]


@pytest.mark.parametrize("setting", ["engine=forked,reference", "condition.n_examples=2,4", "seeds=[0],[1,2]"])
def test_any_setting_makes_a_column(setting: str, tinylab: Callable[..., int]) -> None:
    assert tinylab("-m", *SHORT[1:], "condition=cond_a", *(["condition.n_examples=3"] if "n_examples" not in setting else []),
                   setting) == 0
    (matrix,) = Path("outputs/sweeps").glob("*/artifacts/cross_condition/head_matrix.parquet")
    key, values = setting.split("=")
    found = pd.read_parquet(matrix)
    assert list(found.columns) == [*CONTRACT, key]
    assert found[key].nunique() == 2
