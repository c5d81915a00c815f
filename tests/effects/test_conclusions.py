"""The table of effects, column by column, against formulas written out; and what it says where there is nothing to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Cell
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.effects.conclusions import Settings, conclude
from tinylab.effects.noise import noise_of
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT
from tinylab.records.documents import EffectsSummary
from tinylab.records.tables import effects_columns, per_example_table
from tinylab.report.views import new_templates_sentence
from tinylab.statistics import estimates
from tinylab.statistics.power import templates_for_half
from tinylab.statistics.proportions import of_clusters
from tinylab.statistics.ranking import split_half, top_k
from tinylab.statistics.strata import Groups
from tinylab.task.corpus import PromptPair

SETTINGS = Settings(0.05, 0.05, "holm", 2)
NAMES = ["x", "y", "z"] * 4
CODES = np.array([0, 1, 2] * 4)
Numbers = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def heads(count: int) -> list[Cell]:
    return HeadsZero(name="h1", layers=[1], heads=list(range(count))).cells(2, count)


def layers(count: int) -> list[Cell]:
    return ActivationPatch(name="h2", positions="last").cells(count, 4)


def table(
    metrics: dict[str, Numbers], names: Sequence[str | None] = NAMES, *, items: Sequence[str] | None = None,
    cells: list[Cell] | None = None, seeds: dict[int, list[int]] | None = None,
) -> pa.Table:
    """The rows of a run, example b of the corpus' row 7 + b."""
    cells = cells or heads(len(next(iter(metrics.values()))[0]))
    pairs = [PromptPair(7 + b, "", "", "", "", name, items[b] if items else None) for b, name in enumerate(names)]
    kind = HEAD_IMPACT if "head" in cells[0].key else LAYER_IMPACT
    return per_example_table(kind, "run", cells, pairs, seeds=seeds or {0: list(range(len(names)))}, metrics=metrics)


def h1(cells: int = 4, names: Sequence[str | None] = NAMES, seed: int = 0) -> dict[str, Numbers]:
    """A head that matters, one that has opposite templates, one that does nothing, others in between; and a KL divergence."""
    rng, n = np.random.default_rng(seed), len(names)
    baseline = rng.normal(10.0, 1.0, n)
    template = np.array([0 if name is None else "xyz".index(name) for name in names])
    change = [-5.0 + np.zeros(n), np.array([6.0, -6.0, 0.0])[template], np.zeros(n), -0.6 + np.zeros(n)]
    values = baseline + np.stack([change[v % 4] for v in range(cells)]) + 0.2 * rng.normal(size=(cells, n))
    return {"logit_diff": (values, baseline, None), "kl_div": (rng.exponential(0.1, (cells, n)), np.zeros(n), None)}


