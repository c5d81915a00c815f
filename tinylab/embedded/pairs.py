"""Clean and corrupt prompts, filled in from a wording and the tables.

A pair differs in one word (one token), and the replacement is symmetric: the foil is the right answer to the
corrupt prompt. Each function draws one pair at random. Which of the two possibilities or names decides the answer is
the kind of the wording, and every wording comes in both kinds: no position gives the answer away.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tinylab.embedded import tables
from tinylab.embedded.wordings import Wording

LIST_LENGTHS: Final = (4, 10)
"""Shortest and longest list of the induction corpus, without what is repeated of it."""


@dataclass(frozen=True)
class Pair:
    """One prompt pair.

    Attributes:
        clean: The prompt whose right answer is ``target``.
        corrupt: The same prompt with one word replaced, whose right answer is ``foil``.
        target: An answer of one token, with its leading space.
        foil: Another one.
        template: The name of the wording.
    """

    clean: str
    corrupt: str
    target: str
    foil: str
    template: str


def fact_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw two subjects with different answers in the relation of a wording."""
    facts = tables.FACTS[wording.kind]
    subject, answer = rng.choice(facts)
    other, foil = rng.choice([fact for fact in facts if fact[1] != answer])
    return Pair(
        wording.frame.format(x=subject),
        wording.frame.format(x=other),
        f" {answer}",
        f" {foil}",
        wording.template,
    )


def negation_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw a thing that is *not* so, and in the corrupt prompt that it is *still* so."""
    first, second, *nouns = rng.choice(tables.OPPOSITES)
    adjective, opposite = rng.sample((first, second), 2)
    noun, affirmer = rng.choice(nouns), rng.choice(tables.AFFIRMERS)
    return Pair(
        wording.frame.format(noun=noun, word="not", adjective=adjective),
        wording.frame.format(noun=noun, word=affirmer, adjective=adjective),
        f" {opposite}",
        f" {adjective}",
        wording.template,
    )


def logic_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw two possibilities, one of which is denied: the first or the second is left, as the kind of wording says.

    The rule is the disjunctive syllogism: p or q, not p, therefore q.
    """
    properties, left = rng.sample(tables.PROPERTIES, 2), ("first", "second").index(wording.kind)
    slots = {"name": rng.choice(tables.NAMES), "property1": properties[0], "property2": properties[1]}
    return Pair(
        wording.frame.format(**slots, denied=properties[1 - left]),
        wording.frame.format(**slots, denied=properties[left]),
        f" {properties[left]}",
        f" {properties[1 - left]}",
        wording.template,
    )


def ioi_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw two people, the second (ABBA) or the first (BABA) of whom gives something to the other."""
    names, giver = rng.sample(tables.NAMES, 2), ("baba", "abba").index(wording.kind)
    slots = {
        "name1": names[0],
        "name2": names[1],
        "place": rng.choice(tables.PLACES),
        "gift": rng.choice(tables.GIFTS),
    }
    return Pair(
        wording.frame.format(**slots, giver=names[giver]),
        wording.frame.format(**slots, giver=names[1 - giver]),
        f" {names[1 - giver]}",
        f" {names[giver]}",
        wording.template,
    )


def induction_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw a list that repeats one or two of its words; the answer is what followed them the first time.

    The first word of the list is never repeated: without an opener it has no space before it, which makes
    another token of it.
    """
    *words, foil = rng.sample(tables.LIST_WORDS, rng.randint(*LIST_LENGTHS) + 1)
    repeated = rng.randint(1, 2)
    start = rng.randint(1, len(words) - 1 - repeated)
    end = start + repeated
    target, other = words[end], [*words[:end], foil, *words[end + 1 :]]

    def prompt(listed: list[str]) -> str:
        separator = wording.kind
        text = separator.join([*listed, *listed[start:end]]) + separator
        return wording.frame.format(words=text).rstrip()

    return Pair(prompt(words), prompt(other), f" {target}", f" {foil}", wording.template)


DRAW: Final[dict[str, Callable[[Wording, random.Random], Pair]]] = {
    "facts": fact_pair,
    "negation": negation_pair,
    "logic": logic_pair,
    "ioi": ioi_pair,
    "induction": induction_pair,
}
"""Corpus to the function that draws one pair of it."""
