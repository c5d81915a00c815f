"""Vocabularies and prompt pairs of the planted models.

Every model has its own words, so that a condition of another one is refused instead of misread. A vocabulary
begins with the token before every prompt and one for unknown words, which no prompt may contain.

- **a**, for the ledger: ``A T B x A`` against ``A F B x A``; 21 pairs from seven words.
- **b**, for the gates: four states and ``so``; all four ``lit`` or ``bright`` against all four ``dark`` or ``dim``; 16 pairs.
- **c** to **g**, for the twins: ``now T then here`` against ``now F then here``, the three other words in any order; each
  condition has a pair of words of its own, either of which is the answer; 12 pairs.
- **llama**, for the Llama: ``X A T F … X A`` against ``X A F T … X A`` (template ``answers``), and
  ``A T B F X A`` against ``B T A F X A`` (``keys``); 9 pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Final

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

Row = dict[str, str]


def _row(clean: Sequence[str], corrupt: Sequence[str], target: str, foil: str) -> Row:
    return {"clean": " ".join(clean), "corrupt": " ".join(corrupt), "target": f" {target}", "foil": f" {foil}"}


def ledger_rows() -> list[Row]:
    """The pairs of a: five of the seven colours, one, two or three apart in their list."""
    rows = []
    for stride, start in product((1, 2, 3), range(len(COLOURS))):
        a, t, f, b, x = (COLOURS[(start + stride * place) % len(COLOURS)] for place in range(5))
        rows.append(_row((a, t, b, x, a), (a, f, b, x, a), t, f))
    return rows


def gates_rows() -> list[Row]:
    """The pairs of b: every choice of words for four inputs that are on, against the same choice of words that are off."""
    choices = product((0, 1), repeat=4)
    return [_row((*(ON[i] for i in choice), ASK), (*(OFF[i] for i in choice), ASK), OPEN, SHUT) for choice in choices]


def twins_rows(condition: str) -> list[Row]:
    """The pairs of one of c to g: the answer stands second, the other words in any order around it."""
    rows = []
    for (first, *rest), (target, foil) in product(permutations(FILLERS), permutations(ANSWERS[condition])):
        rows.append(_row((first, target, *rest), (first, foil, *rest), target, foil))
    return rows


def llama_rows() -> list[Row]:
    """The pairs of llama, each with its template."""
    answers = [
        _row((x, a, t, f, *between.split(), x, a), (x, a, f, t, *between.split(), x, a), t, f)
        for x, a, t, f, between in LLAMA_ANSWERS
    ]
    keys = [_row((a, t, b, f, x, a), (b, t, a, f, x, a), t, f) for a, t, b, f, x in LLAMA_KEYS]
    return [{**row, "template": name} for name, rows in (("answers", answers), ("keys", keys)) for row in rows]


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
