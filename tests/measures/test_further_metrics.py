"""Metrics that have to be named: against numbers by hand, closed forms of a planted model, and plain transformers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from families import ALIGNED, answered, family, plain_logits
from planted import Typed, examples, heads
from tinylab.arrays import FloatArray
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import METRICS, Scorer, available, nameable, scored
from tinylab.measures.readings import clean_run
from tinylab.measures.recovery import same_preference
from tinylab.planted import closed_forms as known

NAMES = ("logprob_diff", "prob_diff", "target_rank")
OTHERS = known.LEDGER_WORDS - 1
"""Words of the ledger beside the target, all of logit 0 where induction finds its match."""


def score(name: str, logits: list[float], target: int, foil: int) -> float:
    now = torch.tensor([logits], dtype=torch.float64)
    return float(Scorer((name,)).score(now, clean_run(now.flip(0), torch.tensor([target]), torch.tensor([foil])))[0, 0])


def test_each_by_hand() -> None:
    logits = [math.log(5), math.log(2), math.log(3)]  # probabilities .5, .2, .3
    assert score("logprob_diff", logits, 1, 2) == pytest.approx(math.log(2 / 3), abs=1e-15)
    assert score("prob_diff", logits, 0, 1) == pytest.approx(0.3, abs=1e-15)
    assert [score("target_rank", logits, target, (target + 1) % 3) for target in range(3)] == [1, 3, 2]
    assert score("target_rank", [1.0, 2.0, 1.0, 1.0], 0, 1) == 2  # equal ones are not before it


def test_a_preference_is_the_source_runs_by_its_sign() -> None:
    patched, target, source = np.array([2.0, -1.0, 3.0, -4.0]), np.array([-1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, -2.0, -0.5])
    assert same_preference(patched, target, source).tolist() == [1, 0, 0, 1]


def test_they_are_computed_where_they_are_named_and_only_there() -> None:
    assert not {*NAMES, "iia"} & {*available(source=True)}
    assert {*NAMES, "iia"} <= {*nameable(source=True)}
    assert "iia" not in nameable(source=False)
    assert scored(["iia"]) == ("logit_diff",)
    assert not METRICS["iia"].judged
    assert not METRICS["iia"].may_be_undefined


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("further"))


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_zeroed_heads_of_the_ledger_have_their_closed_forms(typed: Typed, engine: str) -> None:
    run = typed.run("planted_a", engine, f"metrics=[logit_diff,{','.join(NAMES)}]")
    levels, logs, probabilities, ranks = (heads(run, name) for name in ("logit_diff", *NAMES))
    assert logs == pytest.approx(levels, abs=1e-12)
    for head in ((0, 1), (1, 0), (1, 1), (1, 2)):
        odds = math.exp(known.LEDGER_LEVEL + known.LEDGER_ZERO[head])
        assert probabilities[head] == pytest.approx((odds - 1) / (odds + OTHERS), abs=known.TOLERANCE)
    # without induction the suppressor alone speaks: all others are before the target
    assert [ranks[head] for head in ((0, 1), (1, 0), (1, 1), (1, 2))] == [1, 1 + OTHERS, 1, 1]
    assert run.summary["baselines"]["clean"]["target_rank"]["mean"] == 1


@pytest.mark.parametrize("engine", ["forked", "reference"])
@pytest.mark.parametrize("direction", ["clean->corrupt", "corrupt->clean"])
def test_only_the_induction_head_brings_the_source_runs_answer(typed: Typed, engine: str, direction: str) -> None:
    run = typed.run("planted_a", engine, "battery=h2", "battery.granularity=head_out", "battery.per_head=true",
                    f"battery.patch_direction='{direction}'", "metrics=[iia,recovery]")
    assert heads(run, "iia", scale=1.0) == {head: float(head == (1, 0)) for head in known.LEDGER_ZERO}
    assert {*examples(run, "iia")["baseline"]} == {0.0}
    assert {*examples(run, "iia")["source"]} == {1.0}
    target, source = reversed(direction.split("->"))
    assert run.summary["baselines"][target]["iia"]["mean"] == 0
    assert run.summary["baselines"][source]["iia"]["mean"] == 1


def test_iia_without_a_source_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from tinylab.app import main

    assert main(["model=planted", "condition=planted_a", "metrics=[iia]", f"output_dir={tmp_path}"]) == 2
    assert "iia: not an option" in capsys.readouterr().err


def plainly(logits: torch.Tensor, target: int, foil: int) -> list[float]:
    """The three by a softmax and a sorted list."""
    p = logits.double().softmax(-1).tolist()
    return [math.log(p[target]) - math.log(p[foil]), p[target] - p[foil], 1 + sorted(p, reverse=True).index(p[target])]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_on_random_models_they_are_what_plain_transformers_give(name: str) -> None:
    model = family(name, torch.float64)
    pairs = answered(model, ALIGNED[3:9:2])
    zero = Variant((Intervention(HEAD_OUT, 1, Scale(0.0), 2),), "clean")
    found = [kind(model).evaluate(pairs, [zero], Scorer(NAMES)) for kind in (ForkedEngine, ReferenceEngine)]
    for one in found:
        for run, level in one.baselines.items():
            expected: FloatArray = np.array([plainly(plain_logits(model, getattr(pair, run)), pair.target, pair.foil)
                                             for pair in pairs])
            assert np.abs(level - expected).max() <= 1e-10
    assert np.abs(found[0].values - found[1].values).max() <= 1e-10
    assert np.abs(found[0].values[0] - found[0].baselines["clean"]).max() > 1e-3
