"""The pass over a reference set: its prompts as they are, laid out as a prefix tree, each state computed once.

Letters: N nodes of the tree, G groups of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinylab.arrays import FloatArray
from tinylab.engine.donors import Place, Visit, counted
from tinylab.engine.forked import hooks
from tinylab.engine.forked.batches import AffectedStates, Layout, whole
from tinylab.engine.forked.cache import ActivationCache, CachePlan
from tinylab.engine.forked.layouts import PassLayout
from tinylab.engine.forked.passes import Pass
from tinylab.engine.forked.trie import NONE, Trie
from tinylab.interventions.sites import RESID_POST, RESID_PRE
from tinylab.interventions.sources import Reference
from tinylab.models.network import CausalModel
from tinylab.models.rotary import forget_lengths
from tinylab.task.tokens import TokenPair

Connect = Callable[[hooks.Hooks], AbstractContextManager[None]]
"""Connects one pass to the opened model (see `hooks.hooked`)."""


def forward(model: CausalModel, connect: Connect, this: Pass, affected: AffectedStates, **asked: Any) -> torch.Tensor:
    """Run one pass over some states; logits [rows that leave the last block, 1, W], or of as many tokens as are asked for."""
    ids = torch.from_numpy(affected.tokens).to(model.device)[:, None]
    with connect(this):
        logits: torch.Tensor = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.from_numpy(affected.depth).to(model.device)[:, None],
            use_cache=False,
            **asked,
        ).logits
    this.check(type(model.model).__name__)
    return logits


@dataclass
class MeanPass:
    """Passes over reference sets, and what they cost."""

    model: CausalModel
    connect: Connect
    nodes: int  # of a part of the tree
    keys: int  # gathered by one attention call
    forwards: int = 0
    states: int = 0

    def run(self, reference: Reference, places: frozenset[Place], visit: Visit) -> None:
        """See `tinylab.engine.donors.Pass`."""
        forget_lengths(self.model)
        for tree, weights in parts(reference, self.nodes):
            affected = read(tree, places, self.model.n_layers)
            plan = CachePlan(*_kept(places), keys=False)
            cache = ActivationCache(affected, self.model.n_layers, self.model.device)
            this = Pass(PassLayout.of(affected, self.model.device, self.keys), self.model, cache, plan)
            forward(self.model, self.connect, this, affected, **self.model.last_logits(0))
            self.forwards, self.states = self.forwards + 1, self.states + this.states
            everything = np.arange(len(tree))
            visit({(site, layer): cache.site(site, layer, everything) for site, layer in places}, weights, tree.depth)


def parts(reference: Reference, nodes: int) -> Iterator[tuple[Trie, FloatArray]]:
    """A reference set as trees, and [G, N] how many prompts of each group pass each node.

    Args:
        reference: the set.
        nodes: of a tree, at most; a single prompt's may have more.
    """
    prompts = counted(reference)
    counts = np.stack(list(prompts.values()))
    layout = Layout([TokenPair(prompt, prompt, 0, 0) for prompt in prompts], [])
    for chosen in layout.groups(nodes, len(prompts)):
        tree = layout.batch(chosen).both
        weights = np.zeros((reference.count, len(tree)))
        for path, weight in zip(tree.paths[: len(chosen)], counts[chosen], strict=True):
            weights[:, path[path != NONE]] += weight[:, None]
        yield tree, weights


def read(tree: Trie, places: frozenset[Place], n_layers: int) -> AffectedStates:
    """The states of a tree; all of them leave the last block where activations in it are wanted, else one."""
    wanted = any(layer == n_layers - 1 for _, layer in places)
    return whole(tree, np.arange(len(tree) if wanted else 1), np.array([0]))


def _kept(places: frozenset[Place]) -> tuple[frozenset[int], frozenset[Place]]:
    """What of the activations is kept: entries of layers, and sites inside them."""
    streams = (RESID_PRE.order, RESID_POST.order)
    return (frozenset(layer + (site.order == RESID_POST.order) for site, layer in places if site.order in streams),
            frozenset(place for place in places if place[0].order not in streams))
