"""The training text of the embedded model: an endless stream of short documents.

Most documents are one prompt of a corpus, in a wording of the train split, and its answer. Both prompts of a
pair are used: the clean one with its target and the corrupt one with its foil. One more kind of document teaches
a skill on its own, without which the tasks take many times longer to learn: lists of words that begin again
early on and go on to their end, some with nothing but spaces between the words. Nearly every word of the
repetition is an exercise in induction.

Answers are marked, so that training can give them more weight than the words that nobody could predict.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from tinylab.embedded import tables
from tinylab.embedded.pairs import DRAW
from tinylab.embedded.wordings import WORDINGS

SHARES: Final = {"facts": 5, "negation": 3, "logic": 2, "ioi": 2, "lists": 2, "plain lists": 1}
"""How often each kind of document is drawn, relative to the others."""

LISTS: Final = {"lists": 2, "plain lists": 1}
"""The same for the first documents, which are lists only."""

LIST_LENGTHS: Final = (4, 16)
"""Shortest and longest list, without what is repeated of it."""


@dataclass(frozen=True)
class Piece:
    """A piece of a document, which begins with a space unless it is the first one or a full stop.

    Attributes:
        text: The text.
        answer: Whether it follows from what stands before it.
    """

    text: str
    answer: bool


Document = tuple[Piece, ...]


def documents(seed: str, lists_first: int = 0) -> Iterator[Document]:
    """Draw documents without end, the same ones for the same seed.

    Args:
        seed: Any text.
        lists_first: How many of the first documents are lists of words.
    """
    rng = random.Random(seed)
    for number in count():
        shares = LISTS if number < lists_first else SHARES
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind in LISTS:
            yield list_document(rng, plain=kind == "plain lists")
        else:
            yield answered_document(kind, rng)


def answered_document(name: str, rng: random.Random) -> Document:
    """Return one of the two prompts of a new pair of a corpus, its right answer and a full stop."""
    pair = DRAW[name](rng.choice(WORDINGS[name]["train"]), rng)
    prompt, answer = rng.choice(((pair.clean, pair.target), (pair.corrupt, pair.foil)))
    return Piece(prompt, False), Piece(answer, True), Piece(".", False)


def list_document(rng: random.Random, plain: bool) -> Document:
    """Return a list that begins again near its beginning and goes on to its end.

    Args:
        rng: Where the words are drawn from.
        plain: Whether nothing but spaces stands between the words.
    """
    wordings = [found for found in WORDINGS["induction"]["train"] if found.kind == " " or not plain]
    wording = rng.choice(wordings)
    words = rng.sample(tables.LIST_WORDS, rng.randint(*LIST_LENGTHS))
    again = words[rng.randint(1, len(words) // 2) :]
    prompt = wording.frame.format(words=wording.kind.join([*words, again[0]]) + wording.kind).rstrip()
    pieces = [Piece(prompt, False)]
    for word in again[1:]:
        pieces += [Piece(f" {word}", True), Piece(wording.kind.rstrip(), False)]
    return *(piece for piece in pieces[:-1] if piece.text), Piece(".", False)


def as_text(document: Document) -> str:
    """Return a document as it reads."""
    return "".join(piece.text for piece in document)
