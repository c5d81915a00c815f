"""Tree attention: states attend to their ancestors in a prefix tree, and to themselves.

One mask for all states would grow with their square, so the queries are cut into tiles of neighbours, and each tile gets
the keys that its queries can see, and a small mask. In preorder that is simple: the ancestors of neighbours are those of
the first one, and the neighbours themselves.

Where variants stand behind a cached prefix (only the rows below an intervention are computed), several variants share a
tile: they see the same cached keys, and each its own.

Letters: R affected states, V variants, Q queries, K keys of the cache, K' keys of the affected states, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tinylab.engine.forked.batches import AffectedStates
from tinylab.engine.forked.trie import BoolArray, IntArray

WIDTH = 64
"""Queries per tile, at least: enough for an efficient matmul, few enough that the keys of strangers cost little."""

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The model's own attention: of queries [B, H, Q, d], keys and values [B, H', K, d] and an additive mask [B, 1, Q, K]."""
Keys = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, one line per state."""


@dataclass(frozen=True)
class Reach:
    """How far back a layer's queries see: everything, a sliding window, or their own chunk of positions."""

    window: int | None = None
    chunk: int | None = None

    def of(self, depth: IntArray) -> IntArray:
        """For queries at these depths, the number of positions that they see, their own included."""
        seen = depth + 1
        if self.window is not None:
            seen = np.minimum(seen, self.window)
        return seen if self.chunk is None else np.minimum(seen, depth % self.chunk + 1)


@dataclass(frozen=True)
class Bucket:
    """Tiles with about equally many keys, padded to one shape, for one variant."""

    queries: IntArray  # [tiles, Q], places in the list of queries
    real: BoolArray  # [tiles, Q], False where padded
    cached: IntArray  # [tiles, K], keys of the cache: nodes of `both`
    own: IntArray  # [tiles, K'], keys of the affected states
    sees_cached: IntArray  # [tiles, Q, K], how far back each key is, -1 where it is not seen
    sees_own: IntArray  # [tiles, Q, K'], the same


@dataclass(frozen=True)
class Indices:
    """A bucket's gathers for some number of variants."""

    batch: int  # groups · tiles
    queries: torch.Tensor  # [batch · variants of a group · Q], rows of the queries
    keys: torch.Tensor  # [batch · (K + variants of a group · K')], rows of the variants' own keys, then of the cached ones
    seen: tuple[int, int]  # the part of the bucket's mask that these variants take
    mask: int  # which bucket's


