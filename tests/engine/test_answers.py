"""Whole answers and sets of answers: both engines in every family, plain transformers, states at the lower bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
import pytest
import torch
from test_sites import FORKED, SINGLE_INSIDE

from benchmarks.bound import lower_bound
from both_engines import ROUNDING, gap, without_head
from families import LAYERS, VOCABULARY, answered, family, plain_logits
from tinylab.engine.base import Evaluation
from tinylab.engine.choose import check_prompts
from tinylab.engine.forked.batches import Layout
from tinylab.engine.forked.budget import Budget
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Add, Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, RESID_PRE, Site
from tinylab.interventions.sources import Donor, Mean, Noise, Own, Reference, Source
from tinylab.interventions.variants import Each, Intervention, Positions, Variant
from tinylab.measures.answers import Answers
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.task.tokens import Prompt, TokenPair

SCORER: Final = Scorer(("logprob_diff", "kl_div", "acc_flip_rate", "p_drop", "prob_diff"))
PROMPTS: Final = (((5, 7, 9, 11), (5, 7, 2, 11)), ((5, 8, 9, 3), (5, 8, 1, 3)), ((5, 7, 9, 3), (5, 7, 9, 4)))
SETS: Final = (
    Answers(((13, 14, 15), (13, 14, 16), (20,)), ((21, 22), (13, 17))),  # stems that share their first token, and a single one
    Answers(((30, 31),), ((32,),)),
    Answers(((40,), (41,), (42,)), ((43,), (44,))),
)
"""What is read: several rows, two, one."""


def pairs(model: CausalModel) -> list[TokenPair]:
    """Answers of several lengths; donors of the same lengths, a group and a number."""
    return [replace(pair, answers=answers, donors=(Prompt(PROMPTS[b - 1][0]),), number=b)
            for b, (pair, answers) in enumerate(zip(answered(model, PROMPTS), SETS, strict=True))]


def variants(sources: dict[Source | None, Operation]) -> list[Variant]:
    sites: tuple[tuple[Site, int | None], ...] = ((HEAD_OUT, 1), (MLP_OUT, None), (RESID_PRE, None))
    where: tuple[Positions, ...] = ("all", "last", (0, 2), Each(2))
    return [Variant((Intervention(site, layer, operation, head),), "corrupt", source, positions)
            for source, operation in sources.items() for positions in where for site, head in sites for layer in (0, LAYERS - 1)]


REFERENCE: Final = Reference("r", ((5, 7, 9, 11), (5, 8, 9, 3)), (0, 0))
SIMPLE: Final = {None: Scale(0.3), Own("clean"): Patch()}
EVERY: Final = {**SIMPLE, Donor(0): Patch(), Mean(REFERENCE): Patch(), Noise(2.0, REFERENCE, seed=3): Add(0.7)}


def both(model: CausalModel, asked: list[Variant]) -> tuple[Evaluation, Evaluation]:
    forked, plain = (engine.evaluate(pairs(model), asked, SCORER) for engine in (ForkedEngine(model), ReferenceEngine(model)))
    return forked, plain


def furthest(found: Evaluation, expected: Evaluation) -> float:
    return max(gap(found, expected), *(float(np.abs(found.ability[run] - expected.ability[run]).max()) for run in found.ability))


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_engines_agree_and_compute_no_more_than_they_said_and_have_to(dtype: torch.dtype) -> None:
    model, asked = family("gpt2", dtype), variants(EVERY)
    forked, plain = both(model, asked)
    assert furthest(forked, plain) <= ROUNDING[dtype]
    for engine, found in ((ForkedEngine(model), forked), (ReferenceEngine(model), plain)):
        told = engine.plan(pairs(model), asked)
        assert (told.states, told.forwards) == (found.states, found.forwards)
    assert forked.states == lower_bound(pairs(model), asked, LAYERS)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral", "opt", "gpt2_tuples"])
def test_engines_agree_in_other_families(name: str) -> None:
    forked, plain = both(family(name), variants(SIMPLE)[::3])
    assert furthest(forked, plain) <= ROUNDING[torch.float32]


@pytest.mark.families
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("name", FORKED)
def test_engines_agree_in_every_family(name: str, dtype: torch.dtype) -> None:
    forked, plain = both(family(name, dtype), variants(SIMPLE))
    allowed = SINGLE_INSIDE.get(name, 0.0) if dtype == torch.float64 else 0.0
    assert furthest(forked, plain) <= max(allowed, ROUNDING[dtype])


def test_groups_that_a_small_budget_cuts_give_the_same_numbers() -> None:
    model, asked = family("gpt2", torch.float64), variants(SIMPLE)[::2]
    whole = ForkedEngine(model).evaluate(pairs(model), asked, SCORER)
    small = ForkedEngine(model, budget=Budget(12, 2**30, 2**30, 6 * VOCABULARY))
    told, found = small.plan(pairs(model), asked), small.evaluate(pairs(model), asked, SCORER)
    assert furthest(found, whole) <= 1e-12
    assert (told.states, told.forwards) == (found.states, found.forwards)
    assert found.forwards > whole.forwards


def test_groups_are_cut_by_the_rows_that_are_read() -> None:
    layout = Layout(pairs(family("gpt2")), [])
    assert [[len(SETS[b].rows) for b in group] for group in layout.groups(10**6, 5)] == [[1, 4], [2]]  # in the order of tokens
    assert [len(layout.batch(np.array(group)).whole.ends) for group in ([0], [2, 1])] == [8, 6]  # of clean and corrupt runs


# against plain transformers, token by token


def logs(model: CausalModel, prompt: tuple[int, ...], alternative: tuple[int, ...]) -> list[float]:
    """The log-probability of each token of an alternative, after the prompt and those before it."""
    return [float(plain_logits(model, (*prompt, *alternative[:place])).double().log_softmax(-1)[token])
            for place, token in enumerate(alternative)]


def log_sum(terms: list[float]) -> float:
    return math.log(sum(map(math.exp, terms)))


def of_answer(model: CausalModel, prompt: tuple[int, ...], answer: tuple[tuple[int, ...], ...]) -> float:
    return log_sum([sum(logs(model, prompt, one)) for one in answer])


def difference(model: CausalModel, prompt: tuple[int, ...], answers: Answers) -> float:
    return of_answer(model, prompt, answers.target) - of_answer(model, prompt, answers.foil)


ENGINES: Final = pytest.mark.parametrize("engine", [ForkedEngine, ReferenceEngine])


@ENGINES
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_zeroed_head_is_zeroed_at_the_answers_tokens_too(name: str, engine: type[ForkedEngine | ReferenceEngine]) -> None:
    model = family(name, torch.float64)
    asked, changed = pairs(model), without_head(model, 1, 2, 0.0)
    zero = Variant((Intervention(HEAD_OUT, 1, Scale(0.0), 2),), "clean")
    found = engine(model).evaluate(asked, [zero], SCORER)
    for run, prompts in (("clean", [pair.clean for pair in asked]), ("corrupt", [pair.corrupt for pair in asked])):
        expected = [difference(model, prompt, answers) for prompt, answers in zip(prompts, SETS, strict=True)]
        assert found.baselines[run][:, 0] == pytest.approx(expected, abs=1e-10)
        right = [getattr(answers, "target" if run == "clean" else "foil") for answers in SETS]
        probabilities = [math.exp(of_answer(model, prompt, one)) for prompt, one in zip(prompts, right, strict=True)]
        assert found.ability[run][:, 1] == pytest.approx(probabilities, abs=1e-12)
    expected = [difference(changed, pair.clean, answers) for pair, answers in zip(asked, SETS, strict=True)]
    assert found.values[0, :, 0] == pytest.approx(expected, abs=1e-10)
    targets = [[of_answer(one, pair.clean, answers.target) for one in (model, changed)]
               for pair, answers in zip(asked, SETS, strict=True)]
    assert found.values[0, :, 3] == pytest.approx([math.exp(before) - math.exp(after) for before, after in targets], abs=1e-12)
    kl = [float((before.exp() * (before - after)).sum()) for before, after in (
        tuple(plain_logits(one, pair.clean).double().log_softmax(-1) for one in (model, changed)) for pair in asked)]
    assert found.values[0, :, 1] == pytest.approx(kl, abs=1e-10)


@ENGINES
def test_everywhere_is_the_source_run_and_last_is_the_prompts_last_token(engine: type[ForkedEngine | ReferenceEngine]) -> None:
    model = family("gpt2", torch.float64)
    asked = pairs(model)
    patch = (Intervention(RESID_POST, LAYERS - 1, Patch()),)
    found = engine(model).evaluate(asked, [Variant(patch, "corrupt", Own("clean"), where) for where in ("all", "last")], SCORER)
    assert found.values[0] == pytest.approx(found.baselines["clean"], abs=1e-10)
    for b, (pair, answers) in enumerate(zip(asked, SETS, strict=True)):
        sums = [log_sum([logs(model, pair.clean, one)[0] + sum(logs(model, pair.corrupt, one)[1:]) for one in answer])
                for answer in (answers.target, answers.foil)]
        assert found.values[1, b, 0] == pytest.approx(sums[0] - sums[1], abs=1e-10)


@ENGINES
def test_a_donor_is_followed_by_the_examples_own_answer(engine: type[ForkedEngine | ReferenceEngine]) -> None:
    model = family("gpt2", torch.float64)
    asked = pairs(model)
    everywhere = Variant((Intervention(RESID_POST, LAYERS - 1, Patch()),), "clean", Donor(0), "all")
    found = engine(model).evaluate(asked, [everywhere], SCORER)
    expected = [difference(model, pair.donors[0].tokens, answers) for pair, answers in zip(asked, SETS, strict=True)]
    assert found.values[0, :, 0] == pytest.approx(expected, abs=1e-10)


@ENGINES
def test_right_is_what_the_likeliest_tokens_one_after_the_other_give(engine: type[ForkedEngine | ReferenceEngine]) -> None:
    model = family("gpt2", torch.float64)
    prompt = PROMPTS[0][0]
    first = int(plain_logits(model, prompt).argmax())
    ranked = plain_logits(model, (*prompt, first)).argsort(descending=True).tolist()
    other = int(plain_logits(model, prompt).argsort(descending=True)[1])
    begins = Answers(((first, ranked[1]), (other, 3)), ((5,),))  # its first token is the likeliest, its second is not
    whole = Answers(((other, 3), (first, ranked[0])), ((5,),))
    asked = [TokenPair(*PROMPTS[0], first, 5, answers=answers) for answers in (begins, whole)]
    flat = Variant((Intervention(RESID_POST, LAYERS - 1, Scale(-1.0)),), "clean")
    last = replace(flat, positions="last")
    found = engine(model).evaluate(asked, [flat, last], Scorer(("acc_flip_rate",)))
    assert found.ability["clean"][:, 0].tolist() == [0.0, 1.0]
    assert found.values[:, :, 0].tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_one_whole_answer_of_one_token_is_what_its_first_token_is() -> None:
    model = family("llama", torch.float64)
    first = answered(model, PROMPTS)
    whole = [replace(pair, answers=Answers(((pair.target,),), ((pair.foil,),))) for pair in first]
    for engine in (ForkedEngine(model), ReferenceEngine(model)):
        one, other = (engine.evaluate(some, variants(SIMPLE)[::4], SCORER) for some in (first, whole))
        assert furthest(one, other) <= 1e-12
        assert one.states == other.states


def test_the_self_check_sees_prompts_as_long_as_they_are_with_their_answers() -> None:
    asked = pairs(family("gpt2"))
    assert max(len(pair.clean) for pair in check_prompts(asked)) == len(PROMPTS[0][0]) + 2
