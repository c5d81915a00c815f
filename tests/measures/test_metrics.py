"""Metrics against numbers worked by hand and literal formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conftest import Within
from tinylab.measures import metrics
from tinylab.measures.metrics import METRICS, Scorer, available, scored
from tinylab.measures.readings import CleanRun, Reading, clean_run
from tinylab.measures.recovery import recovery

CLEAN = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0]])
NOW = torch.tensor([[0.5, 1.5, 0.0], [0.0, 2.0, 1.0], [2.0, 0.0, 1.0]])
TARGET = torch.tensor([0, 1, 0])  # the clean run is right, right, wrong
FOIL = torch.tensor([1, 2, 2])
OF_LOGITS = tuple(name for name, metric in METRICS.items() if metric.score is not None)


def score(name: str, now: torch.Tensor = NOW, clean: torch.Tensor = CLEAN) -> np.ndarray:
    ref = clean_run(clean, TARGET[: len(clean)], FOIL[: len(clean)])
    return Scorer((name,)).score(now, ref)[:, 0].numpy()


def softmax(row: list[float]) -> list[float]:
    total = math.fsum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_logit_diff_is_target_minus_foil_under_the_intervention() -> None:
    assert score("logit_diff").tolist() == [0.5 - 1.5, 2.0 - 1.0, 2.0 - 1.0]
    assert score("logit_diff", CLEAN).tolist() == [1.0, 2.0, -3.0]


def test_kl_div_is_the_literal_sum_with_the_clean_run_first(within: Within) -> None:
    expected = []
    for before, now in zip(CLEAN.tolist(), NOW.tolist(), strict=True):
        p, q = softmax(before), softmax(now)
        expected.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    within("kl literal", np.abs(score("kl_div", NOW.double(), CLEAN.double()) / expected - 1).max(), 1e-13)
    np.testing.assert_allclose(score("kl_div"), expected, rtol=1e-6)
    assert abs(expected[0] - score("kl_div", CLEAN, NOW)[0]) > 1e-3  # the two directions differ


def test_kl_div_equals_torchs_on_many_random_rows(within: Within) -> None:
    random = torch.Generator().manual_seed(0)
    clean, now = (4 * torch.randn(50, 30, dtype=torch.float64, generator=random) for _ in range(2))
    ref = clean_run(clean, torch.zeros(50, dtype=torch.long), torch.ones(50, dtype=torch.long))
    expected = torch.nn.functional.kl_div(now.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    within("kl torch", float((Scorer(("kl_div",)).score(now, ref)[:, 0] - expected).abs().max()), 1e-12)


def test_kl_div_is_zero_without_a_change_and_blind_to_a_common_shift() -> None:
    assert score("kl_div", CLEAN).tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(score("kl_div", CLEAN + 5), 0, atol=1e-6)


def test_a_word_that_is_impossible_in_both_runs_adds_nothing_to_kl_div() -> None:
    """0 · log(0/0) is 0 by convention; models mask words by a logit of minus infinity."""
    masked = torch.cat([CLEAN, torch.full((3, 1), -torch.inf)], dim=1)
    now = torch.cat([NOW, torch.full((3, 1), -torch.inf)], dim=1)
    np.testing.assert_allclose(score("kl_div", now, masked), score("kl_div"), rtol=1e-6)


def test_flips_count_only_examples_that_were_right_and_are_wrong_over_the_whole_vocabulary() -> None:
    # right → wrong, right → right, wrong → right
    assert score("acc_flip_rate").tolist() == [1.0, 0.0, 0.0]
    assert score("acc_flip_rate", CLEAN).tolist() == [0.0, 0.0, 0.0]
    # a third word wins: target still beats foil, but the answer is wrong
    third = torch.tensor([[1.0, 0.0, 3.0]])
    assert score("acc_flip_rate", third, CLEAN[:1]).tolist() == [1.0]
    # it wins in the clean run already, where target beats foil too: that was not right, so nothing flips
    assert score("acc_flip_rate", NOW[:1], third).tolist() == [0.0]


def test_p_drop_is_the_probability_of_the_target_lost() -> None:
    expected = [
        softmax(before)[t] - softmax(now)[t]
        for before, now, t in zip(CLEAN.tolist(), NOW.tolist(), TARGET.tolist(), strict=True)
    ]
    np.testing.assert_allclose(score("p_drop"), expected, atol=1e-7)
    assert expected[2] < 0 < expected[0]  # gained where negative


def test_metrics_of_bfloat16_logits_are_those_of_the_same_numbers_in_float32() -> None:
    """The difference of two near logits is exact in any dtype, so that target and foil here lie far apart."""
    random = torch.Generator().manual_seed(0)
    clean, now = ((4 * torch.randn(20, 30, generator=random)).bfloat16() for _ in range(2))
    target, foil = clean.argmax(-1), clean.argmin(-1)
    coarse, fine = (
        Scorer(OF_LOGITS).score(after, clean_run(before, target, foil))
        for before, after in ((clean, now), (clean.float(), now.float()))
    )
    assert torch.equal(coarse, fine)
    assert not torch.equal(fine, fine.bfloat16().double())


def test_the_scorer_gives_float64_columns_in_the_order_of_its_names() -> None:
    ref = clean_run(CLEAN, TARGET, FOIL)
    names = ("p_drop", "logit_diff", "acc_flip_rate", "kl_div", "target_rank", "prob_diff", "logprob_diff")
    found = Scorer(names).score(NOW, ref)
    assert (found.dtype, found.shape, set(names)) == (torch.float64, (3, 7), set(OF_LOGITS))
    for column, name in enumerate(names):
        np.testing.assert_array_equal(found[:, column].numpy(), score(name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_half_precision_logits_are_scored_as_if_they_were_float32(dtype: torch.dtype, name: str) -> None:
    random = torch.Generator().manual_seed(1)
    clean, now = ((5 * torch.randn(3, 40, generator=random)).to(dtype) for _ in range(2))
    np.testing.assert_array_equal(score(name, now, clean), score(name, now.float(), clean.float()))


def test_float64_logits_keep_their_precision() -> None:
    clean = torch.tensor([[1.0 + 1e-12, 1.0, 0.0]], dtype=torch.float64)
    assert score("logit_diff", clean, clean)[0] == pytest.approx(1e-12, rel=1e-3)
    assert clean_run(clean, TARGET[:1], FOIL[:1]).log_probs.dtype == torch.float64


def test_recovery_of_means_is_a_ratio_of_means_not_a_mean_of_ratios() -> None:
    patched, target, source = np.array([1.0, 2.0]), np.array([0.0, -2.0]), np.array([2.0, 6.0])
    assert METRICS["recovery"].of_means(patched, target, source) == pytest.approx((1.5 - -1.0) / (4.0 - -1.0))
    assert recovery(patched, target, source).tolist() == [0.5, 0.5]
    assert METRICS["recovery"].of_means(np.array([2.0, 2.0]), target, source) == pytest.approx(3.0 / 5.0)
    assert recovery(np.array([2.0, 2.0]), target, source).tolist() == [1.0, 0.5]


def test_recovery_is_zero_at_the_target_run_and_one_at_the_source_run() -> None:
    target, source = np.array([0.5, -1.0]), np.array([3.0, 0.0])
    assert METRICS["recovery"].of_means(target, target, source) == 0.0
    assert METRICS["recovery"].of_means(source, target, source) == 1.0
    assert recovery(source, target, source).tolist() == [1.0, 1.0]


def test_recovery_is_undefined_where_the_runs_hardly_differ() -> None:
    patched, target = np.array([1.0, 1.0, 1.0]), np.zeros(3)
    source = np.array([0.1, 0.0999, -0.1])  # at least 0.1 in magnitude counts
    found = recovery(patched, target, source)
    assert np.isnan(found).tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == [10.0, -10.0]
    assert METRICS["recovery"].of_means(patched, target, source) is None
    assert METRICS["recovery"].of_means(patched, target, np.array([1.0, -1.0, 0.0])) is None  # means cancel
    assert METRICS["recovery"].of_means(patched, target, np.array([1.0, 1.0, 1.0])) == 1.0


@pytest.mark.parametrize(
    ("wanted", "computed"),
    [
        (["kl_div", "recovery"], ("kl_div", "logit_diff")),
        (["recovery"], ("logit_diff",)),
        (["logit_diff", "recovery"], ("logit_diff",)),
        (["p_drop", "logit_diff"], ("p_drop", "logit_diff")),
    ],
)
def test_recovery_brings_logit_diff_along(wanted: list[str], computed: tuple[str, ...]) -> None:
    assert scored(wanted) == computed


def test_a_metric_that_one_run_named_is_not_computed_by_the_next_in_the_same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = available(source=True)
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))
    metrics.metric(unit="nats")(own)
    assert metrics.named("own").unit == "nats"
    assert available(source=True) == before == ["logit_diff", "kl_div", "acc_flip_rate", "p_drop", "recovery"]


def own(reading: Reading, clean_run: CleanRun) -> torch.Tensor:
    return reading.log_probs.gather(-1, clean_run.target[:, None]).squeeze(-1)
