"""Model A, the induction ledger: 2 layers × 4 heads, each with an entry of its own in the books.

| head | does |
|---|---|
| 0.0 | looks one token back and notes in each state which word came before |
| 0.1 | a loud no-op: writes a vector of norm 100 that nobody reads |
| 1.0 | induction: looks where the word before was the word at hand, adds g to the logit of the word there |
| 1.1 | a suppressor: looks there too, and takes h away |
| 1.2 | its value is nothing but a bias: adds a constant to every logit |
| 1.3 | silent; with `place` it reads absolute position 2 and adds to the logit of the word there |

0.2 and 0.3 are silent, and so are the MLPs. The numbers are in `closed_forms`.
"""

from __future__ import annotations

import math
from typing import Any, Final

from tinylab.planted.closed_forms import INDUCTION, LOUD, PLACE, SHIFT, SUPPRESSION
from tinylab.planted.corpora import LEDGER
from tinylab.planted.identity_norm import POSITIONS, Bed, Feature, Features, Wire, blank, settings

LAYERS: Final = 2
HEADS: Final = 4
READ_PLACE: Final = 2
"""The absolute position that 1.3 reads: T's, in a prompt ``BOS A T B x A``."""

EVERY_LOGIT: Final[Feature] = ("every logit", "")
UNREAD: Final[Feature] = ("unread", "")
FEATURES: Final = Features.of(
    [
        *(("word", word) for word in LEDGER),
        *(("place", place) for place in range(POSITIONS)),
        *(("word before", word) for word in LEDGER),
        *(("logit", word) for word in LEDGER),
        EVERY_LOGIT,
        UNREAD,
    ],
    HEADS,
)
CONFIG: Final = settings(FEATURES, LEDGER, layers=LAYERS, heads=HEADS)


def words(name: str, weight: float = 1.0) -> list[Wire]:
    """One coordinate of a head for each word: what a feature says about it."""
    return [(at, (name, word), weight) for at, word in enumerate(LEDGER)]


def build(*, place: bool = False) -> Any:
    """The model, a `GPT2LMHeadModel` in float64.

    Args:
        place: whether 1.3 reads absolute position 2, so that a wrong position id shows: the level is then higher by `PLACE`.
    """
    bed = Bed(blank(CONFIG, FEATURES, LEDGER), FEATURES)
    bed.head(
        0, 0,
        query=[(at, ("place", at), 1.0) for at in range(1, POSITIONS)],
        key=[(at, ("place", at - 1), 1.0) for at in range(1, POSITIONS)],
        value=words("word"),
        write=words("word before"),
    )
    a_word: list[Wire] = [(0, ("word", word), 1.0) for word in LEDGER]  # 1 at every position
    bed.head(0, 1, value=a_word, write=[(0, UNREAD, LOUD / math.sqrt(2))])
    for head, gain in ((0, INDUCTION), (1, -SUPPRESSION)):
        bed.head(1, head, query=words("word"), key=words("word before"), value=words("word"), write=words("logit", gain))
    bed.head(1, 2, value=[(0, None, SHIFT)], write=[(0, EVERY_LOGIT, 1.0)])
    if place:
        there: Wire = (0, ("place", READ_PLACE), 1.0)
        bed.head(1, 3, query=[(0, None, 1.0)], key=[there], value=words("word"), write=words("logit", PLACE))
    for token, word in enumerate(LEDGER):
        bed.logit(token, ("logit", word))
        bed.logit(token, EVERY_LOGIT)
    return bed.model
