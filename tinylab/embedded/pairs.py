"""Clean and corrupt prompts, filled in from a wording and the tables.

A pair differs in one word (one token), and the replacement is symmetric: the foil is the right answer to the
corrupt prompt. Each function draws one pair at random. Which of the two possibilities or names decides the answer is
the kind of the wording, and every wording comes in both kinds: no position gives the answer away.

Pairs name parts of their prompts. Each has a `subject`, what the answer is asked about, and those of its own task.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tinylab.embedded import tables
from tinylab.embedded.frames import Filled, Spans, filled, spans
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
        spans: Named parts of both prompts.
    """

    clean: str
    corrupt: str
    target: str
    foil: str
    template: str
    spans: Spans


def fact_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw two subjects with different answers in the relation of a wording."""
    facts = tables.FACTS[wording.kind]
    subject, answer = rng.choice(facts)
    other, foil = rng.choice([fact for fact in facts if fact[1] != answer])
    sides = filled(wording.frame, x=subject), filled(wording.frame, x=other)
    return _pair(sides, answer, foil, wording, spans(*sides, subject="x"))


def negation_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw a thing that is *not* so, and in the corrupt prompt that it is *still* so."""
    first, second, *nouns = rng.choice(tables.OPPOSITES)
    adjective, opposite = rng.sample((first, second), 2)
    noun, affirmer = rng.choice(nouns), rng.choice(tables.AFFIRMERS)
    clean, corrupt = (filled(wording.frame, noun=noun, word=word, adjective=adjective) for word in ("not", affirmer))
    parts = spans(clean, corrupt, subject="noun", negation="word", adjective="adjective")
    return _pair((clean, corrupt), opposite, adjective, wording, parts)


def logic_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw two possibilities, one of which is denied: the first or the second is left, as the kind of wording says.

    The rule is the disjunctive syllogism: p or q, not p, therefore q.
    """
    properties, left = rng.sample(tables.PROPERTIES, 2), ("first", "second").index(wording.kind)
    slots = {"name": rng.choice(tables.NAMES), "property1": properties[0], "property2": properties[1]}
    clean, corrupt = (filled(wording.frame, **slots, denied=properties[denied]) for denied in (1 - left, left))
    parts = spans(clean, corrupt, subject="name", property1="property1", property2="property2", denied="denied")
    return _pair((clean, corrupt), properties[left], properties[1 - left], wording, parts)


def ioi_pair(wording: Wording, rng: random.Random) -> Pair:
    """Draw two people, the second (ABBA) or the first (BABA) of whom gives something to the other."""
    names, giver = rng.sample(tables.NAMES, 2), ("baba", "abba").index(wording.kind)
    slots = {
        "name1": names[0],
        "name2": names[1],
        "place": rng.choice(tables.PLACES),
        "gift": rng.choice(tables.GIFTS),
    }
    clean, corrupt = (filled(wording.frame, **slots, giver=names[number]) for number in (giver, 1 - giver))
    gives, receives = f"name{giver + 1}", f"name{2 - giver}"
    parts = spans(clean, corrupt, subject="giver", io=(receives, gives), s1=(gives, receives), s2="giver", name1="name1",
                  name2="name2")
    return _pair((clean, corrupt), names[1 - giver], names[giver], wording, parts)


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

    def prompt(listed: list[str]) -> Filled:
        again = [*listed, *listed[start:end]]
        frame = wording.frame.format(words=wording.kind.join(f"{{word{number}}}" for number in range(len(again))))
        return filled((frame + wording.kind).rstrip(), **{f"word{number}": word for number, word in enumerate(again)})

    clean, corrupt = prompt(words), prompt(other)
    last = f"word{len(words) + repeated - 1}"
    parts = spans(clean, corrupt, subject=last, a1=f"word{end - 1}", b=f"word{end}", a2=last)
    return _pair((clean, corrupt), target, foil, wording, parts)


def _pair(sides: tuple[Filled, Filled], target: str, foil: str, wording: Wording, parts: Spans) -> Pair:
    """A pair of filled-in frames, whose answers follow a space."""
    clean, corrupt = sides
    return Pair(clean.text, corrupt.text, f" {target}", f" {foil}", wording.template, parts)


DRAW: Final[dict[str, Callable[[Wording, random.Random], Pair]]] = {
    "facts": fact_pair,
    "negation": negation_pair,
    "logic": logic_pair,
    "ioi": ioi_pair,
    "induction": induction_pair,
}
"""Corpus to the function that draws one pair of it."""
