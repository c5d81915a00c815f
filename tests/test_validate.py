"""Good input passes, each broken contract is named. Tables come from real runs, read by pandas, polars and pyarrow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinylab import validate
from tinylab.app import main
from tinylab.errors import SchemaError

Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of both batteries over two conditions, with a verify slice."""
    folder = tmp_path_factory.mktemp("validate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ["condition.n_examples=4", "battery.layers=[0,1]", "seeds=[0,1]", "+verify_slice.n_examples=2"]
        assert main(["-m", "battery=h1,h2", "condition=cond_a,cond_b", *options]) == 0
    return next((folder / "outputs/sweeps").iterdir())


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The effects of a run that has labels, and of a metric that has none."""
    folder = tmp_path_factory.mktemp("effects")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["condition.n_examples=16", "battery.layers=[0]", "metrics=[logit_diff,kl_div]", "plots=false"]) == 0
    return next(folder.glob("outputs/runs/*/metrics/effects.parquet"))


def table(sweep: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(next(sweep.glob(f"**/{name}.parquet")))


def document(sweep: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(next(sweep.glob(f"**/{name}.json")).read_text())
    return content


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "pandas": pd.read_parquet,
    "pandas with arrow types": lambda path: pd.read_parquet(path, dtype_backend="pyarrow"),
    "pandas with nullable types": lambda path: pd.read_parquet(path, dtype_backend="numpy_nullable"),
    "pyarrow": lambda path: pq.read_table(path).to_pandas(),
    "polars": lambda path: pl.read_parquet(path).to_pandas(),
    "as pandas 2 reads text": lambda path: pd.read_parquet(path).astype({"run_id": object, "metric": object}),
}


@pytest.mark.parametrize("reader", READERS)
def test_effects_are_valid_whoever_reads_them(effects: Path, sweep: Path, reader: str) -> None:
    if reader == "as pandas 2 reads text":
        validate.validate_effects_schema(pd.read_parquet(effects).astype({"metric": object, "label": object}))
    else:
        validate.validate_effects_schema(READERS[reader](effects))
        for file in sweep.glob("**/effects.parquet"):  # layers too, and cells without labels
            validate.validate_effects_schema(READERS[reader](file))


def test_effects_where_a_count_is_undefined_are_valid(effects: Path) -> None:
    """As where recovery is undefined: pandas then has whole numbers as floats."""
    table = pq.read_table(effects)
    place = table.column_names.index("templates_opposite")
    lacking = pa.array([None, *table["templates_opposite"].to_pylist()[1:]], pa.int64())
    some = table.set_column(place, "templates_opposite", lacking).to_pandas()
    assert some["templates_opposite"].dtype == "float64"
    validate.validate_effects_schema(some)
    with pytest.raises(SchemaError, match="column 'templates_opposite' is float64, expected int64"):
        validate.validate_effects_schema(some.assign(templates_opposite=some["templates_opposite"] + 0.5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda df: df.drop(columns="ci_low"), "missing ['ci_low']"),
        (lambda df: df.assign(more=1), "not expected ['more']"),
        (lambda df: df[[*df.columns[1:], df.columns[0]]], "out of order"),
        (lambda df: df.assign(n=df["n"].astype(float)), "column 'n' is float64"),
        (lambda df: df.assign(label=df["label"].replace("matters", "important")), "label ['important']"),
        (lambda df: df.assign(ci_low=df["ci_high"] + 1), "effect is not between ci_low and ci_high"),
        (lambda df: df.assign(simultaneous_high=df["simultaneous_low"] - 1), "between simultaneous_low and simultaneous_high"),
        (lambda df: df.assign(p_holm=1.5), "column 'p_holm' has a number that is not from 0 to 1"),
        (lambda df: df.assign(se=float("inf")), "column 'se' has values that are not finite"),
        (lambda df: df.assign(nonzero="yes"), "column 'nonzero' is"),
        (lambda df: pd.concat([df, df.head(1)]), "a cell is there twice"),
        (lambda df: df.head(0), "no rows"),
    ],
)
def test_each_broken_rule_of_effects_is_named(effects: Path, change: Change, words: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(words)):
        validate.validate_effects_schema(change(pd.read_parquet(effects)))


@pytest.mark.parametrize("reader", READERS)
def test_what_a_sweep_writes_is_valid_whoever_reads_it(sweep: Path, reader: str) -> None:
    read = READERS[reader]
    validate.validate_head_impact_schema(read(next(sweep.glob("**/head_impact.parquet"))))
    validate.validate_layer_impact_schema(read(next(sweep.glob("**/layer_impact.parquet"))))
    for matrix in ("head_matrix", "layer_matrix"):
        validate.validate_cross_condition_matrix(read(next(sweep.glob(f"**/{matrix}.parquet"))), ["cond_a", "cond_b"])


def test_what_a_sweep_writes_as_json_is_valid(sweep: Path) -> None:
    validate.validate_invariants_json(document(sweep, "invariants"))
    validate.validate_verify_json(document(sweep, "verify"))


def first_value_missing(df: pd.DataFrame) -> pd.DataFrame:
    df.loc[0, "value"] = None
    return df


BROKEN_TABLES: dict[str, tuple[Change, str]] = {
    "a column missing": (lambda df: df.drop(columns="head"), "missing .'head'."),
    "a column in excess": (lambda df: df.assign(extra=1), "not expected .'extra'."),
    "columns out of order": (lambda df: df[[*df.columns[::-1]]], "out of order"),
    "numbers as text": (lambda df: df.assign(value=df["value"].astype(str)), "'value' is .*, expected double"),
    "layers as floats": (lambda df: df.assign(layer=df["layer"].astype(float)), "'layer' is float64, expected int64"),
    "text as numbers": (lambda df: df.assign(metric=1), "'metric' is int64, expected string"),
    "a missing value": (first_value_missing, "'value' has 1 missing"),
    "an infinite value": (lambda df: df.assign(value=float("inf")), "not finite"),
    "a negative layer": (lambda df: df.assign(layer=-1), "negative number, -1"),
    "a cell twice": (lambda df: pd.concat([df, df.head(1)], ignore_index=True), "is there twice: run_id="),
    "no rows": (lambda df: df.head(0), "no rows"),
}


@pytest.mark.parametrize("fault", BROKEN_TABLES)
def test_a_broken_head_table_is_refused_with_its_fault(sweep: Path, fault: str) -> None:
    change, message = BROKEN_TABLES[fault]
    with pytest.raises(SchemaError, match=message):
        validate.validate_head_impact_schema(change(table(sweep, "head_impact")))


def test_an_unknown_granularity_is_refused(sweep: Path) -> None:
    with pytest.raises(SchemaError, match="granularity .'everything'., expected layer_resid"):
        validate.validate_layer_impact_schema(table(sweep, "layer_impact").assign(granularity="everything"))


@pytest.mark.parametrize("conditions", [["cond_a"], ["cond_a", "cond_b", "cond_c"], []])
def test_a_matrix_with_other_conditions_is_refused(sweep: Path, conditions: list[str]) -> None:
    with pytest.raises(SchemaError, match="got conditions .'cond_a', 'cond_b'., expected"):
        validate.validate_cross_condition_matrix(table(sweep, "head_matrix"), conditions)


def test_a_matrix_without_conditions_is_refused(sweep: Path) -> None:
    with pytest.raises(SchemaError, match="no column 'condition'"):
        validate.validate_cross_condition_matrix(table(sweep, "head_impact"), ["cond_a"])


BROKEN_VERIFY: dict[str, tuple[Change, str]] = {
    "no device": (lambda d: d.pop("device_verify"), "device_verify is missing, expected a name"),
    "no examples": (lambda d: d.update(n_examples=0), "n_examples is 0"),
    "no metrics": (lambda d: d.update(metrics={}), "metrics is {}"),
    "a metric without its difference": (lambda d: d["metrics"]["logit_diff"].pop("abs_diff"), "abs_diff is missing, expected"),
    "a difference that is none": (lambda d: d["metrics"]["logit_diff"].update(abs_diff=7.0), "abs_diff is 7.0, expected .main"),
    "not a number": (lambda d: d["metrics"]["logit_diff"].update(main=float("nan")), "main is nan"),
    "no tolerance": (lambda d: d.pop("tolerance"), "tolerance is missing, expected a number of at least 0"),
    "no verdict": (lambda d: d.update(verdict="maybe"), "verdict is 'maybe'"),
}


@pytest.mark.parametrize("fault", BROKEN_VERIFY)
def test_a_broken_verify_json_is_refused_with_its_fault(sweep: Path, fault: str) -> None:
    change, message = BROKEN_VERIFY[fault]
    data = document(sweep, "verify")
    change(data)
    with pytest.raises(SchemaError, match=message):
        validate.validate_verify_json(data)


BROKEN_INVARIANTS: dict[str, tuple[Change, str]] = {
    "no k": (lambda d: d.pop("k"), "k is missing, expected a whole number of at least 1"),
    "k as a truth value": (lambda d: d.update(k=True), "k is True"),
    "no metrics": (lambda d: d.update(metrics=[]), "metrics is .."),
    "an unknown rank": (lambda d: d.update(rank="loudest"), "rank is 'loudest', expected one of magnitude"),
    "another set": (lambda d: d.update(set="most"), "set is 'most', expected one of partial_conjunction"),
    "a head without its layer": (lambda d: d.update(heads=[{"head": 1}]), "heads.0.layer is missing"),
    "a layer that is text": (lambda d: d.update(layers=["1"]), "layers.0 is '1', expected a whole number"),
    "a head twice": (lambda d: d.update(heads=[{"layer": 0, "head": 1}] * 2), "heads is .*, expected no duplicates"),
    "more than k": (lambda d: d.update(set="intersection", k=1, heads=[], layers=[0, 1]),
                    "layers is .0, 1., expected at most k=1 components"),
    "no groups": (lambda d: d.pop("groups"), "groups is missing, expected a list"),
}


@pytest.mark.parametrize("fault", BROKEN_INVARIANTS)
def test_a_broken_invariants_json_is_refused_with_its_fault(sweep: Path, fault: str) -> None:
    change, message = BROKEN_INVARIANTS[fault]
    data = document(sweep, "invariants")
    change(data)
    with pytest.raises(SchemaError, match=message):
        validate.validate_invariants_json(data)


def test_keys_of_a_later_version_are_let_pass(sweep: Path) -> None:
    verify, invariants = document(sweep, "verify"), document(sweep, "invariants")
    verify["metrics"]["logit_diff"]["from_tomorrow"] = invariants["from_tomorrow"] = [1]
    validate.validate_verify_json(verify)
    validate.validate_invariants_json(invariants)


@pytest.mark.parametrize("broken", [None, [], {"seed": [0]}])
def test_what_is_no_frame_is_one_sentence(broken: object) -> None:
    for check in (validate.validate_head_impact_schema, validate.validate_layer_impact_schema):
        with pytest.raises(SchemaError, match="expected a pandas DataFrame"):
            check(broken)  # type: ignore[arg-type]
    for data in (broken, [], 3, {"metrics": {"logit_diff": 3}}):
        for read in (validate.validate_verify_json, validate.validate_invariants_json):
            with pytest.raises(SchemaError):
                read(data)  # type: ignore[arg-type]


def test_a_column_that_stands_twice_is_refused(sweep: Path) -> None:
    df = table(sweep, "head_matrix")
    with pytest.raises(SchemaError, match="duplicate columns, condition"):
        validate.validate_cross_condition_matrix(pd.concat([df, df[["condition"]]], axis=1), ["cond_a", "cond_b"])
