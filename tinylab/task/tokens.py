"""From text to tokens: what a condition's pairs look like to one model.

Prompts and answers are tokenised alone, verbatim and without special tokens; the BOS token is put first where
`model.add_bos` says so and the prompt has none, never by the tokenizer. An answer is scored by its first token, or with
`condition.answer` by all of its tokens (`tinylab.task.answers`): those of
the answer alone, or, where white space parts it from the prompt, that of the answer as it stands after its prompt (a
tokenizer that puts a space before every text puts one too many there; where that space is a token of its own, it is no
part of an answer). What is otherwise when joined is counted and told.
A word that the vocabulary lacks is an error, never a silent token for the unknown, nor nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from tinylab.errors import CorpusError
from tinylab.interventions.sources import Donor, RunName
from tinylab.measures.answers import PROMPT, Answers, Tokens
from tinylab.measures.readings import READOUT
from tinylab.task.answers import FIRST_TOKEN, Kind, gathered
from tinylab.task.corpus import LONG, SEVERAL, UNEQUAL, Condition, PromptPair, drop
from tinylab.task.notes import APART, BEGUN, JOINED, MERGED, SPECIAL, UNSPACED, text_notes

OPENING = "([{<\"'\u201c\u2018\u00ab/="
"""Behind these an answer follows without a space, whatever the tokenizer makes of it alone."""
Encode = Callable[[str], list[int]]
Lost = Callable[[str], Sequence[str]]
Turn = Callable[[str], str]
Spell = Callable[[Sequence[int]], list[str]]
SHOWN = 3
"""How many tokens of an example are shown."""
TOLD_WORDS = 10
"""How many of the words that a vocabulary lacks are told."""


Spans = tuple[tuple[str, tuple[int, ...]], ...]
"""Named parts of a prompt, each with its token positions, ascending."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, BOS included, and its named parts."""

    tokens: tuple[int, ...]
    spans: Spans = ()


@dataclass(frozen=True)
class TokenPair:
    """A prompt pair as token ids, BOS included; `target` and `foil` are the tokens that stand for the answers (`Readout`).

    What is not needed by a run's interventions stays empty, so that pairs of equal tokens are equal.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    target: int
    foil: int
    clean_spans: Spans = ()
    corrupt_spans: Spans = ()
    donors: tuple[Prompt, ...] = ()  # other examples' prompts, by `Donor.number`
    group: int = 0  # of a reference set, whose numbers the pair takes
    number: int = 0  # of the example, for which noise is drawn
    answers: Answers | None = None  # those that are more than their first token

    @property
    def stems(self) -> tuple[Tokens, ...]:
        """What follows its prompts in the runs that are needed."""
        return PROMPT if self.answers is None else self.answers.stems

    @property
    def looked_for(self) -> list[int]:
        """The tokens of its answers."""
        if self.answers is None:
            return [self.target, self.foil]
        return [token for answer in (self.answers.target, self.answers.foil) for one in answer for token in one]

    @property
    def sequences(self) -> list[Tokens]:
        """The tokens of all runs of its own prompts."""
        return [prompt + stem for prompt in (self.clean, self.corrupt) for stem in self.stems]

    def prompt(self, run: RunName | Donor) -> Prompt:
        """The prompt of one of its runs, or of a donor's."""
        if isinstance(run, Donor):
            assert run.number is not None
            return self.donors[run.number]
        return Prompt(self.clean, self.clean_spans) if run == "clean" else Prompt(self.corrupt, self.corrupt_spans)


def nothing_lost(_text: str) -> Sequence[str]:
    """For an encoder that has a token for every text."""
    return ()


