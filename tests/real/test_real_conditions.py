"""The shipped conditions as trained models see them: what is dropped is what a tokenizer cuts into pieces, all else is used."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tinylab.config.groups import ConditionConfig, ModelConfig
from tinylab.errors import CorpusError
from tinylab.interventions.variants import Named
from tinylab.models.loading import skeleton
from tinylab.models.network import CausalModel
from tinylab.task.corpus import SEVERAL, Condition, load_condition
from tinylab.task.spans import at_parts
from tinylab.task.tokens import TokenPair, tokenise

pytestmark = pytest.mark.real

CONDITIONS = ("facts", "negation", "logic", "ioi", "induction")
DROPPED = {"smollm2": {"facts": 10, "induction": 1}, "gemma3": {}}
"""Of 120 rows of a test split."""


def as_seen(folder: Path, name: str, *, strict: bool = False) -> tuple[Condition, Condition, list[TokenPair]]:
    """A condition, and what is left of it with the model's tokenizer."""
    config = ConditionConfig(tag=name, path=f"pkg://tinylab/assets/corpora/{name}.jsonl", split="test", single_token=True)
    condition, model = load_condition(config), loaded(folder)
    kept, tokens = tokenise(condition, model.encode, bos=model.bos, unknown=model.unknown, lost=model.lost,
                            specials=model.specials, context=model.context, single_token=True, aligned=False, strict=strict)
    return condition, kept, tokens


@cache
def loaded(folder: Path) -> CausalModel:
    """Without weights."""
    return skeleton(ModelConfig(path=str(folder), add_bos=folder.name == "gemma3"))


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("model", DROPPED)
def test_a_shipped_condition_loses_only_answers_of_several_tokens(
    model: str, name: str, request: pytest.FixtureRequest
) -> None:
    """What is left is what transformers' own tokenizer makes of the joined texts."""
    folder: Path = request.getfixturevalue(model)
    condition, kept, tokens = as_seen(folder, name)
    lost = DROPPED[model].get(name, 0)
    assert (len(condition.pairs), len(kept.pairs)) == (120, 120 - lost)
    assert (kept.dropped, kept.noted) == ({SEVERAL: lost} if lost else {}, {})
    tokenizer = loaded(folder).tokenizer
    cut = {pair.row for pair in condition.pairs for answer in (pair.target, pair.foil)
           if len(tokenizer.tokenize(answer)) > 1}
    assert {pair.row for pair in condition.pairs} - {pair.row for pair in kept.pairs} == cut
    for pair, found in zip(kept.pairs, tokens, strict=True):
        assert [*found.clean, found.target] == tokenizer.encode(pair.clean + pair.target)
        assert [*found.corrupt, found.foil] == tokenizer.encode(pair.corrupt + pair.foil)


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("model", DROPPED)
def test_every_named_part_of_a_shipped_condition_is_tokens_that_read_as_its_words(
    model: str, name: str, request: pytest.FixtureRequest
) -> None:
    _, kept, tokens = as_seen(request.getfixturevalue(model), name)
    own = loaded(request.getfixturevalue(model))
    for part in kept.pairs[0].parts:
        found, placed = at_parts(kept, tokens, Named(part.name, "last"), ("clean", "corrupt"), offsets=own.offsets, turn=None,
                                 strict=True)
        assert found.pairs == kept.pairs
        for pair, prompts in zip(found.pairs, placed, strict=True):
            (words,) = (one for one in pair.parts if one.name == part.name)
            for told, prompt in ((words.clean, prompts.prompt("clean")), (words.corrupt, prompts.prompt("corrupt"))):
                ((_, places),) = prompt.spans
                assert own.tokenizer.decode([prompt.tokens[place] for place in places]).strip() == told.text
                text = own.tokenizer.decode(prompt.tokens[: places[-1] + 1], skip_special_tokens=True)
                assert text.endswith(told.text) and text.count(told.text) >= told.place


def test_a_strict_condition_names_the_first_row_that_it_would_drop(smollm2: Path) -> None:
    with pytest.raises(CorpusError, match=r"row 221 cannot be used \(answer of several tokens: target ' Islamabad'\)"):
        as_seen(smollm2, "facts", strict=True)
