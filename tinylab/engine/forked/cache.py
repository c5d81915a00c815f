"""The activation cache: what the unmodified runs of a batch leave for its variants, and how little of it is enough.

Letters: N nodes of the unmodified runs' prefix tree, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tinylab.engine.forked.attention import Keys
from tinylab.engine.forked.batches import EVERY_ROW, AffectedStates
from tinylab.engine.forked.trie import IntArray
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, RESID_PRE, Module, Side, Site
from tinylab.interventions.sources import Run
from tinylab.interventions.variants import Variant


@dataclass(frozen=True)
class CachePlan:
    """Which activations of the unmodified runs the variants of a call need."""

    entries: frozenset[int]  # hidden states on entering these layers; L: on leaving the last
    sites: frozenset[tuple[Site, int]]  # other sites' activations, at these layers
    keys: bool  # keys and values of every layer

    @staticmethod
    def of(variants: Sequence[Variant], has_cached_prefix: bool) -> CachePlan:
        """What these variants need.

        A variant that forks on entering a block starts with the block's hidden states; one that forks inside, with what attention
        found too; one that forks behind the MLP, with what that found too.

        Args:
            variants: of the call.
            has_cached_prefix: whether some affected states stand behind unmodified ones, and attend to them.
        """
        entries: set[int] = set()
        sites: set[tuple[Site, int]] = set()
        for variant in variants:
            layer, order = variant.fork
            entries.add(layer + (order == RESID_POST.order))
            if HEAD_OUT.order <= order < RESID_POST.order:
                sites.add((HEAD_OUT, layer))
            if order == MLP_OUT.order:
                sites.add((MLP_OUT, layer))
            for intervention in variant.interventions:
                if not isinstance(variant.source, Run) or not intervention.operation.needs_source:
                    continue
                if intervention.site.order in (RESID_PRE.order, RESID_POST.order):
                    entries.add(intervention.layer + (intervention.site.order == RESID_POST.order))
                else:
                    sites.add((intervention.site, intervention.layer))
        return CachePlan(frozenset(entries), frozenset(sites), has_cached_prefix)


@dataclass
class ActivationCache:
    """Activations [N, …] of the unmodified runs of a batch, by node."""

    whole: AffectedStates
    n_layers: int
    device: torch.device
    entries: dict[int, torch.Tensor] = field(default_factory=dict)
    sites: dict[tuple[Site, int], torch.Tensor] = field(default_factory=dict)
    keys: dict[int, Keys] = field(default_factory=dict)
    tails: dict[int, tuple[Any, ...] | None] = field(default_factory=dict)  # what a block returns behind the hidden states
    mlp_tails: dict[int, tuple[Any, ...] | None] = field(default_factory=dict)  # and what an MLP does

    @cached_property
    def _places(self) -> IntArray:
        """[N], where each node stands among the rows that left the last block."""
        places = np.full(len(self.whole), -1, dtype=np.int64)
        places[self.whole.read] = np.arange(len(self.whole.read))
        return places

    def entry(self, layer: int, nodes: IntArray) -> torch.Tensor:
        """Hidden states [nodes, D] on entering a layer (L: on leaving the last)."""
        return self._pick(self.entries[layer], nodes, late=layer == self.n_layers)

    def site(self, site: Site, layer: int, nodes: IntArray) -> torch.Tensor:
        """A site's activations at some nodes."""
        if site.order in (RESID_PRE.order, RESID_POST.order):
            return self.entry(layer + (site.order == RESID_POST.order), nodes)
        late = layer == self.n_layers - 1 and site.order not in EVERY_ROW
        return self._pick(self.sites[site, layer], nodes, late=late)

    def _pick(self, values: torch.Tensor, nodes: IntArray, late: bool) -> torch.Tensor:
        return values.index_select(0, torch.from_numpy(self._places[nodes] if late else nodes).to(values.device))


@dataclass(frozen=True)
class Keeper:
    """Keeps what is planned of the rows that a pass of one run goes through."""

    cache: ActivationCache | None = None
    plan: CachePlan = CachePlan(frozenset(), frozenset(), False)

    def entry(self, layer: int, hidden: torch.Tensor) -> None:
        """Hidden states [rows, 1, D] on entering a layer (L: on leaving the last)."""
        if self.cache is not None and layer in self.plan.entries:
            self.cache.entries[layer] = hidden[:, 0].clone()

    def point(self, module: Module, side: Side, layer: int, value: torch.Tensor, *, more: bool = False) -> None:
        """What is at a point inside a block; `more` of it, where rows come in parts."""
        for site, at in self.plan.sites:
            if self.cache is not None and (site.module, site.side, at) == (module, side, layer):
                rows = value.reshape(-1, value.shape[-1]).clone()
                self.cache.sites[site, layer] = torch.cat([self.cache.sites[site, layer], rows]) if more else rows


@dataclass(frozen=True)
class Link:
    """How a pass of variants hangs together with another one (`tinylab.engine.forked.trunks`)."""

    trunk: ActivationCache | None = None  # what the variant has kept that all of these go on from, by affected state
    keeps: Keeper = Keeper()  # in a pass of one variant: what others need to go on from it


ALONE = Link()
"""A pass that does not."""
