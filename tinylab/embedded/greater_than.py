"""Greater-than (Hanna et al. 2305.00586): how long something lasted, up to the second half of the year in which it ended.

Our own prompts in the paper's form, with its conditions: GPT-2 takes a year for two tokens, the century and what follows (it has
one token for 1700 alone), and of the years left the first and the last of the century are not asked for, so that some years are
later and some are not. In the corrupt prompt it began in 01. An answer is any of the two digits after it (`target`), as against
the year itself and any before it (`foil`): sets, for ``condition.answer=set``. Nouns and draws are ours.
"""

from __future__ import annotations

import random
from typing import Any, Final

from tinylab.embedded.frames import filled, spans

NOUNS: Final = (
    "war", "siege", "drought", "famine", "truce", "reign", "voyage", "mission", "plague", "strike", "blockade", "dynasty",
    "campaign", "alliance", "festival", "rebellion", "occupation", "expedition", "trial", "project", "journey", "marriage",
    "partnership", "friendship", "negotiation", "treaty", "recession", "boom", "crisis", "debate", "feud", "invasion", "exile",
    "monopoly", "experiment", "regime", "union", "revolt", "epidemic", "search", "course", "dispute", "lease", "tour",
    "migration", "contest", "restoration", "study",
)
"""What lasts: a word each, and a token of GPT-2."""
CENTURY: Final = "17"
FRAME: Final = f"The {{noun}} lasted from the year {CENTURY}{{began}} to the year {CENTURY}"
FIRST: Final = "01"
"""When it began in every corrupt prompt."""
BEGAN: Final = tuple(f"{year:02d}" for year in range(2, 99))
"""When it began in clean ones."""
PROMPTS: Final = 1000


def pair(noun: str, began: str) -> dict[str, Any]:
    """A noun that lasted from a year on, as a row."""
    clean, corrupt = (filled(FRAME, noun=noun, began=year) for year in (began, FIRST))
    return {
        "clean": clean.text, "corrupt": corrupt.text,
        "target": [f"{year:02d}" for year in range(int(began) + 1, 100)],
        "foil": [f"{year:02d}" for year in range(int(began) + 1)],
        "template": "lasted", "noun": noun, "spans": spans(clean, corrupt, subject="began", noun="noun"),
    }


def rows() -> list[dict[str, Any]]:
    """A thousand pairs, no two of which are the same, by noun and year."""
    every = [(noun, began) for noun in NOUNS for began in BEGAN]
    return [pair(noun, began) for noun, began in sorted(random.Random("greater_than").sample(every, PROMPTS))]
