"""Memory is bounded, predicted, and running out of it is survived: measured in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.workloads import TASKS, distinct, gpt2, random_model
from families import ALIGNED, FAMILIES, HEADS, LAYERS, answered, family, make
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.forked import engine as forked
from tinylab.engine.forked.budget import BUDGETS, Budget
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.measures.metrics import Scorer, available
from tinylab.models.network import CausalModel

HERE = Path(__file__).parent.parent.parent
SCORER = Scorer(tuple(available(source=False)))

WORK = """
import json, logging, resource, sys
import numpy as np, psutil, torch
from benchmarks.measure import PeakMemory
from benchmarks.workloads import TASKS, distinct, gpt2, random_model
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.measures.metrics import Scorer, available

torch.set_num_threads(1)
logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
task, width, layers, vocabulary, pairs, states, spare = json.loads(sys.argv[1])
model = random_model(gpt2(n_embd=width, n_layer=layers, n_head=4, vocab_size=vocabulary), "cpu", "float32")
pairs, variants, scorer = distinct(pairs, 16, vocabulary), TASKS[task].variants(model), Scorer(tuple(available(source=False)))
engine = ForkedEngine(model, states)
ForkedEngine(model).evaluate(pairs[:1], variants, scorer)  # libraries take memory of their own
plan = engine.plan(pairs, variants)
with PeakMemory(model.device) as memory:
    if spare is not None:
        limit = psutil.Process().memory_info().vms + spare * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = engine.evaluate(pairs, variants, scorer)
print(json.dumps({"predicted": plan.activations / 2**20, "used": memory.mebibytes, "forwards": found.forwards,
                  "planned": plan.forwards, "values": found.values.tolist()}))
"""


def work(*settings: Any) -> tuple[dict[str, Any], str]:
    """Evaluate in a fresh process; what it reports, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", WORK, json.dumps(settings)], capture_output=True, text=True, cwd=HERE.parent, check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # an arena of the thread that measures would take address space of its own
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("task", [0, 1, 2], ids=["h1", "layer_resid last", "mlp_out all"])
@pytest.mark.parametrize(("width", "vocabulary"), [(256, 30_000), (512, 2_000)], ids=["logits dominate", "blocks dominate"])
def test_no_more_memory_is_taken_than_predicted(task: int, width: int, vocabulary: int) -> None:
    found, _ = work(task, width, 3, vocabulary, 64, None, None)
    assert found["used"] <= found["predicted"]
    assert found["used"] >= found["predicted"] / 10  # a bound that says something
    assert found["forwards"] == found["planned"]


@pytest.mark.slow
def test_running_out_of_memory_halves_the_chunk_and_goes_on() -> None:
    """The address space is really limited: the allocator fails, as a GPU's would."""
    plenty, quiet = work(0, 256, 3, 500, 64, 16_384, None)
    short, said = work(0, 256, 3, 500, 64, 16_384, 80)  # MiB; all 12 interventions together take 90 to 110, one a tenth of that
    assert "out of memory" not in quiet
    assert "out of memory with 12 interventions in one forward pass: going on with half as many" in said
    assert short["forwards"] > plenty["forwards"]
    np.testing.assert_allclose(short["values"], plenty["values"], atol=1e-5)


@pytest.fixture
def tight() -> Iterator[Callable[[int], CausalModel]]:
    """A model whose first MLP runs out of memory beyond some number of rows."""
    opened = []

    def make_tight(rows: int) -> CausalModel:
        model = make(FAMILIES["gpt2"])

        def refuse(_module: object, args: tuple[torch.Tensor, ...]) -> None:
            if len(args[0]) > rows:
                raise torch.OutOfMemoryError(f"{len(args[0])} rows")

        opened.append(model.mlp(LAYERS - 2).register_forward_pre_hook(refuse))
        return model

    yield make_tight
    for handle in opened:
        handle.remove()


@pytest.mark.parametrize(("rows", "warned"), [(80, {"interventions"}), (25, {"interventions", "prompt pairs"})])
def test_chunks_and_groups_of_prompts_are_halved_until_they_fit(
    tight: Callable[[int], CausalModel], rows: int, warned: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = answered(family("gpt2"), ALIGNED)
    variants = [cell.variant for cell in HeadsZero(name="h1").cells(LAYERS, HEADS)]
    seen: list[int] = []
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        found = ForkedEngine(tight(rows)).evaluate(pairs, variants, SCORER, seen.append)
    plain = ForkedEngine(family("gpt2")).evaluate(pairs, variants, SCORER)
    np.testing.assert_allclose(found.values, plain.values, atol=1e-5)
    assert sum(seen) == len(pairs) * len(variants)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert {what for what in ("interventions", "prompt pairs") if what in said} == warned


def test_what_does_not_fit_alone_is_an_error(tight: Callable[[int], CausalModel]) -> None:
    pairs = answered(family("gpt2"), ALIGNED)
    with pytest.raises(torch.OutOfMemoryError, match="rows"):
        ForkedEngine(tight(3)).evaluate(pairs, [], SCORER)


def test_a_budget_that_the_free_memory_cannot_hold_is_lowered_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(gpt2(n_embd=256, n_layer=3, n_head=4, vocab_size=500, bos_token_id=0, eos_token_id=0), "cpu", "float32")
    pairs = distinct(64, 16, 500)
    variants = TASKS[0].variants(model)
    engine = ForkedEngine(model)
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        full = engine.plan(pairs, variants)
        assert not caplog.records
        monkeypatch.setattr(forked, "free_memory", lambda _device: full.activations)
        lowered = engine.plan(pairs, variants)
    assert lowered.activations <= 0.9 * full.activations
    assert lowered.forwards > full.forwards
    assert any("memory is short" in record.getMessage() for record in caplog.records)
    found = engine.evaluate(pairs, variants, SCORER)
    assert found.forwards == lowered.forwards
    np.testing.assert_allclose(found.values, ForkedEngine(model).evaluate(pairs, variants, SCORER).values, atol=1e-5)


def test_max_states_replaces_the_rows_alone() -> None:
    assert Budget.of("cpu", 7) == Budget(7, *(getattr(BUDGETS["cpu"], name) for name in ("store", "gather", "logits")))
    assert Budget.of("cpu") == BUDGETS["cpu"]
