"""What stands in an activation's place: means, donors, noise, vectors; both engines, plain hooks, known numbers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from benchmarks.bound import lower_bound
from both_engines import ROUNDING, SCORER, gap
from families import LAYERS, answered, family
from tinylab.batteries.base import Cell
from tinylab.engine.base import Evaluation
from tinylab.engine.donors import noise
from tinylab.engine.forked.budget import Budget
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import ConfigError
from tinylab.interventions.operations import Add, Patch
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, RESID_PRE, K, Site, V
from tinylab.interventions.sources import MOST_POSITIONS, Difference, Donor, Mean, Noise, Own, Reference, Source, Vector
from tinylab.interventions.variants import Each, Intervention, Named, Positions, Variant
from tinylab.models.network import CausalModel
from tinylab.task.references import check_vectors
from tinylab.task.tokens import Prompt, TokenPair

PROMPTS = (
    ((5, 7, 9, 11), (5, 7, 2, 11)), ((5, 8, 9, 3), (5, 8, 1, 3)), ((4, 7, 9, 12), (4, 7, 3, 12)), ((5, 7, 1, 11), (5, 7, 8, 11)),
    ((5, 7, 9, 12, 13, 14), (5, 7, 3, 12, 13, 14)), ((6, 7, 2, 12, 1, 14), (6, 3, 2, 12, 1, 14)), ((5, 7, 9, 11), (5, 7, 2, 11)),
)
"""Clean and corrupt; the first and the last are the same."""
LAST = LAYERS - 1


def reference(prompts: list[tuple[int, ...]], groups: list[int] | None = None) -> Reference:
    digest = hashlib.sha256(repr((prompts, groups)).encode()).hexdigest()
    return Reference(digest, tuple(prompts), tuple(groups or [0] * len(prompts)))


@cache
def work(name: str, dtype: torch.dtype) -> tuple[CausalModel, list[TokenPair]]:
    """Pairs with donors, groups and numbers; two of them alike but for their numbers."""
    model = family(name, dtype)
    pairs = answered(model, PROMPTS)
    clean = [pair.clean for pair in pairs]
    same = [[other for other in clean if len(other) == len(own) and other != own] for own in clean]
    return model, [replace(pair, donors=(Prompt(same[b][0]), Prompt(same[b][-1])), group=b % 2, number=b)
                   for b, pair in enumerate(pairs)]


def sources(pairs: list[TokenPair], width: int) -> list[Source]:
    prompts = [pair.clean for pair in pairs]
    first, second = reference(prompts, [pair.group for pair in pairs]), reference([pair.corrupt for pair in pairs])
    vector = Vector("v", np.random.default_rng(0).normal(size=(1, width)))
    return [Mean(first), Mean(first, by_position=True), Mean(second), Donor(0), Donor(1), Noise(3.0, first, seed=1),
            Noise(0.5, second, seed=2, draw=1), Noise(3.0, first, seed=1, examples=(0, 2)), Difference(first, second), vector]


def variants(pairs: list[TokenPair], model: CausalModel, positions: tuple[Positions, ...]) -> list[Variant]:
    width = int(model.config.hidden_size)
    found = []
    for source in sources(pairs, width):
        operation = Add(0.7) if isinstance(source, Noise | Difference | Vector) else Patch()
        for site, head in ((HEAD_OUT, 1), (MLP_OUT, None), (RESID_POST, None)):
            if site == HEAD_OUT and isinstance(source, Vector) and model.taken(0) != width:
                continue
            for layer in (0, LAYERS - 1):
                found += [Variant((Intervention(site, layer, operation, head),), "clean", source, where) for where in positions]
    return found


@pytest.mark.parametrize(("name", "dtype", "positions"), [
    ("gpt2", torch.float64, ("all", "last", (0, 2))), ("llama", torch.float32, ("all", "last", Each(3))),
    ("gemma3", torch.float32, ("all", Each(3))), ("mixtral", torch.float64, ("last",)),
])
def test_both_engines_put_the_same_in_and_compute_what_they_said_they_would(
    name: str, dtype: torch.dtype, positions: tuple[Positions, ...]
) -> None:
    model, pairs = work(name, dtype)
    every = variants(pairs, model, positions)
    forked, plain = ForkedEngine(model), ReferenceEngine(model)
    found, expected = forked.evaluate(pairs, every, SCORER), plain.evaluate(pairs, every, SCORER)
    assert gap(found, expected) <= ROUNDING[dtype]
    changed = np.abs(expected.values[:, :, 0] - expected.baselines["clean"][:, 0]).max(axis=1)
    reached = [one.positions != (0, 2) or one.interventions[0].layer == 0 for one in every]  # the last block's is read at its end
    assert (changed[reached] > 1e-4).all()  # no intervention is idle
    for engine, evaluation in ((forked, found), (plain, expected)):
        told = engine.plan(pairs, every)
        assert (told.forwards, told.states) == (evaluation.forwards, evaluation.states)
    assert found.states == lower_bound(pairs, every, LAYERS)


@pytest.mark.parametrize(("source", "positions", "put_in"), [
    (Donor(0), "last", 4), (Donor(0), "all", 4), (Donor(0), (0, 2), 0), (Donor(0), Named("part", "last"), 4),
    (Own("corrupt"), "last", 0), (Own("corrupt"), Named("part", "all"), 3),
], ids=str)
def test_of_a_source_the_last_block_has_what_is_put_in_there_where_a_row_is_read(
    source: Source, positions: Positions, put_in: int
) -> None:
    model = family("llama", torch.float64)
    at_end, before = (("part", (3,)),), (("part", (1,)),)
    pairs = [replace(pair, donors=(Prompt((20 + b, 7, 9, 11), at_end),), clean_spans=at_end, corrupt_spans=before)
             for b, pair in enumerate(answered(model, PROMPTS[:4]))]  # donors that are no prompts of the pairs; all are read at 3
    states = {}
    for site, layer in ((HEAD_OUT, 0), (RESID_POST, 0), (RESID_PRE, LAST), (V, LAST), (HEAD_OUT, LAST), (RESID_POST, LAST)):
        variant = Variant((Intervention(site, layer, Patch()),), "clean", source, positions)
        forked = ForkedEngine(model)
        found, expected = (engine.evaluate(pairs, [variant], SCORER) for engine in (forked, ReferenceEngine(model)))
        assert gap(found, expected) <= ROUNDING[torch.float64]
        assert found.states == forked.plan(pairs, [variant]).states == lower_bound(pairs, [variant], LAYERS)
        states[site, layer] = found.states
    assert states[RESID_PRE, LAST] == states[V, LAST] == states[HEAD_OUT, LAST] - put_in


@pytest.mark.parametrize("site", [K, V], ids=str)
def test_a_vector_at_keys_or_values_is_as_wide_as_the_key_value_heads(site: Site) -> None:
    model, pairs = work("llama", torch.float64)
    width = model.head_width * model.n_kv_heads
    assert model.n_kv_heads < model.n_heads
    vector = Vector("v", np.random.default_rng(0).normal(size=(1, width)))
    cells = [Cell(Variant((Intervention(site, 0, Add(1.0), head),), "clean", vector, (1,)), {"layer": 0, "head": head})
             for head in range(model.n_kv_heads)]
    check_vectors(cells, model)
    every = [cell.variant for cell in cells]
    found = [engine.evaluate(pairs, every, SCORER) for engine in (ForkedEngine(model), ReferenceEngine(model))]
    assert gap(*found) < 1e-10
    assert (np.abs(found[0].values - found[0].baselines["clean"]).max(axis=(1, 2)) > 1e-4).all()
    wide = replace(every[0], source=Vector("w", np.zeros((1, int(model.config.hidden_size)))))
    with pytest.raises(ConfigError, match=rf"expected \[{width}\] or"):
        check_vectors([replace(cells[0], variant=wide)], model)


@pytest.mark.parametrize("positions", [Named("subject", "last"), Named("subject", "all"), Each(3)])
def test_named_positions_and_single_ones_mean_each_prompts_own(positions: Positions) -> None:
    model, pairs = work("gpt2", torch.float64)
    spans = [(("subject", (1, 2)),), (("subject", (0, 2)),)]
    pairs = [replace(pair, clean_spans=spans[0], corrupt_spans=spans[1], donors=(Prompt(pair.donors[0].tokens, spans[1]),))
             for pair in pairs]
    where = {"clean": {"last": [2], "all": [1, 2]}, "other": {"last": [2], "all": [0, 2]}}
    patch = Variant((Intervention(RESID_POST, 0, Patch()),), "clean", Donor(0), positions)
    found = [engine.evaluate(pairs, [patch], SCORER) for engine in (ForkedEngine(model), ReferenceEngine(model))]
    assert gap(*found) < 1e-10
    for b, pair in enumerate(pairs):
        here, there = ((where["clean"][positions.part], where["other"][positions.part]) if isinstance(positions, Named)
                       else ([3] * (len(pair.clean) > 3), [3] * (len(pair.clean) > 3)))
        expected = patched_by_hand(model, pair.clean, pair.donors[0].tokens, here, there)
        level = float(expected[pair.target] - expected[pair.foil])
        assert found[0].values[0, b, 0] == pytest.approx(level, abs=1e-10)


def block_output(model: CausalModel, prompt: tuple[int, ...], layer: int) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = model.blocks[layer].register_forward_hook(
        lambda _m, _a, output: kept.append((output[0] if isinstance(output, tuple) else output).detach().clone()))
    with torch.no_grad():
        model.model(input_ids=torch.tensor([prompt]), use_cache=False)
    handle.remove()
    return kept[0][0]


def with_block_output(model: CausalModel, prompt: tuple[int, ...], layer: int, change: object) -> torch.Tensor:
    """Logits of the last token with a block's output [T, D] put through `change`."""
    def hook(_module: object, _args: object, output: object) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        other = change(hidden[0].clone())[None]  # type: ignore[operator,index]
        return (other, *output[1:]) if isinstance(output, tuple) else other

    handle = model.blocks[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    handle.remove()
    return logits


def patched_by_hand(
    model: CausalModel, prompt: tuple[int, ...], donor: tuple[int, ...], here: list[int], there: list[int]
) -> torch.Tensor:
    given = block_output(model, donor, 0)

    def change(hidden: torch.Tensor) -> torch.Tensor:
        hidden[here] = given[there]
        return hidden

    return with_block_output(model, prompt, 0, change)


def levels(found: Evaluation) -> np.ndarray:
    return found.values[:, :, 0]


@pytest.mark.parametrize("engine", [ForkedEngine, ReferenceEngine])
def test_a_mean_is_over_every_token_of_every_prompt_duplicates_too(engine: type) -> None:
    model, pairs = work("llama", torch.float64)
    prompts = [pairs[0].clean, pairs[1].clean, pairs[1].clean, pairs[2].corrupt]
    tokens = torch.cat([block_output(model, prompt, 0) for prompt in prompts])
    mean, deviation = tokens.mean(dim=0), tokens.std(correction=0)
    given = reference(prompts)
    noisy = Noise(2.0, given, seed=5)
    tried = [Variant((Intervention(RESID_POST, 0, Patch()),), "clean", Mean(given), "last"),
             Variant((Intervention(RESID_POST, 0, Add(1.0)),), "clean", noisy, "last")]
    found = levels(engine(model).evaluate(pairs, tried, SCORER))
    for b, pair in enumerate(pairs):
        at = len(pair.clean) - 1
        drawn = torch.from_numpy(noise(noisy, "resid_post 0", np.array([pair.number * MOST_POSITIONS + at]), len(mean)))[0]
        for v, change in enumerate((lambda _h: mean, lambda h, drawn=drawn: h + 2.0 * deviation * drawn)):
            def at_last(hidden: torch.Tensor, change: object = change) -> torch.Tensor:
                hidden[-1] = change(hidden[-1])  # type: ignore[operator]
                return hidden

            logits = with_block_output(model, pair.clean, 0, at_last)
            assert found[v, b] == pytest.approx(float(logits[pair.target] - logits[pair.foil]), abs=1e-10)


def test_means_of_groups_and_positions_are_their_own() -> None:
    model, pairs = work("gpt2", torch.float64)
    long = max(len(pair.clean) for pair in pairs)
    same = [pair for pair in pairs if len(pair.clean) == long]
    same = [replace(pair, group=b % 2) for b, pair in enumerate(same)]
    given = reference([pair.clean for pair in same], [pair.group for pair in same])
    tried = Variant((Intervention(RESID_POST, 0, Patch()),), "clean", Mean(given, by_position=True), (1, 2))
    found = levels(ForkedEngine(model).evaluate(same, [tried], SCORER))
    for b, pair in enumerate(same):
        mean = torch.stack([block_output(model, other.clean, 0) for other in same if other.group == pair.group]).mean(dim=0)

        def change(hidden: torch.Tensor, mean: torch.Tensor = mean) -> torch.Tensor:
            hidden[1:3] = mean[1:3]
            return hidden

        logits = with_block_output(model, pair.clean, 0, change)
        assert found[0, b] == pytest.approx(float(logits[pair.target] - logits[pair.foil]), abs=1e-10)


def test_noise_depends_on_seed_draw_place_and_example_and_on_nothing_else() -> None:
    given = reference([(1, 2)])
    rows = np.array([3 * MOST_POSITIONS, 3 * MOST_POSITIONS + 1, 4 * MOST_POSITIONS + 1])
    whole = noise(Noise(1.0, given, 7), "mlp_out 2", rows, 5)
    assert np.array_equal(whole[1:], noise(Noise(1.0, given, 7), "mlp_out 2", rows[1:], 5))
    assert not np.isclose(whole[1], whole[2]).any() and not np.isclose(whole[0], whole[1]).any()
    for other in (Noise(1.0, given, 8), Noise(1.0, given, 7, draw=1)):
        assert not np.isclose(whole, noise(other, "mlp_out 2", rows, 5)).any()
    assert not np.isclose(whole, noise(Noise(1.0, given, 7), "mlp_out 1", rows, 5)).any()
    many = noise(Noise(1.0, given, 7), "mlp_out 2", np.arange(2000), 50)
    assert abs(many.mean()) < 0.01 and abs(many.std() - 1) < 0.01  # 1e5 numbers: standard errors of 0.003 and 0.002


@pytest.mark.parametrize("engine", [ForkedEngine, ReferenceEngine])
def test_two_examples_alike_get_noise_of_their_own_and_one_mean(engine: type) -> None:
    model, pairs = work("gpt2", torch.float64)
    alike = [pairs[0], pairs[-1]]
    assert alike[0].clean == alike[1].clean and alike[0].number != alike[1].number
    given = reference([pair.clean for pair in pairs])
    tried = [Variant((Intervention(MLP_OUT, 0, operation),), "clean", source, "last")
             for operation, source in ((Add(), Noise(1.0, given, seed=0)), (Patch(), Mean(given)))]
    noisy, mean = levels(engine(model).evaluate(alike, tried, SCORER))
    assert abs(noisy[0] - noisy[1]) > 1e-3
    assert mean[0] == mean[1]


def test_random_sources_are_the_same_in_passes_of_any_size() -> None:
    model, pairs = work("gpt2", torch.float64)
    every = variants(pairs, model, ("all",))
    whole = ForkedEngine(model).evaluate(pairs, every, SCORER)
    parts = ForkedEngine(model, budget=Budget(24, 2**14, 2**12, 2**12)).evaluate(pairs, every, SCORER)
    assert parts.forwards > 3 * whole.forwards
    assert gap(whole, parts) < 1e-10
    alone = ForkedEngine(model).evaluate(pairs[-1:], every, SCORER)
    assert np.abs(alone.values[:, 0] - whole.values[:, -1]).max() < 1e-10
