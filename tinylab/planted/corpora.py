"""Vocabularies and prompt pairs of the planted models.

Every model has its own words, so that a condition of another one is refused instead of misread. A vocabulary
begins with the token before every prompt and one for unknown words, which no prompt may contain.

- **a**, for the ledger: ``A T B x A`` against ``A F B x A``; 21 pairs from seven words.
- **b**, for the gates: four states and ``so``; all four ``lit`` or ``bright`` against all four ``dark`` or ``dim``; 16 pairs.
- **c** to **g**, for the twins: ``now T then here`` against ``now F then here``, the three other words in any order; each
  condition has a pair of words of its own, either of which is the answer; 12 pairs.
- **llama**, for the Llama: ``X A T F … X A`` against ``X A F T … X A`` (template ``answers``), and
  ``A T B F X A`` against ``B T A F X A`` (``keys``); 9 pairs.

Named parts are those of the corpora of tasks: in lists ``a1``, the word that is asked about where it stands first, ``b``,
what follows it there, ``a2``, where it is asked; the gates' ``input1`` to ``input4``; ``subject``, what the answer is
asked about: ``a2``, all inputs, or the twins' second word.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any, Final

from tinylab.planted.closed_forms import LEDGER_WORDS

FOLDER: Final = Path(__file__).parent.parent / "assets" / "corpora"
"""Where the shipped files are."""

BOS: Final = "<bos>"
UNKNOWN: Final = "<unk>"
SPECIAL: Final = (BOS, UNKNOWN)

COLOURS: Final = ("red", "blue", "green", "gold", "gray", "pink", "white")
LEDGER: Final = (*SPECIAL, *COLOURS)

ON: Final = ("lit", "bright")
OFF: Final = ("dark", "dim")
ASK: Final = "so"
OPEN: Final = "open"
SHUT: Final = "shut"
GATES: Final = (*SPECIAL, *ON, *OFF, ASK, OPEN, SHUT)

ANSWERS: Final = {
    "c": ("sun", "moon"),
    "d": ("salt", "sand"),
    "e": ("oak", "elm"),
    "f": ("iron", "lead"),
    "g": ("tea", "milk"),
}
"""Twin condition → its two answers."""
FILLERS: Final = ("now", "then", "here")
TWINS: Final = (*SPECIAL, *FILLERS, *(word for words in ANSWERS.values() for word in words))

FRUIT: Final = ("apple", "date", "fig", "kiwi", "lime", "melon", "peach", "pear", "plum")
LLAMA: Final = (*SPECIAL, *FRUIT)
LLAMA_ANSWERS: Final = (  # X A T F, and what stands between F and the end
    ("plum", "pear", "fig", "kiwi", ""),
    ("plum", "pear", "fig", "kiwi", "melon lime"),
    ("lime", "melon", "date", "apple", ""),
    ("lime", "melon", "date", "apple", "fig peach plum"),
    ("apple", "date", "pear", "plum", ""),
    ("peach", "kiwi", "lime", "pear", "date"),
)
LLAMA_KEYS: Final = (  # A T B F X
    ("pear", "fig", "plum", "kiwi", "apple"),
    ("peach", "lime", "melon", "date", "fig"),
    ("date", "apple", "kiwi", "melon", "lime"),
)

assert len(LEDGER) == LEDGER_WORDS

Row = dict[str, Any]
Places = tuple[range, range]
"""Words of a clean and of a corrupt prompt, by their numbers."""


def _row(clean: Sequence[str], corrupt: Sequence[str], target: str, foil: str, **parts: Places) -> Row:
    named = {name: [_told(clean, own), _told(corrupt, other)] for name, (own, other) in parts.items()}
    return {"clean": " ".join(clean), "corrupt": " ".join(corrupt), "target": f" {target}", "foil": f" {foil}", "spans": named}


def _told(words: Sequence[str], numbers: range) -> str | tuple[str, int]:
    """Neighbouring words of a prompt, as its row has them."""
    part = [words[number] for number in numbers]
    place = sum(list(words[start: start + len(part)]) == part for start in range(numbers[0] + 1))
    return " ".join(part) if place == 1 else (" ".join(part), place)


def _same(begin: int, count: int = 1) -> Places:
    """As many words from one on, the same in both prompts."""
    return range(begin, begin + count), range(begin, begin + count)


def _asked(clean: Sequence[str], corrupt: Sequence[str]) -> dict[str, Places]:
    """The parts of lists whose last word is asked about."""
    first, other = (list(words).index(words[-1]) for words in (clean, corrupt))
    last = range(len(clean) - 1, len(clean)), range(len(corrupt) - 1, len(corrupt))
    return {"subject": last, "a1": (range(first, first + 1), range(other, other + 1)),
            "b": (range(first + 1, first + 2), range(other + 1, other + 2)), "a2": last}


def ledger_rows() -> list[Row]:
    """The pairs of a: five of the seven colours, one, two or three apart in their list."""
    rows = []
    for stride, start in product((1, 2, 3), range(len(COLOURS))):
        a, t, f, b, x = (COLOURS[(start + stride * place) % len(COLOURS)] for place in range(5))
        clean, corrupt = (a, t, b, x, a), (a, f, b, x, a)
        rows.append(_row(clean, corrupt, t, f, **_asked(clean, corrupt)))
    return rows


def gates_rows() -> list[Row]:
    """The pairs of b: every choice of words for four inputs that are on, against the same choice of words that are off."""
    choices = product((0, 1), repeat=4)
    inputs = {f"input{number + 1}": _same(number) for number in range(4)}
    return [_row((*(ON[i] for i in choice), ASK), (*(OFF[i] for i in choice), ASK), OPEN, SHUT, subject=_same(0, 4), **inputs)
            for choice in choices]


def twins_rows(condition: str) -> list[Row]:
    """The pairs of one of c to g: the answer stands second, the other words in any order around it."""
    rows = []
    for (first, *rest), (target, foil) in product(permutations(FILLERS), permutations(ANSWERS[condition])):
        rows.append(_row((first, target, *rest), (first, foil, *rest), target, foil, subject=_same(1)))
    return rows


def llama_rows() -> list[Row]:
    """The pairs of llama, each with its template."""
    answers = [((x, a, t, f, *between.split(), x, a), (x, a, f, t, *between.split(), x, a), t, f)
               for x, a, t, f, between in LLAMA_ANSWERS]
    keys = [((a, t, b, f, x, a), (b, t, a, f, x, a), t, f) for a, t, b, f, x in LLAMA_KEYS]
    return [{**_row(clean, corrupt, target, foil, **_asked(clean, corrupt)), "template": name}
            for name, rows in (("answers", answers), ("keys", keys)) for clean, corrupt, target, foil in rows]


def corpora() -> dict[str, list[Row]]:
    """The rows of every corpus, by the name of its file."""
    twins = {name: twins_rows(name) for name in ANSWERS}
    rows = {"a": ledger_rows(), "b": gates_rows(), **twins, "llama": llama_rows()}
    return {f"planted_{name}": found for name, found in rows.items()}


def write(folder: Path) -> None:
    """Write every corpus to a folder as `NAME.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in corpora().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