def tokenise(
    condition: Condition,
    encode: Encode,
    *,
    bos: int | None,
    unknown: int | None = None,
    lost: Lost = nothing_lost,
    specials: Collection[int] = (),
    context: int | None,
    single_token: bool,
    aligned: bool,
    strict: bool,
    answer: Kind = FIRST_TOKEN,
    turn: Turn | None = None,
    spell: Spell | None = None,
) -> tuple[Condition, list[TokenPair]]:
    """Tokenise a condition and drop the pairs that this model cannot use.

    Args:
        condition: the text pairs.
        encode: text to token ids, without special tokens.
        bos: the token put before every prompt that does not begin with it, or none.
        unknown: the token that stands for words that the vocabulary lacks, or none.
        lost: the parts of a text that no token stands for.
        specials: the tokens that are no text.
        context: the longest prompt in tokens that the model takes, None if it has no limit.
        single_token: whether a pair with an answer of several tokens is unusable, where first tokens are scored.
        aligned: whether the positions of both prompts must align, so that unequal lengths are unusable.
        strict: whether a pair that would be dropped is an error.
        answer: what counts as one.
        turn: makes of a prompt the text that the model is given, to which answers come without their space; none for itself.
        spell: tokens as a person reads them, to show an example of answers that lack a space.

    Returns:
        The condition with what is left and what is to be known of it, and its pairs as tokens, in the same order.

    Raises:
        CorpusError: a word that the vocabulary lacks, too little left to use.
    """
    encode, lost = cache(encode), cache(lost)
    tokens: dict[int, TokenPair] = {}
    reasons, details, unspaced = dict[int, str](), dict[int, str](), list[PromptPair]()
    notes = text_notes(condition.pairs)
    for pair in condition.pairs:
        read = pair if turn is None else _in_turn(pair, turn, encode, specials)
        _check_known(condition, read, encode, unknown, lost)
        clean, corrupt = (_begun(ids, bos) for ids in (encode(read.clean), encode(read.corrupt)))
        answers, told = zip(*(_answer(encode, lost, *seam, begins=turn is not None) for seam in _seams(read)), strict=True)
        firsts, whole, more, same = gathered(answers, len(read.answers()[0]), answer)
        own = TokenPair(clean, corrupt, *firsts, answers=whole)
        single = single_token and whole is None
        if (why := _unusable(own, answers, bos, aligned, same) or _unfit(pair, own, answers, context, single)):
            reasons[pair.row], details[pair.row] = why
            continue
        tokens[pair.row] = own
        notes[pair.row] += _token_notes(pair, encode, bos if turn is None else None, specials)
        notes[pair.row] += dict.fromkeys(filter(None, (*told, *more)))
        unspaced += [pair] * (turn is None and any(wants_space(encode, *seam) for seam in _seams(pair)))
    kept = drop(condition, reasons, strict, details)
    return _noted(kept, notes, unspaced, encode, spell), [tokens[pair.row] for pair in kept.pairs]


def _noted(
    kept: Condition, notes: Mapping[int, Sequence[str]], unspaced: Sequence[PromptPair], encode: Encode, spell: Spell | None
) -> Condition:
    """A condition with its notes counted; answers without their space, with an example, only where most rows have them."""
    noted, shown = Counter(note for pair in kept.pairs for note in notes[pair.row]), {}
    if 2 * len(unspaced) > len(kept.pairs):
        noted[UNSPACED] = len(unspaced)
        shown = {} if spell is None else {UNSPACED: _example(encode, spell, unspaced[0])}
    return replace(kept, noted=dict(noted), shown=shown)


def _seams(pair: PromptPair) -> list[tuple[str, str]]:
    """Each prompt with its right answers."""
    return [(prompt, one) for prompt, answer in zip((pair.clean, pair.corrupt), pair.answers(), strict=True) for one in answer]


def _in_turn(pair: PromptPair, turn: Turn, encode: Encode, specials: Collection[int]) -> PromptPair:
    """A pair as its conversation goes: an answer behind white space or a token of the turn's own has no space before it.

    Behind words, such as "Assistant:", it keeps what it has.
    """
    clean, corrupt = turn(pair.clean), turn(pair.corrupt)
    opened = clean[-1:].isspace() or encode(clean)[-1] in specials
    if opened:
        (target, *others), (foil, *more) = (tuple(one.lstrip() for one in answer) for answer in pair.answers())
        pair = replace(pair, target=target, foil=foil, targets=(target, *others), foils=(foil, *more))
    return replace(pair, clean=clean, corrupt=corrupt)


def wants_space(encode: Encode, prompt: str, answer: str) -> bool:
    """Whether a prompt of words goes on with an answer that a space makes a token of its own, and that has none.

    Tokenizers that put a space before every text themselves, or read texts with and without one alike, want none; nor do
    languages that write none, and symbols.
    """
    if " " not in prompt.strip() or prompt[-1].isspace() or prompt[-1] in OPENING or not answer[:1].isalnum():
        return False
    spaced = encode(f" {answer}")
    return len(spaced) == 1 and spaced != encode(answer)


