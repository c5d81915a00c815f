"""Whole answers and sets of answers: both engines in every family, plain transformers, states at the lower bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest
import torch

from benchmarks.bound import lower_bound
from both_engines import ROUNDING, gap
from families import LAYERS, answered, family
from tinylab.engine.base import Evaluation
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.operations import Add, Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_PRE, Site
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
