"""Batches: prompt pairs laid out as prefix trees, and cut into groups whose trees one forward pass can hold.

A pair has a *line* for each of its stems: its prompts with that much of an answer behind them (`tinylab.measures.answers`); where
first tokens are scored one line, the prompts alone. All lines are branches of the same trees.

A batch has one tree of the unmodified runs (`both`), whose states are computed once and cached. Of the target runs it has,
for each setting, the *affected states*: those that interventions can reach. A variant computes only these; above them its
prompts begin with states of `both` as they are, their cached prefix.

Letters: N nodes of `both`, R affected states, B examples of a batch, C lines, Q rows that are read, E edited states.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinylab.engine.forked.lines import Lines
from tinylab.engine.forked.trie import NONE, BoolArray, IntArray, Trie, acted_on, build, edited, padded
from tinylab.interventions.sites import RESID_PRE, K, V
from tinylab.interventions.sources import RUNS, Donor, Run, RunName, Source
from tinylab.interventions.variants import Positions, Variant
from tinylab.task.tokens import TokenPair

EVERY_ROW = (RESID_PRE.order, K.order, V.order)
"""The sites that every row of the last block has: what enters it, and keys and values. Others are those of reading rows alone."""


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


def taking_late(variants: Iterable[Variant], n_layers: int) -> frozenset[Setting]:
    """The settings, controls' apart, with a variant that takes from a run what only rows that leave the last block have."""
    return frozenset(
        replace(Setting.of(variant), apart=False) for variant in variants if isinstance(variant.source, Run)
        and any(i.operation.needs_source and i.layer == n_layers - 1 and i.site.order not in EVERY_ROW
                for i in variant.interventions)
    )


