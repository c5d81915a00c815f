"""The fewest states that a battery can be computed with, counted from the prompts alone.

A state is the output of one block for one token prefix under one intervention. This file shares no code with the
engine: plain sets of token tuples. What has to be computed:

- unmodified runs: every distinct prefix of the clean and corrupt prompts in all blocks but the last, and the distinct
  whole prompts in the last block, because only reading rows leave it;
- a variant that acts on the input of block l or inside it: every distinct changed prefix, at or behind the first changed
  position, in the blocks l … L−2, and the distinct changed whole prompts in the last block;
- a variant that acts on the output of block l: the same from block l + 1 on.

A changed prefix is named by its tokens, by where it was changed, and by what was put in: for a patch the source run
up to the last changed position so far. Where that is what the target run has there anyway, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import RESID_POST
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Positions, Variant
from tinylab.task.tokens import TokenPair

Tokens = tuple[int, ...]
State = tuple[Tokens, tuple[int, ...], Tokens]
"""Tokens so far, changed positions so far, and the source run's tokens as far as they matter."""


def lower_bound(pairs: Sequence[TokenPair], variants: Sequence[Variant], n_layers: int) -> int:
    """States that have to be computed, summed over blocks and variants.

    Args:
        pairs: the prompt pairs.
        variants: the battery.
        n_layers: L.
    """
    prompts = {prompt for pair in pairs for prompt in (pair.clean, pair.corrupt)}
    total = len({prefix for prompt in prompts for prefix in _prefixes(prompt)}) * (n_layers - 1) + len(prompts)
    counts: dict[tuple[RunName, RunName | None, Positions], tuple[int, int]] = {}
    for variant in variants:
        patched = any(isinstance(i.operation, Patch) for i in variant.interventions)
        source = variant.source.run if patched and variant.source is not None else None
        setting = (variant.target, source, variant.positions)
        if setting not in counts:
            counts[setting] = _changed(pairs, *setting)
        every, whole = counts[setting]
        first = min(i.layer + (i.site == RESID_POST) for i in variant.interventions)
        total += every * max(0, n_layers - 1 - first) + whole * (first < n_layers)
    return total


def _prefixes(prompt: Tokens) -> Iterable[Tokens]:
    return (prompt[: end + 1] for end in range(len(prompt)))


def _changed(pairs: Sequence[TokenPair], target: RunName, source: RunName | None, positions: Positions) -> tuple[int, int]:
    """Distinct changed prefixes, and distinct changed whole prompts."""
    every: set[State] = set()
    whole: set[State] = set()
    for pair in pairs:
        prompt: Tokens = getattr(pair, target)
        other: Tokens | None = None if source is None else getattr(pair, source)
        for end in range(len(prompt)):
            state = _state(prompt, other, positions, end)
            if state is None or (other is not None and state[2] == prompt[: len(state[2])]):
                continue
            every.add(state)
            if end == len(prompt) - 1:
                whole.add(state)
    return len(every), len(whole)


def _state(prompt: Tokens, source: Tokens | None, positions: Positions, end: int) -> State | None:
    """What the state at a position depends on; None in front of the first change."""
    changed: tuple[int, ...]
    if positions == "last":
        changed = (len(prompt) - 1,) if end == len(prompt) - 1 else ()
        put_in = source or ()
    else:
        changed = tuple(p for p in (range(end + 1) if positions == "all" else sorted(positions)) if p <= end)
        put_in = (source or ())[: changed[-1] + 1] if changed else ()
    return (prompt[: end + 1], changed, put_in) if changed else None
