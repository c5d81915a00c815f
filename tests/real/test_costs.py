"""What a command costs on trained models beside its own evaluation: one row of logits for a read, few reads, and those once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tinylab.config.groups import EngineConfig, ModelConfig
from tinylab.engine.choose import AllLogits, check_prompts, choose_engine
from tinylab.engine.reference import ReferenceEngine
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

pytestmark = pytest.mark.real
TEXTS = ("The Eiffel Tower stands in the city of", "The Colosseum of the old emperors stands in the city of", "Paris is in")


@pytest.fixture(params=["smollm2", "gemma3"])
def model(request: pytest.FixtureRequest) -> CausalModel:
    folder: Path = request.getfixturevalue(request.param)
    return load_model(ModelConfig(path=str(folder)), "cpu")


def pairs(model: CausalModel) -> list[TokenPair]:
    prompts = [tuple(model.tokenizer.encode(text)) for text in TEXTS]
    return [TokenPair(prompt, (*prompt[:-2], *prompt[-1:], *prompt[-2:-1]), 7, 9) for prompt in prompts]


def test_a_command_reads_little_before_it_evaluates(
    model: CausalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes and rows of logits are counted: seconds depend on the machine, these do not."""
    monkeypatch.setenv("TINYLAB_CACHE", str(tmp_path))
    rows: list[int] = []
    head = model.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, args: rows.append(args[0].shape[0] * args[0].shape[1]))
    first = choose_engine(model, EngineConfig(), pairs(model))
    checked, rows[:] = list(rows), []
    again = choose_engine(model, EngineConfig(), pairs(model))
    handle.remove()
    assert (first.engine.name, first.cached, again.cached) == ("forked", False, True)
    assert again.max_difference == first.max_difference is not None
    assert len(checked) <= 24  # of 114 when all was tried with all
    assert sum(checked) <= 50  # words of the vocabulary are up to 262,144: most of a pass of a small model
    assert len(rows) <= 4 and sum(rows) <= 4  # the trial


def test_the_reading_row_alone_has_the_logits_of_a_plain_forward(model: CausalModel) -> None:
    every = AllLogits(tuple(map(str, range(model.vocabulary))))
    pair = check_prompts(pairs(model))[0]
    found = ReferenceEngine(model).evaluate([pair], [], every).baselines["clean"][0]
    with torch.no_grad():
        expected = model.model(torch.tensor([pair.clean]), use_cache=False).logits[0, -1].double().numpy()
    assert np.abs(expected).max() > 10
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
