"""The sentence frames of each corpus and the split that each belongs to.

A wording is a whole frame, from the first word of the prompt to the last one before the answer. The training
text of the embedded model is made from the wordings of ``train`` alone: those of ``val`` and ``test`` are
held out. Where frames are composed of parts, ``train`` has every composition but the ones held out, so every
held-out wording is new as a whole and old in its parts. Facts have no parts: their held-out frames are new
sentences made of words that the other frames use.
"""

from dataclasses import dataclass
from itertools import product
from typing import Final

Split = str
"""``train``, ``val`` or ``test``."""

SPLITS: Final = ("train", "val", "test")


@dataclass(frozen=True)
class Wording:
    """A sentence frame.

    Attributes:
        template: Its name, as the ``template`` field of the corpora has it.
        frame: A format string whose slots the corpus fills in.
        kind: What varies beside the frame: the relation of a fact, the order of the names in ``ioi``, which
            possibility is left in ``logic``, the separator of a list in ``induction``.
    """

    template: str
    frame: str
    kind: str = ""


Wordings = dict[Split, tuple[Wording, ...]]

_FACT_FRAMES: Final[dict[str, dict[Split, tuple[str, ...]]]] = {
    "capital": {
        "train": (
            "The capital city of {x} is",
            "In {x}, the capital is",
            "In {x}, the capital city is",
            "If you travel to {x}, you can visit the capital,",
            "The name of the capital of {x} is",
            "What is the capital of {x}? It is",
            "Question: What is the capital city of {x}? Answer:",
            "We went to {x} and saw the capital,",
            "People in {x} know that their capital is",
        ),
        "val": ("The name of the capital city of {x} is", "When we were in {x}, we saw the capital,"),
        "test": ("The capital of {x} is", "We went to {x} to visit the capital city,"),
    },
    "language": {
        "train": (
            "The language of {x} is",
            "In {x}, people speak",
            "The people of {x} mostly speak",
            "What do people speak in {x}? They speak",
            "Question: What is the language of {x}? Answer:",
            "If you travel to {x}, you can learn",
            "The main language in {x} is",
            "Most people in {x} speak",
            "When we were in {x}, people spoke to us in",
        ),
        "val": ("In {x}, the main language is",),
        "test": ("In {x}, most people speak", "The main language of {x} is"),
    },
    "continent": {
        "train": (
            "The country of {x} is in",
            "On the map, {x} lies in",
            "If you travel to {x}, you travel to",
            "Where is {x}? It is in",
            "Question: Which continent is {x} in? Answer:",
            "The continent of {x} is",
            "People in {x} know that they live in",
            "On the map, you can find {x} in",
        ),
        "val": ("Which continent is {x} in? It is in",),
        "test": ("On the map, the country of {x} is in",),
    },
    "country": {
        "train": (
            "The city of {x} is in",
            "The city of {x} lies in",
            "If you travel to {x}, you can see the capital of",
            "Where is the city of {x}? It is in",
            "Question: Which country is {x} the capital of? Answer:",
            "On the map, you can find the city of {x} in",
            "People in the city of {x} know that they live in",
            "We saw {x} when we went to",
        ),
        "val": ("We saw {x} when we were in",),
        "test": ("The city of {x} is the capital of",),
    },
}


def _facts() -> Wordings:
    """Return the wordings of the facts corpus; their ``kind`` is the relation."""
    wordings: dict[Split, list[Wording]] = {split: [] for split in SPLITS}
    for relation, frames in _FACT_FRAMES.items():
        number = 0
        for split in SPLITS:
            for frame in frames[split]:
                number += 1
                wordings[split].append(Wording(f"{relation}_{number}", frame, relation))
    return {split: tuple(found) for split, found in wordings.items()}


Part = dict[str, str]
"""Name to text of the pieces that can stand at one place of a frame."""


def _composed(parts: tuple[Part, ...], val: set[str], test: set[str], kinds: tuple[str, ...] = ("",)) -> Wordings:
    """Return every composition of one piece from each part, named after its pieces, once in every kind.

    Args:
        parts: The pieces that can stand first, second, ...
        val: The names of the compositions held out for the val split, such as ``"know_it"``.
        test: The names of those held out for the test split.
        kinds: What each composition comes in, such as the two orders of the names.
    """
    wordings: dict[Split, list[Wording]] = {split: [] for split in SPLITS}
    for pieces in product(*(part.items() for part in parts)):
        name = "_".join(name for name, _ in pieces)
        split = "test" if name in test else "val" if name in val else "train"
        frame = " ".join(text for _, text in pieces)
        wordings[split] += [Wording(f"{name}_{kind}".removesuffix("_"), frame, kind) for kind in kinds]
    return {split: tuple(found) for split, found in wordings.items()}


