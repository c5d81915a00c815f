"""What sources need of a corpus, filled in when a condition is prepared: reference sets, donors, and numbers to draw noise by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinylab.batteries.base import Battery, Cell
from tinylab.errors import ConfigError
from tinylab.interventions.sources import RUNS, Difference, Donor, Mean, Noise, Reference, ReferenceRule, RunName, Source, Vector
from tinylab.interventions.variants import Named, Positions, indices
from tinylab.models.network import CausalModel
from tinylab.task.corpus import Condition, PromptPair, drop
from tinylab.task.tokens import TokenPair

LONELY = "no other prompt to take its place"
"""Why resampling cannot use a pair."""

Corpus = tuple[Condition, list[TokenPair]]
"""A condition and its pairs as tokens, in the same order."""


@dataclass(frozen=True)
class Filled:
    """Pairs and cells with what the cells' sources need."""

    tokens: list[TokenPair]
    cells: list[Cell]
    reference: dict[str, Any] | None = None  # what the manifest says of the reference set


def with_donors(condition: Condition, tokens: Sequence[TokenPair], battery: Battery, strict: bool) -> Corpus:
    """The pairs that have donors: another pair whose prompt can stand in its own's place.

    Raises:
        CorpusError: too few of them have, or one has not and `strict`.
    """
    lonely = {pair.row: LONELY for pair, pool in zip(condition.pairs, _pools(tokens, battery), strict=True) if len(pool) == 0}
    kept = drop(condition, lonely, strict)
    return kept, [own for pair, own in zip(condition.pairs, tokens, strict=True) if pair.row not in lonely]


def needs_donors(cells: Iterable[Cell]) -> bool:
    """Whether some cells take activations of other examples."""
    return any(isinstance(cell.variant.source, Donor) for cell in cells)


def fill_in(
    battery: Battery, cells: Sequence[Cell], pool: Corpus, drawn: Mapping[int, Sequence[int]], whole: Corpus | None
) -> Filled:
    """Give pairs and cells what the cells' sources need.

    Args:
        battery: whose cells they are.
        cells: with sources as the battery declares them.
        pool: the pairs that donors are drawn from.
        drawn: which of them each seed uses.
        whole: the pairs that reference sets are made of, where there are such.

    Raises:
        ConfigError: an example has no template whose mean it could take, or positions do not align.
    """
    condition, tokens = pool
    chosen = sorted({b for examples in drawn.values() for b in examples})
    pairs, used = [condition.pairs[b] for b in chosen], [tokens[b] for b in chosen]
    sources = [cell.variant.source for cell in cells]
    if needs_donors(cells):
        donors = _donors(condition, tokens, battery, drawn)
        used = [replace(own, donors=tuple(tokens[d].prompt(battery.target) for d in donors[b]))
                for own, b in zip(used, chosen, strict=True)]
    if any(isinstance(source, Noise) for source in sources):
        used = [replace(own, number=pair.row) for own, pair in zip(used, pairs, strict=True)]
    rule, sets, told = battery.reference_set, dict[str, Reference](), None
    if rule is not None:
        assert whole is not None
        names = _templates(whole[0].pairs) if rule.of == "template" else None
        if names is not None:
            used = [replace(own, group=names[str(pair.template)]) for own, pair in zip(used, pairs, strict=True)]
        sets = {over: _reference(whole, names, over) for over in {rule.over, *(RUNS if rule.over == "both" else ())}}
        if any(isinstance(source, Mean) and source.by_position for source in sources):
            _check_aligned(sets[rule.over], used, battery.target, rule)
        own = sets[rule.over]
        told = {"of": rule.of, "over": rule.over, "prompts": len(own.prompts), "tokens": sum(map(len, own.prompts)),
                "groups": own.count, "digest": own.digest}
        if rule.elsewhere is not None:
            other, kept = whole
            told["corpus"] = {"path": other.path, "sha256": other.sha256, "kept": len(kept), "dropped": other.dropped}
    over = "" if rule is None else rule.over
    rows = {seed: None if len({*examples}) == len(chosen) else tuple(condition.pairs[b].row for b in sorted({*examples}))
            for seed, examples in drawn.items()}
    return Filled(used, [one for cell in cells for one in _bound(cell, sets, over, rows, battery.draws)], told)


def _bound(
    cell: Cell, sets: dict[str, Reference], over: str, seeds: Mapping[int, tuple[int, ...] | None], draws: int
) -> list[Cell]:
    """A cell with its source filled in, once for each seed and draw where it is random.

    `seeds` has the rows that each seed uses, None for all.
    """
    source = cell.variant.source

    def taking(other: Source, seed: int | None = None, draw: int | None = None) -> Cell:
        return replace(cell, variant=replace(cell.variant, source=other), seed=seed, draw=draw)

    if isinstance(source, Mean):
        return [taking(replace(source, reference=sets[over]))]
    if isinstance(source, Difference):
        return [taking(Difference(sets["clean"], sets["corrupt"]))]
    if isinstance(source, Noise):
        return [taking(replace(source, reference=sets[over], seed=seed, examples=rows), seed, 0) for seed, rows in seeds.items()]
    if isinstance(source, Donor):
        return [taking(Donor(place * draws + draw), seed, draw) for place, seed in enumerate(seeds) for draw in range(draws)]
    return [cell]


