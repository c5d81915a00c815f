"""The planted Llama: both engines give the closed forms of a circuit with grouped queries, rotary positions and RMSNorm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from planted import ENGINES, model, pairs
from tinylab.arrays import FloatArray
from tinylab.config.groups import EngineConfig, ModelConfig
from tinylab.engine.base import Engine
from tinylab.engine.choose import AllLogits, choose_engine, self_check
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine, intervene
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, SITES, Site
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures.metrics import METRICS, Scorer, available
from tinylab.models.loading import load_model
from tinylab.planted import llama_closed_forms as forms
from tinylab.planted.corpora import BOS, FRUIT, LLAMA, llama_rows
from tinylab.planted.identity_norm import POSITIONS
from tinylab.planted.llama import HEADS, LAYERS, LOUD, WIDTH
from tinylab.planted.llama_closed_forms import frequency, ledger, plane_of, seen
from tinylab.task.tokens import TokenPair

TOLERANCE: Final = 1e-4
"""Logits of 112 at most, whatever the model's dtype, because two things of a Llama are float32 in transformers.

RMSNorm rounds what it reads to 24 bits (relative 6e-8), five times on the way to a logit: 112·5·6e-8 = 3e-5. The rotary
embedding's cosines and angles are rounded alike: 181·6e-8 = 1e-5 in a score, which shows only where two places share a
head's attention, and there times a gain of 7.
"""
ROWS: Final = llama_rows()
ANSWERS: Final = [number for number, row in enumerate(ROWS) if row["template"] == "answers"]
KEYS: Final = [number for number, row in enumerate(ROWS) if row["template"] == "keys"]
EVERY: Final = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
MIRROR: Final[dict[RunName, RunName]] = {"clean": "corrupt", "corrupt": "clean"}
LOGITS: Final = AllLogits(LLAMA)


def words(row: dict[str, str], run: RunName) -> list[str]:
    return [BOS, *row[run].split()]


PAIRS: Final = pairs("planted_llama")


def difference(logits: dict[str, float], row: dict[str, str]) -> float:
    return logits[row["target"].strip()] - logits[row["foil"].strip()]


def expected(number: Callable[[str, int], float]) -> FloatArray:
    """A closed form for every example, of its template and length."""
    return np.array([number(row["template"], len(words(row, "clean"))) for row in ROWS])


def clean_and_corrupt(closed: Callable[[dict[str, str], RunName], float]) -> dict[RunName, FloatArray]:
    return {run: np.array([closed(row, run) for row in ROWS]) for run in MIRROR}


def scaled(*changes: tuple[int, int, float], positions: Positions = "all") -> Variant:
    """Heads of the clean run, each with its factor."""
    return Variant(tuple(Intervention(HEAD_OUT, *at, Scale(by), head) for *at, head, by in changes), "clean", None, positions)


def patched(target: RunName, *heads: tuple[int, int], positions: Positions = "all") -> Variant:
    """Heads of one run, taken from the other."""
    return Variant(tuple(Intervention(HEAD_OUT, at, Patch(), head) for at, head in heads), target, Own(MIRROR[target]), positions)


def whole(site: Site, layer: int, positions: Positions, target: RunName = "corrupt", source: RunName = "clean") -> Variant:
    return Variant((Intervention(site, layer, Patch()),), target, Own(source), positions)


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    made: Engine = ENGINES[request.param](model("llama"))
    return made


def differences(engine: Engine, variants: Sequence[Variant], pairs: Sequence[TokenPair] = PAIRS) -> FloatArray:
    """Logit differences, [V, B]."""
    return engine.evaluate(pairs, variants, Scorer(("logit_diff",))).values[:, :, 0]


def near(found: FloatArray, closed: Any) -> None:
    np.testing.assert_allclose(found, closed, rtol=0, atol=TOLERANCE)


# Without interventions


def test_the_unmodified_logits_are_the_ledgers(engine: Engine) -> None:
    found = engine.evaluate(PAIRS, [scaled((0, 0, 1.0))], LOGITS)
    for run in MIRROR:
        near(found.baselines[run], [list(ledger(seen(words(row, run))).values()) for row in ROWS])
    near(found.values[0], found.baselines["clean"])


def test_the_logit_differences_are_those_worked_by_hand(engine: Engine) -> None:
    found = engine.evaluate(PAIRS, [scaled((0, 0, 1.0))], Scorer(("logit_diff",))).baselines
    near(found["clean"][:, 0], expected(forms.logit_diff))
    near(found["corrupt"][:, 0], -expected(forms.logit_diff))
    assert set(np.round(found["clean"][ANSWERS, 0], 6)) == {7.0}
    assert set(np.round(found["clean"][KEYS, 0], 5)) == {round(24 / 7, 5)}


def test_the_ledger_holds_for_any_prompt_of_the_vocabulary(engine: Engine) -> None:
    """Random words: most have several matches or none, so that cosines of distances and uniform attention decide."""
    draw = np.random.default_rng(0)
    prompts = [(BOS, *draw.choice(FRUIT, size=size)) for size in draw.integers(1, POSITIONS, size=24)]
    tokens = [TokenPair(ids, ids, 2, 3) for ids in (tuple(map(LLAMA.index, prompt)) for prompt in prompts)]
    found = engine.evaluate(tokens, [scaled((0, 0, 1.0))], LOGITS)
    near(found.baselines["clean"], [list(ledger(seen(prompt)).values()) for prompt in prompts])


# H1: scaling heads


@pytest.mark.parametrize(("factor", "closed"), [(0.0, forms.zeroed), (0.5, forms.halved)])
def test_scaling_a_head(engine: Engine, factor: float, closed: Callable[[str, int], dict[tuple[int, int], float]]) -> None:
    found = differences(engine, [scaled((*at, factor)) for at in EVERY])
    for at, values in zip(EVERY, found, strict=True):
        near(values, expected(lambda template, n, at=at: closed(template, n)[at]))


def h1_ledger(row: dict[str, str], factors: dict[tuple[int, int], float]) -> dict[str, float]:
    """Every logit of the clean run under factors of 0, or of anything for heads other than 0.0 and 0.1."""
    loud = factors.get((0, 2), 1)
    without = [head for head in (0, 1) if factors.get((0, head), 1) == 0]
    return ledger(
        seen(words(row, "clean"), without=without, loud=loud), loud=loud, lift=factors.get((0, 3), 1),
        scales=[factors.get((1, head), 1) for head in range(HEADS)],
    )


def test_scaling_gives_every_logit_of_the_ledger(engine: Engine) -> None:
    cases = [{at: factor} for at in EVERY for factor in ((0.0,) if at in [(0, 0), (0, 1)] else (0.0, 0.5, -1.0, 2.0))]
    found = engine.evaluate(PAIRS, [scaled(*((*at, by) for at, by in case.items())) for case in cases], LOGITS).values
    near(found, [[list(h1_ledger(row, case).values()) for row in ROWS] for case in cases])


def test_hand_worked_numbers_are_what_the_ledger_says() -> None:
    for row in ROWS:
        n, template = len(words(row, "clean")), row["template"]
        for at, value in forms.zeroed(template, n).items():
            assert difference(h1_ledger(row, {at: 0.0}), row) == pytest.approx(value, abs=1e-12), at
        for at, value in forms.halved(template, n).items():
            steady = {} if at in [(0, 0), (0, 1)] else {at: 0.5}
            assert difference(h1_ledger(row, steady), row) == pytest.approx(value, abs=1e-12), at


def test_the_lift_shows_in_every_logit_and_in_no_metric(engine: Engine) -> None:
    logits = engine.evaluate(PAIRS, [scaled((0, 3, 0.0))], LOGITS)
    near(logits.values[0] - logits.baselines["clean"], -3.0)
    found = engine.evaluate(PAIRS, [scaled((0, 3, 0.0))], Scorer(tuple(available(source=False))))
    assert np.abs(found.values[0] - found.baselines["clean"]).max() <= 1e-9


def test_the_loud_head_shows_in_no_patch_and_in_every_norm(engine: Engine) -> None:
    """At the last position alone: what layer 1 reads elsewhere stays, three norms at the last double."""
    alone, before, patch = differences(
        engine, [scaled((0, 2, 0.0), positions="last"), scaled((0, 2, 0.0), positions=(3,)), patched("clean", (0, 2))]
    )
    near(alone[ANSWERS], 2 * (3 + 2 * 2 * 3) + 2)  # 32
    near(before[ANSWERS], (2 * 3) * (1 + 2) + 1)  # only T's position: 1.0, 1.1 and 1.2 read it doubled, 1.3 reads F as before
    near(patch, expected(forms.logit_diff))
    row = ROWS[0]
    assert difference(ledger(seen(words(row, "clean")), loud=0, loud_before=1), row) == 32


def softmax(logits: dict[str, float]) -> FloatArray:
    weights = np.exp(np.array(list(logits.values())) - max(logits.values()))
    return weights / weights.sum()


def test_the_other_metrics_follow_from_the_ledgers_logits(engine: Engine) -> None:
    found = engine.evaluate(PAIRS, [scaled((*at, 0.0)) for at in EVERY], Scorer(("kl_div", "p_drop", "acc_flip_rate"))).values
    for at, values in zip(EVERY, found, strict=True):
        for number, row in enumerate(ROWS):
            before, after = softmax(h1_ledger(row, {})), softmax(h1_ledger(row, {at: 0.0}))
            target = LLAMA.index(row["target"].strip())
            near(values[number, 0], (before * np.log(before / after)).sum())
            near(values[number, 1], before[target] - after[target])
            if at != (0, 0):  # without 0.0 several words tie
                assert values[number, 2] == float(after.argmax() != target), (at, row)


def test_every_norm_is_the_identity_and_twice_that_behind_a_loud_head_that_is_gone() -> None:
    loaded, seen_by_norms = model("llama"), []

    def compare(_module: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        quiet = [feature for feature in range(WIDTH) if feature not in range(*LOUD.indices(WIDTH))]
        seen_by_norms.append((args[0][..., quiet], output[..., quiet]))

    norms = [module for module in loaded.model.modules() if isinstance(module, LlamaRMSNorm)]
    hooks = [norm.register_forward_hook(compare) for norm in norms]
    for factor in (1.0, 0.0):
        with intervene(loaded, scaled((0, 2, factor)), range(len(PAIRS[0].clean))):
            loaded.model(torch.tensor([PAIRS[0].clean]))
    for hook in hooks:
        hook.remove()
    assert len(norms) == 2 * LAYERS + 1
    for number, (before, after) in enumerate(seen_by_norms):
        times = 2 if number > len(norms) else 1  # the first norm stands before the loud head
        assert torch.allclose(after, times * before, rtol=1e-7, atol=1e-30), number


# Pairs and additivity


JOINT: Final = {  # two heads zeroed: the logit difference of `answers`, where 7 is without interventions
    ((1, 0), (1, 1)): lambda n: 1,  # y_T = 0: changes of −10 and +4, together −6
    ((1, 0), (1, 2)): lambda n: -1,  # the gate takes half of what is there: −10 and −3, together −8
    ((1, 1), (1, 2)): lambda n: 6,  # +4 and −3, together −1
    ((1, 0), (1, 3)): lambda n: -4,  # −10 and −1, together −11
    ((1, 2), (1, 3)): lambda n: 3,  # −3 and −1, together −4
    ((0, 0), (1, 0)): lambda n: 1 + 1 / n,  # 1.0 sees nothing without 0.0: the same as 0.0 alone
    ((0, 1), (1, 2)): lambda n: 3,  # nor does 1.2 without 0.1, but uniform it still counts each word 1/n more
    ((0, 2), (1, 2)): lambda n: 16,  # N = 2: 2·2·3 + 2·2·1
    ((0, 3), (1, 0)): lambda n: -3,
}
ADDITIVE: Final = {((1, 0), (1, 1)), ((1, 0), (1, 3)), ((1, 2), (1, 3)), ((0, 3), (1, 0))}


def test_pairs_of_heads_and_where_their_effects_add_up(engine: Engine) -> None:
    answers = [PAIRS[number] for number in ANSWERS]
    found = differences(engine, [scaled(*((*at, 0.0) for at in joint)) for joint in JOINT], answers)
    for (joint, closed), values in zip(JOINT.items(), found, strict=True):
        for value, number in zip(values, ANSWERS, strict=True):
            n = len(words(ROWS[number], "clean"))
            near(value, closed(n))
            both = [forms.zeroed("answers", n)[at] - 7 for at in joint]
            assert (abs(sum(both) - (value - 7)) <= TOLERANCE) == (joint in ADDITIVE), joint


def test_half_of_two_heads_that_are_multiplied(engine: Engine) -> None:
    found = differences(engine, [scaled((1, 0, 0.5), (1, 2, 0.5))])[0]
    near(found[ANSWERS], 0.5 * 1.5 + 1)  # y_T = 5/2 − 2, b_T = ½


# H2: patching


def test_denoising_a_head(engine: Engine) -> None:
    found = differences(engine, [patched("corrupt", at) for at in EVERY])
    for at, values in zip(EVERY, found, strict=True):
        near(values, expected(lambda template, n, at=at: forms.denoised(template, n)[at]))


def test_heads_of_layer_1_are_denoised_at_the_last_position_alone(engine: Engine) -> None:
    last, others = (
        differences(engine, [patched("corrupt", (1, head), positions=positions) for head in range(HEADS)])
        for positions in ("last", (0, 1, 2, 3, 4, 5))
    )
    for head in range(HEADS):
        near(last[head], expected(lambda template, n, head=head: forms.denoised(template, n)[1, head]))
        near(others[head], -expected(forms.logit_diff))


def recoveries(found: FloatArray, rows: list[int]) -> list[float]:
    whole_way = expected(forms.logit_diff)[rows]
    values = [METRICS["recovery"].of_means(values[rows], -whole_way, whole_way) for values in found]
    return [value for value in values if value is not None]


def test_recoveries_of_single_heads(engine: Engine) -> None:
    found = differences(engine, [patched("corrupt", at) for at in EVERY])
    near(np.array(recoveries(found, ANSWERS)), [0, 0, 0, 0, 15 / 14, -6 / 14, 2 / 14, 3 / 14])
    near(np.array(recoveries(found, KEYS)), [1, 0, 0, 0, 5 / 3, -2 / 3, 0, 0])  # g/(g−h) and −h/(g−h)


def test_noising_a_head_mirrors_denoising_it(engine: Engine) -> None:
    """The circuit treats all words alike, so exchanging target and foil exchanges the prompts of `answers`."""
    found = differences(engine, [patched("clean", at) for at in EVERY])
    for at, values in zip(EVERY, found, strict=True):
        near(values[ANSWERS], -forms.denoised("answers", 7)[at])


def test_patching_all_heads_of_a_layer(engine: Engine) -> None:
    first, second = differences(engine, [whole(HEAD_OUT, 0, "all"), whole(HEAD_OUT, 1, "last")])
    near(np.array(recoveries(np.stack([first, second]), ANSWERS)), [0, 1])
    near(np.array(recoveries(np.stack([first, second]), KEYS)), [1, 1])


def test_patching_the_mlp(engine: Engine) -> None:
    """`answers`: 3 for T instead of F beside y = −1 and 3, −1 in all. `keys`: 3/n for T, and −3."""
    first, second = differences(engine, [whole(MLP_OUT, 0, "all"), whole(MLP_OUT, 1, "last")])
    near(first, -expected(forms.logit_diff))  # layer 0 has nothing to say
    near(second, expected(lambda template, n: -1 if template == "answers" else 3 / n - 3))
    near(np.array(recoveries(second[None], ANSWERS)), [3 / 7])
    near(np.array(recoveries(second[None], KEYS)), [1 / 8])


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_scaling_the_mlp(engine: Engine, factor: float) -> None:
    variants = [Variant((Intervention(MLP_OUT, layer, Scale(factor)),), "clean") for layer in range(LAYERS)]
    first, second = differences(engine, variants)
    near(first, expected(forms.logit_diff))
    near(second, [difference(ledger(seen(words(row, "clean")), mlp=factor), row) for row in ROWS])
    near(second[ANSWERS], 3 * (1 + factor) + 1)


PLACES: Final = {3: 11 / 14, 4: 3 / 14, 5: 0, 6: 0}
"""`answers`, the stream behind layer 0: T's place turns three heads (4 of −7 to 7), F's place 1.3 alone."""


def test_patching_the_stream_position_by_position(engine: Engine) -> None:
    places = (0, 1, 2, *PLACES)
    found = differences(engine, [whole(RESID_POST, 0, (place,)) for place in places])
    near(np.array(recoveries(found, ANSWERS)), [PLACES.get(place, 0) for place in places])
    both, last_0, last_1, before_1 = differences(
        engine,
        [
            whole(RESID_POST, 0, (3, 4)), whole(RESID_POST, 0, "last"), whole(RESID_POST, 1, "last"),
            whole(RESID_POST, 1, (0, 1, 2, 3, 4, 5)),
        ],
    )
    near(np.array(recoveries(np.stack([both, last_0, last_1, before_1]), ANSWERS)), [1, 0, 1, 0])
    near(last_1, expected(forms.logit_diff))


def test_two_places_that_match_share_by_the_cosine_of_their_distances(engine: Engine) -> None:
    """`keys`, 0.0 denoised at T's place alone: T, 4 back, and F, 2 back, both stand behind the word that 1.0 asks for.

    Denoised at F's place alone, none does. Noised it is the other way round: the two places are an OR, then an AND.
    """
    variants = [patched(target, (0, 0), positions=(place,)) for target in MIRROR for place in (2, 4)]
    clean_t, clean_f, corrupt_t, corrupt_f = differences(engine, variants)[:, KEYS]
    none, both = [], []
    for number in KEYS:
        prompt = words(ROWS[number], "clean")
        omega = frequency(plane_of(prompt[-1]))
        odds = math.exp(181 * (math.cos(2 * omega) - math.cos(4 * omega)))
        both.append(3 * (1 - odds) / (1 + odds) * (1 + 1 / 7))
        none.append(0.0)
    assert both[0] == pytest.approx(-1.6957, abs=5e-5)  # plane 6, ω = 0.0316: F has 0.747 of the attention
    near(clean_t, none)
    near(clean_f, both)
    near(corrupt_t, both)
    near(corrupt_f, none)


def test_a_run_patched_with_itself_is_unchanged() -> None:
    variants = [whole(site, layer, at, run, run) for site in SITES.values() for layer in range(LAYERS)
                for at in ("last", (2, 3)) for run in MIRROR]
    for make, floor in ((ReferenceEngine, 0.0), (ForkedEngine, 1e-12)):
        found = make(model("llama")).evaluate(PAIRS, variants, LOGITS)
        for variant, values in zip(variants, found.values, strict=True):
            assert np.abs(values - found.baselines[variant.target]).max() <= floor


# Which engine


def test_the_self_check_lets_the_forked_engine_run_in_float64() -> None:
    choice = choose_engine(model("llama"), EngineConfig(name="auto"), PAIRS)
    assert (choice.engine.name, choice.reason) == ("forked", None)
    assert choice.max_difference is not None
    assert choice.max_difference <= 1e-10


def test_both_engines_agree_far_below_the_closed_forms_tolerance() -> None:
    variants = [*(scaled((*at, by)) for at in EVERY for by in (0.0, 0.5)), *(patched(run, at) for at in EVERY for run in MIRROR)]
    forked, plain = (make(model("llama")).evaluate(PAIRS, variants, LOGITS).values for make in ENGINES.values())
    assert np.abs(forked - plain).max() <= 1e-10


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_float32_gives_the_same_numbers(name: str) -> None:
    coarse = load_model(ModelConfig(path="pkg://tinylab/assets/planted/llama", dtype="float32"), "cpu")
    found = differences(ENGINES[name](coarse), [scaled((*at, 0.0)) for at in EVERY])
    for at, values in zip(EVERY, found, strict=True):
        near(values, expected(lambda template, n, at=at: forms.zeroed(template, n)[at]))


# What the closed forms would notice


def test_the_model_has_what_gpt2_has_not() -> None:
    config = model("llama").config
    assert (config.num_attention_heads, config.num_key_value_heads) == (HEADS, HEADS // 2)
    assert model("llama").head_width * model("llama").n_heads != config.hidden_size
    assert not any(name.endswith("bias") for name, _ in model("llama").model.named_parameters())


@pytest.mark.parametrize("group", [(0, 1), (2, 3)])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_heads_of_one_group_have_effects_of_their_own(layer: int, group: tuple[int, int]) -> None:
    """Half a logit apart at least, so that a group's number cannot stand for a head's."""
    one, other = (forms.zeroed("answers", 7)[layer, head] for head in group)
    assert abs(one - other) >= 2
    others = [forms.zeroed("answers", 7)[layer, head] for head in range(HEADS)]
    assert len(set(others)) == HEADS


MISREAD: Final[dict[str, list[int]]] = {  # which key-value head each query head gets, where 0, 0, 1, 1 is right
    "tiled instead of repeated": [0, 1, 0, 1],
    "the first for all": [0, 0, 0, 0],
    "groups exchanged": [1, 1, 0, 0],
}


@contextmanager
def key_values(places: list[int]) -> Iterator[None]:
    """While open, attention (which both engines use) gives query heads other key-value heads."""
    true = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def wrong(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **more: Any) -> Any:
        order = torch.tensor([places[head] for head in range(query.shape[1])])
        parts = [true(module, query, key[:, [at, at]], value[:, [at, at]], mask, **more)[0] for at in range(key.shape[1])]
        return torch.stack(parts)[order, ..., range(len(order)), :].permute(1, 2, 0, 3), None

    ALL_ATTENTION_FUNCTIONS.register("sdpa", wrong)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register("sdpa", true)


def test_the_wrong_key_values_of_these_tests_can_be_the_right_ones(engine: Engine) -> None:
    with key_values([0, 0, 1, 1]):
        near(differences(engine, [scaled((1, 0, 0.0))])[0], expected(lambda template, n: forms.zeroed(template, n)[1, 0]))


@pytest.mark.parametrize("places", MISREAD.values(), ids=list(MISREAD))
def test_key_values_given_to_the_wrong_heads_are_noticed(engine: Engine, places: list[int]) -> None:
    """Both engines would still agree: only the closed forms see it."""
    with key_values(places):
        found = engine.evaluate(PAIRS, [scaled((*at, 0.0)) for at in EVERY], Scorer(("logit_diff",)))
    assert np.abs(found.baselines["clean"][:, 0] - expected(forms.logit_diff))[ANSWERS].min() >= 0.1


def test_a_key_value_heads_number_in_place_of_a_heads_is_noticed(engine: Engine) -> None:
    found = differences(engine, [scaled((layer, head // 2, 0.0)) for layer, head in EVERY])
    for at, values in zip(EVERY, found, strict=True):
        wrong = np.abs(values - expected(lambda template, n, at=at: forms.zeroed(template, n)[at]))[ANSWERS]
        assert wrong.min() >= 2 or at[1] == 0  # 0 // 2 is 0


def test_dropped_position_ids_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them each row of a pass counts from 0 or in the order of the trie: no head of layer 0 finds its place."""
    true = LlamaRotaryEmbedding.forward

    def counts(self: LlamaRotaryEmbedding, hidden: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return true(self, hidden, torch.arange(position_ids.shape[1]).expand(position_ids.shape))

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", counts)
    plain, forked = (make(model("llama")).evaluate(PAIRS, [scaled((0, 0, 1.0))], Scorer(("logit_diff",))).baselines["clean"][:, 0]
                     for make in (ReferenceEngine, ForkedEngine))
    near(plain, expected(forms.logit_diff))  # whole prompts are counted rightly
    assert np.abs(forked - plain)[ANSWERS].min() >= 1
    with pytest.raises(EngineUnsupported, match="differ from the reference engine's"):
        self_check(model("llama"), PAIRS)
