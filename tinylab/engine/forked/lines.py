"""Lines: what of each prompt pair is run, its prompts with some of an answer's tokens behind them, and which rows are read of it.

Letters: B pairs, C lines, Q rows that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinylab.engine.forked.trie import IntArray
from tinylab.task.tokens import TokenPair


@dataclass(frozen=True)
class Lines:
    """All lines of some pairs, pair by pair, and the rows that are read of them."""

    pair: IntArray  # [C]
    first: IntArray  # [B + 1], each pair's first line; behind it the number of lines
    stems: list[tuple[int, ...]]  # C
    rows: IntArray  # [Q, 2], a line, and how many tokens behind its prompt's last one; the pair's first row is its prompt's last
    first_row: IntArray  # [B + 1]

    @classmethod
    def of(cls, pairs: Sequence[TokenPair]) -> Lines:
        """Lay out the pairs."""
        first = np.concatenate([[0], np.cumsum([len(pair.stems) for pair in pairs], dtype=np.int64)])
        read = [((0, 0),) if pair.answers is None else pair.answers.rows for pair in pairs]
        counts = np.array([len(rows) for rows in read], dtype=np.int64)
        rows = np.array([row for rows in read for row in rows], dtype=np.int64).reshape(-1, 2)
        rows[:, 0] += np.repeat(first[:-1], counts)
        return cls(np.repeat(np.arange(len(pairs)), np.diff(first)), first, [stem for pair in pairs for stem in pair.stems], rows,
                   np.concatenate([[0], np.cumsum(counts)]))

    def of_pairs(self, pairs: IntArray) -> IntArray:
        """The lines of some pairs."""
        return _ranges(self.first, pairs)

    def read(self, pairs: IntArray) -> tuple[IntArray, IntArray]:
        """[Q, 2] the rows that are read of some pairs, lines counted among theirs; [B] the first of each pair."""
        rows = self.rows[_ranges(self.first_row, pairs)].copy()
        lines, counts = (first[pairs + 1] - first[pairs] for first in (self.first, self.first_row))
        rows[:, 0] += np.repeat(np.cumsum(lines) - lines - self.first[pairs], counts)
        return rows, np.cumsum(counts) - counts


def _ranges(first: IntArray, chosen: IntArray) -> IntArray:
    """The numbers first[c] … first[c + 1] − 1 of each chosen c, one after the other."""
    if len(first) - 1 == first[-1]:
        return chosen  # one each
    return np.concatenate([np.arange(first[c], first[c + 1]) for c in chosen])
