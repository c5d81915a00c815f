"""Prompts as a trie: each distinct prefix is one node, so each state is computed once.

In a causal model the state at a token depends on the tokens before it and on nothing else. Prompts that share a
prefix share those states, duplicates share all of them. The nodes stand in one row, parents first, with their
depth as position id and an ancestor mask instead of the causal one; there is no padding anywhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tinylab.engine.interventions import Positions, indices

IntArray = npt.NDArray[np.int64]
Key = tuple[int, Hashable]
"""A token, and what else its state depends on (None for a plain token)."""


@dataclass(frozen=True)
class Trie:
    """N nodes in topological order, and the path of each sequence through them."""

    tokens: IntArray  # [N]
    depth: IntArray  # [N], 0 for a first token
    parent: IntArray  # [N], -1 for a first token
    paths: tuple[IntArray, ...]  # for each sequence, the node of each of its tokens

    def __len__(self) -> int:
        """Number of nodes, N."""
        return len(self.tokens)

    @cached_property
    def ancestors(self) -> npt.NDArray[np.bool_]:
        """[N, N], True where the column's node is the row's node or one of its ancestors."""
        mask = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask

    def ends(self) -> IntArray:
        """[sequences], the node of each sequence's last token."""
        return np.array([path[-1] for path in self.paths], dtype=np.int64)


class Builder:
    """Lays sequences of keys out as a trie, one after the other."""

    def __init__(self) -> None:
        """An empty trie."""
        self._nodes: dict[tuple[int, Key], int] = {}
        self._tokens: list[int] = []
        self._depth: list[int] = []
        self._parents: list[int] = []

    def __len__(self) -> int:
        """Number of nodes so far."""
        return len(self._tokens)

    def add(self, sequence: Sequence[Key]) -> IntArray:
        """Add a sequence; returns its path. Equal prefixes of keys are the same nodes."""
        parent, path = -1, np.empty(len(sequence), dtype=np.int64)
        for position, key in enumerate(sequence):
            node = self._nodes.setdefault((parent, key), len(self._tokens))
            if node == len(self._tokens):
                self._tokens.append(key[0])
                self._depth.append(position)
                self._parents.append(parent)
            path[position] = parent = node
        return path

    def finish(self, paths: Sequence[IntArray]) -> Trie:
        """The trie of everything added, with the given paths."""
        tokens, depth, parents = (np.array(column, dtype=np.int64) for column in (self._tokens, self._depth, self._parents))
        return Trie(tokens, depth, parents, tuple(paths))


def build(sequences: Sequence[Sequence[Key]]) -> Trie:
    """Lay sequences of keys out as a trie."""
    builder = Builder()
    return builder.finish([builder.add(sequence) for sequence in sequences])


def plain(prompt: Sequence[int]) -> list[Key]:
    """Keys of an unmodified prompt: its tokens alone."""
    return [(token, None) for token in prompt]


def edited(prompt: Sequence[int], positions: Positions, source: IntArray | None) -> list[Key]:
    """Keys of a prompt that is changed at `positions`.

    Before the first changed position a state depends on the prompt's tokens alone. From there on it also
    depends on what was put in: the source run up to the last changed position so far, which the source's node
    at that position names.

    Args:
        prompt: token ids of the target run.
        positions: where it is changed.
        source: the source run's path in its own trie, None for an operation without a source (a scale).
    """
    here = indices(positions, len(prompt))
    there = here if source is None else indices(positions, len(source))
    put_in = {at: (position if source is None else int(source[position])) for at, position in zip(here, there, strict=True)}
    keys: list[Key] = []
    mark: Hashable = None
    for position, token in enumerate(prompt):
        if position in put_in:
            mark = ("edited", put_in[position])
        keys.append((token, mark))
    return keys