@dataclass(frozen=True)
class AffectedStates:
    """R states in preorder that a pass computes together: each with everything that comes after it in a prompt."""

    tokens: IntArray  # [R]
    depth: IntArray  # [R]
    end: IntArray  # [R], one past the last state below, in R's own numbers
    cached: IntArray  # [R], how many cached states each one's path starts with
    origin: IntArray  # [R], the node of `both` with the same tokens: the state before any intervention
    read: IntArray  # [read], the states that have to leave the last block, ascending
    ends: IntArray  # [Q], for each row that is read its place in `read`, NONE where nothing changes; Q is B or more
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
    first: IntArray  # [B], of each example the first of the Q rows that are read: its prompt's last
    both: Trie  # the clean lines' paths, then the corrupt ones'
    whole: AffectedStates  # `both`, all of it affected: the unmodified runs are a pass like any other
    affected: dict[Setting, AffectedStates]

    def clean_ends(self) -> IntArray:
        """[Q], the rows that are read of clean prompts, as places in `whole.read`."""
        return self.whole.ends[: len(self.whole.ends) // 2]

    def corrupt_ends(self) -> IntArray:
        """[Q], the same of the corrupt prompts."""
        return self.whole.ends[len(self.whole.ends) // 2 :]


class Layout:
    """All prompt pairs of a call as prefix trees."""

    def __init__(self, pairs: Sequence[TokenPair], settings: Sequence[Setting], late: Collection[Setting] = ()) -> None:
        """Lay out the pairs.

        Args:
            pairs: the prompt pairs.
            settings: of all variants.
            late: those whose sources' rows have to leave the last block where they are read (`taking_late`).

        Raises:
            IndexError: a position of a setting lies behind the end of a prompt, or source and target have not as many.
        """
        self._count, self._lines, self._late = len(pairs), Lines.of(pairs), late
        donors = sorted({s.source.number for s in settings if isinstance(s.source, Donor) and s.source.number is not None})
        runs: list[RunName | Donor] = [*RUNS, *(Donor(number) for number in donors)]
        lines, everywhere = self._lines, {s.source for s in settings if s.positions == "all"}
        self._prompts = {run: [pairs[b].prompt(run) for b in lines.pair] for run in runs}
        self._lengths = {run: np.array([len(pair.prompt(run).tokens) for pair in pairs], dtype=np.int64) for run in RUNS}
        self._stems = {run: lines.stems if run in RUNS or run in everywhere else [()] * len(lines.stems) for run in runs}
        self._rows = {run: np.arange(len(lines.pair)) + place * len(lines.pair) for place, run in enumerate(runs)}
        tokens = {run: [prompt.tokens + stem for prompt, stem in zip(self._prompts[run], self._stems[run], strict=True)]
                  for run in runs}
        self._both = build(padded([line for run in runs for line in tokens[run]]))
        self._targets: dict[Setting, tuple[Trie, IntArray]] = {}
        for setting in settings:
            if (same := replace(setting, apart=not setting.apart)) in self._targets:
                self._targets[setting] = self._targets[same]
                continue
            prompts = padded(tokens[setting.target])
            here = self._acted_on(setting.target, prompts.shape[1], setting.positions)
            self._targets[setting] = edited(prompts, here, *self._put_in(setting, pairs, here))

    def _acted_on(self, run: RunName | Donor, width: int, positions: Positions) -> BoolArray:
        """[C, T], where a run's lines are changed, or where their activations are taken from."""
        return acted_on(self._prompts[run], width, positions, [len(stem) for stem in self._stems[run]])

    def _put_in(self, setting: Setting, pairs: Sequence[TokenPair], here: BoolArray) -> tuple[IntArray | None, IntArray | None]:
        """[C, T] what a setting's source puts in where it acts, as `edited` takes it, and what was there."""
        source = setting.source
        if source is None:
            return None, None
        put_in = np.full(here.shape, NONE, dtype=np.int64)
        examples, places = np.nonzero(here)
        if not isinstance(source, Run):
            of_pairs = (np.array([getattr(pair, name) for pair in pairs]) for name in ("group", "number"))
            groups, numbers = (column[self._lines.pair[examples]] for column in of_pairs)
            put_in[examples, places] = source.rows(groups, numbers, places)
            return put_in, None
        run: RunName | Donor = source if isinstance(source, Donor) else source.run
        there = self._acted_on(run, self._both.paths.shape[1], setting.positions)
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
        """Cut the pairs into groups of at most `most` rows that are read and tries of at most `limit` nodes; a pair may exceed.

        Pairs are taken in the order of their tokens, so that those with common prefixes meet in one trie.
        """
        ends, first = self._both.ends, self._lines.first[:-1]
        order = np.lexsort((ends[self._rows["corrupt"]][first], ends[self._rows["clean"]][first]))
        alone, growth = self._growth(order)
        rows = np.concatenate([[0], np.cumsum(np.diff(self._lines.first_row)[order])])
        start, size = 0, alone[0]
        told = size  # the sizes at the last exact count: `growth` only bounds them from above
        for at in range(1, self._count):
            if (size + growth[at]).max() > limit and (size - told).max() * 16 > limit:
                told = size = self._sizes(order[start:at])
            if (size + growth[at]).max() > limit or rows[at + 1] - rows[start] > most:
                yield order[start:at]
                start = at
                told = size = alone[at]
            else:
                size = size + growth[at]
        yield order[start:]

    def _growth(self, order: IntArray) -> tuple[IntArray, IntArray]:
        """[B, tries], how many nodes each pair needs alone, and adds at most to each trie that holds the pair before it."""
        lines = self._lines.of_pairs(order)
        clean, corrupt, *donors = (self._both.paths[rows][lines] for rows in self._rows.values())
        lengths = [self._both.lengths[rows][lines] for rows in self._rows.values()]
        own = _shared(corrupt, clean)
        common = np.maximum.reduce([own, _with_previous(corrupt, corrupt), _with_previous(corrupt, clean)])
        others = sum(lengths[2:], np.zeros_like(own)) - sum((_shared(donor, clean) for donor in donors), np.zeros_like(own))
        alone = [lengths[0] + lengths[1] - own + others]
        growth = [lengths[0] - _with_previous(clean, clean) + lengths[1] - common + others]
        for tree, _ in self._targets.values():
            paths = tree.paths[lines]
            alone.append(tree.lengths[lines])
            growth.append(tree.lengths[lines] - _with_previous(paths, paths))
        counts = np.diff(self._lines.first)[order]
        first = np.cumsum(counts) - counts  # of each pair's lines
        summed = np.add.reduceat(np.stack(growth, axis=1), first, axis=0)
        return summed + (np.stack(alone, axis=1) - np.stack(growth, axis=1))[first], summed

    def _sizes(self, examples: IntArray) -> IntArray:
        """[tries], the exact number of nodes of a group's tries."""
        lines = self._lines.of_pairs(examples)
        both = self._both.paths[self._every(lines)]
        paths = [both, *(tree.paths[lines] for tree, _ in self._targets.values())]
        return np.array([len(np.unique(p[p != NONE])) for p in paths], dtype=np.int64)

    def _every(self, lines: IntArray) -> IntArray:
        """The sequences of `both` that are unmodified runs of some lines: of clean prompts, corrupt ones, donors."""
        return np.concatenate([rows[lines] for rows in self._rows.values()])

    def batch(self, examples: IntArray) -> Batch:
        """The trees of some examples."""
        lines, (rows, first) = self._lines.of_pairs(examples), self._lines.read(examples)
        both, nodes = self._both.part(self._every(lines))
        paths: dict[RunName, IntArray] = {"clean": both.paths[: len(lines)], "corrupt": both.paths[len(lines) : 2 * len(lines)]}
        read = {run: (rows[:, 0], self._lengths[run][self._lines.pair[lines[rows[:, 0]]]] - 1 + rows[:, 1]) for run in RUNS}
        ends = np.concatenate([paths[run][read[run]] for run in RUNS])
        by_setting: dict[Setting, AffectedStates] = {}
        needed = [ends]
        for setting, (tree, sources) in self._targets.items():
            if (same := replace(setting, apart=not setting.apart)) in by_setting:
                by_setting[setting] = by_setting[same]
                continue
            part, own = tree.part(lines)
            there, from_run = sources[own], isinstance(setting.source, Run)
            if from_run:
                there = np.where(there == NONE, NONE, np.searchsorted(nodes, there))
            ends_here = part.paths[read[setting.target]]
            by_setting[setting] = affected = _affected_states(part, there, paths[setting.target], ends_here)
            if from_run and replace(setting, apart=False) in self._late:
                needed.append(affected.source[np.isin(affected.edited, affected.read)])
        return Batch(examples, first, both, whole(both, np.unique(np.concatenate(needed)), ends), by_setting)


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


def _affected_states(tree: Trie, sources: IntArray, unmodified: IntArray, ends: IntArray) -> AffectedStates:
    """What interventions can reach in a tree of target runs.

    Args:
        tree: the target runs' trie.
        sources: [N'], each edited node's source, NONE for the others (without a source: the position).
        unmodified: [C, T], the paths of the same runs in `both`.
        ends: [Q], the nodes of the rows that are read.
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
    changed = touched[ends]
    read, reached = np.unique(numbers[ends[changed]], return_inverse=True)
    places = np.full(len(ends), NONE)
    places[changed] = reached
    edited_nodes = np.flatnonzero(sources != NONE)
    return AffectedStates(
        tokens=tree.tokens[nodes], depth=depth, end=np.searchsorted(nodes, tree.end[nodes]), cached=cached[through],
        origin=unmodified[through, depth], read=read, ends=places, edited=numbers[edited_nodes],
        source=sources[edited_nodes], above=above,
    )
