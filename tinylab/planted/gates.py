"""Model B, gates: 2 layers × 4 heads; the MLP of layer 1 joins heads 0.0 and 0.1 by AND, 0.2 and 0.3 by OR.

Head 0.i looks at absolute position i + 1 and notes 1 where the word there is on (`lit`, `bright`), 0 where it is off. Three relu
units make the gates: a AND b = relu(a + b − 1), and c OR d = relu(c + d) − relu(c + d − 1), the smaller of c + d and 1.
Both gates add to the logit of `open`; the word `so` alone is worth (a + o) / 2 to the logit of `shut`. The heads of
layer 1 and the MLP of layer 0 are silent. The numbers are in `closed_forms`.
"""

from __future__ import annotations

from typing import Any, Final

from tinylab.planted.closed_forms import AND, AND_INPUTS, GATES_LEVEL, GATES_MLP, OR, OR_INPUTS
from tinylab.planted.corpora import ASK, GATES, ON, OPEN, SHUT
from tinylab.planted.identity_norm import POSITIONS, Bed, Feature, Features, blank, settings

LAYERS: Final = 2
HEADS: Final = 4
UNITS: Final = 3

FEATURES: Final = Features.of(
    [
        *(("word", word) for word in GATES),
        *(("place", place) for place in range(POSITIONS)),
        *(("input", head) for head in range(HEADS)),
        ("logit", OPEN),
    ],
    HEADS,
)
CONFIG: Final = settings(FEATURES, GATES, layers=LAYERS, heads=HEADS, units=UNITS)


def build() -> Any:
    """The model, a `GPT2LMHeadModel` in float64."""
    bed = Bed(blank(CONFIG, FEATURES, GATES), FEATURES)
    for layer, head in (*AND_INPUTS, *OR_INPUTS):
        bed.head(
            layer, head,
            query=[(0, None, 1.0)],
            key=[(0, ("place", head + 1), 1.0)],
            value=[(0, ("word", word), 1.0) for word in ON],
            write=[(0, ("input", head), 1.0)],
        )
    both: list[tuple[Feature | None, float]] = [(("input", head), 1.0) for _, head in AND_INPUTS]
    either: list[tuple[Feature | None, float]] = [(("input", head), 1.0) for _, head in OR_INPUTS]
    more_than_one: tuple[Feature | None, float] = (None, -1.0)
    bed.unit(GATES_MLP, 0, read=[*both, more_than_one], write=("logit", OPEN), gain=AND)
    bed.unit(GATES_MLP, 1, read=either, write=("logit", OPEN), gain=OR)
    bed.unit(GATES_MLP, 2, read=[*either, more_than_one], write=("logit", OPEN), gain=-OR)
    bed.logit(GATES.index(OPEN), ("logit", OPEN))
    bed.logit(GATES.index(SHUT), ("word", ASK), GATES_LEVEL)
    return bed.model
