"""Closed forms at every site of a block: the ledger's stream, the gates' neurons, the Llama's grouped keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from planted import ENGINES, evaluate, levels, model, pairs, recovered
from tinylab.arrays import FloatArray
from tinylab.engine.base import Engine
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import ATTN_OUT, MLP_NEURONS, SITES, K, Q, Site, V
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures.metrics import Scorer
from tinylab.planted import closed_forms as known
from tinylab.planted import llama_closed_forms as forms
from tinylab.planted.closed_forms import GATES_LEVEL, GATES_MLP, LEDGER_LEVEL, LEDGER_TOKENS, TOLERANCE
from tinylab.planted.corpora import LLAMA, llama_rows
from tinylab.planted.llama import HEADS, LAYERS

LLAMA_TOLERANCE = 1e-4
"""See `test_planted_llama`."""
ANSWERS = [number for number, row in enumerate(llama_rows()) if row["template"] == "answers"]


def zeroed(site: Site, layer: int, unit: int | None = None, positions: Positions = "all") -> Variant:
    return Variant((Intervention(site, layer, Scale(0.0), unit),), "clean", None, positions)


def patched(site: Site, layer: int, unit: int | None = None, positions: Positions = "last", source: RunName = "clean") -> Variant:
    target: RunName = "corrupt" if source == "clean" else "clean"
    return Variant((Intervention(site, layer, Patch(), unit),), target, Own(source), positions)


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(found: FloatArray, closed: Any, tolerance: float = TOLERANCE) -> None:
    """[V, B] found, and a number for each variant, for each of its examples, or for all."""
    closed = np.array(closed)
    np.testing.assert_allclose(found, np.broadcast_to(closed[:, None] if closed.ndim == 1 else closed, found.shape), rtol=0,
                               atol=tolerance)


# The ledger


@pytest.mark.parametrize("site", known.LEDGER_STREAM)
def test_the_residual_stream_holds_the_answer_at_one_position_of_each_place(engine: str, site: str) -> None:
    places = [(layer, position) for layer in range(2) for position in range(LEDGER_TOKENS)]
    found = recovered("planted_a", engine, [patched(SITES[site], layer, None, (position,)) for layer, position in places])
    near(found, [float(known.LEDGER_STREAM[site][layer] == position) for layer, position in places])


def test_attention_without_its_output_writes_nothing(engine: str) -> None:
    found = levels("planted_a", engine, [zeroed(ATTN_OUT, layer) for layer in (0, 1)]) - LEDGER_LEVEL
    near(found, [known.LEDGER_ATTENTION[layer] for layer in (0, 1)])
    near(recovered("planted_a", engine, [patched(ATTN_OUT, layer) for layer in (0, 1)]), [0.0, 1.0])


@pytest.mark.parametrize(("site", "changes"), [(Q, known.LEDGER_UNIFORM), (K, known.LEDGER_UNIFORM), (V, known.LEDGER_VALUES)],
                         ids=["q", "k", "v"])
def test_a_head_without_queries_or_keys_looks_everywhere_and_one_without_values_is_gone(
    engine: str, site: Site, changes: Mapping[known.Component, float]
) -> None:
    found = levels("planted_a", engine, [zeroed(site, *head) for head in changes]) - LEDGER_LEVEL
    near(found, list(changes.values()))


@pytest.mark.parametrize(("head", "source"), [(0, "clean"), (1, "corrupt")])
def test_a_heads_values_matter_where_it_looks_and_nowhere_else(engine: str, head: int, source: RunName) -> None:
    """In the last block too, where the row that is patched is not the one that is read."""
    places = range(LEDGER_TOKENS)
    found = recovered("planted_a", engine, [patched(V, 1, head, (place,), source) for place in places])
    near(found, [known.LEDGER_RECOVERY[1, head] if place == known.LEDGER_VALUES_AT else 0.0 for place in places])
    near(recovered("planted_a", engine, [patched(site, 1, head, "all", source) for site in (Q, K)]), 0.0)


# The gates


def test_each_neuron_of_the_gates_is_worth_what_it_holds(engine: str) -> None:
    neurons = range(len(known.GATES_UNITS))
    near(levels("planted_b", engine, [zeroed(MLP_NEURONS, GATES_MLP, neuron) for neuron in neurons]) - GATES_LEVEL,
         known.GATES_NEURONS_ZERO)
    for source in ("clean", "corrupt"):
        found = recovered("planted_b", engine, [patched(MLP_NEURONS, GATES_MLP, neuron, source=source) for neuron in neurons])
        near(found, known.GATES_NEURONS_RECOVERY)
        near(found.sum(axis=0, keepdims=True), 1.0)


# The Llama: two query heads share a key-value head


def differences(engine: str, variants: Sequence[Variant]) -> FloatArray:
    """Logit differences [V, B] of the template `answers`."""
    return levels("planted_llama", engine, variants)[:, ANSWERS]


LENGTHS = np.array([len(pairs("planted_llama")[number].clean) for number in ANSWERS])


@pytest.mark.parametrize(("site", "closed"), [
    (Q, forms.queries_zeroed), (K, forms.keys_zeroed), (V, lambda _n: forms.VALUES_ZEROED),
], ids=["q", "k", "v"])
def test_heads_that_share_keys_and_values_lose_them_together(engine: str, site: Site, closed: Any) -> None:
    units = range(HEADS if site is Q else 2)
    found = differences(engine, [zeroed(site, 1, unit) for unit in units])
    near(found, np.array([[closed(n)[unit] for n in LENGTHS] for unit in units]), LLAMA_TOLERANCE)


def test_values_of_a_key_value_head_bring_what_both_of_its_heads_see(engine: str) -> None:
    found = differences(engine, [patched(V, 1, unit, "all") for unit in (0, 1)])
    near(found, list(forms.VALUES_DENOISED.values()), LLAMA_TOLERANCE)
    assert model("llama").n_kv_heads == 2 and V.units == K.units == "key-value heads"


def test_the_neuron_of_the_target_doubles_it_and_no_other_does(engine: str) -> None:
    corpus = [pairs("planted_llama")[number] for number in ANSWERS]
    made: Engine = ENGINES[engine](model("llama"))
    found = made.evaluate(corpus, [zeroed(MLP_NEURONS, 1, neuron) for neuron in range(len(LLAMA))], Scorer(("logit_diff",)))
    own = np.array([[neuron == pair.target for pair in corpus] for neuron in range(len(LLAMA))])
    near(found.values[:, :, 0], np.where(own, forms.NEURON_ZEROED, 7.0), LLAMA_TOLERANCE)


def test_between_attention_and_mlp_the_last_position_holds_all_of_the_answer_in_layer_1(engine: str) -> None:
    mid, pre = SITES["resid_mid"], SITES["resid_pre"]
    found = evaluate("planted_llama", engine, [patched(mid, 1), patched(mid, 0), patched(pre, 1)])
    runs = [found.baselines[run][:, 0] for run in ("clean", "corrupt", "corrupt")]
    near(found.values[:, :, 0], np.stack(runs), LLAMA_TOLERANCE)
    assert LAYERS == 2
