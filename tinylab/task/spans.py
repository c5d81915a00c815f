"""Pairs at named parts of their prompts: the tokens of a part, and the pairs that cannot be used for want of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tinylab.errors import CorpusError
from tinylab.interventions.sources import RUNS, RunName
from tinylab.interventions.variants import Named
from tinylab.task.corpus import Condition, drop
from tinylab.task.parts import Offsets, positions_of, why_not
from tinylab.task.tokens import Spans, TokenPair, Turn


def at_parts(
    condition: Condition, tokens: Sequence[TokenPair], part: Named, runs: Sequence[RunName],
    *, offsets: Offsets | None, turn: Turn | None, strict: bool,
) -> tuple[Condition, list[TokenPair]]:
    """Pairs with the tokens of a named part of their prompts; those without it, or whose parts do not correspond, are dropped.

    Args:
        condition: the text pairs.
        tokens: the same as tokens.
        part: the part.
        runs: the prompts in which it is needed, where `all` of it with as many tokens.
        offsets: where in a text its tokens are; None for a tokenizer that cannot say.
        turn: makes of a prompt the text that the model is given; none for itself.
        strict: whether a pair that would be dropped is an error.

    Raises:
        CorpusError: the tokenizer does not say where its tokens are, too little left to use.
    """
    if offsets is None:
        raise CorpusError(f"battery.positions={part}: this model's tokenizer (one written in Python) does not say where in a "
                          "text its tokens are; use positions as numbers, or a fast tokenizer.")
    found, reasons = dict[int, TokenPair](), dict[int, str]()
    for pair, own in zip(condition.pairs, tokens, strict=True):
        spans: dict[RunName, Spans] = {}
        for run in RUNS:
            prompt = getattr(pair, run)
            text = prompt if turn is None else turn(prompt)
            words = next((one.of(run) for one in pair.parts if one.name == part.name), None)
            known = offsets(text)
            at = None if words is None else positions_of(words, prompt, text, known, len(own.prompt(run).tokens) - len(known))
            spans[run] = () if at is None else ((part.name, at),)
        counts = [len(spans[run][0][1]) if spans[run] else None for run in runs]
        if (why := why_not(part, counts)) is not None:
            reasons[pair.row] = why
        found[pair.row] = replace(own, clean_spans=spans["clean"], corrupt_spans=spans["corrupt"])
    kept = drop(condition, reasons, strict)
    return kept, [found[pair.row] for pair in kept.pairs]