def found(
    rows: pa.Table, settings: Settings = SETTINGS, noise: dict[str, float] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """The rows of effects and the summary, both checked: no NaN, the declared columns, a document."""
    kind = HEAD_IMPACT if "head" in rows.column_names else LAYER_IMPACT
    effects, summary = conclude(rows, kind, settings, noise or {})
    assert effects.column_names == effects_columns(kind)
    for name in effects.column_names:
        if pa.types.is_floating(effects[name].type):
            assert not pc.any(pc.is_nan(effects[name]), min_count=0).as_py(), name
    json.dumps(summary, allow_nan=False)
    EffectsSummary.model_validate(summary)
    return effects.to_pylist(), summary


def undefined(row: dict[str, Any]) -> set[str]:
    return {name for name, value in row.items() if value is None}


def approx(value: float) -> Any:
    return pytest.approx(float(value), rel=1e-9, abs=1e-12)


ALONE = {"share_beyond", "share_low", "share_high"}  # of metrics that are no logit difference
LABELLED = {"effect_logits", "simultaneous_low", "simultaneous_high", "label", "new_templates", "p_top_k"}
SIGNED = {"p", "p_holm", "q_bh"}
FIXED = {"se", "df", "ci_low", "ci_high", *SIGNED}
NEW = {"new_templates_low", "new_templates_high"}
DECIDED = {"simultaneous_low", "simultaneous_high", "label"}
BETWEEN = {"between_template_sd", "heterogeneity_p"}


def test_there_is_a_row_for_each_cell_and_metric_in_their_order() -> None:
    rows, _ = found(table(h1()))
    assert [(row["metric"], row["layer"], row["head"], row["scale"]) for row in rows] == [
        (metric, 1, head, 0.0) for metric in ("logit_diff", "kl_div") for head in range(4)]
    assert {(row["n"], row["templates"], row["smallest_template"]) for row in rows} == {(12, 3, 4)}
    assert [undefined(row) for row in rows] == [ALONE] * 4 + [LABELLED | SIGNED] * 4


def test_every_column_of_the_logit_difference_by_hand() -> None:
    numbers = h1()
    rows, _ = found(table(numbers))
    values, b, _ = numbers["logit_diff"]
    d = values - b
    p, p_sign, expected = [], [], []
    for change in d:
        ratio = change.sum() / b.sum()
        e = [((change - ratio * b) / b.mean())[CODES == g] for g in range(3)]
        parts = [(1 / 3) ** 2 * x.var(ddof=1) / 4 for x in e]
        se, df = np.sqrt(sum(parts)), sum(parts) ** 2 / sum(part**2 / 3 for part in parts)
        p.append(2 * stats.t.sf(abs(ratio / se), df))
        own = [change[CODES == g] for g in range(3)]
        edge = 0.05 * b.mean()
        p_sign.append(min(1.0, 3 * max(min(stats.ttest_1samp(x, edge, alternative="greater").pvalue for x in own),
                                       min(stats.ttest_1samp(x, -edge, alternative="less").pvalue for x in own))))
        means, whole = np.array([x.mean() for x in own]), np.array([b[CODES == g].mean() for g in range(3)])
        new = means.mean() / whole.mean()
        new_se = ((means - new * whole) / whole.mean()).std(ddof=1) / np.sqrt(3)
        within, between = np.mean([x.var(ddof=1) for x in e]), 4 * np.var([x.mean() for x in e], ddof=1)
        half, wide = stats.t.ppf(0.975, df) * se, stats.t.isf(0.05 / 4 / 2, df) * se
        expected.append({
            "effect": ratio, "se": se, "df": df, "ci_low": ratio - half, "ci_high": ratio + half, "effect_logits": change.mean(),
            "new_templates_effect": new, "new_templates_low": new - stats.t.ppf(0.975, 2) * new_se,
            "new_templates_high": new + stats.t.ppf(0.975, 2) * new_se, "simultaneous_low": ratio - wide,
            "simultaneous_high": ratio + wide, "p": p[-1],
            "templates_opposite": (np.sign(means) == -np.sign(change.mean())).sum(),
            "examples_opposite": (np.sign(change) == -np.sign(change.mean())).mean(),
            "between_template_sd": np.sqrt(max(0, (between - within) / 4)), "heterogeneity_p": stats.f_oneway(*e).pvalue,
        })
    holm, bh = (multipletests(p, method=method)[1] for method in ("holm", "fdr_bh"))
    chance = top_k(d, Groups(CODES), 2).probability
    crossed = multipletests(p_sign, method="holm")[1]
    for row, told, corrected, rate, often, changes in zip(rows[:4], expected, holm, bh, chance, crossed, strict=True):
        told |= {"p_holm": corrected, "q_bh": rate, "p_top_k": often}
        assert {name: row[name] for name in told} == {name: approx(value) for name, value in told.items()}
        size = sorted([abs(told["simultaneous_low"]), abs(told["simultaneous_high"])])
        label = "matters" if size[0] > 0.05 else "negligible" if size[1] < 0.05 else "undecided"
        assert row["label"] == ("mixed" if changes <= 0.05 else label)
    assert [row["label"] for row in rows[:4]] == ["matters", "mixed", "negligible", "undecided"]
    assert [row["new_templates"] for row in rows[:4]] == [True, False, False, False]


def test_a_metric_that_is_no_logit_difference_has_a_mean_change_and_a_share_but_no_label() -> None:
    rng = np.random.default_rng(3)
    logit = h1(3)["logit_diff"]
    kl = rng.choice([0.0, 0.04, 0.06, 0.3], (3, 12)) + 1e-3 * rng.uniform(size=(3, 12))
    drop = rng.normal(0.1, 0.1, (3, 12))
    rows, _ = found(table({"logit_diff": logit, "kl_div": (kl, np.zeros(12), None), "p_drop": (drop, np.zeros(12), None)}))
    for row, x in zip(rows[3:], [*kl, *drop], strict=True):
        parts = [x[CODES == g].var(ddof=1) / 36 for g in range(3)]
        df = sum(parts) ** 2 / sum(part**2 / 3 for part in parts)
        half = stats.t.ppf(0.975, df) * np.sqrt(sum(parts))
        exact = stats.binomtest(int((np.abs(x) > 0.05).sum()), 12).proportion_ci(0.95, "exact")
        told = {"effect": x.mean(), "se": np.sqrt(sum(parts)), "ci_low": x.mean() - half, "ci_high": x.mean() + half,
                "new_templates_effect": x.mean(), "share_beyond": (np.abs(x) > 0.05).mean(), "share_low": exact.low,
                "share_high": exact.high}
        assert {name: row[name] for name in told} == {name: approx(value) for name, value in told.items()}
    assert [undefined(row) for row in rows[3:]] == [LABELLED | SIGNED] * 3 + [LABELLED] * 3  # a divergence has no sign
    p = [row["p"] for row in rows[6:]]
    np.testing.assert_allclose([row["p_holm"] for row in rows[6:]], multipletests(p, method="holm")[1], rtol=1e-12)


def test_shams_are_no_cells() -> None:
    """Neither rows, nor members of a family, nor ranked, nor counted."""
    numbers = h1()
    with_sham = {name: (np.concatenate([values, np.broadcast_to(base, (4, 12))]), base, None)
                 for name, (values, base, _) in numbers.items()}
    cells = [*heads(4), *(Cell(cell.variant, {**cell.key, "scale": 1.0}, "sham") for cell in heads(4))]
    assert found(table(with_sham, cells=cells)) == found(table(numbers))
    assert found(table(with_sham, cells=cells))[1]["cells"] == 4


def test_examples_that_several_seeds_use_count_once() -> None:
    numbers = h1()
    seeds = {0: list(range(8)), 1: list(range(5, 12)), 2: [0, 11]}
    assert found(table(numbers, seeds=seeds)) == found(table(numbers))
    few = {name: (values[:, :8], base[:8], None) for name, (values, base, _) in numbers.items()}
    assert found(table(numbers, seeds={3: list(range(8))})) == found(table(few, NAMES[:8]))


def test_the_order_of_rows_is_none_of_it() -> None:
    rows = table(h1())
    mixed = rows.take(np.random.default_rng(0).permutation(len(rows)))
    told, again = ({(row["metric"], row["head"]): row for row in found(one)[0]} for one in (rows, mixed))
    assert told.keys() == again.keys()
    for key, row in told.items():
        assert again[key].keys() == row.keys()
        for name, value in row.items():
            assert again[key][name] == (approx(value) if isinstance(value, float) and "top_k" not in name else value), name


def test_an_effect_is_nonzero_beyond_ten_times_what_a_sham_finds() -> None:
    baseline = np.full(12, 10.0)
    sizes = np.array([0.0, 0.0049, -0.0051, 0.02, 9e-6, 1.1e-5])
    values = baseline + sizes[:, None] + np.zeros((6, 12))
    rows = table({"logit_diff": (values, baseline, None)})
    assert [row["nonzero"] for row in found(rows, noise={"logit_diff": 5e-4})[0]] == [False, False, True, True, False, False]
    assert [row["nonzero"] for row in found(rows)[0]] == [False, True, True, True, False, True]  # float32: 1e-6 of 10 logits
    assert found(rows, noise={"kl_div": 1.0}) == found(rows)


def test_noise_is_the_larger_of_the_shams_and_the_verify_slices() -> None:
    verified = {"logit_diff": {"max_abs_diff": 2e-5}, "kl_div": {"max_abs_diff": 1e-7}, "p_drop": {"max_abs_diff": None}}
    told = noise_of({"sham": {"logit_diff": 1e-5, "kl_div": 1e-6}, "other": {"logit_diff": 1.0}}, verified)
    assert told == {"logit_diff": 2e-5, "kl_div": 1e-6, "p_drop": 0.0}
    assert noise_of({}, {}) == {}


# Patching


def h2(whole: Sequence[float], parts: Sequence[float]) -> dict[str, Numbers]:
    """Each layer goes a part of the way from the target run to the source run; examples whose runs hardly differ have no part."""
    rng, n = np.random.default_rng(0), len(whole)
    target = rng.normal(-8, 1, n)
    source = target + np.array(whole)
    values = target + np.array(parts)[:, None] * (source - target) + 0.1 * rng.normal(size=(len(parts), n))
    way = source - target
    recovery = np.where(np.abs(way) >= 0.1, (values - target) / np.where(way == 0, 1, way), np.nan)
    return {"logit_diff": (values, target, source), "recovery": (recovery, np.zeros(n), np.ones(n))}


def test_an_effect_of_patching_is_a_fraction_of_the_way_to_the_source_run() -> None:
    numbers = h2(np.linspace(12, 20, 12).tolist(), [0.0, 0.3, 0.9])
    rows, summary = found(table(numbers, cells=layers(3)))
    assert [(row["metric"], row["layer"]) for row in rows] == [
        (metric, layer) for metric in ("logit_diff", "recovery", "recovery_mean") for layer in range(3)]
    values, target, source = numbers["logit_diff"]
    assert source is not None
    for row, pooled, mean, value, own in zip(rows[:3], rows[3:6], rows[6:], values, numbers["recovery"][0], strict=True):
        assert row["effect"] == approx((value - target).sum() / (source - target).sum())
        same = {"effect", "se", "df", "ci_low", "ci_high", "new_templates_effect", "p", "p_holm", "heterogeneity_p"}
        assert {name: pooled[name] for name in same} == {name: row[name] for name in same}
        assert mean["effect"] == approx(own.mean())
        assert mean["se"] == approx(np.sqrt(sum(own[CODES == g].var(ddof=1) / 36 for g in range(3))))
    assert [undefined(row) for row in rows] == [ALONE] * 3 + [LABELLED | ALONE | {"nonzero"}] * 3 + [LABELLED] * 3
    assert summary["whole"] == approx((source - target).mean())


def test_examples_without_a_recovery_are_left_out_of_its_mean_alone() -> None:
    whole = [10.0] * 10 + [0.05, -0.05]
    numbers = h2(whole, [0.3, 0.9])
    rows, _ = found(table(numbers, cells=layers(2)))
    assert [row["n"] for row in rows] == [12, 12, 12, 12, 10, 10]
    for row, own in zip(rows[4:], numbers["recovery"][0], strict=True):
        assert row["effect"] == approx(np.nanmean(own))


def test_recovery_alone_has_the_mean_of_its_examples_and_no_label() -> None:
    numbers = h2([10.0] * 12, [0.3, 0.9])
    rows, summary = found(table({"recovery": numbers["recovery"]}, cells=layers(2)))
    assert [row["metric"] for row in rows] == ["recovery"] * 2 + ["recovery_mean"] * 2
    keys = {"layer", "granularity", "metric", "n", "templates", "smallest_template"}
    assert [set(row) - undefined(row) for row in rows[:2]] == [keys] * 2
    assert undefined(rows[2]) == LABELLED
    assert (summary["counts"], summary["matter"], summary["n"]) == (None, [], None)
    assert summary["notes"] == ["logit_diff was not asked for: no label"]


def test_runs_that_do_not_differ_have_nothing_to_be_a_fraction_of() -> None:
    """The mean is under 0.1 logits: changes in logits are told, and ranked, but no fraction and no label."""
    numbers = h2([4.0, -4.05] * 6, [0.3, 0.9, 0.5])
    rows, summary = found(table(numbers, cells=layers(3)))
    fraction = {"effect", "new_templates_effect", "new_templates", *DECIDED, *FIXED, *NEW, *BETWEEN}
    assert [undefined(row) for row in rows[:3]] == [fraction | ALONE] * 3
    values, target, _ = numbers["logit_diff"]
    assert [row["effect_logits"] for row in rows[:3]] == [approx(value) for value in (values - target).mean(axis=1)]
    assert {row["effect"] for row in rows[3:6]} == {None}
    assert all(row["effect"] is not None for row in rows[6:])
    assert (summary["counts"], summary["matter"], summary["mixed"], summary["examples_to_decide"]) == (None, [], [], None)
    assert any("less than 0.1: no fractions, no label" in note for note in summary["notes"])


# What examples cannot tell


@pytest.mark.parametrize(("names", "missing", "notes"), [
    (["x"], {*FIXED, *NEW, *BETWEEN, *DECIDED, "new_templates_effect", "new_templates", "p_top_k"},
     ["one template: no conclusions about new ones", "one example: no interval, no label"]),
    (["x"] * 6, {*NEW, *BETWEEN, "new_templates_effect", "new_templates"}, ["one template: no conclusions about new ones"]),
    ([None] * 6, {*NEW, *BETWEEN, "new_templates_effect", "new_templates"}, []),
    (["x", "y", None, "x", "y", "x"], {*NEW, *BETWEEN, "new_templates_effect", "new_templates"},
     ["1 of 6 examples name no template: all count as examples of one"]),
    (["x", "x", "x", "y", "y", "z"], {*FIXED, *DECIDED, "new_templates", "p_top_k"},
     ["1 of 3 templates have one example: no interval, no label"]),
    (["x", "y", "z"], {*FIXED, *BETWEEN, *DECIDED, "new_templates", "p_top_k"},
     ["3 of 3 templates have one example: no interval, no label"]),
])
def test_what_examples_cannot_tell_is_null_and_noted(names: list[str | None], missing: set[str], notes: list[str]) -> None:
    numbers = h1(4, names)
    rows, summary = found(table(numbers, names))
    values, b, _ = numbers["logit_diff"]
    for row, value in zip(rows[:4], values, strict=True):
        assert undefined(row) == missing | ALONE
        assert row["effect"] == approx((value - b).sum() / b.sum())
    for row in rows[4:]:
        assert undefined(row) == (missing - LABELLED) | LABELLED | SIGNED
        assert row["share_low"] <= row["share_beyond"] <= row["share_high"]
    counted = "label" not in missing
    assert {row["templates"] for row in rows} == {0 if None in names else len(set(names))}
    assert summary["notes"] == notes
    assert (summary["counts"] is not None) == counted
    assert summary["matter"] == [] if not counted else len(summary["matter"]) >= 1


def test_without_templates_the_interval_is_the_one_sample_t_tests() -> None:
    values, _, _ = h1(2, [None] * 9)["logit_diff"]
    rows, _ = found(table({"logit_diff": (values, np.full(9, 10.0), None)}, [None] * 9))
    for row, value in zip(rows, values, strict=True):
        expected = stats.ttest_1samp((value - 10.0) / 10.0, 0.0)
        assert (row["p"], row["df"]) == (approx(expected.pvalue), approx(8))
        assert [row["ci_low"], row["ci_high"]] == [approx(bound) for bound in expected.confidence_interval(0.95)]


def test_where_nothing_varies_the_effect_itself_decides() -> None:
    baseline = np.array([8.0, 10.0, 12.0, 10.0])
    values = np.stack([baseline / 2, baseline, baseline * 0.9375])
    rows, summary = found(table({"logit_diff": (values, baseline, None)}, ["x", "x", "y", "y"]))
    assert [row["label"] for row in rows] == ["matters", "negligible", "matters"]
    assert [(row["se"], row["p"], row["nonzero"]) for row in rows] == [(0, 0, True), (0, 1, False), (0, 0, True)]
    assert [row["effect"] for row in rows] == [-0.5, 0.0, -0.0625] == [row["ci_low"] for row in rows]
    assert summary["examples_to_decide"] is None


def test_noise_that_is_always_the_same_is_no_effect() -> None:
    """t of a rounding that does not vary is infinite; what varies by no more than rounding has p = 1 if its mean is noise."""
    baseline, rng = np.full(12, 10.0), np.random.default_rng(0)
    sizes = np.array([3e-10, -9e-6, 2e-5, 1.0, 5e-6])[:, None] + np.zeros((5, 12))
    sizes[4] += 1e-7 * rng.normal(size=12)  # varies by less than it is
    rows, _ = found(table({"logit_diff": (baseline + sizes, baseline, None), "p_drop": (sizes, np.zeros(12), None)}))
    for one, spared in ((rows[:5], 1), (rows[5:], 2)):  # probabilities are rounded at 1e-6, ten logits at 1e-5
        assert [row["p"] for row in one] == [1.0, 1.0 if spared == 1 else 0.0, 0.0, 0.0, one[4]["p"]]
        assert (one[4]["p"] == 1.0) == (spared == 1)
        assert [row["p_holm"] for row in one] == multipletests([row["p"] for row in one], method="holm")[1].tolist()
        assert [row["nonzero"] for row in one] == [row["p"] < 0.05 for row in one]
    noisy = found(table({"logit_diff": (baseline + sizes, baseline, None)}), noise={"logit_diff": 1e-5})[0]
    assert [row["p"] for row in noisy] == [1.0, 1.0, 1.0, 0.0, 1.0]
    varying = 1e-3 + 1e-4 * rng.normal(size=(1, 12))  # less than a coarse verify slice finds, but it varies, and is tested
    (row,), _ = found(table({"logit_diff": (baseline + varying, baseline, None)}), noise={"logit_diff": 1.0})
    assert row["p"] < 1e-6 and not row["nonzero"]


def test_a_cell_that_does_not_vary_as_a_fraction_is_decided_by_its_mean() -> None:
    """Changes are exactly a part of levels that differ: nothing varies, whatever the changes do."""
    b = np.array([8.0, 16.0, 8.0, 16.0])
    rows, _ = found(table({"logit_diff": (b + np.array([[2.0**-20], [0.25]]) * b, b, None)}, ["x", "x", "y", "y"]))
    assert [(row["se"], row["p"]) for row in rows] == [(0.0, 1.0), (0.0, 0.0)]
    assert [row["nonzero"] for row in rows] == [False, True]


# Settings and the summary


def test_reused_words_are_clusters() -> None:
    numbers = h1()
    items = [f"w{b // 3}" for b in range(12)]
    rows, _ = found(table(numbers, items=items))
    values, b, _ = numbers["logit_diff"]
    fixed = estimates.fixed_templates(values - b, b, Groups(CODES), Groups(np.arange(12) // 3))
    assert [row["se"] for row in rows[:4]] == [approx(se) for se in fixed.se]
    assert [row["se"] for row in rows[:4]] != [row["se"] for row in found(table(numbers))[0][:4]]
    assert found(table(numbers, items=[f"w{b}" for b in range(12)]))[0] == found(table(numbers))[0]


def test_reused_words_are_clusters_of_ranks_of_shares_and_of_the_f_test() -> None:
    numbers = h1()
    items = Groups(np.arange(12) // 2)
    rows, summary = found(table(numbers, items=[f"w{item}" for item in items.codes]))
    values, b, _ = numbers["logit_diff"]
    d, given = values - b, Groups(CODES)
    e = estimates.ratio(d, b)[1]
    ranks, halves = top_k(d, given, 2, items=items), split_half(d, given, 2, items=items)
    assert [row["p_top_k"] for row in rows[:4]] == ranks.probability.tolist()
    assert summary["ranking"] == {"k": 2, "stability": ranks.stability, "naive": halves.naive, "held_out": halves.held_out}
    assert [row["heterogeneity_p"] for row in rows[:4]] == [approx(p) for p in estimates.heterogeneity(e, given, items)]
    assert [row["between_template_sd"] for row in rows[:4]] == [approx(sd) for sd in estimates.between_templates(e, given, items)]
    beyond = numbers["kl_div"][0] > 0.05
    share = estimates.fixed_templates(beyond.astype(float), None, given, items)
    bounds = np.transpose(of_clusters(share, 12, 6))
    assert [(row["share_low"], row["share_high"]) for row in rows[4:]] == [(approx(low), approx(high)) for low, high in bounds]


def test_a_template_of_one_word_has_no_interval_and_that_is_noted() -> None:
    rows, summary = found(table(h1(), items=["w" if b % 3 == 0 else f"w{b}" for b in range(12)]))
    assert [undefined(row) for row in rows[:4]] == [{*FIXED, *DECIDED, "new_templates", "p_top_k"} | ALONE] * 4
    assert summary["counts"] is None
    assert summary["notes"] == ["1 of 3 templates have one item: no interval, no label"]


def test_reused_words_take_holms_critical_value_for_maxt_and_say_so() -> None:
    rows, summary = found(table(h1(), items=[f"w{b // 3}" for b in range(12)]), replace(SETTINGS, correction="maxt"))
    by_holm, _ = found(table(h1(), items=[f"w{b // 3}" for b in range(12)]))
    assert rows == by_holm
    assert any("maxt" in note for note in summary["notes"])


def test_where_too_few_examples_are_flipped_nothing_is_decided_and_that_is_noted() -> None:
    names = NAMES[:6]
    rows, summary = found(table(h1(4, names), names), replace(SETTINGS, correction="maxt"))
    assert [(row["label"], row["simultaneous_low"]) for row in rows[:4]] == [("undecided", None)] * 4
    assert summary["notes"] == ["maxt has no critical value, as too few examples are flipped: no simultaneous intervals, so none "
                                "matters or is negligible"]
    assert found(table(h1(4, names), names))[1]["notes"] == []


@pytest.mark.parametrize("correction", ["holm", "bh", "maxt"])
def test_the_correction_moves_the_simultaneous_interval_and_nothing_else(correction: Any) -> None:
    rows, summary = found(table(h1(12)), replace(SETTINGS, correction=correction))
    by_holm, _ = found(table(h1(12)))
    assert summary["correction"] == correction
    moved = {"simultaneous_low", "simultaneous_high", "label", "new_templates"}
    for row, other in zip(rows, by_holm, strict=True):
        assert {name for name in row if row[name] != other[name]} <= (set() if correction == "holm" else moved)
    assert (rows[0]["simultaneous_low"] != by_holm[0]["simultaneous_low"]) == (correction != "holm")


def test_a_larger_smallest_effect_makes_fewer_cells_matter() -> None:
    told = [found(table(h1()), replace(SETTINGS, smallest=smallest))[0][:4] for smallest in (0.01, 0.05, 0.55)]
    labels = [[row["label"] for row in rows] for rows in told]
    assert [column.count("matters") for column in labels] == [2, 1, 0]
    assert labels[2][0] == "negligible"


def test_the_summary_counts_labels_and_lists_the_largest_first() -> None:
    numbers = h1(8)
    rows, summary = found(table(numbers))
    labels = [row["label"] for row in rows[:8]]
    assert summary["counts"] == {label: labels.count(label) for label in ("matters", "mixed", "negligible", "undecided")}
    for told, label in (("matter", "matters"), ("mixed", "mixed")):
        own = sorted((row for row in rows[:8] if row["label"] == label), key=lambda row: -abs(row["effect"]))
        names = ("layer", "head", "scale", "effect", "ci_low", "ci_high", "new_templates")
        assert summary[told] == [{name: row[name] for name in names} for row in own]
        assert len(own) == 2
    values, b, _ = numbers["logit_diff"]
    d, given = values - b, Groups(CODES)
    halves = split_half(d, given, 2)
    assert summary["ranking"] == {
        "k": 2, "stability": top_k(d, given, 2).stability, "naive": halves.naive, "held_out": halves.held_out}
    told = {"smallest": 0.05, "alpha": 0.05, "correction": "holm", "metric": "logit_diff", "n": 12, "templates": 3, "cells": 8,
            "notes": []}
    assert {name: summary[name] for name in told} == told
    assert summary["whole"] == approx(b.mean())
    assert summary["examples_to_decide"] > 12


def test_templates_that_would_show_half_of_what_they_do_not_are_told() -> None:
    """Of four cells that matter two have templates that differ too much; the one that differs less decides."""
    effect = np.array([[-5.0, -5.2, -4.8], [-4.9, -5.1, -5.0], [-1.4, -3.0, -4.6], [-1.2, -4.0, -6.8]])
    rng = np.random.default_rng(0)
    b = rng.normal(10.0, 0.2, 12)
    values = b + effect[:, CODES] + 0.02 * rng.normal(size=(4, 12))
    rows, summary = found(table({"logit_diff": (values, b, None)}))
    assert [row["label"] for row in rows] == ["matters"] * 4
    assert [row["new_templates"] for row in rows] == [True, True, False, False]
    new = estimates.new_templates(values - b, b, Groups(CODES))
    some = estimates.Estimate(new.value[2:], new.se[2:], new.df[2:])
    assert summary["templates_to_decide"] == templates_for_half(some, 0.05, 3, 4, 0.05)
    alone = estimates.Estimate(new.value[2:3], new.se[2:3], new.df[2:3])
    assert summary["templates_to_decide"] == templates_for_half(alone, 0.05, 3, 4, 0.05)
    assert found(table({"logit_diff": (values[:2], b, None)}))[1]["templates_to_decide"] is None
    sentences = [new_templates_sentence(told) for told in (summary, found(table({"logit_diff": (values[:2], b, None)}))[1])]
    assert sentences == [f"for new templates 2 of the 4 that matter are shown to matter too; about "
                         f"{summary['templates_to_decide']} templates would show half of the other 2",
                         "for new templates 2 of the 2 that matter are shown to matter too"]
    assert new_templates_sentence(found(table({"logit_diff": (values, b, None)}, [None] * 12))[1]) is None  # none are named


def test_of_fewer_cells_than_k_all_are_the_strongest() -> None:
    rows, summary = found(table(h1(2)), replace(SETTINGS, k=10))
    assert [row["p_top_k"] for row in rows[:2]] == [1.0, 1.0]
    assert (summary["ranking"]["k"], summary["ranking"]["stability"]) == (2, 1.0)
