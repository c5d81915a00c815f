"""Prompts as a prefix tree (a trie): each distinct prefix is one node, so each state is computed once.

In a causal model the state at a token depends on the tokens before it and on nothing else. Prompts that share a
prefix share those states, duplicates share all of them. Nodes are numbered in preorder: a node, then everything
below it, so a subtree is a range of numbers, and an ancestor is a node whose range holds the other. There is no
padding among the nodes. Everything here is arrays: a hundred thousand prompts are laid out in seconds.

Letters: B sequences of at most T tokens, N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tinylab.interventions.variants import Positions, indices
from tinylab.task.tokens import Prompt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
NONE = -1
"""Behind the end of a sequence in a padded matrix; also 'no mark' and 'no node'."""


@dataclass(frozen=True)
class Trie:
    """N nodes in preorder, and the path of each sequence through them."""

    tokens: IntArray  # [N]
    marks: IntArray  # [N], what else than its tokens a node's state depends on; NONE: nothing
    depth: IntArray  # [N], 0 for a first token
    end: IntArray  # [N], one past the last node below
    paths: IntArray  # [B, T], the node of each token, NONE behind a sequence's end

    def __len__(self) -> int:
        """Number of nodes, N."""
        return len(self.tokens)

    @cached_property
    def lengths(self) -> IntArray:
        """[B], tokens of each sequence."""
        lengths: IntArray = np.count_nonzero(self.paths != NONE, axis=1)
        return lengths

    @cached_property
    def ends(self) -> IntArray:
        """[B], the node of each sequence's last token."""
        ends: IntArray = self.paths[np.arange(len(self.paths)), self.lengths - 1]
        return ends

    @cached_property
    def through(self) -> IntArray:
        """[N], one of the sequences that pass each node."""
        rows = np.empty(len(self), dtype=np.int64)
        sequences, places = np.nonzero(self.paths != NONE)
        rows[self.paths[sequences, places]] = sequences
        return rows

    def part(self, sequences: IntArray) -> tuple[Trie, IntArray]:
        """The trie of some of the sequences, and which node here each of its nodes is."""
        paths = self.paths[sequences]
        paths = paths[:, : int(self.lengths[sequences].max(initial=1))]
        there = paths != NONE
        nodes = np.unique(paths[there])
        own = np.where(there, np.searchsorted(nodes, paths), NONE)
        end = np.searchsorted(nodes, self.end[nodes])
        return Trie(self.tokens[nodes], self.marks[nodes], self.depth[nodes], end, own), nodes


def padded(prompts: Sequence[Sequence[int]]) -> IntArray:
    """Prompts as a matrix [B, T], NONE behind their ends."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    matrix = np.full((len(prompts), int(lengths.max(initial=1))), NONE, dtype=np.int64)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(p, dtype=np.int64) for p in prompts])
    return matrix


def build(tokens: IntArray, marks: IntArray | None = None) -> Trie:
    """Lay sequences out as a trie; equal prefixes of (token, mark) are the same nodes.

    Args:
        tokens: [B, T] padded token ids.
        marks: [B, T], what else each state depends on; None for plain prompts.
    """
    marks = np.full_like(tokens, NONE) if marks is None else marks
    there = tokens != NONE
    keys = np.where(there, tokens + (marks + 1) * (int(tokens.max(initial=0)) + 1), NONE)
    order = np.lexsort(keys.T[::-1])
    rows, there = keys[order], there[order]
    count, width = rows.shape
    shared = np.zeros(count, dtype=np.int64)  # tokens that a row has in common with the one before it
    shared[1:] = np.cumprod((rows[1:] == rows[:-1]) & there[1:], axis=1).sum(axis=1)
    fresh = there & (np.arange(width) >= shared[:, None])
    numbers = np.full(rows.shape, NONE, dtype=np.int64)
    numbers[fresh] = np.arange(np.count_nonzero(fresh))
    sorted_paths = np.where(there, np.maximum.accumulate(numbers, axis=0), NONE)
    ends = np.empty(rows.shape, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(np.count_nonzero(fresh, axis=1))])  # nodes made before each row
    for place in range(width):
        leaves = np.append(np.flatnonzero(shared <= place), count)  # rows in which this place starts another subtree
        ends[:, place] = before[leaves[np.searchsorted(leaves, np.arange(count), side="right")]]
    paths = np.empty_like(sorted_paths)
    paths[order] = sorted_paths
    return Trie(tokens[order][fresh], marks[order][fresh], np.nonzero(fresh)[1], ends[fresh], paths)


def acted_on(prompts: Sequence[Prompt], width: int, positions: Positions, following: Sequence[int] | None = None) -> BoolArray:
    """[B, T], where prompts are changed.

    Args:
        prompts: B of them.
        width: T.
        positions: which; `all` are those of an answer behind a prompt too.
        following: how many tokens of one each has; None for none.

    Raises:
        IndexError: a position behind the end of a prompt.
    """
    places, lengths = np.arange(width), np.array([len(prompt.tokens) for prompt in prompts], dtype=np.int64)
    listed: BoolArray
    if positions == "all":
        listed = places < (lengths if following is None else lengths + np.asarray(following, dtype=np.int64))[:, None]
        return listed
    if positions == "last":
        listed = places == lengths[:, None] - 1
        return listed
    if isinstance(positions, tuple):
        if max(positions) >= lengths.min(initial=max(positions) + 1):
            raise IndexError(f"position {max(positions)} in a prompt of {lengths.min()} tokens")
        listed = np.broadcast_to(np.isin(places, positions), (len(lengths), width))
        return listed
    listed = np.zeros((len(lengths), width), dtype=np.bool_)
    for b, prompt in enumerate(prompts):
        listed[b, indices(positions, len(prompt.tokens), prompt.spans)] = True
    return listed


def edited(
    tokens: IntArray, here: BoolArray, put_in: IntArray | None = None, own: IntArray | None = None
) -> tuple[Trie, IntArray]:
    """The trie of prompts that are changed in places; also [N] what was put in at each changed node, else NONE.

    Before the first changed position a state depends on the prompt's tokens alone. From there on it also depends
    on what was put in, up to the last changed position so far. What was put in there names it (it is the mark); where nothing
    is, as in a scale, the position itself does. Where what is put in is what was there, nothing changes.

    Args:
        tokens: [B, T] padded prompts of the target runs.
        here: [B, T], where they are changed.
        put_in: [B, T], a number for what is put in at a place: the source's node in a trie, say; it stands for all that it
            depends on. NONE where nothing is. None for an operation without a source.
        own: [B, T], the same of what was there; None: count what is put in as a change even if it is the same.
    """
    places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    put_in = places if put_in is None else put_in
    changed = here & (put_in != (NONE if own is None else own[:, : tokens.shape[1]]))
    latest = np.maximum.accumulate(np.where(changed, places, NONE), axis=1)
    marks = np.where(latest == NONE, NONE, np.take_along_axis(put_in, np.maximum(latest, 0), axis=1))
    tree = build(tokens, marks)
    there = (tokens != NONE) & changed
    sources = np.full(len(tree), NONE, dtype=np.int64)
    sources[tree.paths[there]] = put_in[there]
    return tree, sources
