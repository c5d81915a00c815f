"""Sources: where the activations come from that an operation puts in place of others, or adds to them.

A source is either an unmodified run of a prompt (`Own`, `Donor`), or made ahead of the run from a reference set (`Mean`,
`Difference`, `Noise`) or a file (`Vector`). A battery says which; what it needs of the corpus is filled in when the condition is
prepared (`tinylab.task.references`).

Letters: S reference prompts, R rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64, Int

    IntArray = Int[np.ndarray, " n"]

RunName = Literal["clean", "corrupt"]
"""The two runs of a prompt pair. `target` and `source` say which of them is intervened on, and which one gives activations."""
RUNS: tuple[RunName, ...] = ("clean", "corrupt")
OWN_SETS = ("condition", "template")
"""Reference sets of the run's own corpus: of all of it, or of an example's template."""
NOTHING = -1
"""In place of a row: nothing is put in there."""
MOST_POSITIONS = 2**20
"""No prompt has more tokens."""


@dataclass(frozen=True)
class Own:
    """The unmodified run of this very example: its clean or its corrupt prompt, at the same positions.

    `last` is each run's own last token, so that prompts of unequal length are fine there.
    """

    run: RunName


@dataclass(frozen=True)
class Donor:
    """The unmodified run of another example's prompt, at the same positions: resampling.

    Each example has its donors (`TokenPair.donors`); `number` is which of them, None until a seed has drawn them.
    """

    number: int | None = None


@dataclass(frozen=True)
class Reference:
    """A set of prompts over whose tokens activations are averaged. Equal sets have equal digests.

    Every prompt counts, duplicates too. Prompts belong to groups (templates): an example takes the numbers of its own.
    """

    digest: str
    prompts: tuple[tuple[int, ...], ...] = field(compare=False, repr=False)  # S
    groups: tuple[int, ...] = field(compare=False, repr=False)  # S, numbers from 0

    @property
    def count(self) -> int:
        """How many groups there are."""
        return max(self.groups) + 1

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts))


@dataclass(frozen=True)
class ReferenceRule:
    """Which prompts a reference set has: of all usable pairs of a corpus, whatever their split, or of an example's template."""

    of: str  # condition | template | the name of another condition
    over: str  # clean | corrupt | both: of each pair

    @property
    def elsewhere(self) -> str | None:
        """The name of the other condition whose pairs they are; None where they are of the run's own."""
        return None if self.of in OWN_SETS else self.of

    def describe(self) -> str:
        """Such as `clean prompts of the condition` or `clean prompts of facts`."""
        prompts = "prompts of both runs" if self.over == "both" else f"{self.over} prompts"
        return f"{prompts} of {'the ' * (self.elsewhere is None)}{self.of}"


@dataclass(frozen=True)
class Mean:
    """The mean of the activation over a reference set: of all its tokens, or of those at the same position from the start."""

    reference: Reference | None = None
    by_position: bool = False

    def rows(self, groups: IntArray, numbers: IntArray, positions: IntArray) -> IntArray:
        """See `Made`."""
        del numbers
        assert self.reference is not None
        groups = groups * (self.reference.count > 1)
        return groups * self.reference.longest + positions if self.by_position else groups


@dataclass(frozen=True)
class Difference:
    """The mean of the activation over one reference set, minus that over another: a direction to steer along."""

    plus: Reference | None = None
    minus: Reference | None = None

    def rows(self, groups: IntArray, numbers: IntArray, positions: IntArray) -> IntArray:
        """One for all."""
        del numbers, positions
        return groups * 0


@dataclass(frozen=True)
class Vector:
    """Given numbers, the same at every position: one line for each layer, or one for all of them."""

    digest: str
    values: Float64[np.ndarray, "R d"] = field(compare=False, repr=False)

    def rows(self, groups: IntArray, numbers: IntArray, positions: IntArray) -> IntArray:
        """One for all."""
        del numbers, positions
        return groups * 0


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, drawn for each example, position and coordinate by a seed, the same whatever else is computed with it.

    Its standard deviation is `sigma` times the activation's own, over all tokens of a reference set and all coordinates of the
    site in that layer (ROME, Meng et al. 2202.05262, takes 3 times that of the embeddings).
    """

    sigma: float
    reference: Reference | None = None
    seed: int | None = None
    draw: int = 0
    examples: tuple[int, ...] | None = None  # that it is for, by number; others stay as they are; None for all

    def rows(self, groups: IntArray, numbers: IntArray, positions: IntArray) -> IntArray:
        """One for each position of each example that it is for."""
        del groups
        found: IntArray = numbers * MOST_POSITIONS + positions
        if self.examples is not None:
            mine = {*self.examples}
            found[[number not in mine for number in numbers.tolist()]] = NOTHING
        return found


Run = Own | Donor
"""Sources that are an unmodified run of a prompt."""
Made = Mean | Difference | Vector | Noise
"""Sources that are made before the run.

Their `rows(groups, numbers, positions)` are numbers for what an example's token gets: equal ones get the same, and where it is
`NOTHING` the token stays as it is."""
Source = Run | Made
"""What a variant's `source` may be."""


def references(source: Source | None) -> tuple[Reference, ...]:
    """The reference sets that a source is made of."""
    found: tuple[Reference | None, ...] = ()
    if isinstance(source, Mean | Noise):
        found = (source.reference,)
    elif isinstance(source, Difference):
        found = (source.plus, source.minus)
    return tuple(one for one in found if one is not None)
