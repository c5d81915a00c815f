"""What the planted Llama must give: its gains, and every effect worked out from them by hand.

The circuit is told in `tinylab.planted.llama`; of its weights this module knows nothing but the numbers below.
With y = OUT and b = FOUND as heads wrote them, a word's logit is N·(y + N²·b·y + 3).

**Template `answers`**: clean [BOS X A T F … X A], corrupt the same with T and F exchanged; target T, foil F. From the
last A, 1.0 and 1.1 see T, so does 1.2 (X was before both A's), 1.3 sees F. y_T = 5 − 2 = 3, y_F = −1, b_T = 1:
logit difference 3·2 + 1 = 7, and −7 in the corrupt prompt.
Zero 1.0: −2·2 + 1 = −3. Zero 1.1: 5·2 + 1 = 11. Zero 1.2: 3 + 1 = 4. Zero 1.3: 6.
Zero 0.0: 1.0, 1.1 and 1.2 are uniform: (1 + 1/n)·(3/n − (3/n − 1)) = 1 + 1/n. Zero 0.1: 1.2 and 1.3 are: 3·(1 + 1/n).
Zero 0.2: N = 2, y = 6 and −2, b = 2: 2·(6 + 4·2·6) + 2·2 = 112. Zero 0.3: 7, all logits lower by 3.
Denoise at the last position: 1.0 gives y_T = 5 − 1, y_F = −2, b_F = 1: 4 − (−4) = 8, recovery (8 + 7)/14 = 15/14; 1.1
−13, −6/14; 1.2 −5, 2/14; 1.3 −4, 3/14; layer 0 nothing.

**Template `keys`**: clean [BOS A T B F X A], corrupt [BOS B T A F X A]. 1.0 and 1.1 see T; X is new, so 1.2 is uniform;
1.3 sees B. Logit difference 3·(1 + 1/n), and minus that. Here what tells the prompts apart is what 0.0 wrote.

`seen` and `ledger` say the same for any prompt and any scales: which words the heads of layer 1 look at, and every logit
that follows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from tinylab.planted.closed_forms import Component
from tinylab.planted.corpora import LLAMA

GAINS: Final = (5.0, -2.0, 1.0, -1.0)
"""What each head of layer 1 multiplies the word that it sees by; head 2 writes to FOUND, the others to OUT."""
LIFTED: Final = 3.0
"""What 0.3 adds to every logit."""
PLANES: Final = 16
"""Of each head; the rotary embedding turns them."""
THETA: Final = 10_000.0
MATCH: Final = 181.0
"""S, the score of a word that matches at distance 0."""
SATURATED: Final = 1024.0
"""What the gate of the MLP multiplies FOUND by before silu."""

Shares = Mapping[str, float]
"""How one head divides its attention among words."""

_EVERY: tuple[Component, ...] = tuple((layer, head) for layer in (0, 1) for head in range(4))
_LOUD_HALF = 16 / 7
"""N(½)², see `norm`."""


def frequency(plane: int) -> float:
    """The angle by which the rotary embedding turns a plane from one position to the next, in radians."""
    return float(THETA ** (-plane / PLANES))


def plane_of(word: str) -> int:
    """In which plane the heads of layer 1 match a word: the slowest for BOS, then one after the other."""
    return PLANES - 1 - LLAMA.index(word)


def silu(gate: float) -> float:
    """The activation of the MLP's gate, z / (1 + e^−z)."""
    return gate / (1 + math.exp(-gate)) if gate > -700 else 0.0


def norm(loud: float) -> float:
    """N: what a norm behind 0.2 multiplies by, where LOUD is `loud` times what 0.2 writes."""
    return 2 / math.sqrt(1 + 3 * loud**2)


def shares(words: Sequence[str], back: int, asked: str | None, *, loud: float = 1) -> dict[str, float]:
    """What a head of layer 1 sees from the last position: words `back` places behind a copy of the asked word.

    No such place: all alike. Several: the scores are N²·S·cos(d·ω) at distance d, with the frequency ω of the asked word.

    Args:
        words: the prompt, BOS included. Before it stands nothing: what looks back beyond it sees BOS.
        back: 1 for keys made of BEFORE, 2 for BEFORE2.
        asked: the query's word, None where the query or all keys are missing.
        loud: scale of 0.2.
    """
    places = [place for place in range(len(words)) if words[max(place - back, 0)] == asked] or list(range(len(words)))
    omega = 0 if asked is None else frequency(plane_of(asked))
    matched = asked is not None and words[max(places[0] - back, 0)] == asked
    scale = norm(loud) ** 2 * MATCH if matched else 0
    weights = [math.exp(scale * (math.cos((len(words) - 1 - place) * omega) - 1)) for place in places]
    found = dict.fromkeys(words, 0.0)
    for place, weight in zip(places, weights, strict=True):
        found[words[place]] += weight / sum(weights)
    return found


