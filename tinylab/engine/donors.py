"""What sources give that are made ahead of a run: means over a reference set, differences of means, vectors, noise.

One earlier pass over the reference prompts adds up, for every site that is needed, the activations of each group of prompts
and their squares; how the pass is made is the engine's own. Memory does not grow with the number of prompts.

Letters: G groups of prompts, P positions, S prompts, N activations of a part of the pass, R rows, E edited states, d width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int

from tinylab.interventions.sites import Site
from tinylab.interventions.sources import (
    MOST_POSITIONS,
    Difference,
    Made,
    Mean,
    Noise,
    Reference,
    Run,
    Source,
    Vector,
    references,
)
from tinylab.interventions.variants import Variant
from tinylab.models.network import CausalModel

Place = tuple[Site, int]
"""A site of a layer."""
Rows = Int[np.ndarray, " E"]
Take = Callable[[Site, int, Rows], torch.Tensor]
"""What a source gives at a site of a layer for some of its rows, [E, d]."""


@runtime_checkable
class Visit(Protocol):
    """Adds up a part of the pass."""

    def __call__(
        self, activations: dict[Place, torch.Tensor], weights: Float64[np.ndarray, "G N"], depth: Int[np.ndarray, " N"]
    ) -> None:
        """Take note of N activations, [N, d] of each place.

        Args:
            activations: by place.
            weights: how many prompts of each group have them.
            depth: their positions, 0 for a prompt's first token.
        """
        ...


Pass = Callable[[Reference, frozenset[Place], Visit], None]
"""Runs the prompts of a reference set as they are, and calls `Visit` for every part of them, each token once."""


@dataclass
class Moments:
    """What is known of a reference set's activations at one place."""

    sums: Float64[torch.Tensor, "G P d"]
    squares: float = 0.0
    counts: Float64[np.ndarray, "G P"] = field(default_factory=lambda: np.zeros((1, 1)))

    def means(self, by_position: bool) -> Float64[torch.Tensor, "R d"]:
        """A row for each group, or for each position of each group; where no token stands it is no number."""
        counts = torch.from_numpy(self.counts).to(self.sums.device)[:, :, None]
        if by_position:
            return (self.sums / counts).flatten(0, 1)
        return self.sums.sum(dim=1) / counts.sum(dim=1)

    @property
    def deviation(self) -> float:
        """The standard deviation over all tokens and coordinates."""
        numbers = float(self.counts.sum()) * self.sums.shape[-1]
        mean = float(self.sums.sum()) / numbers
        return float(np.sqrt(max(0.0, self.squares / numbers - mean * mean)))