class TreeAttention:
    """How some queries among the affected states attend."""

    def __init__(self, affected: AffectedStates, queries: IntArray, device: torch.device, most: int, variants: int) -> None:
        """Cut queries into tiles.

        Args:
            affected: the states.
            queries: some of the states, ascending: all of them, or the reading rows.
            device: where the gathers happen.
            most: keys gathered for one call of the attention function (a single tile's may exceed it).
            variants: that a pass will have, at most.
        """
        self._most = most
        longest = int(affected.depth.max())
        width = max(WIDTH, 1 << max(0, (longest // 2).bit_length() - 1))  # long prompts: fewer keys gathered twice
        self._affected = affected
        self._queries = queries
        self._device = device
        everything = len(queries) == len(affected)
        cached = affected.cached[queries]
        self._alone = not cached.any()  # no cached prefix to share: one variant per tile
        numbers = np.arange(len(queries))
        tree = np.zeros_like(numbers) if self._alone else np.cumsum(affected.depth[queries] == cached)
        if not everything:
            tree = numbers
        begins = np.concatenate([[True], tree[1:] != tree[:-1]])
        within = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
        starts = np.flatnonzero(within % width == 0)
        counts = np.diff(np.append(starts, len(queries)))
        self.together = 1 if self._alone else max(1, min(variants, width // int(counts.max())))
        first, last = queries[starts], queries[starts + counts - 1]
        over = affected.cached[first] + self.together * (affected.depth[first] - affected.cached[first] + last - first + 1)
        size = np.ceil(np.log2(np.maximum(over, 16))).astype(np.int64)
        self._buckets = []
        for s in np.unique(size):
            chosen = np.flatnonzero(size == s)
            step = max(1, most >> int(s))
            parts = np.split(chosen, range(step, len(chosen), step))
            self._buckets += [self._bucket(starts[part], counts[part]) for part in parts]
        self._indices: dict[int, tuple[list[Indices], torch.Tensor]] = {}
        self._masks: dict[tuple[Reach, torch.dtype], list[torch.Tensor]] = {}

    def _bucket(self, starts: IntArray, counts: IntArray) -> Bucket:
        affected = self._affected
        queries, real = _ranges(starts, counts)
        asking = self._queries[queries]
        first, last = self._queries[starts], self._queries[starts + counts - 1]
        own_above = affected.depth[first] - affected.cached[first]
        path = affected.above[first]
        cached_width, above_width = int(affected.cached[first].max()), int(own_above.max())
        cached = path[:, :cached_width]
        cached_real = np.arange(cached_width) < affected.cached[first][:, None]
        columns = np.minimum(affected.cached[first][:, None] + np.arange(above_width), path.shape[1] - 1)
        above = np.take_along_axis(path, columns, axis=1)
        above_real = np.arange(above_width) < own_above[:, None]
        run, run_real = _ranges(first, last - first + 1)
        own = np.concatenate([np.where(above_real, above, 0), run], axis=1)
        own_real = np.concatenate([above_real, run_real], axis=1)
        depth = affected.depth[asking][:, :, None]
        behind_cached = np.where(cached_real[:, None, :], depth - np.arange(cached_width), -1)
        asks = asking[:, :, None]
        seen = own_real[:, None, :] & (own[:, None, :] <= asks) & (asks < affected.end[own][:, None, :])
        behind_own = np.where(seen, depth - affected.depth[own][:, None, :], -1)
        return Bucket(queries, real, np.where(cached_real, cached, 0), own, behind_cached, behind_own)

    def attend(
        self, compute: Attend, query: torch.Tensor, kept: Keys, *, cached: Keys | None, variants: int, reach: Reach
    ) -> torch.Tensor:
        """Attention of all variants' queries; [V · queries, H, d].

        Args:
            compute: the model's own attention function.
            query: [V · queries, H, d], variant by variant.
            kept: keys and values [V · R, H', d], variant by variant.
            cached: keys and values [N, H', d] of the unmodified runs, where the affected states stand behind a cached
                prefix.
            variants: V.
            reach: of the layer.
        """
        indices, inverse = self._for(variants)
        masks = self._mask(reach, query.dtype)
        if not self._alone:
            assert cached is not None
            kept = (torch.cat([kept[0], cached[0]]), torch.cat([kept[1], cached[1]]))
        found = []
        for at in indices:
            mask = masks[at.mask][:, :, : at.seen[0], : at.seen[1]]
            mask = mask.expand(at.batch // len(mask), *mask.shape).flatten(0, 1)
            asked, keys, values = (
                rows.index_select(0, chosen).view(at.batch, -1, *rows.shape[1:]).transpose(1, 2)
                for rows, chosen in ((query, at.queries), (kept[0], at.keys), (kept[1], at.keys))
            )
            heads = compute(asked, keys, values, mask)
            found.append(heads.reshape(-1, *heads.shape[2:]))
        return (found[0] if len(found) == 1 else torch.cat(found)).index_select(0, inverse)

    def _for(self, variants: int) -> tuple[list[Indices], torch.Tensor]:
        if variants not in self._indices:
            self._indices[variants] = self._make(variants)
        return self._indices[variants]

    def _make(self, variants: int) -> tuple[list[Indices], torch.Tensor]:
        """The gathers for V variants, and where each query's answer then stands."""
        groups = -(-variants // self.together)
        together = -(-variants // groups)
        everyone = np.arange(groups * together).reshape(groups, 1, together, 1)
        inverse = np.empty(variants * len(self._queries), dtype=np.int64)
        made, offset = [], 0
        for number, bucket in enumerate(self._buckets):
            tiles, width = bucket.queries.shape
            own_width = together * bucket.own.shape[1]
            step = max(1, self._most // (tiles * (bucket.cached.shape[1] + own_width)))
            for members in np.split(everyone, range(step, groups, step)):
                there, named = members < variants, np.minimum(members, variants - 1)
                rows = named * len(self._queries) + bucket.queries[None, :, None, :]
                real = there & bucket.real[None, :, None, :]
                inverse[rows[real]] = offset + np.flatnonzero(real)
                offset += rows.size
                batch = len(members) * tiles
                own = (named * len(self._affected) + bucket.own[None, :, None, :]).reshape(batch, -1)
                cached = np.tile(variants * len(self._affected) + bucket.cached, (len(members), 1))
                keys = np.concatenate([cached, own], axis=1)
                made.append(Indices(batch, self._tensor(rows), self._tensor(keys), (together * width, keys.shape[1]), number))
        return made, self._tensor(inverse)

    def _tensor(self, array: IntArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(-1)).to(self._device)

    def _mask(self, reach: Reach, dtype: torch.dtype) -> list[torch.Tensor]:
        """The additive masks of the buckets, [tiles, 1, queries, keys], of as many variants as ever share a tile.

        Those of fewer are a corner of it.
        """
        key = (reach, dtype)
        if key not in self._masks:
            self._masks[key] = [self._mask_of(bucket, reach, dtype) for bucket in self._buckets]
        return self._masks[key]

    def _mask_of(self, bucket: Bucket, reach: Reach, dtype: torch.dtype) -> torch.Tensor:
        limit = reach.of(self._affected.depth[self._queries[bucket.queries]])[:, :, None]
        tiles, width = bucket.queries.shape
        count = self.together
        cached = np.repeat(((bucket.sees_cached >= 0) & (bucket.sees_cached < limit))[:, None], count, axis=1)
        own = (bucket.sees_own >= 0) & (bucket.sees_own < limit)
        diagonal = np.eye(count, dtype=bool)[None, :, None, :, None]  # a variant sees its own states only
        own = (own[:, None, :, None, :] & diagonal).reshape(tiles, count, width, -1)
        seen = torch.from_numpy(np.concatenate([cached, own], axis=3).reshape(tiles, 1, count * width, -1)).to(self._device)
        return torch.zeros(seen.shape, dtype=dtype, device=self._device).masked_fill_(~seen, torch.finfo(dtype).min)


def _ranges(starts: IntArray, counts: IntArray) -> tuple[IntArray, BoolArray]:
    """[rows, longest] the numbers from each start on, and which of them are meant (the others repeat the first)."""
    steps = np.arange(int(counts.max()))
    real = steps < counts[:, None]
    return np.where(real, starts[:, None] + steps, starts[:, None]), real