def seen(words: Sequence[str], *, without: Collection[int] = (), loud: float = 1) -> list[Shares]:
    """What the four heads of layer 1 see from the last position.

    Args:
        words: the prompt, BOS included.
        without: 0, 1 or both, if 0.0 and 0.1 write nothing.
        loud: scale of 0.2.
    """
    here, before = words[-1], words[max(len(words) - 2, 0)]
    asked = (  # how far back, and for what
        (1, None if 0 in without else here),
        (1, None if 0 in without else here),
        (2, None if 0 in without or 1 in without else before),
        (2, None if 1 in without else here),
    )
    return [shares(words, back, word, loud=loud) for back, word in asked]


def ledger(
    seen: Sequence[Shares], *, scales: Sequence[float] = (1, 1, 1, 1), mlp: float = 1, loud: float = 1, lift: float = 1,
    loud_before: float | None = None,
) -> dict[str, float]:
    """The logit of every word.

    Args:
        seen: the shares of the four heads of layer 1 at the last position.
        scales: what their outputs are multiplied by.
        mlp: the same of layer 1's MLP.
        loud: the same of 0.2, at the last position.
        lift: the same of 0.3.
        loud_before: the same of 0.2 at the positions that layer 1 looks at, if it differs.
    """
    last, before = norm(loud), norm(loud if loud_before is None else loud_before)
    logits = {}
    for word in LLAMA:
        first, second, found, third = (
            before * gain * scale * share.get(word, 0) for gain, scale, share in zip(GAINS, scales, seen, strict=True)
        )
        wrote = first + second + third
        gate = silu(SATURATED * last * found) / SATURATED
        logits[word] = last * (wrote + mlp * gate * (last * wrote) + LIFTED * lift)
    return logits


def logit_diff(template: str, n: int) -> float:
    """Of the clean prompt of n tokens; the corrupt one's is its negative."""
    return 7.0 if template == "answers" else 3 * (1 + 1 / n)


def zeroed(template: str, n: int) -> dict[Component, float]:
    """The logit difference of a clean prompt of n tokens without a head."""
    more = 1 + 1 / n
    if template == "answers":
        return {
            (0, 0): more, (0, 1): 3 * more, (0, 2): 112, (0, 3): 7,
            (1, 0): -3, (1, 1): 11, (1, 2): 4, (1, 3): 6,
        }
    return {
        (0, 0): 0, (0, 1): 3 * more, (0, 2): 12 + 96 / n, (0, 3): 3 * more,
        (1, 0): -2 * more, (1, 1): 5 * more, (1, 2): 3, (1, 3): 3 * more,
    }


def halved(template: str, n: int) -> dict[Component, float]:
    """The same with a head at half its output; 0.0 and 0.1 steer attention, which stays one-hot."""
    more, loud = 1 + 1 / n, 3 * _LOUD_HALF**2.5
    if template == "answers":
        return {
            (0, 0): 7, (0, 1): 7, (0, 2): 4 * _LOUD_HALF + loud, (0, 3): 7,
            (1, 0): 2, (1, 1): 9, (1, 2): 5.5, (1, 3): 6.5,
        }
    return {
        (0, 0): 3 * more, (0, 1): 3 * more, (0, 2): 3 * _LOUD_HALF + loud / n, (0, 3): 3 * more,
        (1, 0): more / 2, (1, 1): 4 * more, (1, 2): 3 + 1.5 / n, (1, 3): 3 * more,
    }


def denoised(template: str, n: int) -> dict[Component, float]:
    """The logit difference of a corrupt prompt of n tokens with a head of the clean one, at every position."""
    more = 1 + 1 / n
    if template == "answers":
        return {**dict.fromkeys(_EVERY, -7.0), (1, 0): 8, (1, 1): -13, (1, 2): -5, (1, 3): -4}
    return {**dict.fromkeys(_EVERY, -3 * more), (0, 0): 3 * more, (1, 0): 7 * more, (1, 1): -7 * more}


def queries_zeroed(n: int) -> dict[int, float]:
    """The logit difference of a clean prompt of `answers` where a query head of layer 1 asks for nothing: it looks everywhere."""
    return {0: 5 / n - 3, 1: 11 - 2 / n, 2: 4 * (1 + 1 / n), 3: 6 - 1 / n}


def keys_zeroed(n: int) -> dict[int, float]:
    """The same where a key-value head of layer 1 has no keys: both query heads that share it look everywhere."""
    return {0: 1 + 3 / n, 1: 3 * (1 + 1 / n)}


VALUES_ZEROED: Final[Mapping[int, float]] = {0: 1.0, 1: 3.0}
"""The same where one has no values: y_T = 0, y_F = −1 without 1.0 and 1.1; y_T = 3, b_T = 0 without 1.2 and 1.3."""
VALUES_DENOISED: Final[Mapping[int, float]] = {0: 2.0, 1: -2.0}
"""Of a corrupt prompt with the values of the clean one: y_T = 3 − 1, y_F = 0; or y_T = 0, y_F = 3 − 1, b_T = 1."""
NEURON_ZEROED: Final = 4.0
"""The same without the neuron of the target in layer 1's MLP: 3 + 1. Each other neuron leaves 7."""
