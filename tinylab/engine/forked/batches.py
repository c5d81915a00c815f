"""Batches: prompt pairs laid out as prefix trees, and cut into groups whose trees one forward pass can hold.

A batch has one tree of the unmodified runs (`both`), whose states are computed once and cached. Of the target runs it has,
for each setting, the *affected states*: those that interventions can reach. A variant computes only these; above them its
prompts begin with states of `both` as they are, their cached prefix.

Letters: N nodes of `both`, R affected states, B examples of a batch, E edited states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinylab.engine.forked.trie import NONE, BoolArray, IntArray, Trie, acted_on, build, edited, padded
from tinylab.interventions.sources import RUNS, Donor, Run, RunName, Source
from tinylab.interventions.variants import Positions, Variant
from tinylab.task.tokens import TokenPair


@dataclass(frozen=True)
class Setting:
    """What variants of one trie share: which prompt runs, where its activations come from, and at which positions."""

    target: RunName
    source: Source | None
    positions: Positions
    changes_equal: bool = False  # some change what equals the source too: then no position is left out where both runs agree
    apart: bool = False  # controls: computed in passes of their own

    @staticmethod
    def of(variant: Variant) -> Setting:
        """The setting of a variant."""
        changes_equal = any(i.operation.changes_equal for i in variant.interventions)
        return Setting(variant.target, variant.source, variant.positions, changes_equal, variant.apart)


@dataclass(frozen=True)
class AffectedStates:
    """R states in preorder that a pass computes together: each with everything that comes after it in a prompt."""

    tokens: IntArray  # [R]
    depth: IntArray  # [R]
    end: IntArray  # [R], one past the last state below, in R's own numbers
    cached: IntArray  # [R], how many cached states each one's path starts with
    origin: IntArray  # [R], the node of `both` with the same tokens: the state before any intervention
    read: IntArray  # [read], the states that have to leave the last block, ascending
    ends: IntArray  # [B], for each example its reading row's place in `read`, NONE where nothing changes
    edited: IntArray  # [E], the states at which interventions act, ascending
    source: IntArray  # [E], for each its source's node in `both`, or row of what was made ahead; without a source the position
    above: IntArray  # [R, T], each one's ancestors from the root down: nodes of `both`, then affected states

    def __len__(self) -> int:
        """Number of states, R."""
        return len(self.tokens)


@dataclass(frozen=True)
class Batch:
    """A group of prompt pairs: the unmodified runs of both prompts, and the affected states of each setting."""

    examples: IntArray  # [B]
    both: Trie  # the clean prompts' paths, then the corrupt ones'
    whole: AffectedStates  # `both`, all of it affected: the unmodified runs are a pass like any other
    affected: dict[Setting, AffectedStates]

    def clean_ends(self) -> IntArray:
        """[B], the reading row of each clean prompt, as a place in `whole.read`."""
        return self.whole.ends[: len(self.examples)]

    def corrupt_ends(self) -> IntArray:
        """[B], the same of the corrupt prompts."""
        return self.whole.ends[len(self.examples) : 2 * len(self.examples)]


class Layout:
    """All prompt pairs of a call as prefix trees."""

    def __init__(self, pairs: Sequence[TokenPair], settings: Sequence[Setting]) -> None:
        """Lay out the pairs.

        Raises:
            IndexError: a position of a setting lies behind the end of a prompt, or source and target have not as many.
        """
        self._count = len(pairs)
        donors = sorted({s.source.number for s in settings if isinstance(s.source, Donor) and s.source.number is not None})
        runs: list[RunName | Donor] = [*RUNS, *(Donor(number) for number in donors)]
        self._prompts = {run: [pair.prompt(run) for pair in pairs] for run in runs}
        self._rows = {run: np.arange(self._count) + place * self._count for place, run in enumerate(runs)}
        self._both = build(padded([prompt.tokens for run in runs for prompt in self._prompts[run]]))
        self._targets: dict[Setting, tuple[Trie, IntArray]] = {}
        for setting in settings:
            if (same := replace(setting, apart=not setting.apart)) in self._targets:
                self._targets[setting] = self._targets[same]
                continue
            prompts = padded([prompt.tokens for prompt in self._prompts[setting.target]])
            here = acted_on(self._prompts[setting.target], prompts.shape[1], setting.positions)
            self._targets[setting] = edited(prompts, here, *self._put_in(setting, pairs, here))

    def _put_in(self, setting: Setting, pairs: Sequence[TokenPair], here: BoolArray) -> tuple[IntArray | None, IntArray | None]:
        """[B, T] what a setting's source puts in where it acts, as `edited` takes it, and what was there."""
        source = setting.source
        if source is None:
            return None, None
        put_in = np.full(here.shape, NONE, dtype=np.int64)
        examples, places = np.nonzero(here)
        if not isinstance(source, Run):
            groups, numbers = (np.array([getattr(pair, name) for pair in pairs])[examples] for name in ("group", "number"))
            put_in[examples, places] = source.rows(groups, numbers, places)
            return put_in, None
        run: RunName | Donor = source if isinstance(source, Donor) else source.run
        there = acted_on(self._prompts[run], self._both.paths.shape[1], setting.positions)
        if not np.array_equal(here.sum(axis=1), there.sum(axis=1)):
            raise IndexError(f"{setting.positions} are not as many positions in a target run as in its source run")
        from_rows, from_places = np.nonzero(there)
        put_in[examples, places] = self._both.paths[self._rows[run][from_rows], from_places]
        sham = run == setting.target
        computed = setting.changes_equal or sham  # a sham is computed although it changes nothing
        return put_in, None if computed else self._both.paths[self._rows[setting.target]]

    @property
    def has_cached_prefix(self) -> bool:
        """Whether some target run starts with states that no intervention reaches."""
        return any((tree.marks == NONE).any() for tree, _ in self._targets.values())

    def groups(self, limit: int, most: int) -> Iterator[IntArray]:
        """Cut the pairs into groups of at most `most` pairs none of whose tries exceeds `limit` nodes (a single pair's may).

        Pairs are taken in the order of their tokens, so that those with common prefixes meet in one trie.
        """
        ends = self._both.ends
        order = np.lexsort((ends[self._rows["corrupt"]], ends[self._rows["clean"]]))
        alone, growth = self._growth(order)
        start, size = 0, alone[0]
        told = size  # the sizes at the last exact count: `growth` only bounds them from above
        for at in range(1, self._count):
            if (size + growth[at]).max() > limit and (size - told).max() * 16 > limit:
                told = size = self._sizes(order[start:at])
            if (size + growth[at]).max() > limit or at - start >= most:
                yield order[start:at]
                start = at
                told = size = alone[at]
            else:
                size = size + growth[at]
        yield order[start:]

    def _growth(self, order: IntArray) -> tuple[IntArray, IntArray]:
        """[B, tries], how many nodes each pair needs alone, and adds at most to each trie that holds the pair before it."""
        clean, corrupt, *donors = (self._both.paths[rows][order] for rows in self._rows.values())
        lengths = [self._both.lengths[rows][order] for rows in self._rows.values()]
        own = _shared(corrupt, clean)
        common = np.maximum.reduce([own, _with_previous(corrupt, corrupt), _with_previous(corrupt, clean)])
        others = sum(lengths[2:], np.zeros_like(own)) - sum((_shared(donor, clean) for donor in donors), np.zeros_like(own))
        alone = [lengths[0] + lengths[1] - own + others]
        growth = [lengths[0] - _with_previous(clean, clean) + lengths[1] - common + others]
        for tree, _ in self._targets.values():
            paths = tree.paths[order]
            alone.append(tree.lengths[order])
            growth.append(tree.lengths[order] - _with_previous(paths, paths))
        return np.stack(alone, axis=1), np.stack(growth, axis=1)

    def _sizes(self, examples: IntArray) -> IntArray:
        """[tries], the exact number of nodes of a group's tries."""
        both = self._both.paths[self._every(examples)]
        paths = [both, *(tree.paths[examples] for tree, _ in self._targets.values())]
        return np.array([len(np.unique(p[p != NONE])) for p in paths], dtype=np.int64)

    def _every(self, examples: IntArray) -> IntArray:
        """The sequences of `both` that are unmodified runs of some examples: clean prompts, corrupt ones, donors."""
        return np.concatenate([rows[examples] for rows in self._rows.values()])

    def batch(self, examples: IntArray) -> Batch:
        """The trees of some examples."""
        both, nodes = self._both.part(self._every(examples))
        paths: dict[RunName, IntArray] = {"clean": both.paths[: len(examples)],
                                          "corrupt": both.paths[len(examples) : 2 * len(examples)]}
        by_setting: dict[Setting, AffectedStates] = {}
        needed = [both.ends[: 2 * len(examples)]]
        for setting, (tree, sources) in self._targets.items():
            if (same := replace(setting, apart=not setting.apart)) in by_setting:
                by_setting[setting] = by_setting[same]
                continue
            part, own = tree.part(examples)
            there, from_run = sources[own], isinstance(setting.source, Run)
            if from_run:
                there = np.where(there == NONE, NONE, np.searchsorted(nodes, there))
            by_setting[setting] = affected = _affected_states(part, there, paths[setting.target])
            if from_run:
                needed.append(affected.source[np.isin(affected.edited, affected.read)])
        return Batch(examples, both, whole(both, np.unique(np.concatenate(needed)), both.ends[: 2 * len(examples)]), by_setting)


