"""A condition cut to what the seeds draw: each seed keeps its examples, each example its tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tinylab.batteries.heads_zero import HeadsZero
from tinylab.interventions.sites import Sizes
from tinylab.task.corpus import Condition, PromptPair, subsamples
from tinylab.task.preparation import prepare
from tinylab.task.tokens import nothing_lost

SEEDS = (3, 8)
DRAWN = 4


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def corpus() -> Condition:
    """Twelve pairs that can all be told apart; the third and the ninth begin their answers alike, and are dropped."""
    names = "abcdefghijkl"
    answers = ["xx" if name in "ci" else "xy" for name in names]
    pairs = tuple(PromptPair(10 * row, f"{names[row]}.", f"{names[row]}!", *answers[row]) for row in range(len(names)))
    return Condition("toy", "toy.jsonl", "sha", pairs, {})


def prepared() -> Any:
    settings: Any = SimpleNamespace(
        battery=HeadsZero(name="h1"), seeds=list(SEEDS),
        condition=SimpleNamespace(n_examples=DRAWN, single_token=True, answer="first", first_tokens=False, strict=False,
                                  chat=False, system=None),
        controls=SimpleNamespace(sham=False),
    )
    model: Any = SimpleNamespace(sizes=Sizes(2, 3), bos=None, unknown=None, lost=nothing_lost, specials=(), context=None,
                                 encode=letters, spelt=None, describe_bos=dict)
    return prepare(settings, corpus(), model)


def test_each_seed_keeps_the_examples_that_it_drew() -> None:
    usable = [pair for pair in corpus().pairs if pair.target != pair.foil]
    alone = Condition("toy", "toy.jsonl", "sha", tuple(usable), {})
    found = prepared()
    for seed, drawn in subsamples(alone, DRAWN, SEEDS).items():
        assert [found.condition.pairs[b] for b in found.seeds[seed]] == [usable[b] for b in drawn]
    assert [len(examples) for examples in found.seeds.values()] == [DRAWN, DRAWN]
    assert found.seeds[SEEDS[0]] != found.seeds[SEEDS[1]]
    assert found.kept == 10


def test_the_tokens_of_a_drawn_example_are_those_of_its_text() -> None:
    found = prepared()
    assert len(found.tokens) == len(found.condition.pairs) < 10
    for pair, tokens in zip(found.condition.pairs, found.tokens, strict=True):
        assert list(tokens.clean) == letters(pair.clean)
        assert list(tokens.corrupt) == letters(pair.corrupt)
        assert [tokens.target, tokens.foil] == letters(pair.target + pair.foil)