_NEGATION: Final = _composed(
    (
        {
            "plain": "The {noun} is {word} {adjective}.",
            "see": "I can see that the {noun} is {word} {adjective}.",
            "know": "Everyone knows that the {noun} is {word} {adjective}.",
            "today": "Today the {noun} is {word} {adjective}.",
            "said": "She said that the {noun} is {word} {adjective}.",
            "true": "It is true that the {noun} is {word} {adjective}.",
            "look": "Look, the {noun} is {word} {adjective}.",
            "told": "They told us that the {noun} is {word} {adjective}.",
        },
        {
            "noun": "The {noun} is",
            "so": "So the {noun} is",
            "it": "It is",
            "soit": "So it is",
            "means": "That means the {noun} is",
            "words": "In other words, the {noun} is",
            "therefore": "Therefore, the {noun} is",
            "fact": "In fact, it is",
        },
    ),
    val={"see_so", "true_words", "told_fact"},
    test={"plain_noun", "know_means", "said_so", "today_therefore"},
)

_LOGIC: Final = _composed(
    (
        {
            "either": "{name} is either {property1} or {property2}.",
            "know": "We know that {name} is {property1} or {property2}.",
            "said": "She said that {name} is either {property1} or {property2}.",
            "true": "It is true that {name} is {property1} or {property2}.",
            "story": "In this story, {name} is {property1} or {property2}.",
            "fact": "In fact, {name} is either {property1} or {property2}.",
        },
        {
            "plain": "{name} is not {denied}.",
            "see": "We can see that {name} is not {denied}.",
            "told": "They told us that {name} is not {denied}.",
            "clear": "Of course, {name} is not {denied}.",
            "everyone": "Everyone knows that {name} is not {denied}.",
        },
        {
            "is": "{name} is",
            "so": "So {name} is",
            "therefore": "Therefore, {name} is",
            "means": "That means {name} is",
            "soknow": "So we know that {name} is",
            "words": "In other words, {name} is",
        },
    ),
    val={"know_told_therefore", "either_everyone_is", "story_see_so"},
    test={"either_plain_so", "know_see_therefore", "true_clear_means", "said_told_soknow"},
    kinds=("first", "second"),
)

_IOI: Final = _composed(
    (
        {
            "when": "When {name1} and {name2} went to the {place},",
            "after": "After {name1} and {name2} arrived at the {place},",
            "while": "While {name1} and {name2} were at the {place},",
            "as": "As {name1} and {name2} walked to the {place},",
            "then": "Then {name1} and {name2} went to the {place}.",
            "met": "Yesterday {name1} and {name2} met at the {place}.",
            "lunch": "One day {name1} and {name2} had lunch at the {place}.",
            "working": "Last week, {name1} and {name2} were working at the {place}.",
        },
        {
            "gave": "{giver} gave a {gift} to",
            "handed": "{giver} handed the {gift} to",
            "decided": "{giver} decided to give the {gift} to",
            "passed": "{giver} passed a {gift} to",
            "showed": "{giver} showed the {gift} to",
            "offered": "{giver} offered a {gift} to",
            "brought": "{giver} brought a {gift} to",
            "sell": "{giver} wanted to sell the {gift} to",
        },
    ),
    val={"after_handed", "as_offered", "working_gave"},
    test={"when_gave", "while_decided", "met_passed", "lunch_handed"},
    kinds=("abba", "baba"),
)

_OPENERS: Final[Part] = {
    "bare": "",
    "words": "Words: ",
    "list": "List: ",
    "here": "Here are some words: ",
    "mine": "My list is ",
    "wrote": "She wrote ",
    "repeat": "Repeat after me: ",
    "said": "He said ",
}
_SEPARATORS: Final[Part] = {
    "space": " ",
    "comma": ", ",
    "and": " and ",
    "semicolon": "; ",
    "dash": " - ",
    "slash": " / ",
}


def _lists(val: set[str], test: set[str]) -> Wordings:
    """Return the wordings of the induction corpus: an opener, then a list whose separator is the ``kind``."""
    wordings: dict[Split, list[Wording]] = {split: [] for split in SPLITS}
    for (first, opener), (second, separator) in product(_OPENERS.items(), _SEPARATORS.items()):
        name = f"{first}_{second}"
        split = "test" if name in test else "val" if name in val else "train"
        wordings[split].append(Wording(name, opener + "{words}", separator))
    return {split: tuple(found) for split, found in wordings.items()}


WORDINGS: Final[dict[str, Wordings]] = {
    "facts": _facts(),
    "negation": _NEGATION,
    "logic": _LOGIC,
    "ioi": _IOI,
    "induction": _lists(
        val={"bare_comma", "list_semicolon", "wrote_slash"},
        test={"bare_space", "words_comma", "wrote_and", "repeat_dash"},
    ),
}
"""Corpus to split to the wordings of that split; the splits share none."""
