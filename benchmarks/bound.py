"""The fewest states that a battery can be computed with, counted from the prompts alone.

A state is the output of one block for one token prefix under one intervention. This file shares no code with the
engine: plain sets of token tuples. What has to be computed:

- unmodified runs: every distinct prefix of the clean and corrupt prompts in all blocks but the last, and the distinct
  whole prompts in the last block, because only reading rows leave it; where whole answers are scored, a prompt goes on with
  each of their alternatives but for its last token, and every prefix from the whole prompt on is read;
- a variant that acts on the input of block l or inside it: every distinct changed prefix, at or behind the first changed
  position, in the blocks l … L−2, and the distinct changed whole prompts in the last block;
- a variant that acts on the output of block l: the same from block l + 1 on;
- a variant that acts several times: the same, but no block in which what has been done so far is all of another variant, or
  what another one has done so far.

A changed prefix is named by its tokens, by where it was changed, and by what was put in: the source run up to there; a mean by
its group of prompts; noise by its example. Where a patch puts in what the target run has there anyway, nothing is changed.
Donors' prompts are unmodified runs too; of these and of the source run those tokens leave the last block too that are put in
inside or behind it where a row is read. The prompts of a reference set are run once more, before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from tinylab.interventions.sites import RESID_POST, RESID_PRE, K, V
from tinylab.interventions.sources import Donor, Mean, Noise, Reference, Run, RunName, Source, references
from tinylab.interventions.variants import Each, Intervention, Named, Positions, Variant
from tinylab.task.tokens import Prompt, TokenPair

Tokens = tuple[int, ...]
State = tuple[Tokens, tuple[Hashable, ...]]
"""Tokens so far, and the changes so far: where, and what was put in."""


def lower_bound(pairs: Sequence[TokenPair], variants: Sequence[Variant], n_layers: int) -> int:
    """States that have to be computed, summed over blocks and variants.

    Args:
        pairs: the prompt pairs.
        variants: the battery.
        n_layers: L.
    """
    lines = {(prompt, after) for pair in pairs for after in _after(pair) for prompt in (pair.clean, pair.corrupt)}
    taken = {(variant.source, variant.positions == "all") for variant in variants if isinstance(variant.source, Donor)}
    runs = {prompt + after for prompt, after in lines} | {
        pair.prompt(donor).tokens + (after if everywhere else ()) for donor, everywhere in taken for pair in pairs
        for after in _after(pair)}
    read = {prompt + after[:end] for prompt, after in lines for end in range(len(after) + 1)}
    total = _count(runs) * (n_layers - 1) + len(read | _read_in_last(pairs, variants, n_layers))
    counts: dict[tuple[RunName, Source | None, Positions, bool], tuple[int, int]] = {}
    seen: set[object] = set()
    for variant in sorted(variants, key=lambda variant: len(variant.interventions)):
        takes = any(i.operation.needs_source for i in variant.interventions)
        keeps = all(not i.operation.changes_equal for i in variant.interventions)
        setting = (variant.target, variant.source if takes else None, variant.positions, keeps)
        if setting not in counts:
            counts[setting] = _changed(pairs, *setting[:3], keeps=keeps)
        every, whole = counts[setting]
        if len(variant.interventions) == 1:
            (first,) = (_first(i) for i in variant.interventions)
            total += every * max(0, n_layers - 1 - first) + whole * (first < n_layers)
        for layer in range(n_layers):
            made = frozenset(str(i) for i in variant.interventions if _first(i) <= layer)
            state = (setting, layer, made)
            if made and state not in seen:
                seen.add(state)
                if len(variant.interventions) > 1:
                    total += whole if layer == n_layers - 1 else every
    return total + sum(_of_reference(reference, places, n_layers) for reference, places in _references(variants).items())


def _after(pair: TokenPair) -> list[Tokens]:
    """What of its answers follows a prompt: nothing, or each alternative without its last token."""
    if pair.answers is None:
        return [()]
    return [one[:-1] for answer in (pair.answers.target, pair.answers.foil) for one in answer]


def _count(prompts: Iterable[Tokens]) -> int:
    """Distinct prefixes."""
    return len({prefix for prompt in prompts for prefix in _prefixes(prompt)})


def _first(intervention: Intervention) -> int:
    """The first block whose output is changed."""
    return intervention.layer + (intervention.site == RESID_POST)


def _prefixes(prompt: Tokens) -> Iterable[Tokens]:
    return (prompt[: end + 1] for end in range(len(prompt)))


def _read_in_last(pairs: Sequence[TokenPair], variants: Sequence[Variant], n_layers: int) -> set[Tokens]:
    """Prefixes of sources that are put in where a row is read, from inside the last block (not its keys, values) or behind it."""
    taken = {
        (variant.target, variant.source, variant.positions) for variant in variants for i in variant.interventions
        if isinstance(variant.source, Run) and i.operation.needs_source
        if i.layer == n_layers - 1 and i.site not in (RESID_PRE, K, V)
    }
    found: set[Tokens] = set()
    for target, source, positions in taken:
        for pair, after in [(one, after) for one in pairs for after in _after(one)]:
            prompt, other = pair.prompt(target), pair.prompt(source if isinstance(source, Donor) else source.run)
            places = zip(_places(prompt, positions, len(after)), _places(other, positions, len(after)), strict=True)
            found |= {(other.tokens + after)[: place + 1] for here, place in places if here >= len(prompt.tokens) - 1}
    return found


def _references(variants: Sequence[Variant]) -> dict[Reference, set[int]]:
    """The reference sets, and the layers whose activations are averaged."""
    found: dict[Reference, set[int]] = {}
    for variant in variants:
        for reference in references(variant.source):
            found.setdefault(reference, set()).update(i.layer for i in variant.interventions if i.operation.needs_source)
    return found


def _of_reference(reference: Reference, layers: set[int], n_layers: int) -> int:
    """Every distinct prefix in all blocks but the last, and in that too where its activations are averaged."""
    prefixes = _count(reference.prompts)
    return prefixes * (n_layers - 1) + (prefixes if n_layers - 1 in layers else 1)


def _changed(
    pairs: Sequence[TokenPair], target: RunName, source: Source | None, positions: Positions, *, keeps: bool
) -> tuple[int, int]:
    """Distinct changed prefixes, and of these the distinct ones that are read: whole prompts, and what of answers is behind them.

    `keeps`: what equals the source stays as it is.
    """
    every: set[State] = set()
    whole: set[State] = set()
    for pair, after in [(one, after) for one in pairs for after in _after(one)]:
        prompt = pair.prompt(target)
        tokens = prompt.tokens + after
        changes: list[tuple[int, Hashable]] = []
        spared = isinstance(source, Noise) and source.examples is not None and pair.number not in source.examples
        here = [] if spared else _places(prompt, positions, len(after))
        for place, (position, put_in) in zip(here, _put_in(pair, source, positions, prompt, after) if here else (), strict=True):
            if not (keeps and isinstance(source, Run) and put_in == tokens[: place + 1]):
                changes.append((place, (position, put_in)))
        for end in range(len(tokens)):
            made = tuple(change for change in changes if change[0] <= end)
            if made:
                state = (tokens[: end + 1], made)
                every.add(state)
                if end >= len(prompt.tokens) - 1:
                    whole.add(state)
    return len(every), len(whole)


def _places(prompt: Prompt, positions: Positions, after: int) -> list[int]:
    """Where a prompt with so many tokens behind it is changed."""
    if isinstance(positions, Named):
        span = dict(prompt.spans)[positions.name]
        return list(span if positions.part == "all" else span[:1] if positions.part == "first" else span[-1:])
    if isinstance(positions, Each):
        return [positions.position] if positions.position < len(prompt.tokens) else []
    length = len(prompt.tokens)
    return list(range(length + after)) if positions == "all" else [length - 1] if positions == "last" else sorted(positions)


def _put_in(
    pair: TokenPair, source: Source | None, positions: Positions, prompt: Prompt, after: Tokens
) -> list[tuple[int, Hashable]]:
    """What is put in at each of these places, as far as states depend on it."""
    if isinstance(source, Run):
        other = pair.prompt(source if isinstance(source, Donor) else source.run)
        return [(0, (other.tokens + after)[: place + 1]) for place in _places(other, positions, len(after))]
    here = _places(prompt, positions, len(after))
    if isinstance(source, Mean):
        group = pair.group if source.reference is not None and source.reference.count > 1 else 0
        return [(place if source.by_position else 0, group) for place in here]
    return [(place, pair.number if isinstance(source, Noise) else None) for place in here]
