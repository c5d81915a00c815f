"""What the planted models must give: their gains, and every effect worked out from them by hand.

All are logit differences (target − foil) and exact in real arithmetic but for the LayerNorm, which is the identity up to
a relative 6e-11 beside the loudest head (`identity_norm`): `TOLERANCE` bounds what that leaves. Components are (layer, head).

**Ledger** (`ledger`). On a clean prompt ``BOS A T B x A`` the induction head 1.0 adds g to T's logit and the suppressor
1.1 takes h away: the level is g − h; on the corrupt prompt ``BOS A F B x A`` it is −(g − h). Zeroing 1.0 changes it by −g,
zeroing 1.1 by +h. Without the previous-token head 0.0 both find no match, look at all n = 6 tokens alike and read T in one
of them: (g − h) / n remains. 1.2 adds a constant to every logit, 0.1 writes where nobody reads: no change. Patching
1.0 from clean into corrupt adds g to T and takes g from F: the patched level is −(g − h) + 2g, over the whole of 2(g − h)
a recovery of g / (g − h), and −h / (g − h) for 1.1. Without 0.0 *and* 1.0 the suppressor alone reads 1 / n of T: −h / n.

**Gates** (`gates`). logit(open) = a·AND(0.0, 0.1) + o·OR(0.2, 0.3) and logit(shut) = (a + o) / 2, so clean (all four inputs
1) and corrupt (all 0) are ±(a + o) / 2, a whole of a + o. Denoising one input: an OR input brings o, an AND input nothing.
Noising one input, or zeroing it: an AND input costs a, an OR input nothing. Both inputs of a gate give all of it, both ways.

**Twins** (`twins`). Every head adds its own gain to the target's logit, and nothing else happens: zeroing it
changes the level by minus that gain, and the level is the sum of the gains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

Component = tuple[int, int]

TOLERANCE: Final = 2e-9
"""Largest difference from a closed form in float64: two norms of 6e-11 each on the way to logits of up to 8 make 1e-9."""

# Model A, the ledger

INDUCTION: Final = 5.0
"""g, what 1.0 adds to the logit of what it finds."""
SUPPRESSION: Final = 2.0
"""h, what 1.1 takes from it."""
SHIFT: Final = 3.0
"""What 1.2 adds to every logit through its value bias."""
PLACE: Final = 1.0
"""What 1.3 adds, where it is built in, to the logit of the token at absolute position 2."""
LOUD: Final = 100.0
"""Norm of what 0.1 writes into every position."""
LEDGER_TOKENS: Final = 6
"""Tokens of a ledger prompt, BOS included."""
LEDGER_WORDS: Final = 9
"""Size of its vocabulary."""

LEDGER_LEVEL: Final = INDUCTION - SUPPRESSION
"""Clean; corrupt is minus that."""
LEDGER_ZERO: Final[Mapping[Component, float]] = {
    (0, 0): LEDGER_LEVEL / LEDGER_TOKENS - LEDGER_LEVEL,
    (0, 1): 0.0,
    (0, 2): 0.0,
    (0, 3): 0.0,
    (1, 0): -INDUCTION,
    (1, 1): SUPPRESSION,
    (1, 2): 0.0,
    (1, 3): 0.0,
}
"""Change of the level when a head is zeroed."""
LEDGER_RECOVERY: Final[Mapping[Component, float]] = {
    **dict.fromkeys(LEDGER_ZERO, 0.0),
    (1, 0): INDUCTION / LEDGER_LEVEL,
    (1, 1): -SUPPRESSION / LEDGER_LEVEL,
}
"""Recovery when one head of the last position is patched; the same in both directions."""
LEDGER_PAIRS: Final[Mapping[tuple[Component, Component], float]] = {
    ((1, 0), (1, 1)): -LEDGER_LEVEL,
    ((0, 0), (1, 0)): -SUPPRESSION / LEDGER_TOKENS - LEDGER_LEVEL,
}
"""Change when two heads are zeroed together: the first pair is the sum of its singles, the second less than half of it."""
LEDGER_SYNERGY: Final[Mapping[tuple[Component, Component], float]] = {
    ((0, 0), (1, 0)): INDUCTION * (1 - 1 / LEDGER_TOKENS),
    ((0, 0), (1, 1)): -SUPPRESSION * (1 - 1 / LEDGER_TOKENS),
}
"""Joint change when two heads are zeroed minus the sum of the singles: 1.0 and 1.1 read what 0.0 writes; all others add up."""
LEDGER_POSITIONS: Final[Mapping[int, int]] = {0: 2, 1: LEDGER_TOKENS - 1}
"""Layer → the one position where patching the residual stream recovers everything; all others recover nothing."""

LEDGER_STREAM: Final[Mapping[str, Mapping[int, int]]] = {
    "resid_pre": {0: 2, 1: 2}, "resid_mid": {0: 2, 1: LEDGER_TOKENS - 1},
}
"""The same at other places of the residual stream: layer 1's attention is what moves the answer to the last position."""
LEDGER_ATTENTION: Final[Mapping[int, float]] = {0: LEDGER_ZERO[0, 0], 1: -LEDGER_LEVEL}
"""Layer → change of the level when all that its attention writes is zeroed."""
LEDGER_UNIFORM: Final[Mapping[Component, float]] = {
    (1, 0): INDUCTION / LEDGER_TOKENS - INDUCTION,
    (1, 1): SUPPRESSION - SUPPRESSION / LEDGER_TOKENS,
    (1, 2): 0.0,
}
"""Change when a head's queries, or its keys, are zeroed: it looks at all tokens alike, and reads T in one of them."""
LEDGER_VALUES: Final[Mapping[Component, float]] = {head: LEDGER_ZERO[head] for head in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))}
"""Change when its values are zeroed: nothing is left of it, as where its output is."""
LEDGER_VALUES_AT: Final = 2
"""The position whose values, patched, recover what patching a head of layer 1 at the last position does: T's, or F's."""

