"""Model C, twins: 5 layers × 5 heads; one circuit played by other heads in another condition, and a planted null.

Every head looks at absolute position 2, where the answer stands, and adds its gain for the condition, told by the
word that it finds there, to the logit of that word. Nothing composes, so every effect is the head's own gain.

**c and d** are one circuit of ten roles: gains 10, 8, 6, 4, 2 and −9, −7, −5, −3, −1. Six roles are played by the same head in
both, −9 and 4 have moved to heads that are idle in the other condition, 6 and −5 have changed places. With k = 5 each rule of
ranking sees other roles as the strongest (magnitude 10, −9, 8, −7, 6; lowest the five positive, highest the five negative
ones), and three of the five are the same heads in both. Chance would give 5² / 25 = 1, and three or more in 3.8 % of cases.

**e, f and g** are the null: chance and nothing else. The 25 heads are the points of an affine plane, (layer, head) with numbers
mod 5; in each condition five heads on a line, head = slope · layer + intercept, have the gain 2, and five on a parallel
line −1. Two lines of different slopes meet in exactly one point: any two of these conditions share exactly 1 = 5² / 25 of
their top 5 by every rule, what independent random sets share on average. No point is on three of the lines: all three conditions
share 0, where chance gives 5³ / 25² = 0.2. "Beyond chance" means more than `expected_by_chance` in invariants.json.
"""

from __future__ import annotations

from typing import Any, Final

from tinylab.planted.closed_forms import GRID, twin_gains
from tinylab.planted.corpora import ANSWERS, TWINS
from tinylab.planted.identity_norm import POSITIONS, Bed, Features, blank, settings

READ_PLACE: Final = 2
"""Where the answer stands, BOS counted."""
WORDS: Final = {word: condition for condition, pair in ANSWERS.items() for word in pair}
"""Answer → its condition."""

FEATURES: Final = Features.of(
    [
        *(("word", word) for word in TWINS),
        *(("place", place) for place in range(POSITIONS)),
        *(("logit", word) for word in WORDS),
    ],
    GRID,
)
CONFIG: Final = settings(FEATURES, TWINS, layers=GRID, heads=GRID)


def build() -> Any:
    """The model, a `GPT2LMHeadModel` in float64."""
    bed = Bed(blank(CONFIG, FEATURES, TWINS), FEATURES)
    gains = {condition: twin_gains(condition) for condition in ANSWERS}
    for layer in range(GRID):
        for head in range(GRID):
            bed.head(
                layer, head,
                query=[(0, None, 1.0)],
                key=[(0, ("place", READ_PLACE), 1.0)],
                value=[(at, ("word", word), 1.0) for at, word in enumerate(WORDS)],
                write=[
                    (at, ("logit", word), gains[condition].get((layer, head), 0.0))
                    for at, (word, condition) in enumerate(WORDS.items())
                ],
            )
    for word in WORDS:
        bed.logit(TWINS.index(word), ("logit", word))
    return bed.model
