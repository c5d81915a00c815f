"""A matrix is its runs' tables one after the other, and only a few of them are in memory at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.aggregate import Shape, make_sweep
from tinylab.effects.strength import Ranking
from tinylab.errors import OutputError
from tinylab.interventions.components import HEAD_IMPACT
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json
from tinylab.records.tables import impact_columns, matrix_columns, schema
from tinylab.sweep import joining
from tinylab.sweep.aggregate import Settings, aggregate
from tinylab.sweep.artifacts import groups
from tinylab.sweep.joining import Child, join

SHAPE: Final = Shape(layers=2, heads=3)
RUNS: Final = 11
PER_GROUP: Final = 4
LABELS: Final = {
    "model": "made up", "battery": "h1", "device": "cpu", "dtype": "float32", "direction": "none", "positions": "all",
}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up sweep whose matrix has four runs to a row group."""
    monkeypatch.setattr(joining, "GROUP_ROWS", PER_GROUP * SHAPE.rows)
    make_sweep(tmp_path / "sweep", RUNS, SHAPE)
    return tmp_path / "sweep"


@pytest.fixture
def children(sweep: Path) -> list[Child]:
    folders = [RunFolder(sweep / job["folder"]) for job in read_json(sweep / "manifest.json")["jobs"]]
    return [Child(folder, read_json(folder.manifest), read_json(folder.file("summary"))) for folder in folders]


def tables(children: list[Child]) -> Iterator[pa.Table]:
    """Every run's table and its labels, put together by hand."""
    for child in children:
        own = pq.read_table(child.folder.file("head_impact"))
        for name, label in {"condition": child.manifest["condition"], **LABELS}.items():
            own = own.append_column(name, pa.array([label] * len(own)))
        yield own


def test_the_matrix_is_exactly_the_runs_tables_in_their_order(children: list[Child], tmp_path: Path) -> None:
    join(tmp_path / "m.parquet", children)
    joined = pq.read_table(tmp_path / "m.parquet")
    assert joined.equals(pa.concat_tables(tables(children)))
    assert joined.schema.equals(schema(matrix_columns(HEAD_IMPACT), HEAD_IMPACT), check_metadata=True)
    assert joined.column_names == [*impact_columns(HEAD_IMPACT), "condition", *LABELS]
    assert len(joined) == RUNS * SHAPE.rows


def test_runs_lie_whole_in_row_groups_of_a_bounded_number_of_rows(children: list[Child], tmp_path: Path) -> None:
    matrix = join(tmp_path / "m.parquet", children)
    assert [len(rows) for rows in matrix.rows] == [4, 4, 3]
    stored = pq.ParquetFile(tmp_path / "m.parquet").metadata
    assert [stored.row_group(at).num_rows for at in range(stored.num_row_groups)] == [sum(rows) for rows in matrix.rows]


def test_a_runs_number_in_the_matrix_is_its_place_among_the_runs(children: list[Child], tmp_path: Path) -> None:
    matrix = join(tmp_path / "m.parquet", children)
    numbered = pa.concat_tables(matrix.parts(["run_id", "metric"]))
    expected = [child.manifest["run_id"] for child in children]
    assert numbered["run_id"].to_pylist() == [expected[run] for run in numbered["run"].to_pylist()]
    assert pc.count_distinct(numbered["run"]).as_py() == RUNS


def test_no_more_tables_are_in_memory_than_a_row_group_holds(
    children: list[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[weakref.ref[pa.Table]] = []
    held = []
    read = Child.table

    def counted(child: Child) -> pa.Table:
        table = read(child)
        tables.append(weakref.ref(table))
        held.append(sum(other() is not None for other in tables))
        return table

    monkeypatch.setattr(Child, "table", counted)
    join(tmp_path / "m.parquet", children)
    assert held == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]


def test_a_table_larger_than_a_row_group_is_joined_too(
    children: list[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "GROUP_ROWS", 1)
    assert join(tmp_path / "m.parquet", children).rows == [[SHAPE.rows]] * RUNS
    assert pq.read_table(tmp_path / "m.parquet").equals(pa.concat_tables(tables(children)))


@pytest.mark.parametrize("fault", ["no parquet", "cut off", "a column less"])
def test_a_table_that_cannot_be_read_is_named_and_the_old_matrix_stays(fault: str, children: list[Child], tmp_path: Path) -> None:
    matrix = tmp_path / "matrix/m.parquet"
    join(matrix, children[:1])
    before = matrix.read_bytes()
    broken = children[6].folder.file("head_impact")
    if fault == "no parquet":
        broken.write_text("hello")
    elif fault == "cut off":
        broken.write_bytes(broken.read_bytes()[:200])
    else:
        pq.write_table(pq.read_table(broken).drop_columns(["value"]), broken)
    with pytest.raises(OutputError, match=f"{broken}: cannot be read .*overwrite=true"):
        join(matrix, children)
    assert matrix.read_bytes() == before
    assert list(matrix.parent.iterdir()) == [matrix]


def test_the_invariants_of_a_sweep_of_several_row_groups_are_those_of_its_tables(sweep: Path, children: list[Child]) -> None:
    settings = Settings(k=4, metrics=("logit_diff", "p_drop"))
    assert aggregate(sweep, settings)["status"] == "complete"
    found = read_json(sweep / "artifacts/cross_condition/invariants.json")["per_metric"]["heads"]
    for metric in settings.metrics:
        tops = []
        for child in children:
            rows = pq.read_table(child.folder.file("head_impact")).to_pandas().query("metric == @metric")
            change = (rows.groupby(["layer", "head"])["value"].mean() - child.baselines[metric]).abs()
            tops.append(change.sort_values(ascending=False, kind="stable").index[:4].tolist())
        assert [[(one["layer"], one["head"]) for one in top] for top in found[metric]["top_k"].values()] == tops
        common = sorted(set.intersection(*map(set, tops)))
        assert [(one["layer"], one["head"]) for one in found[metric]["heads"]] == common
        assert len(np.unique([top[0] for top in tops], axis=0)) > 1  # the runs do differ


def changed(child: Child, **provenance: Any) -> Child:
    """The same run, as if computed in another way."""
    return replace(child, manifest={**child.manifest, "provenance": {**child.manifest["provenance"], **provenance}})


def test_a_patched_runs_baselines_are_those_of_its_unmodified_target_run(children: list[Child]) -> None:
    """Of clean->corrupt patching, the corrupt run: what the invariants reckon changes from."""
    told = {"clean": {"logit_diff": {"mean": 3.0}}, "corrupt": {"logit_diff": {"mean": -2.0}}}
    for target, mean in (("clean", 3.0), ("corrupt", -2.0)):
        child = replace(children[0], summary={"baselines": told}, manifest={**children[0].manifest, "target_run": target})
        assert child.baselines == {"logit_diff": mean}


def test_runs_that_differ_in_more_than_their_condition_are_groups_of_their_own(children: list[Child]) -> None:
    model = children[0].manifest["provenance"]["model"]
    others = [{"dtype": "bfloat16"}, {"device": "mps"}, *({"model": {**model, key: "other"}} for key in ("digest", "name"))]
    some = [*children[:2], *(changed(children[2], **other) for other in others)]
    rankings: dict[Path, dict[str, Ranking]] = {child.folder.path: {} for child in some}
    assert sorted(len(group.runs) for group in groups(some, rankings)) == [1, 1, 1, 1, 2]