LEDGER_PADDED: Final[Mapping[int, float]] = {1: LEDGER_LEVEL, 2: LEDGER_LEVEL, 3: LEDGER_LEVEL + PLACE / LEDGER_TOKENS}
"""Left padding tokens → the clean level with 1.3 built in where positions are counted from the padding on; right is + `PLACE`.

1.3 then reads A, or BOS; with three it has nothing to read but padding, and looks at all six tokens alike.
"""


def ledger_scaled(component: Component, scale: float) -> float:
    """The clean level when 1.0 or 1.1 is multiplied by a scale."""
    return LEDGER_LEVEL + (1 - scale) * LEDGER_ZERO[component]


def ledger_probability(target: float) -> float:
    """The target's probability where its logit stands this far above all others, which are equal."""
    return 1 / (1 + (LEDGER_WORDS - 1) * math.exp(-target))


def ledger_kl(clean: float, intervened: float) -> float:
    """KL in nats between two such distributions."""
    p, q = ledger_probability(clean), ledger_probability(intervened)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


# Model B, gates

AND: Final = 4.0
"""a, what the AND gate adds to the logit of `open`."""
OR: Final = 2.0
"""o, what the OR gate adds to it."""
AND_INPUTS: Final[tuple[Component, Component]] = ((0, 0), (0, 1))
OR_INPUTS: Final[tuple[Component, Component]] = ((0, 2), (0, 3))
GATES_MLP: Final = 1
"""The layer whose MLP holds the gates."""
GATES_LEVEL: Final = (AND + OR) / 2
"""Clean; corrupt is minus that."""
GATES_ZERO: Final[Mapping[Component, float]] = {**dict.fromkeys(AND_INPUTS, -AND), **dict.fromkeys(OR_INPUTS, 0.0)}
"""Change of the clean level when an input is zeroed."""
GATES_DENOISED: Final[Mapping[Component, float]] = {
    **dict.fromkeys(AND_INPUTS, 0.0),
    **dict.fromkeys(OR_INPUTS, OR / (AND + OR)),
}
"""Recovery when an input of the last position is patched clean→corrupt."""
GATES_NOISED: Final[Mapping[Component, float]] = {
    **dict.fromkeys(AND_INPUTS, AND / (AND + OR)),
    **dict.fromkeys(OR_INPUTS, 0.0),
}
"""The same corrupt→clean: the fraction of the way from clean to corrupt."""
GATES_PAIRS_ZERO: Final = {AND_INPUTS: -AND, OR_INPUTS: -OR}
"""Change when both inputs of a gate are zeroed."""
GATES_PAIRS_RECOVERY: Final = {AND_INPUTS: AND / (AND + OR), OR_INPUTS: OR / (AND + OR)}
"""Recovery when both are patched, in either direction."""

