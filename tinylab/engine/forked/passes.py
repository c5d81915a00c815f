"""One forward pass over affected states: which rows each module computes.

A row is one state of one variant; rows stand variant by variant. A pass starts empty (or, for the unmodified runs,
with one row per node) and grows: a variant forks on entering a block, or at the module in it where its first intervention acts,
as copies of the cached activations there, and is computed from there on. In the last block only the reading rows are
computed; the others give their keys and values and stop.

Letters: R affected states, V active variants, N nodes of the unmodified runs, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tinylab.engine.calls import Arguments, by_row, call_with, first, with_first
from tinylab.engine.donors import Supply, Take
from tinylab.engine.forked.attention import Attend, Keys, Reach
from tinylab.engine.forked.cache import ALONE, ActivationCache, CachePlan, Keeper, Link
from tinylab.engine.forked.layouts import IN_PLACE, PassLayout, Stopped, mlp_rows, numbers, parts
from tinylab.engine.forked.trie import IntArray
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Given
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Module, Side, Site
from tinylab.interventions.variants import Fork, Intervention, Variant
from tinylab.models.network import CausalModel


class Pass:
    """A forward pass over affected states: of the unmodified runs, or of variants."""

    def __init__(
        self, layout: PassLayout, model: CausalModel, cache: ActivationCache, cache_plan: CachePlan | None = None,
        link: Link = ALONE,
    ) -> None:
        """Prepare a pass.

        Args:
            layout: the states.
            model: the model, for its sizes.
            cache: what variants start from; empty, and to be filled, in the pass of the unmodified runs.
            cache_plan: what the pass of the unmodified runs keeps; None in a pass of variants.
            link: how a pass of variants hangs together with another one of variants.
        """
        self.states = 0  # rows that a block computed, summed over the blocks
        self.whole = cache_plan is not None
        self._layout, self._affected = layout, layout.affected
        self._last, self._units, self._chunks = model.n_layers - 1, model.units, model.chunks
        self._mlp_rows = mlp_rows(model.device.type, model.widest)
        self._cache, self._cache_plan = cache, cache_plan
        self._trunk, self._start = link.trunk, link.trunk or cache
        self._keeps = link.keeps if cache_plan is None else Keeper(cache, cache_plan)
        self._active = 0 if cache_plan is None else 1  # variants that have forked
        self._forks: dict[Fork, int] = {}
        self._biases: Sequence[torch.Tensor] | None = None
        self._give: Take = cache.site
        self._edits: dict[tuple[Module, Side, int], list[tuple[int, Intervention]]] = {}
        self._made = self._planned = 0
        self._attended: set[int] = set()
        self._nodes = np.arange(len(self._affected))
        self._layer = 0
        self._old = 0  # variants that were active before its attention
        self._first = self._offset = 0  # of rows that go through an MLP in parts: their first variant, and rows before them
        self._forked_before_mlp = self._forked_behind_mlp = 0
        self._stopping = False
        self._kept: Keys | None = None

    def plan(
        self, variants: Sequence[Variant], supply: Supply | None = None, biases: Sequence[torch.Tensor] | None = None
    ) -> None:
        """Plan variants, given in the order of their forks.

        Args:
            variants: V of them, with one source.
            supply: what sources give that are no runs.
            biases: of each layer's heads, [H, d_head], where an operation needs them.
        """
        self._biases = biases
        if supply is not None:
            self._give = supply.giver(variants[0].source, self._cache.site)
        for row, variant in enumerate(variants):
            self._forks[variant.fork] = self._forks.get(variant.fork, 0) + 1
            for intervention in variant.interventions:
                point = (intervention.site.module, intervention.site.side, intervention.layer)
                self._edits.setdefault(point, []).append((row, intervention))
                self._planned += 1

    def _forking(self, layer: int, orders: range) -> int:
        """How many variants fork in a layer at sites of these orders."""
        return sum(count for (at, order), count in self._forks.items() if at == layer and order in orders)

    def block(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `hooks.Hooks`: variants fork, and in the last block all but the reading rows stay behind."""
        hidden = first(arguments)
        if not (self._active or self._cache_plan):
            hidden = hidden[:0]
        entering = self._forking(layer, range(HEAD_OUT.order))
        self._layer, self._old, self._nodes = layer, self._active + entering, np.arange(len(self._affected))
        self._forked_before_mlp = self._forked_behind_mlp = 0
        self._keeps.entry(layer, hidden)
        hidden = self._with_forked(hidden, entering, lambda nodes: self._start.entry(layer, nodes)[:, None])
        hidden = self._edited("block", "in", layer, hidden)
        if layer == self._last and len(self._affected.read) < len(self._affected):
            hidden = self._stop(call, arguments, hidden)
        self._forked_before_mlp = self._forking(layer, range(HEAD_OUT.order, MLP_OUT.order))
        self._forked_behind_mlp = self._forking(layer, range(MLP_OUT.order, RESID_POST.order))
        forked = self._forked_before_mlp + self._forked_behind_mlp
        output: Any
        if self._old + forked:
            hidden = self._with_forked(hidden, forked, lambda nodes: self._start.entry(layer, nodes)[:, None])
            output = call_with(call, self._rows(arguments, self._old + forked), hidden)
            if self._cache_plan is not None:
                self._cache.tails[layer] = None if isinstance(output, torch.Tensor) else tuple(output[1:])
        else:
            tail = self._cache.tails[layer]
            output = hidden if tail is None else (hidden, *tail)
        self._active = self._old + forked
        self.states += self._active * len(self._nodes)
        return self._leave(layer, output)

    def _leave(self, layer: int, output: Any) -> Any:
        """What leaves a block: variants fork at its output, and are changed there."""
        value: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
        forked = self._forking(layer, range(RESID_POST.order, RESID_POST.order + 1))
        value = self._with_forked(value, forked, lambda nodes: self._start.entry(layer + 1, nodes)[:, None])
        self._active += forked
        value = self._edited("block", "out", layer, value)
        if layer == self._last:
            self._keeps.entry(layer + 1, value)
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
        self._nodes = self._affected.read
        by_variant = hidden.view(self._old, len(self._affected), *hidden.shape[1:])
        return by_variant[:, self._index(self._nodes)].flatten(0, 1)

    def attention(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `hooks.Hooks`: variants that fork behind attention ask nothing; one row at least keeps modules content."""
        del layer
        hidden = first(arguments)
        rows, keep = len(hidden), max(1, self._old * len(self._nodes))
        if keep < rows:
            arguments = with_first(by_row(arguments, rows, lambda lines: lines[:keep]), hidden[:keep])
        return call(*arguments[0], **arguments[1])

    def attend(self, compute: Attend, query: torch.Tensor, kept: Keys, window: int | None) -> torch.Tensor:
        """See `hooks.Hooks`."""
        self._attended.add(self._layer)
        query, kept = query[:, :, 0], (kept[0][:, :, 0], kept[1][:, :, 0])
        if self._old == 0:
            return kept[1].new_zeros(len(query), 1, query.shape[1], kept[1].shape[-1])
        if self._kept is None:
            kept = (self._asked("key", kept[0]), self._asked("value", kept[1]))
            if self._cache_plan is not None and self._cache_plan.keys:
                self._cache.keys[self._layer] = (kept[0].contiguous(), kept[1].contiguous())
            if self._stopping:
                self._kept = kept
                raise Stopped
        else:  # of all rows; here are only the reading rows
            kept, self._kept = self._kept, None
        query = self._asked("query", query)
        attention = self._layout.attention[len(self._nodes) < len(self._affected)]
        reach = Reach(window, self._chunks.get(self._layer))
        cached = self._cache.keys.get(self._layer) if self._cache_plan is None else None
        found = attention.attend(compute, query, kept, cached=cached, variants=self._old, reach=reach)
        return found[:, None]

    def _asked(self, side: Side, rows: torch.Tensor) -> torch.Tensor:
        """Queries, keys or values [rows, H, d]: the interventions there are made, and what variants need is cached."""
        kept = () if self._cache_plan is None else self._cache_plan.sites
        if ("attention", side, self._layer) not in self._edits and not any(site.side == side for site, _ in kept):
            return rows
        return self._seen("attention", side, self._layer, rows.flatten(1)).view(rows.shape)

    def projection(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `hooks.Hooks`: all variants that fork inside this block have what attention found in the unmodified run."""
        heads = first(arguments)
        shape = heads.shape
        heads = heads.reshape(-1, shape[-1])[: self._old * len(self._nodes)]
        forked = self._forked_before_mlp + self._forked_behind_mlp
        heads = self._with_forked(heads, forked, lambda nodes: self._start.site(HEAD_OUT, layer, nodes))
        heads = self._seen("projection", "in", layer, heads)
        output = call_with(call, arguments, heads.reshape(-1, *shape[1:]))
        return self._seen("projection", "out", layer, output)

    def mlp(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `hooks.Hooks`: variants that fork behind the MLP skip it."""
        hidden = first(arguments)
        keep = (self._old + self._forked_before_mlp) * len(self._nodes)
        hidden = self._seen("mlp", "in", layer, hidden[:keep])
        inside = ("down", "in", layer) in self._edits or (
            self._cache_plan is not None and any(site.module == "down" for site, _ in self._cache_plan.sites))
        sizes = parts(keep, self._mlp_rows or keep, len(self._nodes) if inside else None) if keep else []
        outputs = [call_with(call, arguments, part) for part in torch.split(hidden, sizes)] if keep else []
        self._offset = 0
        values = [output if isinstance(output, torch.Tensor) else output[0] for output in outputs]
        value = torch.cat(values) if len(values) > 1 else values[0] if values else hidden
        middle = value.shape[1:-1] if values else hidden.shape[1:-1]
        value = self._with_forked(
            value, self._forked_behind_mlp,
            lambda nodes: self._start.site(MLP_OUT, layer, nodes).reshape(len(nodes), *middle, -1),
        )
        value = self._seen("mlp", "out", layer, value)
        if outputs:
            tail = None if isinstance(outputs[-1], torch.Tensor) else tuple(outputs[-1][1:])
        else:  # no row needs the MLP: its block expects what it gave the unmodified runs
            tail = self._cache.mlp_tails[layer]
        if self._cache_plan is not None:
            self._cache.mlp_tails[layer] = tail
        return value if tail is None else (value, *tail)

    def down(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `hooks.Hooks`: rows come in parts, of whole variants or of one, which is counted once."""
        value, nodes, made = first(arguments), self._nodes, self._made
        self._first, within = divmod(self._offset, len(nodes))
        self._nodes = nodes[within : within + len(value)]
        value = self._seen("down", "in", layer, value)
        self._made = made if within else self._made
        self._offset, self._nodes, self._first = self._offset + len(value), nodes, 0
        return call_with(call, arguments, value)

    def norm(self, layer: int, call: Callable[..., Any], arguments: Arguments) -> Any:
        """See `hooks.Hooks`: in place, because the residual stream goes past the norm as the same tensor."""
        stream = first(arguments)
        return call_with(call, arguments, stream.copy_(self._seen("norm", "in", layer, stream)))

    def _with_forked(self, rows: torch.Tensor, count: int, copies: Callable[[IntArray], torch.Tensor]) -> torch.Tensor:
        """Rows with those of `count` variants that fork here appended, copies of the cached activations."""
        if not count:
            return rows
        start = copies(self._affected.origin[self._nodes] if self._trunk is None else self._nodes)
        forked = start.expand(count, *start.shape).flatten(0, 1)
        return torch.cat([rows, forked]) if len(rows) else forked.clone(memory_format=torch.contiguous_format)

    def _rows(self, arguments: Arguments, variants: int) -> Arguments:
        """The arguments of a block for the rows of this many variants."""
        index = self._index(np.tile(self._nodes, variants))
        return by_row(arguments, len(self._affected), lambda lines: lines.index_select(0, index))

    def _index(self, numbers: IntArray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._cache.device)

    def _seen(self, module: Module, side: Side, layer: int, value: torch.Tensor) -> torch.Tensor:
        """A point inside a block: the interventions there are made, and what variants need is cached."""
        value = self._edited(module, side, layer, value)
        self._keeps.point(module, side, layer, value, more=self._offset > 0)
        return value

    def _edited(self, module: Module, side: Side, layer: int, value: torch.Tensor) -> torch.Tensor:
        """Make the interventions at a point; they change `value` in place where it can be seen by variant."""
        edits = self._edits.get((module, side, layer))
        if not edits:
            return value
        affected = self._affected
        there = np.isin(affected.edited, self._nodes)
        here = np.searchsorted(self._nodes, affected.edited[there])
        at: Any = slice(None) if len(here) == len(self._nodes) else self._index(here)
        if (module, side) not in IN_PLACE:
            value = value.clone()
        rows = value.reshape(-1, len(self._nodes), value.shape[-1])
        sources: dict[Site, torch.Tensor] = {}
        for row, intervention in [(row - self._first, i) for row, i in edits if 0 <= row - self._first < len(rows)]:
            site, operation = intervention.site, intervention.operation
            if operation.needs_source and site not in sources:
                sources[site] = self._give(site, layer, affected.source[there]).reshape(len(here), rows.shape[-1])
            part = numbers(intervention, rows.shape[-1], self._units(site.units, rows.shape[-1]))
            bias = self._biases[layer].flatten()[part] if operation.needs_bias and self._biases is not None else None
            given = Given(sources[site][:, part] if operation.needs_source else None, bias)
            mine = rows[row, :, part]
            mine[at] = operation.apply(mine[at], given)
            self._made += 1
        return rows.reshape(value.shape)

    def check(self, model: str) -> None:
        """Assert that the pass went through every hook it planned.

        Raises:
            EngineUnsupported: attention never came by, or an intervention was not made.
        """
        if self._cache_plan is not None and len(self._attended) <= self._last:
            missed = sorted(set(range(self._last + 1)) - self._attended)
            raise EngineUnsupported(f"the attention of {model} does not go through transformers' AttentionInterface "
                                    f"(layers {missed}).")
        if self._made != self._planned:
            raise EngineUnsupported(f"interventions were made {self._made} times in a forward pass of {model}, expected "
                                    f"{self._planned}: this architecture does not call its modules as others do.")
