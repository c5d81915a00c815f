"""Forests: prompt pairs cut into groups, each group laid out as the tries that one model forward can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinylab.engine import trie
from tinylab.engine.interventions import Positions, Run, indices
from tinylab.engine.trie import IntArray, Trie
from tinylab.prompts import TokenPair


@dataclass(frozen=True)
class Setting:
    """What variants of one trie share: which prompt runs, where its activations come from, and at which positions."""

    target: Run
    source: Run | None
    positions: Positions


@dataclass(frozen=True)
class Forest:
    """A group of prompt pairs as tries: the unmodified runs of both prompts, and the target runs of each setting."""

    examples: list[int]
    both: Trie  # the clean prompts' paths, then the corrupt ones'
    targets: dict[Setting, Trie]

    def source_path(self, run: Run, which: int) -> IntArray:
        """The path of one example's prompt in `both`."""
        return self.both.paths[which + (len(self.examples) if run == "corrupt" else 0)]


class Planting:
    """A group of prompt pairs while it grows: its tries so far."""

    def __init__(self, pairs: Sequence[TokenPair], settings: Sequence[Setting]) -> None:
        """An empty group."""
        self._pairs = pairs
        self._both = trie.Builder()
        self._targets = {setting: trie.Builder() for setting in settings}
        self._paths: dict[Run, list[IntArray]] = {"clean": [], "corrupt": []}
        self._target_paths: dict[Setting, list[IntArray]] = {setting: [] for setting in settings}
        self.examples: list[int] = []

    def add(self, b: int) -> int:
        """Add a pair; returns the size of the largest trie."""
        self.examples.append(b)
        for run, paths in self._paths.items():
            paths.append(self._both.add(trie.plain(getattr(self._pairs[b], run))))
        for setting, builder in self._targets.items():
            source = None if setting.source is None else self._paths[setting.source][-1]
            keys = trie.edited(getattr(self._pairs[b], setting.target), setting.positions, source)
            self._target_paths[setting].append(builder.add(keys))
        return max(len(builder) for builder in (self._both, *self._targets.values()))

    def finish(self) -> Forest:
        """The group as it is."""
        both = self._both.finish([*self._paths["clean"], *self._paths["corrupt"]])
        return Forest(self.examples, both, {s: b.finish(self._target_paths[s]) for s, b in self._targets.items()})


def forests(pairs: Sequence[TokenPair], settings: Sequence[Setting], limit: int) -> Iterator[Forest]:
    """Cut prompt pairs into groups of at most `limit` pairs none of whose tries exceeds `limit` nodes (a single pair's may).

    Pairs are taken in the order of their tokens, so that those with common prefixes meet in one trie.
    """
    group: list[int] = []
    growing = Planting(pairs, settings)
    for b in sorted(range(len(pairs)), key=lambda b: (pairs[b].clean, pairs[b].corrupt)):
        if max(growing.add(b), len(growing.examples)) > limit and group:
            yield plant(pairs, group, settings)
            group, growing = [], Planting(pairs, settings)
            growing.add(b)
        group.append(b)
    if group:
        yield growing.finish()


def plant(pairs: Sequence[TokenPair], examples: Sequence[int], settings: Sequence[Setting]) -> Forest:
    """The tries of some examples."""
    growing = Planting(pairs, settings)
    for b in examples:
        growing.add(b)
    return growing.finish()


def edited_nodes(forest: Forest, setting: Setting) -> tuple[IntArray, IntArray]:
    """The nodes of the target trie at which interventions act, and for each its source's node in `both`."""
    pairs: dict[int, int] = {}
    for e, path in enumerate(forest.targets[setting].paths):
        here = path[indices(setting.positions, len(path))]
        if setting.source is None:
            there = here
        else:
            source = forest.source_path(setting.source, e)
            there = source[indices(setting.positions, len(source))]
        pairs.update(zip(here.tolist(), there.tolist(), strict=True))
    nodes = sorted(pairs)
    return np.array(nodes, dtype=np.int64), np.array([pairs[node] for node in nodes], dtype=np.int64)
