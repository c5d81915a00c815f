"""The training text of the embedded model: an endless stream of short documents.

Most documents are one prompt of a corpus, in a wording of the train split, and its answer. Both prompts of a
pair are used: the clean one with its target and the corrupt one with its foil. Two kinds of document teach a
skill on its own, without which the tasks take many times longer to learn:

- lists of words that begin again early on and go on to their end, half of them with nothing but spaces
  between the words: nearly every word of the repetition is an exercise in induction;
- two rules, as in the logic corpus, and what follows for one kind and the other: at first glance ("So a dog
  is"), or with more and more words between the kind and the answer.

Answers are marked, so that training can give them more weight than the words that nobody could predict.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tinylab.embedded import tables
from tinylab.embedded.pairs import DRAW, rule_slots
from tinylab.embedded.wordings import RULES, WORDINGS

SHARES: Final = {"facts": 3, "negation": 2, "logic": 4, "ioi": 2, "rules": 4, "lists": 2, "plain lists": 1}
"""How often each kind of document is drawn, relative to the others."""

CONSEQUENCES: Final = (
    "So a {kind} is",
    "So the {kind} {name} is",
    "So a {kind} called {name} is",
    "So a {kind} that we call {name} is",
    "So, of course, a {kind} called {name} is",
    "So if {name} is a {kind}, {name} is",
    "So if {name} is a {kind}, we know that {name} is",
)
"""What follows from two rules, with the kind ever further from the answer."""

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


def documents(seed: str) -> Iterator[Document]:
    """Draw documents without end, the same ones for the same seed."""
    rng = random.Random(seed)
    kinds, shares = list(SHARES), list(SHARES.values())
    while True:
        kind = rng.choices(kinds, shares)[0]
        if kind == "rules":
            yield rules_document(rng)
        elif kind in ("lists", "plain lists"):
            yield list_document(rng, plain=kind == "plain lists")
        else:
            yield answered_document(kind, rng)


def answered_document(name: str, rng: random.Random) -> Document:
    """Return one of the two prompts of a new pair of a corpus, its right answer and a full stop."""
    pair = DRAW[name](rng.choice(WORDINGS[name]["train"]), rng)
    prompt, answer = rng.choice(((pair.clean, pair.target), (pair.corrupt, pair.foil)))
    return Piece(prompt, False), Piece(answer, True), Piece(".", False)


def rules_document(rng: random.Random) -> Document:
    """Return two rules and what follows for somebody of each kind, in either order."""
    kinds, properties = rng.sample(tables.KINDS, 2), rng.sample(tables.PROPERTIES, 2)
    rules = RULES[rng.choice(list(RULES))].format(**rule_slots(kinds, properties))
    pieces = [Piece(rules, False)]
    for right in rng.sample((0, 1), 2):
        consequence = rng.choice(CONSEQUENCES).format(kind=kinds[right][0], name=rng.choice(tables.NAMES))
        pieces += [Piece(f" {consequence}", False), Piece(f" {properties[right]}", True), Piece(".", False)]
    return tuple(pieces)


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