def _example(encode: Encode, spell: Spell, pair: PromptPair) -> str:
    """An answer as it is read, and as it would be with its space."""
    prompt, answer = next(seam for seam in _seams(pair) if wants_space(encode, *seam))
    as_is, spaced = ("|".join(spell(encode(prompt + text))[-SHOWN:]) for text in (answer, f" {answer}"))
    return f"row {pair.row} ends in …{as_is}, and with {f' {answer}'!r} in …{spaced}"


def _unusable(
    own: TokenPair, answers: Sequence[Sequence[int]], bos: int | None, aligned: bool, same: str | None
) -> tuple[str, str] | None:
    """Why a pair cannot be used, as far as its tokens tell; `same`: why its answers cannot be told apart."""
    if min(len(own.clean), len(own.corrupt)) <= (bos is not None):  # no token beside BOS
        return "empty prompt", ""
    if not all(answers):
        return "empty answer", ""
    if same is not None:
        return same, ""
    if aligned and len(own.clean) != len(own.corrupt):
        return UNEQUAL, ""
    return None


def _begun(ids: Sequence[int], bos: int | None) -> tuple[int, ...]:
    """A prompt with its BOS token first, put there unless it stands there."""
    return tuple(ids) if bos is None or ids[:1] == [bos] else (bos, *ids)


def _token_notes(pair: PromptPair, encode: Encode, bos: int | None, specials: Collection[int]) -> list[str]:
    """What is to be known of a pair's texts as tokens, before a BOS token is put first."""
    texts = [encode(text) for text in (pair.clean, pair.corrupt, *(one for answer in pair.answers() for one in answer))]
    begun = bos is not None and any(ids[:1] == [bos] for ids in texts[:2])
    inside = [token for place, ids in enumerate(texts) for token in ids[bool(begun and place < 2 and ids[:1] == [bos]):]]
    return [BEGUN] * begun + [SPECIAL] * any(token in specials for token in inside)


def _answer(encode: Encode, lost: Lost, prompt: str, answer: str, *, begins: bool) -> tuple[Sequence[int], str | None]:
    """An answer's tokens, and what is to be known of them: how the tokens of prompt and answer joined differ, if they do.

    One that begins a turn is always read as it stands there.
    """
    alone, before, joined = encode(answer), encode(prompt), prompt + answer
    if not alone or not before:
        return alone, None
    together = [] if lost(joined) else encode(joined)
    after = together[len(before):]
    if together[:len(before)] != before or not after:
        return alone, MERGED
    if begins:
        return after, None
    if READOUT.answer(after) == READOUT.answer(alone):
        return alone, None
    if prompt[-1].isspace() or prompt[-1] in OPENING or answer[0].isspace() or alone[-len(after):] == after:
        return after, JOINED
    return alone, APART


def _check_known(condition: Condition, pair: PromptPair, encode: Encode, unknown: int | None, lost: Lost) -> None:
    """Every part of a pair's texts has a token of its own."""
    texts = (pair.clean, pair.corrupt, *(one for answer in pair.answers() for one in answer))
    gaps = [gap for text in texts for gap in lost(text)]
    if not gaps and (unknown is None or all(unknown not in encode(text) for text in texts)):
        return
    words = dict.fromkeys(" ".join(texts).split())
    lacking = [word for word in words if lost(word) or (unknown is not None and unknown in encode(word))]
    lacking = lacking or [repr(gap) for gap in dict.fromkeys(gaps)]
    told = ", ".join(lacking[:TOLD_WORDS]) + ", …" * (len(lacking) > TOLD_WORDS)
    raise CorpusError(f"{condition.path}: row {pair.row} has words that the model's vocabulary lacks ({told}); "
                      "use a condition that was made for this model, or another model.")


def _unfit(
    pair: PromptPair, own: TokenPair, answers: Sequence[Sequence[int]], context: int | None, single_token: bool
) -> tuple[str, str] | None:
    """Why a pair does not fit this model or what is asked of its answers, and what is to be said of it."""
    length = max(map(len, own.sequences))
    if context is not None and length > context:
        return LONG, f"it has {length} tokens, the model's context is {context}"
    if not single_token:
        return None
    several = [name for name, ids in zip(("target", "foil"), answers, strict=True) if len(ids) > 1]
    return (SEVERAL, f"{several[0]} {getattr(pair, several[0])!r}") if several else None
