"""One forward pass over a region: which rows each module computes.

A row is one state of one variant; rows stand variant by variant. A pass starts empty (or, for the unmodified runs,
with one row per node) and grows: a variant is born at the module where its first intervention acts, as copies of
the unmodified activations there, and is computed from there on. In the last block only the reading rows are
computed; the others give their keys and values and stop.

Letters: R states of the region, V variants alive, N nodes of the unmodified runs, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tinylab.engine.calls import Arguments, by_row, call_with, first, with_first
from tinylab.engine.forked.attention import Attend, Keys, Reach, Tiling
from tinylab.engine.forked.batches import Region
from tinylab.engine.forked.trie import IntArray
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Scale
from tinylab.interventions.sites import SITES, Site
from tinylab.interventions.variants import Fork, Intervention, Variant, fork_of
from tinylab.models.network import CausalModel

MLP_NUMBERS = {"cpu": 2**22}
"""Numbers in the widest activation of the rows that an MLP gets at once, by device type (1,365 rows of GPT-2 small). With fewer,
matmuls get small and slow; more cost memory, a large model's above all."""


def mlp_rows(device: str, widest: int) -> int | None:
    """How many rows an MLP gets at once, None for all."""
    return max(1, MLP_NUMBERS[device] // widest) if device in MLP_NUMBERS else None


class Stopped(Exception):
    """Leaves a block as soon as its keys and values are known."""


@dataclass(frozen=True)
class Needs:
    """Which activations of the unmodified runs the variants of a call need."""

    entries: frozenset[int]  # hidden states on entering these layers; L: on leaving the last
    sites: frozenset[tuple[Site, int]]  # head_out and mlp_out at these layers
    keys: bool  # keys and values of every layer

    @staticmethod
    def of(variants: Sequence[Variant], hanging: bool) -> Needs:
        """What these variants need; `hanging`: some region hangs on unmodified states."""
        entries: set[int] = set()
        sites: set[tuple[Site, int]] = set()
        for variant in variants:
            layer, at = fork_of(variant)
            entries.add(layer + (SITES[at] == "resid_post"))
            if SITES[at] != "resid_post":
                sites.add(("head_out", layer))
            if SITES[at] == "mlp_out":
                sites.add(("mlp_out", layer))
            if variant.source is not None:
                entries |= {i.layer + 1 for i in variant.interventions if i.site == "resid_post"}
                sites |= {(i.site, i.layer) for i in variant.interventions if i.site != "resid_post"}
        return Needs(frozenset(entries), frozenset(sites), hanging)


@dataclass
class Unmodified:
    """What the unmodified runs of a forest leave for its variants: activations [N, …] by node."""

    region: Region
    n_layers: int
    device: torch.device
    entries: dict[int, torch.Tensor] = field(default_factory=dict)
    sites: dict[tuple[Site, int], torch.Tensor] = field(default_factory=dict)
    keys: dict[int, Keys] = field(default_factory=dict)
    tails: dict[int, tuple[Any, ...] | None] = field(default_factory=dict)  # what a block returns behind the hidden states

    @cached_property
    def _places(self) -> IntArray:
        """[N], where each node stands among the rows that left the last block."""
        places = np.full(len(self.region), -1, dtype=np.int64)
        places[self.region.read] = np.arange(len(self.region.read))
        return places

    def entry(self, layer: int, nodes: IntArray) -> torch.Tensor:
        """Hidden states [nodes, D] on entering a layer (L: on leaving the last)."""
        return self._pick(self.entries[layer], nodes, late=layer == self.n_layers)

    def site(self, site: Site, layer: int, nodes: IntArray) -> torch.Tensor:
        """A site's activations at some nodes."""
        if site == "resid_post":
            return self.entry(layer + 1, nodes)
        return self._pick(self.sites[site, layer], nodes, late=layer == self.n_layers - 1)

    def _pick(self, values: torch.Tensor, nodes: IntArray, late: bool) -> torch.Tensor:
        return values.index_select(0, torch.from_numpy(self._places[nodes] if late else nodes).to(values.device))


@dataclass(frozen=True)
class Ground:
    """A region on a device: the gathers that all passes over it share."""

    region: Region
    tilings: tuple[Tiling, Tiling]  # for all states, and for the reading rows

    @staticmethod
    def of(region: Region, device: torch.device, most: int, variants: int = 1) -> Ground:
        """Prepare a region for passes of some variants at most; `most` keys are gathered by one attention call."""
        every = Tiling(region, np.arange(len(region)), device, most, variants)
        narrow = every if len(region.read) == len(region) else Tiling(region, region.read, device, most, variants)
        return Ground(region, (every, narrow))


class Pass:
    """A forward pass over a region: the unmodified runs, or variants of them."""

    def __init__(self, ground: Ground, model: CausalModel, unmodified: Unmodified, needs: Needs | None = None) -> None:
        """Prepare a pass.

        Args:
            ground: the region.
            model: the model, for its sizes.
            unmodified: what variants start from; empty, and to be filled, in the pass of the unmodified runs.
            needs: what the pass of the unmodified runs keeps; None in a pass of variants.
        """
        self.states = 0  # rows that a block computed, summed over the blocks
        self._ground, self._region = ground, ground.region
        self._last, self._n_heads, self._chunks = model.n_layers - 1, model.n_heads, model.chunks
        self._mlp_rows = mlp_rows(model.device.type, model.widest)
        self._unmodified, self._needs = unmodified, needs
        self._alive = 0 if needs is None else 1
        self._births: dict[Fork, int] = {}
        self._biases: Sequence[torch.Tensor] | None = None
        self._edits: dict[tuple[Site, int], list[tuple[int, Intervention]]] = {}
        self._made = self._planned = 0
        self._attended: set[int] = set()
        # inside a block
        self._nodes = np.arange(len(self._region))
        self._layer = self._old = self._born_before_mlp = self._born_behind_mlp = 0
        self._stopping = False
        self._kept: Keys | None = None

    def plan(self, variants: Sequence[Variant], biases: Sequence[torch.Tensor] | None = None) -> None:
        """Plan variants, given in the order of their forks.

        Args:
            variants: V of them.
            biases: of each layer's heads, [H, d_head], where a variant keeps one.
        """
        self._biases = biases
        for row, variant in enumerate(variants):
            fork = fork_of(variant)
            self._births[fork] = self._births.get(fork, 0) + 1
            for intervention in variant.interventions:
                self._edits.setdefault((intervention.site, intervention.layer), []).append((row, intervention))
                self._planned += 1

    def block(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `taps.Tap`: variants are born, and in the last block all but the reading rows stay behind."""
        hidden = first(arguments)
        if not (self._alive or self._needs):
            hidden = hidden[:0]
        self._layer, self._old, self._nodes = layer, self._alive, np.arange(len(self._region))
        self._born_before_mlp = self._born_behind_mlp = 0
        if self._needs is not None and layer in self._needs.entries:
            self._unmodified.entries[layer] = hidden[:, 0].clone()
        if layer == self._last and len(self._region.read) < len(self._region):
            hidden = self._stop(call, arguments, hidden)
        self._born_before_mlp, self._born_behind_mlp = (self._births.get((layer, at), 0) for at in (0, 1))
        born = self._born_before_mlp + self._born_behind_mlp
        output: Any
        if self._old + born:
            hidden = self._with_born(hidden, born, lambda nodes: self._unmodified.entry(layer, nodes)[:, None])
            output = call_with(call, self._rows(arguments, self._old + born), hidden)
            if self._needs is not None:
                self._unmodified.tails[layer] = None if isinstance(output, torch.Tensor) else tuple(output[1:])
        else:
            tail = self._unmodified.tails[layer]
            output = hidden if tail is None else (hidden, *tail)
        self._alive = self._old + born
        self.states += self._alive * len(self._nodes)
        value: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
        later = self._births.get((layer, 2), 0)
        value = self._with_born(value, later, lambda nodes: self._unmodified.entry(layer + 1, nodes)[:, None])
        self._alive += later
        value = self._edited("resid_post", layer, value)
        if layer == self._last and self._needs is not None and layer + 1 in self._needs.entries:
            self._unmodified.entries[layer + 1] = value[:, 0].clone()
        return value if isinstance(output, torch.Tensor) else (value, *output[1:])

    def _stop(self, call: Callable[..., Any], arguments: Arguments, hidden: torch.Tensor) -> torch.Tensor:
        """Take keys and values of all rows in the last block; returns the reading rows alone."""
        if self._old:
            self._stopping = True
            try:
                call_with(call, self._rows(arguments, self._old), hidden)
            except Stopped:
                pass
            finally:
                self._stopping = False
        self._nodes = self._region.read
        by_variant = hidden.view(self._old, len(self._region), *hidden.shape[1:])
        return by_variant[:, self._index(self._nodes)].flatten(0, 1)

    def attention(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `taps.Tap`: variants that are born behind attention have no queries; one row at least keeps modules content."""
        del layer
        hidden = first(arguments)
        rows, keep = len(hidden), max(1, self._old * len(self._nodes))
        if keep < rows:
            arguments = with_first(by_row(arguments, rows, lambda lines: lines[:keep]), hidden[:keep])
        return call(*arguments[0], **arguments[1])

    def attend(self, compute: Attend, query: torch.Tensor, kept: Keys, window: int | None) -> torch.Tensor:
        """See `taps.Tap`."""
        self._attended.add(self._layer)
        query, kept = query[:, :, 0], (kept[0][:, :, 0], kept[1][:, :, 0])
        if self._old == 0:
            return kept[1].new_zeros(len(query), 1, query.shape[1], kept[1].shape[-1])
        if self._kept is None:
            if self._needs is not None and self._needs.keys:
                self._unmodified.keys[self._layer] = (kept[0].contiguous(), kept[1].contiguous())
            if self._stopping:
                self._kept = kept
                raise Stopped
        else:  # of all rows; here are only the reading rows
            kept, self._kept = self._kept, None
        tiling = self._ground.tilings[len(self._nodes) < len(self._region)]
        reach = Reach(window, self._chunks.get(self._layer))
        unmodified = self._unmodified.keys.get(self._layer) if self._needs is None else None
        found = tiling.attend(compute, query, kept, unmodified=unmodified, variants=self._old, reach=reach)
        return found[:, None]

    def projection(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `taps.Tap`: the site `head_out` is what comes in."""
        heads = first(arguments)
        shape = heads.shape
        heads = heads.reshape(-1, shape[-1])[: self._old * len(self._nodes)]
        born = self._born_before_mlp + self._born_behind_mlp
        heads = self._with_born(heads, born, lambda nodes: self._unmodified.site("head_out", layer, nodes))
        heads = self._edited("head_out", layer, heads)
        if self._needs is not None and ("head_out", layer) in self._needs.sites:
            self._unmodified.sites["head_out", layer] = heads.clone()
        return call_with(call, arguments, heads.reshape(-1, *shape[1:]))

    def mlp(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `taps.Tap`: the site `mlp_out` is what comes out; variants that are born there skip the MLP."""
        hidden = first(arguments)
        keep = (self._old + self._born_before_mlp) * len(self._nodes)
        parts = -(-keep // (self._mlp_rows or max(1, keep)))
        outputs = [call_with(call, arguments, part) for part in hidden[:keep].chunk(parts)] if keep else []
        values = [output if isinstance(output, torch.Tensor) else output[0] for output in outputs]
        value = torch.cat(values) if len(values) > 1 else values[0] if values else hidden[:0]
        middle = value.shape[1:-1] if values else hidden.shape[1:-1]
        value = self._with_born(
            value, self._born_behind_mlp,
            lambda nodes: self._unmodified.site("mlp_out", layer, nodes).reshape(len(nodes), *middle, -1),
        )
        value = self._edited("mlp_out", layer, value)
        if self._needs is not None and ("mlp_out", layer) in self._needs.sites:
            self._unmodified.sites["mlp_out", layer] = value.reshape(-1, value.shape[-1]).clone()
        whole = not outputs or isinstance(outputs[0], torch.Tensor)
        return value if whole else (value, *outputs[-1][1:])

    def _with_born(self, rows: torch.Tensor, count: int, copies: Callable[[IntArray], torch.Tensor]) -> torch.Tensor:
        """Rows with `count` newborn variants appended, copies of the unmodified activations."""
        if not count:
            return rows
        start = copies(self._region.origin[self._nodes])
        born = start.expand(count, *start.shape).flatten(0, 1)
        return torch.cat([rows, born]) if len(rows) else born.clone(memory_format=torch.contiguous_format)

    def _rows(self, arguments: Arguments, variants: int) -> Arguments:
        """The arguments of a block for the rows of this many variants."""
        index = self._index(np.tile(self._nodes, variants))
        return by_row(arguments, len(self._region), lambda lines: lines.index_select(0, index))

    def _index(self, numbers: IntArray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._unmodified.device)

    def _edited(self, site: Site, layer: int, value: torch.Tensor) -> torch.Tensor:
        """Make the interventions at a site; they change `value` in place where it can be seen by variant."""
        edits = self._edits.get((site, layer))
        if not edits:
            return value
        region = self._region
        there = np.isin(region.edited, self._nodes)
        here = np.searchsorted(self._nodes, region.edited[there])
        everywhere = len(here) == len(self._nodes)
        at = self._index(here)
        rows = value.reshape(self._alive_at(site), len(self._nodes), -1)
        source: torch.Tensor | None = None
        for row, intervention in edits:
            width = rows.shape[-1] // self._n_heads
            part = slice(None) if intervention.head is None else slice(intervention.head * width, (intervention.head + 1) * width)
            mine = rows[row, :, part]
            if isinstance(intervention.operation, Scale):
                factor, where = intervention.operation.factor, slice(None) if everywhere else at
                mine[where] *= factor
                if intervention.keeps_bias:
                    assert self._biases is not None
                    mine[where] += (1 - factor) * self._biases[layer].flatten()[part]
            else:
                if source is None:
                    source = self._unmodified.site(site, layer, region.source[there]).reshape(len(here), rows.shape[-1])
                mine[at] = source[:, part]
            self._made += 1
        return rows.reshape(value.shape)

    def _alive_at(self, site: Site) -> int:
        return self._alive if site == "resid_post" else self._old + self._born_before_mlp + self._born_behind_mlp

    def check(self, model: str) -> None:
        """Assert that the pass went through every tap it planned.

        Raises:
            EngineUnsupported: attention never came by, or an intervention was not made.
        """
        if self._needs is not None and len(self._attended) <= self._last:
            missed = sorted(set(range(self._last + 1)) - self._attended)
            raise EngineUnsupported(f"the attention of {model} does not go through transformers' AttentionInterface "
                                    f"(layers {missed}).")
        if self._made != self._planned:
            missed_edits = f"{self._planned - self._made} of {self._planned} interventions"
            raise EngineUnsupported(f"{missed_edits} met no activation in {model}.")
