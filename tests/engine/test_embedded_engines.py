"""Both engines on the embedded model and every shipped corpus: the same number for every cell, example and metric."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from conftest import Within
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import ConditionConfig, ModelConfig
from tinylab.engine.base import Evaluation
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.measures.metrics import Scorer, available
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.task.corpus import load_condition
from tinylab.task.tokens import TokenPair, tokenise

SCORER = Scorer(tuple(available(source=False)))
CORPORA = ("facts", "negation", "logic", "ioi", "induction")
BATTERIES: dict[str, Battery] = {
    "h1": HeadsZero(name="h1", scales=[0.0, 0.5]),
    "h2 layer_resid last": ActivationPatch(name="h2", positions="last", sham_control=True),
    "h2 mlp_out all": ActivationPatch(name="h2", granularity="mlp_out", positions="all"),
    "h2 head_out noising": ActivationPatch(
        name="h2", granularity="head_out", patch_direction="corrupt->clean", positions="all", sham_control=True
    ),
}
TOLERANCES = {"float32": 2e-5, "float64": 1e-10}
"""float32 has 24 bits: logits of 10 to 20 carry about 1e-6 each, and a difference of sums in another order some of those: how
many depends on the processor (6.7e-6 and 1.05e-5 were seen on two kinds)."""


@cache
def model(dtype: str) -> CausalModel:
    return load_model(ModelConfig(path="pkg://tinylab/assets/tiny", dtype=dtype), "cpu")


def some_pairs(loaded: CausalModel, corpus: str, count: int) -> list[TokenPair]:
    """Test pairs spread over the templates, of different lengths, the first of them twice."""
    config = ConditionConfig(tag=corpus, path=f"pkg://tinylab/assets/corpora/{corpus}.jsonl", split="test")
    condition = load_condition(config)
    context = loaded.context
    _, pairs = tokenise(
        condition, loaded.encode, bos=loaded.bos, context=context, single_token=True, aligned=True, strict=True
    )
    return [*pairs[:: len(pairs) // count][:count], pairs[0]]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", BATTERIES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_forked_and_reference_agree_on_the_embedded_model(corpus: str, name: str, dtype: str, within: Within) -> None:
    loaded = model(dtype)
    variants = [cell.variant for cell in BATTERIES[name].cells(loaded.n_layers, loaded.n_heads)]
    pairs = some_pairs(loaded, corpus, 3)
    forked, plain = (
        engine.evaluate(pairs, variants, SCORER) for engine in (ForkedEngine(loaded), ReferenceEngine(loaded))
    )
    relative = np.abs(values(forked) - values(plain)) / np.maximum(1.0, np.abs(values(plain)))
    within(f"embedded, {dtype}", relative.max(), TOLERANCES[dtype])
    assert forked.forwards < plain.forwards
    assert np.abs(plain.values - plain.baselines[variants[0].target]).max() > 1e-3, "nothing was changed, so nothing was tested"


def values(evaluation: Evaluation) -> np.ndarray:
    """Every number of an evaluation, [V + 2, B, M]."""
    return np.concatenate([evaluation.values, *(rows[None] for rows in evaluation.baselines.values())])
