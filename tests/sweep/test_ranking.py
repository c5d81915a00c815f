"""Ranking many runs at once is ranking each alone, the plain way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylab.config.groups import RANKS
from tinylab.effects.strength import Ranking
from tinylab.interventions.components import HEAD_IMPACT, TABLE_KINDS, TableKind
from tinylab.records.tables import impact_columns, schema
from tinylab.sweep.joining import Matrix
from tinylab.sweep.ranking import rank_matrix

METRICS = ("logit_diff", "kl_div", "recovery")


@dataclass(frozen=True)
class Run:
    """An impact table, and the metrics of its unmodified target run."""

    table: pd.DataFrame
    baselines: dict[str, float]


@st.composite
def runs(draw: st.DrawFn, kind: TableKind) -> list[Run]:
    """Runs of models of several sizes, with few distinct values so that many tie, and with undefined cells left out."""
    return [_run(draw, kind, number) for number in range(draw(st.integers(1, 6)))]


def _run(draw: st.DrawFn, kind: TableKind, number: int) -> Run:
    choices: dict[str, list[object]] = {
        "seed": list(range(draw(st.integers(1, 3)))),
        "metric": draw(st.lists(st.sampled_from(METRICS), min_size=1, unique=True)),
        "layer": list(range(draw(st.integers(1, 3)))),
        "head": list(range(draw(st.integers(1, 4)))),
        "neuron": [7, 11, 400],
        **{name: list(range(draw(st.integers(1, 2)))) for name in ("layer1", "head1", "layer2", "head2")},
        "set": list(range(draw(st.integers(1, 3)))),
        "scale": draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, unique=True)),
        "granularity": ["mlp_out"],
    }
    used = {name: values for name, values in choices.items() if name in impact_columns(kind)}
    rows = pd.MultiIndex.from_product(used.values(), names=used.keys()).to_frame(index=False)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rows.assign(run_id=f"run {number}", value=rng.integers(-3, 4, len(rows)) / 10)
    defined = rng.random(len(rows)) < draw(st.sampled_from([0.5, 1.0]))
    return Run(rows[defined], {metric: rng.integers(-2, 3) / 10 for metric in METRICS})


def stored(file: Path, kind: TableKind, tables: list[pd.DataFrame], per_group: int) -> Matrix:
    """The impact tables one after the other, so many runs to a row group."""
    columns = schema(impact_columns(kind), kind)
    groups = [tables[at:at + per_group] for at in range(0, len(tables), per_group)]
    with pq.ParquetWriter(file, columns) as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pandas(pd.concat(group), columns, preserve_index=False), 2**20)
    return Matrix(file, [[len(one) for one in group] for group in groups])


def plainly(run: Run, kind: TableKind, metric: str, rank: str, k: int) -> Ranking | None:
    """What the ranking of one run means."""
    chosen = run.table[run.table["metric"] == metric]
    if chosen.empty:
        return None
    component = list(kind.component)
    values = chosen.groupby([*component, "scale"] if "scale" in chosen else component)["value"].mean()
    change = (values - run.baselines[metric]).abs()
    by_rank = {"magnitude": change, "highest": values, "lowest": -values}[rank]
    score = {place if isinstance(place, tuple) else (place,): of.max() for place, of in by_rank.groupby(component)}
    size = {place if isinstance(place, tuple) else (place,): of.max() for place, of in change.groupby(component)}
    least = 1e-6 * max(1, abs(run.baselines[metric]))
    ordered = sorted((place for place in score if size[place] > least), key=lambda place: (-score[place], place))
    tied = sum(score[place] == score[ordered[k - 1]] for place in ordered[k:])
    return Ranking(ordered[:k], len(score), tied, dict(Counter(place[0] for place in score)))


@pytest.mark.parametrize("kind", TABLE_KINDS.values(), ids=TABLE_KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_ranking_runs_together_is_ranking_each_alone(
    kind: TableKind, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    some, rank = data.draw(runs(kind)), data.draw(st.sampled_from(RANKS))
    k, per_group = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    matrix = stored(tmp_path_factory.getbasetemp() / "ranked.parquet", kind, [run.table for run in some], per_group)
    found = rank_matrix(matrix, kind, [run.baselines for run in some], metrics=METRICS, rank=rank, k=k)
    alone = [{metric: plainly(run, kind, metric, rank, k) for metric in METRICS} for run in some]
    assert found == [{metric: own for metric, own in each.items() if own is not None} for each in alone]


def test_a_run_that_lacks_a_metric_needs_no_baseline_of_it_and_has_no_ranking_by_it(tmp_path: Path) -> None:
    rows = pd.DataFrame({"run_id": "r", "seed": 0, "layer": [0, 1], "head": 0, "scale": 0.0, "metric": METRICS[:2], "value": 1.0})
    matrix = stored(tmp_path / "m.parquet", HEAD_IMPACT, [rows, rows[:1]], 2)
    baselines = [{"kl_div": 0.0}, {"logit_diff": 0.0}]
    assert rank_matrix(matrix, HEAD_IMPACT, baselines, metrics=["kl_div"], rank="magnitude", k=3) == [
        {"kl_div": Ranking([(1, 0)], 1, layers={1: 1})}, {},
    ]
