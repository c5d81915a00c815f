"""The training text of the embedded model: an endless stream of short documents.

A document is one prompt of a corpus, in a wording of the train split, and its answer; or a list of words that
begins again and goes on, which is where the model learns to copy by induction. Both prompts of a pair are
used: the clean one with its target and the corrupt one with its foil. Answers are marked, so that training
can give them more weight than the words that nobody could predict.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tinylab.embedded import tables
from tinylab.embedded.pairs import DRAW, LIST_LENGTHS
from tinylab.embedded.wordings import WORDINGS, Wording

SHARES: Final = {"facts": 2, "negation": 2, "logic": 4, "ioi": 3, "induction": 4}
"""How often each corpus is drawn from, relative to the others."""


@dataclass(frozen=True)
class Piece:
    """A piece of a document, which begins with a space unless it is the first or a full stop.

    Attributes:
        text: The text.
        answer: Whether it follows from what stands before it.
    """

    text: str
    answer: bool


Document = tuple[Piece, ...]


def documents(seed: str) -> Iterator[Document]:
    """Draw documents without end, the same ones for the same seed."""
    rng = random.Random(seed)
    names, shares = list(SHARES), list(SHARES.values())
    while True:
        name = rng.choices(names, shares)[0]
        wording = rng.choice(WORDINGS[name]["train"])
        if name == "induction":
            yield list_document(wording, rng)
        else:
            yield answered_document(name, wording, rng)


def answered_document(name: str, wording: Wording, rng: random.Random) -> Document:
    """Return one of the two prompts of a new pair, its right answer and a full stop."""
    pair = DRAW[name](wording, rng)
    prompt, answer = rng.choice(((pair.clean, pair.target), (pair.corrupt, pair.foil)))
    return Piece(prompt, False), Piece(answer, True), Piece(".", False)


def list_document(wording: Wording, rng: random.Random) -> Document:
    """Return a list that begins again at one of its words and goes on to its end; what it repeats follows."""
    words = rng.sample(tables.LIST_WORDS, rng.randint(*LIST_LENGTHS))
    start = rng.randrange(1, len(words) - 1)
    again = words[start:]
    separator = wording.kind
    prompt = wording.frame.format(words=separator.join([*words, again[0]]) + separator).rstrip()
    pieces = [Piece(prompt, False)]
    for word in again[1:]:
        pieces += [Piece(f" {word}", True), Piece(separator.rstrip(), False)]
    return *(piece for piece in pieces[:-1] if piece.text), Piece(".", False)


def as_text(document: Document) -> str:
    """Return a document as it reads."""
    return "".join(piece.text for piece in document)
