"""Memory is bounded, predicted, and running out of it is survived: measured in processes of their own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from families import ALIGNED, HEADS, LAYERS, answered, family
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine import forked
from tinylab.engine.budget import BUDGETS, Budget
from tinylab.engine.forked import ForkedEngine
from tinylab.metrics import METRICS, Scorer

HERE = Path(__file__).parent
SCORER = Scorer(tuple(METRICS))

WORK = """
import json, logging, resource, sys
import numpy as np, psutil, torch
from benchmarks.measure import PeakMemory
from benchmarks.workloads import TASKS, distinct, gpt2, random_model
from tinylab.engine.forked import ForkedEngine
from tinylab.metrics import METRICS, Scorer

torch.set_num_threads(1)
logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
task, width, layers, vocabulary, pairs, states, spare = json.loads(sys.argv[1])
model = random_model(gpt2(n_embd=width, n_layer=layers, n_head=4, vocab_size=vocabulary), "cpu", "float32")
pairs, variants, scorer = distinct(pairs, 16, vocabulary), TASKS[task].variants(model), Scorer(tuple(METRICS))
engine = ForkedEngine(model, states)
ForkedEngine(model).evaluate(pairs[:1], variants, scorer)  # libraries take memory of their own
plan = engine.plan(pairs, variants)
if spare is not None:
    limit = psutil.Process().memory_info().vms + spare * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with PeakMemory(model.device) as memory:
    found = engine.evaluate(pairs, variants, scorer)
print(json.dumps({"predicted": plan.activations / 2**20, "used": memory.mebibytes, "forwards": found.forwards,
                  "planned": plan.forwards, "values": found.values.tolist()}))
"""


def work(*settings: Any) -> tuple[dict[str, Any], str]:
    """Evaluate in a fresh process; what it reports, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", WORK, json.dumps(settings)], capture_output=True, text=True, cwd=HERE.parent, check=False
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


def test_running_out_of_memory_halves_the_chunk_and_goes_on() -> None:
    """The address space is really limited: the allocator fails, as a GPU's would."""
    plenty, quiet = work(0, 256, 3, 500, 64, 16_384, None)
    short, said = work(0, 256, 3, 500, 64, 16_384, int(plenty["used"] / 2))
    assert "out of memory" not in quiet
    assert "out of memory with 12 interventions in one forward pass: going on with half as many" in said
    assert short["forwards"] > plenty["forwards"]
    np.testing.assert_allclose(short["values"], plenty["values"], atol=1e-5)


def test_a_single_intervention_that_does_not_fit_is_an_error() -> None:
    settings = json.dumps((0, 512, 3, 500, 64, 16_384, 8))
    done = subprocess.run([sys.executable, "-c", WORK, settings], capture_output=True, text=True, cwd=HERE.parent, check=False)
    assert done.returncode == 1
    assert "can't allocate memory" in done.stderr


def test_a_budget_that_the_free_memory_cannot_hold_is_lowered_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = family("gpt2")
    pairs = answered(model, ALIGNED)
    variants = [cell.variant for cell in HeadsZero(name="h1").cells(LAYERS, HEADS)]
    engine = ForkedEngine(model)
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        full = engine.plan(pairs, variants)
        assert not caplog.records
        monkeypatch.setattr(forked, "free_memory", lambda _device: full.activations - 1)
        lowered = engine.plan(pairs, variants)
    assert lowered.activations < 0.9 * full.activations
    assert lowered.forwards > full.forwards
    assert any("memory is short" in record.getMessage() for record in caplog.records)
    found = engine.evaluate(pairs, variants, SCORER)
    assert found.forwards == lowered.forwards
    np.testing.assert_allclose(found.values, ForkedEngine(model).evaluate(pairs, variants, SCORER).values, atol=1e-5)


def test_max_states_replaces_the_rows_alone() -> None:
    assert Budget.of("cpu", 7) == Budget(7, *(getattr(BUDGETS["cpu"], name) for name in ("store", "gather", "logits")))
    assert Budget.of("cpu") == BUDGETS["cpu"]