def _donors(
    condition: Condition, tokens: Sequence[TokenPair], battery: Battery, drawn: Mapping[int, Sequence[int]]
) -> list[list[int]]:
    """For each pair its donors, indices of others: each seed's in turn, the same whatever else is drawn.

    Of a seed that does not use the pair it is its own donor, which changes nothing and so costs nothing.
    """
    found: list[list[int]] = []
    of_seed = {seed: {*examples} for seed, examples in drawn.items()}
    for b, (pair, pool) in enumerate(zip(condition.pairs, _pools(tokens, battery), strict=True)):
        found.append([])
        for seed, mine in of_seed.items():
            rng = np.random.default_rng([seed, pair.row])
            others = rng.choice(pool, battery.draws, replace=len(pool) < battery.draws) if b in mine else [b] * battery.draws
            found[-1] += [int(other) for other in others]
    return found


def _pools(tokens: Sequence[TokenPair], battery: Battery) -> list[np.ndarray[Any, Any]]:
    """For each pair the others whose prompt can stand in its place: all, or where positions have to align those with as many."""
    lengths = lengths_to_align(tokens, battery)
    everyone = np.arange(len(tokens))
    return [everyone[(lengths == length) & (everyone != b)] for b, length in enumerate(lengths)]


def lengths_to_align(tokens: Sequence[TokenPair], battery: Battery) -> np.ndarray[Any, Any]:
    """For each pair, how many positions of another's prompt can stand in its own's place; 0 for all where any number can."""
    places: Positions = battery.acts_at
    prompts = [pair.prompt(battery.target) for pair in tokens]
    if isinstance(places, Named):
        return np.array([len(indices(places, len(prompt.tokens), prompt.spans)) for prompt in prompts])
    return np.array([0 if places == "last" else len(prompt.tokens) for prompt in prompts])


def check_vectors(cells: Iterable[Cell], model: CausalModel) -> None:
    """Refuse a vector that does not fit where it is to be added.

    Raises:
        ConfigError: it is not as wide as the site, or has another number of lines than there are layers.
    """
    for cell in cells:
        if not isinstance(source := cell.variant.source, Vector):
            continue
        lines, width = source.values.shape
        for one in cell.variant.interventions:
            expected = int(model.config.hidden_size)
            if one.site.units in ("heads", "key-value heads"):
                expected = model.taken(one.layer) // model.n_heads * model.sizes.heads(one.site)
            if one.site.units == "neurons":
                expected = model.sizes.n_neurons[one.layer] or width  # the trial refuses a layer that has none
            if width != expected or lines not in (1, model.n_layers):
                raise ConfigError(f"battery.vector: has {lines} lines of {width} numbers, expected [{expected}] or "
                                  f"[{model.n_layers}, {expected}] for {one.site} of {model.identity.name}.")


def _templates(pairs: Sequence[PromptPair]) -> dict[str, int]:
    """A number for each template.

    Raises:
        ConfigError: a pair names none.
    """
    if (lacking := [pair.row for pair in pairs if pair.template is None]):
        raise ConfigError(f"battery.reference=template: row {lacking[0]} of the corpus names no template; name it, or use "
                          "battery.reference=condition.")
    return {name: number for number, name in enumerate(dict.fromkeys(str(pair.template) for pair in pairs))}


def _reference(whole: Corpus, names: dict[str, int] | None, over: str) -> Reference:
    """The prompts of one run, or of both, of all pairs, by template where these are named."""
    condition, tokens = whole
    runs = [run for run in RUNS if over in (run, "both")]
    prompts = tuple(pair.prompt(run).tokens for run in runs for pair in tokens)
    groups = tuple(0 if names is None else names[str(pair.template)] for _ in runs for pair in condition.pairs)
    text = json.dumps(sorted(zip(groups, prompts, strict=True)), separators=(",", ":"))
    return Reference(hashlib.sha256(text.encode()).hexdigest(), prompts, groups)


def _check_aligned(reference: Reference, used: Sequence[TokenPair], run: RunName, rule: ReferenceRule) -> None:
    """Means by position are of prompts of one length, in each template.

    Raises:
        ConfigError: some differ.
    """
    lengths: dict[int, set[int]] = {}
    for prompt, group in zip(reference.prompts, reference.groups, strict=True):
        lengths.setdefault(group, set()).add(len(prompt))
    for pair in used:
        lengths[pair.group].add(len(pair.prompt(run).tokens))
    for found in lengths.values():
        if len(found) > 1:
            coarse = reference.count == 1 and rule.elsewhere is None
            finer = "battery.reference=template, or battery.mean_by=all" if coarse else "battery.mean_by=all"
            raise ConfigError(f"battery.mean_by=position: prompts of {min(found)} to {max(found)} tokens do not align; "
                              f"use {finer}.")
