"""From text to tokens, with an encoder that everybody can do in their head: one token per character."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tinylab.errors import CorpusError
from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity
from tinylab.task.corpus import LONG, SEVERAL, Condition, PromptPair
from tinylab.task.tokens import Encode, TokenPair, tokenise

BOS = 1


def letters(text: str) -> list[int]:
    """One token per character; `~` is dropped, as real tokenizers drop what they cannot read."""
    return [ord(letter) for letter in text if letter != "~"]


def corpus(*rows: tuple[str, str, str, str], dropped: dict[str, int] | None = None) -> Condition:
    pairs = tuple(PromptPair(10 * number, *row) for number, row in enumerate(rows))
    return Condition("toy", "toy.jsonl", "sha", pairs, dropped or {})


GOOD = ("ab", "cd", "x", "y")


def cut(condition: Condition, encode: Encode = letters, **changes: Any) -> tuple[Condition, list[TokenPair]]:
    options = {"bos": None, "context": None, "single_token": False, "aligned": False, "strict": False, **changes}
    return tokenise(condition, encode, **options)


def test_prompts_and_first_answer_tokens_verbatim() -> None:
    condition, tokens = cut(corpus((" ab ", "cd", "xyz", " y")))
    assert tokens == [TokenPair((32, 97, 98, 32), (99, 100), ord("x"), 32)]
    assert len(condition.pairs) == 1


@pytest.mark.parametrize("field", range(4))
def test_a_word_that_the_vocabulary_lacks_is_an_error_with_its_row(field: int) -> None:
    bad = tuple(text + " ?" if place == field else text for place, text in enumerate(GOOD))
    with pytest.raises(CorpusError, match=r"toy.jsonl: row 10 has words that the model's vocabulary lacks \(\?\)"):
        cut(corpus(GOOD, bad), unknown=ord("?"))
    assert len(cut(corpus(GOOD, bad))[1]) == 2  # to a tokenizer that knows it, it is a word like any other


def test_bos_is_put_first_once_and_only_in_prompts() -> None:
    _, tokens = cut(corpus(GOOD), bos=BOS)
    assert tokens == [TokenPair((BOS, 97, 98), (BOS, 99, 100), ord("x"), ord("y"))]


def test_texts_are_encoded_verbatim_and_alone() -> None:
    seen: list[str] = []
    cut(corpus((" a ", "b\n", " x", "y ")), lambda text: seen.append(text) or letters(text))
    joined = [" a  x", "b\ny "]  # to be compared with
    assert sorted(set(seen)) == sorted([" a ", "b\n", " x", "y ", *joined])


def test_answers_that_begin_alike_are_dropped_and_counted() -> None:
    condition, tokens = cut(corpus(GOOD, ("ab", "cd", "xa", "xb"), ("ab", "cd", "x", "x"), GOOD, dropped={"empty prompt": 2}))
    assert [pair.row for pair in condition.pairs] == [0, 30]
    assert len(tokens) == 2
    assert condition.dropped == {"empty prompt": 2, "target and foil begin with the same token": 2}


def test_pairs_and_tokens_stay_in_the_same_order() -> None:
    condition, tokens = cut(corpus(("a", "b", "x", "y"), ("c", "d", "x", "x"), ("e", "f", "x", "y")))
    assert [pair.clean for pair in condition.pairs] == ["a", "e"]
    assert [pair.clean for pair in tokens] == [(ord("a"),), (ord("e"),)]


def test_unequal_lengths_are_dropped_only_where_positions_must_align() -> None:
    unequal = corpus(GOOD, ("abc", "cd", "x", "y"))
    assert len(cut(unequal)[1]) == 2
    condition, tokens = cut(unequal, aligned=True)
    assert condition.dropped == {"prompts of unequal length": 1}
    assert len(tokens) == 1


def test_lengths_count_tokens_not_characters() -> None:
    assert len(cut(corpus(("ab~", "cd", "x", "y")), aligned=True)[1]) == 1


@pytest.mark.parametrize("bad", [("ab", "cd", "xa", "xb"), ("abc", "cd", "x", "y")])
def test_strict_makes_a_dropped_pair_an_error_that_names_the_row(bad: tuple[str, str, str, str]) -> None:
    with pytest.raises(CorpusError, match=r"row 10 cannot be used.*condition\.strict=true"):
        cut(corpus(GOOD, bad), aligned=True, strict=True)


def test_strict_is_silent_on_a_good_corpus() -> None:
    assert len(cut(corpus(GOOD), strict=True, aligned=True, single_token=True)[1]) == 1


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(CorpusError, match="none of its 2 rows can be used"):
        cut(corpus(("ab", "cd", "x", "x"), ("ab", "cd", "y", "y")))


@pytest.mark.parametrize(("bos", "context"), [(None, 3), (BOS, 4)])
def test_a_prompt_as_long_as_the_context_fits_and_one_more_is_dropped(bos: int | None, context: int) -> None:
    long = corpus(GOOD, ("a", "bcd", "x", "y"))
    assert len(cut(long, bos=bos, context=context)[1]) == 2
    condition, tokens = cut(long, bos=bos, context=context - 1)
    assert (condition.dropped, len(tokens)) == ({LONG: 1}, 1)
    told = rf"row 10 cannot be used \({LONG}: it has {context} tokens, the model's context is {context - 1}\) and .*strict=true"
    with pytest.raises(CorpusError, match=told):
        cut(long, bos=bos, context=context - 1, strict=True)


@pytest.mark.parametrize(("row", "name"), [(("ab", "cd", "xx", "y"), "target"), (("ab", "cd", "x", "yy"), "foil")])
def test_an_answer_of_several_tokens_is_dropped_where_one_is_asked_for(row: tuple[str, str, str, str], name: str) -> None:
    condition, tokens = cut(corpus(GOOD, row, dropped={LONG: 1}), single_token=True)
    assert (condition.dropped, len(tokens)) == ({LONG: 1, SEVERAL: 1}, 1)
    with pytest.raises(CorpusError, match=rf"row 10 cannot be used \({SEVERAL}: {name} '.*'\) and condition\.strict=true"):
        cut(corpus(GOOD, row), single_token=True, strict=True)
    assert len(cut(corpus(GOOD, row))[1]) == 2


@pytest.mark.parametrize(("good", "bad"), [(1, 9), (2, 18), (2, 17)])
def test_a_tenth_of_the_rows_is_enough_and_fewer_are_an_error_with_advice(good: int, bad: int) -> None:
    """The rows that the text alone ruled out are rows of the split too."""
    several = ("ab", "cd", "xx", "y")
    assert len(cut(corpus(*[GOOD] * good, *[several] * bad), single_token=True)[1]) == good
    one_more = corpus(*[GOOD] * good, *[several] * bad, dropped={"empty prompt": 10 * good - good - bad + 1})
    told = rf"toy.jsonl: only {good} of its {10 * good + 1} rows can be used, fewer than one in 10 \(.*{SEVERAL}: {bad}.*\); "
    with pytest.raises(CorpusError, match=told + r"condition\.single_token=false .* another condition, or another model"):
        cut(one_more, single_token=True)


@pytest.mark.parametrize(("changes", "advice"), [
    ({"context": 1}, "a model with a longer context"), ({"aligned": True}, r"battery\.positions=last"),
])
def test_the_advice_is_that_of_what_most_rows_were_dropped_for(changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(CorpusError, match=rf"none of its 1 rows can be used .*{advice}"):
        cut(corpus(("ab", "c", "x", "y")), **changes)


@pytest.mark.parametrize("row", [("~", "cd", "x", "y"), ("ab", "~~", "x", "y")])
@pytest.mark.parametrize("bos", [None, BOS])
def test_a_prompt_without_a_token_of_its_own_is_dropped_as_empty(row: tuple[str, str, str, str], bos: int | None) -> None:
    """No engine can read the last token of a prompt that has none."""
    condition, tokens = cut(corpus(GOOD, row), bos=bos)
    assert condition.dropped == {"empty prompt": 1}
    assert len(tokens) == 1


@pytest.mark.parametrize("row", [("ab", "cd", "~", "y"), ("ab", "cd", "x", "~")])
def test_an_answer_without_a_token_is_dropped_as_what_it_is(row: tuple[str, str, str, str]) -> None:
    condition, tokens = cut(corpus(GOOD, row))
    assert condition.dropped == {"empty answer": 1}
    assert len(tokens) == 1


def test_a_tokenizer_adds_no_special_tokens_of_its_own() -> None:
    """Llama's tokenizers put a BOS token before every text unless they are told not to: then prompts would have two."""
    words = Tokenizer(WordLevel({"<s>": 0, "ab": 1, "cd": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")
    assert tokenizer.encode("ab cd") == [0, 1, 2]
    model = CausalModel(None, tokenizer, ModelIdentity("toy", None, None), add_bos=True)
    assert model.encode("ab cd") == [1, 2]
    _, (pair,) = cut(corpus(("ab cd", "cd", "ab", "cd")), model.encode, bos=model.bos)
    assert (pair.clean, pair.corrupt, pair.target, pair.foil) == ((0, 1, 2), (0, 2), 1, 2)
