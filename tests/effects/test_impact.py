"""From an engine's numbers to what is reported, on arrays small enough to work by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tinylab.arrays import FloatArray
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.effects.impact import Impact, assemble
from tinylab.effects.summary import summarise
from tinylab.engine.base import Evaluation
from tinylab.interventions.sources import RunName
from tinylab.measures.metrics import scored
from tinylab.statistics.bootstrap import bootstrap_interval
from tinylab.task.corpus import PromptPair

EVERY = [0, 1, 2]
ABILITY: dict[RunName, FloatArray] = {
    "clean": np.array([[1.0, 0.5], [0.0, 0.25], [1.0, 0.75]]), "corrupt": np.array([[0.0, 0.125], [0.0, 0.0], [1.0, 0.625]]),
}


def pairs(count: int, templates: Sequence[str | None] | None = None) -> list[PromptPair]:
    names = templates or [None] * count
    return [PromptPair(10 + b, f"clean {b}", f"corrupt {b}", "yes", "no", names[b]) for b in range(count)]


def h1(seeds: dict[int, list[int]], wanted: Sequence[str] = ("logit_diff", "kl_div")) -> Impact:
    """Two cells, three examples; the numbers are made up but for being told apart."""
    battery = HeadsZero(name="h1", layers=[1], heads=[0, 2])
    computed = ("logit_diff", "kl_div")
    values = np.array([[[1.0, 0.1], [2.0, 0.2], [6.0, 0.6]], [[-1.0, 0.0], [0.0, 0.3], [1.0, 0.9]]])
    baselines = {
        "clean": np.array([[4.0, 0.0], [5.0, 0.0], [9.0, 0.0]]),
        "corrupt": np.array([[-4.0, 2.0], [-5.0, 3.0], [0.0, 4.0]]),
    }
    evaluation = Evaluation(baselines, values, forwards=2, states=9, ability=ABILITY)
    return assemble(battery, battery.cells(3, 4), pairs(3), seeds, evaluation, computed=computed, wanted=wanted)


def h2(
    patched: list[list[float]], clean: list[float], corrupt: list[float], *, seeds: dict[int, list[int]] | None = None,
    sham: bool = False, direction: str = "clean->corrupt", wanted: Sequence[str] = ("logit_diff", "recovery"),
    templates: Sequence[str | None] | None = None,
) -> Impact:
    """One cell per row of `patched` (logit differences), shams last."""
    layers = len(patched) // 2 if sham else len(patched)
    battery = ActivationPatch(name="h2", positions="last", sham_control=sham, patch_direction=direction)
    count = len(clean)
    evaluation = Evaluation(
        {"clean": np.array(clean)[:, None], "corrupt": np.array(corrupt)[:, None]}, np.array(patched)[:, :, None], 1, 1,
        {"clean": np.zeros((count, 2)), "corrupt": np.zeros((count, 2))},
    )
    return assemble(
        battery, battery.cells(layers, 4), pairs(count, templates), seeds or {0: list(range(count))}, evaluation,
        computed=("logit_diff",), wanted=wanted,
    )


def test_a_row_is_a_cells_mean_over_the_examples_of_a_seed() -> None:
    found = h1({3: EVERY}).rows()
    first, second = ({"layer": 1, "head": head, "scale": 0.0} for head in (0, 2))
    assert [(seed, key, metric) for seed, key, metric, _ in found] == [
        (3, first, "logit_diff"), (3, second, "logit_diff"), (3, first, "kl_div"), (3, second, "kl_div"),
    ]
    assert [value for *_, value in found] == pytest.approx([3.0, 0.0, 0.3, 0.4])


def test_each_seed_has_its_own_examples_and_rows() -> None:
    impact = h1({0: [0, 1], 5: [1, 2]}, ["logit_diff"])
    assert [(seed, value) for seed, _, _, value in impact.rows()] == [(0, 1.5), (0, -0.5), (5, 4.0), (5, 0.5)]
    told = summarise(impact)["metrics"]["logit_diff"]
    assert told["per_seed"] == {"0": 0.5, "5": 2.25}
    assert told["mean"] == 1.375
    assert told["n"] == 3


def test_the_summarys_mean_and_baselines_by_hand() -> None:
    told = summarise(h1({0: EVERY}))
    assert told["metrics"]["logit_diff"]["mean"] == pytest.approx((3.0 + 0.0) / 2)
    assert told["metrics"]["logit_diff"]["undefined_cells"] == 0
    assert told["baselines"]["clean"]["logit_diff"]["mean"] == pytest.approx(6.0)
    assert told["baselines"]["corrupt"]["logit_diff"]["mean"] == pytest.approx(-3.0)
    assert told["baselines"]["corrupt"]["kl_div"] == {"mean": 3.0, "n": 3, "per_seed": {"0": 3.0}}
    assert told["controls"] == {}


def test_baselines_of_seeds_with_different_examples_are_averaged_over_seeds() -> None:
    told = summarise(h1({0: [0, 1], 5: [1, 2]}))["baselines"]["clean"]["logit_diff"]
    assert told["per_seed"] == {"0": 4.5, "5": 7.0}
    assert told["mean"] == 5.75


def test_the_interval_is_that_of_each_examples_mean_over_cells() -> None:
    told = summarise(h1({0: EVERY}))["metrics"]["logit_diff"]
    of_examples = np.array([0.0, 1.0, 3.5])
    expected = bootstrap_interval(of_examples[:, None], lambda means: means[:, 0], clusters=[None] * 3)
    assert (told["ci95"], told["ci95_method"]) == expected
    assert told["ci95"][0] <= told["mean"] <= told["ci95"][1]


def test_an_example_used_by_two_seeds_counts_twice_in_the_interval() -> None:
    told = summarise(h1({0: [0, 1], 5: [1, 2]}))["metrics"]["logit_diff"]
    column, weights = np.array([0.0, 1.0, 3.5]), np.array([1.0, 2.0, 1.0])
    expected = bootstrap_interval(column[:, None], lambda means: means[:, 0], clusters=[None] * 3, weights=weights)
    assert told["ci95"] == expected[0]
    assert told["mean"] == pytest.approx(np.average(column, weights=weights))  # the interval is about the mean that is told


def test_examples_that_two_seeds_use_pull_the_interval_towards_them() -> None:
    """Twenty numbers and the weights 1, 2, 1: the interval of three is their whole range, whatever weighs more."""
    patched = np.random.default_rng(0).normal(size=20)
    seeds = {0: list(range(12)), 5: list(range(8, 20))}
    told = summarise(h2([patched.tolist()], [4.0] * 20, [0.0] * 20, seeds=seeds, wanted=["logit_diff"]))["metrics"]["logit_diff"]
    weights = np.repeat([1.0, 2.0, 1.0], [8, 4, 8])
    expected, plain = (
        bootstrap_interval(patched[:, None], lambda means: means[:, 0], clusters=[None] * 20, weights=each)[0]
        for each in (weights, None)
    )
    assert told["ci95"] == expected
    assert expected is not None and plain is not None
    assert np.abs(np.subtract(expected, plain)).min() > 0.01


def test_templates_are_resampled_where_each_example_has_one() -> None:
    corrupt, clean = [0.0] * 4, [4.0] * 4
    patched = [[1.0, 1.0, 3.0, 3.0]]
    by_template = summarise(h2(patched, clean, corrupt, templates=["a", "a", "b", "b"]))["metrics"]["logit_diff"]
    by_example = summarise(h2(patched, clean, corrupt))["metrics"]["logit_diff"]
    assert by_template["ci95_method"].endswith(" templates")
    assert by_template["ci95"] == [1.0, 3.0]
    assert by_example["ci95_method"].endswith(" examples")


def test_recovery_is_a_ratio_of_means_and_recovery_mean_its_companion() -> None:
    # patched − corrupt: 1, 1, 2; clean − corrupt: 2, 4, 4
    impact = h2([[1.0, 0.0, 3.0]], clean=[2.0, 3.0, 5.0], corrupt=[0.0, -1.0, 1.0])
    found = {metric: value for _, _, metric, value in impact.rows()}
    assert set(found) == {"logit_diff", "recovery", "recovery_mean"}
    assert found["logit_diff"] == pytest.approx(4 / 3)
    assert found["recovery"] == pytest.approx((1 + 1 + 2) / (2 + 4 + 4))
    assert found["recovery_mean"] == pytest.approx((1 / 2 + 1 / 4 + 2 / 4) / 3)


def test_the_other_direction_recovers_towards_the_corrupt_run() -> None:
    impact = h2([[1.0]], clean=[4.0], corrupt=[0.0], direction="corrupt->clean", wanted=["recovery"])
    assert [value for *_, value in impact.rows()] == pytest.approx([0.75, 0.75])
    told = summarise(impact)["baselines"]
    assert told["clean"]["recovery"]["mean"] == 0.0
    assert told["corrupt"]["recovery"]["mean"] == 1.0


def test_recovery_alone_reports_no_logit_diff_rows() -> None:
    impact = h2([[1.0, 2.0]], clean=[4.0, 4.0], corrupt=[0.0, 0.0], wanted=["recovery"])
    assert {metric for _, _, metric, _ in impact.rows()} == {"recovery", "recovery_mean"}
    assert set(impact.per_example()) == {"recovery"}


def test_an_example_whose_runs_hardly_differ_is_left_out_of_recovery_mean_and_counted() -> None:
    impact = h2([[1.0, 5.0, 3.0]], clean=[2.0, 0.05, 4.0], corrupt=[0.0, 0.0, 0.0])
    found = {metric: value for _, _, metric, value in impact.rows()}
    assert found["recovery"] == pytest.approx(9.0 / 6.05)
    assert found["recovery_mean"] == pytest.approx((0.5 + 0.75) / 2)
    told = summarise(impact)["metrics"]["recovery_mean"]
    assert (told["left_out"], told["undefined_cells"]) == (1, 0)
    values, baseline, source = impact.per_example()["recovery"]
    assert np.isnan(values[0]).tolist() == [False, True, False]
    assert baseline.tolist() == [0.0, 0.0, 0.0]
    assert source is not None and source.tolist() == [1.0, 1.0, 1.0]


def test_a_cell_without_a_recovery_has_no_row_and_is_counted() -> None:
    # means of clean and corrupt are equal, though examples differ: the ratio of means is undefined, single ratios are not
    impact = h2([[1.0, 1.0], [2.0, 0.0]], clean=[4.0, -4.0], corrupt=[0.0, 0.0])
    assert {metric for _, _, metric, _ in impact.rows()} == {"logit_diff", "recovery_mean"}
    told = summarise(impact)["metrics"]["recovery"]
    assert (told["mean"], told["ci95"], told["undefined_cells"], told["per_seed"]) == (None, None, 2, {})
    assert summarise(impact)["metrics"]["recovery_mean"]["mean"] == pytest.approx(((1 / 4 - 1 / 4) / 2 + (2 / 4 - 0) / 2) / 2)


def test_where_no_example_has_a_recovery_neither_metric_has_rows() -> None:
    impact = h2([[1.0, 1.0]], clean=[0.01, 0.02], corrupt=[0.0, 0.0])
    assert {metric for _, _, metric, _ in impact.rows()} == {"logit_diff"}
    told = summarise(impact)["metrics"]["recovery_mean"]
    assert (told["mean"], told["ci95"], told["undefined_cells"], told["left_out"]) == (None, None, 1, 2)


def test_a_seed_without_a_recovery_is_counted_and_the_other_one_told() -> None:
    impact = h2([[1.0, 1.0]], clean=[0.0, 2.0], corrupt=[0.0, 0.0], seeds={0: [0], 1: [1]})
    assert [(seed, metric) for seed, _, metric, _ in impact.rows()] == [
        (0, "logit_diff"), (1, "logit_diff"), (1, "recovery"), (1, "recovery_mean"),
    ]
    told = summarise(impact)["metrics"]["recovery"]
    assert (told["per_seed"], told["undefined_cells"], told["mean"]) == ({"1": 0.5}, 1, 0.5)


def test_the_interval_of_recovery_is_that_of_the_ratio_of_means() -> None:
    random = np.random.default_rng(0)
    clean, corrupt = random.normal(4, 1, 20), random.normal(0, 1, 20)
    patched = np.stack([corrupt + 1, corrupt + 2])
    told = summarise(h2(patched.tolist(), clean.tolist(), corrupt.tolist()))["metrics"]["recovery"]
    columns = np.stack([patched.mean(axis=0), corrupt, clean], axis=1)
    expected, _ = bootstrap_interval(columns, lambda m: (m[:, 0] - m[:, 1]) / (m[:, 2] - m[:, 1]), clusters=[None] * 20)
    assert told["ci95"] == pytest.approx(expected)
    assert told["ci95"][0] < told["mean"] < told["ci95"][1]
    assert told["mean"] == pytest.approx(1.5 / (clean.mean() - corrupt.mean()))


def test_shams_are_controls_not_rows() -> None:
    patched = [[1.0, 2.0], [3.0, 3.0], [0.0, 1e-6], [-2e-6, 0.0]]
    impact = h2(patched, clean=[4.0, 4.0], corrupt=[0.0, 0.0], sham=True)
    assert [cell.control for cell in impact.cells] == ["none", "none", "sham", "sham"]
    assert len(impact.rows()) == 2 * 3
    told = summarise(impact)
    assert told["metrics"]["logit_diff"]["mean"] == pytest.approx((1.5 + 3.0) / 2)  # without the shams
    assert told["controls"] == {"sham": {"logit_diff": pytest.approx(2e-6), "recovery": pytest.approx(5e-7)}}
    assert impact.per_example()["logit_diff"][0].shape == (4, 2)  # all cells, controls among them


@pytest.mark.parametrize("metric", ["kl_div", "p_drop"])
def test_the_summarys_baselines_hold_logit_diff_whatever_was_asked_for(metric: str) -> None:
    """DESIGN.md, Contracts: `baselines.{clean,corrupt}` hold logit_diff at least."""
    assert "logit_diff" in scored([metric])
    told = summarise(h1({0: EVERY}, ["kl_div"]))["baselines"]
    assert told["clean"]["logit_diff"]["mean"] == pytest.approx(6.0)


def test_rows_hold_plain_numbers_in_the_order_of_seeds_metrics_and_cells() -> None:
    for seed, key, metric, value in h1({1: EVERY, 0: [0]}).rows():
        assert (type(seed), type(key), type(metric), type(value)) == (int, dict, str, float)
    assert [seed for seed, *_ in h1({1: EVERY, 0: [0]}).rows()] == [1] * 4 + [0] * 4