GATES_UNITS: Final = (1.0, 2.0, 1.0)
"""What the MLP's neurons a + b − 1, c + d and c + d − 1 hold on the clean prompt; on the corrupt one all hold 0."""
GATES_NEURONS_ZERO: Final = (-AND, -2 * OR, OR)
"""Change of the clean level when one is zeroed."""
GATES_NEURONS_RECOVERY: Final = (AND / (AND + OR), 2 * OR / (AND + OR), -OR / (AND + OR))
"""Recovery when one is patched at the last position, in either direction: their sum is all of it."""


def gates_synergy(pair: tuple[Component, Component], scale: float) -> float:
    """Joint change minus the sum of the singles, when two heads are multiplied by a scale from 0 to 1; 0 of different gates."""
    if pair == AND_INPUTS:  # a·max(0, 2s − 1) − a, and singles of a·s − a each
        return AND * (max(0.0, 2 * scale - 1) - 1) - 2 * AND * (scale - 1)
    if pair == OR_INPUTS:  # o·min(1, 2s) − o, and singles of nothing
        return OR * (min(1.0, 2 * scale) - 1)
    return 0.0


def gates_scaled(component: Component, scale: float) -> float:
    """The clean level when an input is multiplied by a scale from 0 to 1."""
    return GATES_LEVEL + (1 - scale) * GATES_ZERO[component]


# Model C, twins

GRID: Final = 5
"""Layers, and heads of each; also k, the number of components that count as the strongest (`invariants.k`)."""
ROLES: Final = (10.0, -9.0, 8.0, -7.0, 6.0, -5.0, 4.0, -3.0, 2.0, -1.0)
"""The circuit of conditions c and d: ten gains, one for each of its heads."""
TWIN_HEADS: Final[Mapping[str, tuple[Component, ...]]] = {
    "c": ((0, 1), (1, 4), (1, 2), (2, 0), (2, 3), (3, 1), (3, 3), (4, 0), (4, 2), (4, 4)),
    "d": ((0, 1), (0, 3), (1, 2), (2, 0), (3, 1), (2, 3), (2, 2), (4, 0), (4, 2), (4, 4)),
}
"""Which heads play the roles. −9 and 4 are played by other heads in d, 6 and −5 have changed places."""
TWIN_COMMON: Final[Mapping[str, tuple[Component, ...]]] = {
    "magnitude": ((0, 1), (1, 2), (2, 0)),
    "lowest": ((0, 1), (1, 2), (4, 2)),
    "highest": ((2, 0), (4, 0), (4, 4)),
}
"""The invariants of c and d by each rule of ranking, for k = 5: roles 10, 8, −7; 10, 8, 2; −7, −3, −1."""

NULL_GAINS: Final = (2.0, -1.0)
"""In a null condition each head of one line has the first gain, each of a parallel line the second."""
NULL_LINES: Final[Mapping[str, tuple[int, int, int]]] = {"e": (1, 0, 2), "f": (2, 1, 3), "g": (3, 0, 2)}
"""Null condition → slope, and the intercepts of its two lines."""


def line(slope: int, intercept: int) -> tuple[Component, ...]:
    """One head of each layer: (layer, slope · layer + intercept mod 5)."""
    return tuple((layer, (slope * layer + intercept) % GRID) for layer in range(GRID))


def twin_gains(condition: str) -> dict[Component, float]:
    """The gain of every head that does something in a condition, c to g."""
    if condition in TWIN_HEADS:
        return dict(zip(TWIN_HEADS[condition], ROLES, strict=True))
    slope, *intercepts = NULL_LINES[condition]
    return {head: gain for gain, at in zip(NULL_GAINS, intercepts, strict=True) for head in line(slope, at)}
