"""Synergy from a per_example table: its formula on every example, the interval of a t-test, each seed and metric alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tinylab.batteries.pairs import HeadsPairZero
from tinylab.effects.synergy import joint_tables, synergy
from tinylab.errors import SchemaError
from tinylab.interventions.components import HEAD_IMPACT, PAIR_IMPACT
from tinylab.records.tables import per_example_table
from tinylab.task.corpus import PromptPair
from tinylab.validate import validate_synergy_schema

BATTERY = HeadsPairZero(name="pairs", heads=["1.0", "0.1", "0.3"], scales=[0.0, 0.5])
CELLS = BATTERY.cells(2, 4)
HEADS = [(0, 1), (0, 3), (1, 0)]
EXAMPLES = 7
VALUES = np.random.default_rng(5).normal(size=(len(CELLS), EXAMPLES))
BASELINE = np.random.default_rng(6).normal(size=EXAMPLES) + 3
SEEDS = {0: [0, 2, 3, 6], 1: list(range(EXAMPLES))}


def pairs(templates: list[str | None]) -> list[PromptPair]:
    return [PromptPair(row=10 + b, clean="a", corrupt="b", target="c", foil="d", template=name)
            for b, name in enumerate(templates)]


def table(templates: list[str | None] | None = None, values: np.ndarray = VALUES) -> pd.DataFrame:
    examples = pairs(templates or [None] * EXAMPLES)
    metrics = {"logit_diff": (values, BASELINE, None), "p_drop": (values**2, np.zeros(EXAMPLES), None)}
    return synergy(per_example_table(PAIR_IMPACT, "abc", CELLS, examples, seeds=SEEDS, metrics=metrics)).to_pandas()


def at(one: tuple[int, int], other: tuple[int, int], scale: float) -> np.ndarray:
    """The values of a cell, looked up by its key."""
    key = {"layer1": one[0], "head1": one[1], "layer2": other[0], "head2": other[1], "scale": scale}
    (place,) = (v for v, cell in enumerate(CELLS) if cell.key == key)
    return VALUES[place]


def test_it_is_the_formula_on_every_example_and_a_t_interval_of_their_mean() -> None:
    found = table()
    validate_synergy_schema(found)
    assert len(found) == 2 * 2 * 3 * 2
    for row in found.query("metric == 'logit_diff'").to_dict("records"):
        one, other, some = (row["layer1"], row["head1"]), (row["layer2"], row["head2"]), SEEDS[row["seed"]]
        joint, a, b = (at(*cell, row["scale"])[some] for cell in ((one, other), (one, one), (other, other)))
        each = (joint - BASELINE[some]) - ((a - BASELINE[some]) + (b - BASELINE[some]))
        interval = stats.ttest_1samp(each, 0.0).confidence_interval()
        assert [row[name] for name in ("synergy", "ci_low", "ci_high", "n")] == pytest.approx(
            [each.mean(), interval.low, interval.high, len(some)], rel=1e-12)
        assert [row[name] for name in ("joint", "single1", "single2")] == pytest.approx(
            [(level - BASELINE[some]).mean() for level in (joint, a, b)], rel=1e-12)


def test_pairs_stand_in_the_order_of_cells_for_every_seed_and_metric() -> None:
    found = table()
    order = [(*one, *other, scale) for one, other in combinations(HEADS, 2) for scale in (0.0, 0.5)]
    for _, part in found.groupby(["seed", "metric"]):
        assert list(part[list(PAIR_IMPACT.keys)].itertuples(index=False, name=None)) == order
    assert (found["run_id"] == "abc").all()


def test_a_metric_without_a_level_of_its_own_starts_from_nothing() -> None:
    row = table().query("metric == 'p_drop' and seed == 1").iloc[0]
    assert row["synergy"] == pytest.approx((at((0, 1), (0, 3), 0.0) ** 2 - at((0, 1), (0, 1), 0.0) ** 2
                                            - at((0, 3), (0, 3), 0.0) ** 2).mean())


def test_templates_are_strata_and_one_example_has_no_interval() -> None:
    two = table([*"aaaabbb"]).query("metric == 'logit_diff' and seed == 1").iloc[0]
    alone = table().query("metric == 'logit_diff' and seed == 1").iloc[0]
    assert two["synergy"] == alone["synergy"]
    assert two["ci_high"] != alone["ci_high"]
    single = table([*"aaaaaab"]).query("seed == 1")
    assert single["ci_low"].isna().all() and single["synergy"].notna().all()
    validate_synergy_schema(table([*"aaaaaab"]))


def test_examples_where_a_cell_is_undefined_do_not_count() -> None:
    values = VALUES.copy()
    values[-1, 3] = np.nan
    found = table(values=values).query("metric == 'logit_diff'")
    assert list(found.drop_duplicates("seed")["n"]) == [3, 6]


def test_runs_of_other_components_have_none() -> None:
    assert joint_tables(None, HEAD_IMPACT) == {}


BROKEN = {
    "a sum that is none": (lambda df: df.assign(synergy=df["synergy"] + 1e-6, ci_high=df["ci_high"] + 1), "joint − "),
    "beside its interval": (lambda df: df.assign(ci_low=df["synergy"] + 1), "between ci_low and ci_high"),
    "a pair with itself": (lambda df: df.assign(layer2=df["layer1"], head2=df["head1"])[:1], "come before"),
    "twice": (lambda df: pd.concat([df, df[:1]], ignore_index=True), "twice"),
    "no examples": (lambda df: df.assign(n=0), "below 1"),
    "a negative head": (lambda df: df.assign(head1=-1), "negative"),
    "a column less": (lambda df: df.drop(columns="joint"), "missing"),
    "a missing synergy": (lambda df: df.assign(synergy=np.nan), "missing values"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_table_that_is_none_is_refused(what: str) -> None:
    change, said = BROKEN[what]
    with pytest.raises(SchemaError, match=said):
        validate_synergy_schema(change(table()))