class Supply:
    """What the sources of some variants give, made ahead."""

    def __init__(self, model: CausalModel, variants: Sequence[Variant], run: Pass) -> None:
        """Make the earlier pass over every reference set that the variants' sources need.

        Args:
            model: the model.
            variants: all of a call.
            run: makes the pass.
        """
        self._model = model
        self._moments: dict[tuple[Reference, Site, int], Moments] = {}
        for reference, (places, by_position) in needs(variants).items():
            run(reference, places, self._visit(reference, by_position))

    def _visit(self, reference: Reference, by_position: bool) -> Visit:
        longest = reference.longest if by_position else 1

        def visit(
            activations: dict[Place, torch.Tensor], weights: Float64[np.ndarray, "G N"], depth: Int[np.ndarray, " N"]
        ) -> None:
            columns = depth if by_position else np.zeros_like(depth)
            for (site, layer), values in activations.items():
                key = (reference, site, layer)
                exact = values.reshape(len(depth), -1).double()
                if key not in self._moments:
                    zeros = torch.zeros(reference.count, longest, exact.shape[-1], dtype=torch.float64, device=exact.device)
                    self._moments[key] = Moments(zeros, counts=np.zeros((reference.count, longest)))
                moments, weight = self._moments[key], torch.from_numpy(weights).to(exact.device)
                moments.squares += float((weight.sum(dim=0) @ (exact * exact)).sum())
                for group in range(reference.count):
                    index = torch.from_numpy(columns).to(exact.device)
                    moments.sums[group].index_add_(0, index, exact * weight[group][:, None])
                    np.add.at(moments.counts[group], columns, weights[group])

        return visit

    def giver(self, source: Source | None, of_run: Take) -> Take:
        """What gives a source's activations: a run's, or what was made ahead.

        Args:
            source: of all variants of a pass.
            of_run: what gives those of unmodified runs.
        """
        return of_run if source is None or isinstance(source, Run) else partial(self.take, source)

    def take(self, source: Made, site: Site, layer: int, rows: Rows) -> torch.Tensor:
        """What a source gives at a place, [E, d] in the model's dtype.

        Args:
            source: the source.
            site: where.
            layer: where.
            rows: of the source, see `tinylab.interventions.sources.Made`.
        """
        device, dtype = self._model.device, self._model.dtype
        if isinstance(source, Noise):
            assert source.reference is not None and source.seed is not None
            moments = self._moments[source.reference, site, layer]
            drawn = noise(source, f"{site} {layer}", rows, moments.sums.shape[-1])
            return torch.from_numpy(source.sigma * moments.deviation * drawn).to(device, dtype)
        return self._table(source, site, layer)[torch.from_numpy(rows).to(device)].to(dtype)

    def _table(self, source: Mean | Difference | Vector, site: Site, layer: int) -> torch.Tensor:
        """[R, d], the rows of a source at a place."""
        if isinstance(source, Vector):
            line = source.values[layer if len(source.values) > 1 else 0]
            return torch.from_numpy(line).to(self._model.device)[None]
        if isinstance(source, Mean):
            assert source.reference is not None
            return self._moments[source.reference, site, layer].means(source.by_position)
        assert source.plus is not None and source.minus is not None
        plus, minus = (self._moments[one, site, layer].means(False) for one in (source.plus, source.minus))
        return plus - minus


def needs(variants: Iterable[Variant]) -> dict[Reference, tuple[frozenset[Place], bool]]:
    """The reference sets that variants need, at which places, and whether by position."""
    places: dict[Reference, set[Place]] = {}
    by_position: dict[Reference, bool] = {}
    for variant in variants:
        for reference in references(variant.source):
            here = {(i.site, i.layer) for i in variant.interventions if i.operation.needs_source}
            places.setdefault(reference, set()).update(here)
            own = isinstance(variant.source, Mean) and variant.source.by_position
            by_position[reference] = by_position.get(reference, False) or own
    return {reference: (frozenset(found), by_position[reference]) for reference, found in places.items()}


def noise(source: Noise, place: str, rows: Rows, width: int) -> Float64[np.ndarray, "E d"]:
    """Standard normal numbers for rows of a source.

    An example's are one stream of numbers, position by position: they depend on the seed, the draw, the place and the example,
    and on nothing that is computed beside them.

    Args:
        source: with seed and draw.
        place: a name for the site and layer.
        rows: which, as `Noise.rows` numbers them.
        width: d.
    """
    key = int.from_bytes(hashlib.sha256(f"{source.seed} {source.draw} {place}".encode()).digest()[:8])
    numbers, positions = rows // MOST_POSITIONS, rows % MOST_POSITIONS
    found = np.empty((len(rows), width))
    for number in np.unique(numbers):
        mine = numbers == number
        stream = np.random.Generator(np.random.Philox(key=[key, int(number)]))
        found[mine] = stream.standard_normal((int(positions[mine].max()) + 1, width))[positions[mine]]
    return found


def runs(variants: Iterable[Variant]) -> list[Run]:
    """The unmodified runs that variants take activations from, each once."""
    return list(dict.fromkeys(v.source for v in variants if isinstance(v.source, Run)
                              and any(i.operation.needs_source for i in v.interventions)))


def counted(reference: Reference) -> dict[tuple[int, ...], Float64[np.ndarray, " G"]]:
    """The distinct prompts of a reference set, and how often each stands in each group."""
    found: dict[tuple[int, ...], Float64[np.ndarray, " G"]] = {}
    for prompt, group in zip(reference.prompts, reference.groups, strict=True):
        found.setdefault(prompt, np.zeros(reference.count))[group] += 1
    return found