def _shared(first: IntArray, second: IntArray) -> IntArray:
    """[B], how many nodes two paths have in common."""
    common: IntArray = np.count_nonzero((first == second) & (first != NONE), axis=1)
    return common


def _with_previous(paths: IntArray, others: IntArray) -> IntArray:
    """[B], how many nodes each path shares with the other path of the row before it."""
    return np.concatenate([[0], _shared(paths[1:], others[:-1])])


def whole(both: Trie, needed: IntArray, ends: IntArray) -> AffectedStates:
    """The unmodified runs as states that are all to be computed.

    Args:
        both: their trie.
        needed: the nodes that have to leave the last block, ascending.
        ends: the reading rows, which are among them.
    """
    numbers, nothing = np.arange(len(both)), np.empty(0, dtype=np.int64)
    return AffectedStates(
        tokens=both.tokens, depth=both.depth, end=both.end, cached=np.zeros_like(numbers), origin=numbers, read=needed,
        ends=np.searchsorted(needed, ends), edited=nothing, source=nothing, above=both.paths[both.through],
    )


def _affected_states(tree: Trie, sources: IntArray, unmodified: IntArray) -> AffectedStates:
    """What interventions can reach in a tree of target runs.

    Args:
        tree: the target runs' trie.
        sources: [N'], each edited node's source, NONE for the others (without a source: the position).
        unmodified: [B, T], the paths of the same runs in `both`.
    """
    touched = tree.marks != NONE
    nodes = np.flatnonzero(touched)
    numbers = np.cumsum(touched) - 1
    through, depth = tree.through[nodes], tree.depth[nodes]
    there = tree.paths != NONE
    cached = np.count_nonzero(there & ~touched[tree.paths], axis=1)
    above = tree.paths[through]
    in_cache = np.arange(above.shape[1]) < cached[through][:, None]
    above = np.where(in_cache, unmodified[through][:, : above.shape[1]], numbers[above])
    changed = touched[tree.ends]
    read, reached = np.unique(numbers[tree.ends[changed]], return_inverse=True)
    places = np.full(len(tree.ends), NONE)
    places[changed] = reached
    edited_nodes = np.flatnonzero(sources != NONE)
    return AffectedStates(
        tokens=tree.tokens[nodes], depth=depth, end=np.searchsorted(nodes, tree.end[nodes]), cached=cached[through],
        origin=unmodified[through, depth], read=read, ends=places, edited=numbers[edited_nodes],
        source=sources[edited_nodes], above=above,
    )
