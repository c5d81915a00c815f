"""From text to tokens: what a condition's pairs look like to one model.

Prompts and answers are tokenised alone, verbatim and without special tokens; the BOS token is put first where
`model.add_bos` says so, never by the tokenizer. An answer is scored by its first token.
A word that the vocabulary lacks is an error, never a silent token for the unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinylab.errors import CorpusError
from tinylab.measures.readings import READOUT
from tinylab.task.corpus import Condition, PromptPair, drop

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class TokenPair:
    """A prompt pair as token ids, BOS included; `target` and `foil` are the tokens that stand for the answers (`Readout`)."""

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    target: int
    foil: int


def tokenise(
    condition: Condition,
    encode: Encode,
    *,
    bos: int | None,
    unknown: int | None = None,
    context: int | None,
    single_token: bool,
    aligned: bool,
    strict: bool,
) -> tuple[Condition, list[TokenPair]]:
    """Tokenise a condition and drop the pairs that this model cannot use.

    Args:
        condition: the text pairs.
        encode: text to token ids, without special tokens.
        bos: the token put before every prompt, or none.
        unknown: the token that stands for words that the vocabulary lacks, or none.
        context: the longest prompt in tokens that the model takes, None if it has no limit.
        single_token: whether an answer of several tokens is an error.
        aligned: whether the positions of both prompts must align, so that unequal lengths are unusable.
        strict: whether a pair that would be dropped is an error.

    Returns:
        The condition with what is left, and its pairs as tokens, in the same order.

    Raises:
        CorpusError: a word that the vocabulary lacks, a prompt longer than the context, an answer of several tokens where
            one is asked for, nothing left to use.
    """
    prefix = () if bos is None else (bos,)
    tokens: dict[int, TokenPair] = {}
    reasons: dict[int, str] = {}
    for pair in condition.pairs:
        clean, corrupt = ((*prefix, *encode(text)) for text in (pair.clean, pair.corrupt))
        answers = [encode(text) for text in (pair.target, pair.foil)]
        if unknown is not None and unknown in (*clean, *corrupt, *answers[0], *answers[1]):
            raise CorpusError(_unknown_words(condition, pair, encode, unknown))
        _check_context(condition, pair, max(len(clean), len(corrupt)), context)
        if single_token:
            _check_single_token(condition, pair, answers)
        if len(prefix) in (len(clean), len(corrupt)):
            reasons[pair.row] = "empty prompt"
        elif not all(answers):
            reasons[pair.row] = "empty answer"
        elif READOUT.answer(answers[0]) == READOUT.answer(answers[1]):
            reasons[pair.row] = "target and foil begin with the same token"
        elif aligned and len(clean) != len(corrupt):
            reasons[pair.row] = "prompts of unequal length"
        else:
            tokens[pair.row] = TokenPair(clean, corrupt, *map(READOUT.answer, answers))
    kept = drop(condition, reasons, strict)
    return kept, [tokens[pair.row] for pair in kept.pairs]


def _unknown_words(condition: Condition, pair: PromptPair, encode: Encode, unknown: int) -> str:
    words = dict.fromkeys(" ".join((pair.clean, pair.corrupt, pair.target, pair.foil)).split())
    lacking = ", ".join(word for word in words if unknown in encode(word))
    return (f"{condition.path}: row {pair.row} has words that the model's vocabulary lacks ({lacking}); "
            "use a condition that was made for this model, or another model.")


def _check_context(condition: Condition, pair: PromptPair, length: int, context: int | None) -> None:
    if context is not None and length > context:
        raise CorpusError(f"{condition.path}: row {pair.row} has a prompt of {length} tokens, "
                          f"but the model's context is {context}; shorten it or take another model.")


def _check_single_token(condition: Condition, pair: PromptPair, answers: Sequence[Sequence[int]]) -> None:
    for name, text, ids in zip(("target", "foil"), (pair.target, pair.foil), answers, strict=True):
        if len(ids) != 1:
            raise CorpusError(f"{condition.path}: row {pair.row}: {name} {text!r} is {len(ids)} tokens and "
                              "condition.single_token=true; use a one-token answer, or condition.single_token=false "
                              "to score its first token.")
