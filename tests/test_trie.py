"""Tries: one node per distinct prefix, and one state per state that is equal by construction."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylab.engine import trie
from tinylab.engine.forests import Setting, edited_nodes, forests
from tinylab.engine.interventions import Positions, Run

from tinylab.prompts import TokenPair

PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)  # few words, so that prefixes are shared
PROMPTS = st.lists(PROMPT, min_size=1, max_size=12)
BOTH = st.tuples(PROMPT, PROMPT).map(lambda both: tuple(p[: min(map(len, both))] for p in both))  # of equal length
PAIRS = st.lists(BOTH, min_size=1, max_size=8)
LISTED = st.sets(st.integers(0, 2), min_size=1).map(sorted).map(tuple)
POSITIONS = st.one_of(st.sampled_from(["last", "all"]), LISTED)


def prefixes(prompts: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {prompt[: end + 1] for prompt in prompts for end in range(len(prompt))}


def spelled(tree: Trie, node: int) -> tuple[int, ...]:
    """The prefix that a node stands for, by walking to the root."""
    return (*(spelled(tree, int(tree.parent[node])) if tree.parent[node] >= 0 else ()), int(tree.tokens[node]))


@given(PROMPTS)
def test_there_are_as_many_nodes_as_distinct_prefixes(prompts: list[tuple[int, ...]]) -> None:
    tree = build([plain(prompt) for prompt in prompts])
    assert len(tree) == len(prefixes(prompts))
    assert {spelled(tree, node) for node in range(len(tree))} == prefixes(prompts)


@given(PROMPTS)
def test_paths_spell_their_prompts_and_end_at_their_ends(prompts: list[tuple[int, ...]]) -> None:
    tree = build([plain(prompt) for prompt in prompts])
    assert [tuple(tree.tokens[path].tolist()) for path in tree.paths] == prompts
    for prompt, path, end in zip(prompts, tree.paths, tree.ends(), strict=True):
        assert spelled(tree, int(end)) == prompt
        np.testing.assert_array_equal(tree.depth[path], np.arange(len(prompt)))
        np.testing.assert_array_equal(tree.parent[path], [-1, *path[:-1]])


@given(PROMPTS)
def test_parents_stand_before_their_children(prompts: list[tuple[int, ...]]) -> None:
    tree = build([plain(prompt) for prompt in prompts])
    assert (tree.parent < np.arange(len(tree))).all()


@given(PROMPTS)
def test_a_node_sees_exactly_its_prefix(prompts: list[tuple[int, ...]]) -> None:
    """Itself, its ancestors, and nobody else: no sibling, no child."""
    tree = build([plain(prompt) for prompt in prompts])
    words = [spelled(tree, node) for node in range(len(tree))]
    expected = [[row[: len(column)] == column for column in words] for row in words]
    np.testing.assert_array_equal(tree.ancestors, np.array(expected))


def test_a_small_trie_by_hand() -> None:
    tree = build([plain((7, 8, 9)), plain((7, 5)), plain((7, 8))])
    assert tree.tokens.tolist() == [7, 8, 9, 5]
    assert tree.depth.tolist() == [0, 1, 2, 1]
    assert tree.parent.tolist() == [-1, 0, 1, 0]
    assert [path.tolist() for path in tree.paths] == [[0, 1, 2], [0, 3], [0, 1]]
    assert tree.ends().tolist() == [2, 3, 1]
    assert tree.ancestors.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


# Edited prompts


def places(positions: Positions, length: int) -> list[int]:
    if positions == "last":
        return [length - 1]
    return list(range(length)) if positions == "all" else list(positions)


def history(target: tuple[int, ...], source: tuple[int, ...] | None, positions: Positions, at: int) -> Hashable:
    """All that the state at a position depends on: tokens up to it, where it was changed up to it, and what was put in.

    What was put in at a position is the source run's state there, which its tokens up to there determine; with
    several positions the latest one's contains the others'. `last` is each run's own.
    """
    here = [place for place in places(positions, len(target)) if place <= at]
    if source is None:
        return target[: at + 1], tuple(here)
    there = places(positions, len(source))[: len(here)]
    return target[: at + 1], tuple(here), tuple(source[: place + 1] for place in there)


def usable(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], positions: Positions) -> list[Any]:
    """Those in which a list of positions exists."""
    return [pair for pair in pairs if not isinstance(positions, tuple) or max(positions) < len(pair[0])]


@given(PAIRS, POSITIONS, st.booleans())
@settings(max_examples=300)
def test_two_edited_prompts_share_a_node_exactly_where_their_states_must_be_equal(
    pairs: list[Any], positions: Positions, patched: bool
) -> None:
    pairs = usable(pairs, positions)
    sources = build([plain(source) for _, source in pairs])
    builder = Builder()
    nodes: dict[Hashable, int] = {}
    for (target, source), path in zip(pairs, sources.paths, strict=True):
        own = builder.add(edited(target, positions, path if patched else None))
        for at in range(len(target)):
            key = history(target, source if patched else None, positions, at)
            assert nodes.setdefault(key, int(own[at])) == own[at]
    assert len(set(nodes.values())) == len(nodes)  # distinct histories never meet
    assert len(builder) == len(nodes)


@given(st.lists(st.tuples(PROMPT, PROMPT), min_size=1, max_size=8))
def test_patches_at_the_last_position_share_correctly_at_unequal_lengths(pairs: list[Any]) -> None:
    sources = build([plain(source) for _, source in pairs])
    builder = Builder()
    nodes: dict[Hashable, int] = {}
    for (target, source), path in zip(pairs, sources.paths, strict=True):
        own = builder.add(edited(target, "last", path))
        for at in range(len(target)):
            assert nodes.setdefault(history(target, source, "last", at), int(own[at])) == own[at]
    assert len(set(nodes.values())) == len(nodes) == len(builder)


def test_before_the_first_patched_position_the_target_run_alone_counts() -> None:
    source = build([plain((1, 2, 3, 4)), plain((9, 9, 9, 9))])
    tree = build([edited((5, 6, 7, 8), (2,), path) for path in source.paths])
    first, second = tree.paths
    assert first[:2].tolist() == second[:2].tolist()
    assert set(first[2:].tolist()).isdisjoint(second[2:].tolist())


# Forests


def token_pairs(pairs: list[Any]) -> list[TokenPair]:
    return [TokenPair(clean, corrupt, 0, 1) for clean, corrupt in pairs]


def settings_of(positions: Positions) -> list[Setting]:
    runs: tuple[Run, Run] = ("clean", "corrupt")
    patches = [Setting(target, source, positions) for target in runs for source in runs]
    return [Setting("clean", None, positions), *patches]


@given(PAIRS, POSITIONS, st.integers(1, 25))
@settings(max_examples=150)
def test_forests_cover_each_example_once_within_the_limit_unless_one_pair_exceeds_it(
    pairs: list[Any], positions: Positions, limit: int
) -> None:
    prompts = token_pairs(usable(pairs, positions))
    planted = list(forests(prompts, settings_of(positions), limit))
    assert sorted(b for forest in planted for b in forest.examples) == list(range(len(prompts)))
    for forest in planted:
        largest = max(len(tree) for tree in (forest.both, *forest.targets.values()))
        distinct = {(prompts[b].clean, prompts[b].corrupt) for b in forest.examples}
        assert largest <= limit or len(distinct) == 1


@given(PAIRS, POSITIONS, st.integers(1, 25))
def test_forests_spell_their_examples_and_edit_them_at_the_meant_places(
    pairs: list[Any], positions: Positions, limit: int
) -> None:
    prompts = token_pairs(usable(pairs, positions))
    for forest in forests(prompts, settings_of(positions), limit):
        for setting, tree in forest.targets.items():
            sources = dict(zip(*(nodes.tolist() for nodes in edited_nodes(forest, setting)), strict=True))
            for e, b in enumerate(forest.examples):
                target = getattr(prompts[b], setting.target)
                assert tuple(tree.tokens[tree.paths[e]].tolist()) == target
                meant = places(positions, len(target))
                assert [at for at, node in enumerate(tree.paths[e].tolist()) if node in sources] == meant
                if setting.source is not None:
                    source = getattr(prompts[b], setting.source)
                    put_in = [spelled(forest.both, sources[int(tree.paths[e][at])]) for at in meant]
                    assert put_in == [source[: at + 1] for at in meant]


@pytest.mark.parametrize("count", [500, 2000])
def test_cutting_many_prompts_adds_each_pair_at_most_twice_per_group_boundary(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is linear in the number of pairs: none is laid out more than three times per trie."""
    added: list[int] = []
    add = trie.Builder.add
    monkeypatch.setattr(trie.Builder, "add", lambda self, sequence: added.append(1) or add(self, sequence))
    prompts = token_pairs([((1, n % 50, n), (2, n % 50, n)) for n in range(count)])
    planted = list(forests(prompts, [Setting("clean", None, "all")], 100))
    assert sum(len(forest.examples) for forest in planted) == count
    assert len(added) <= 3 * 3 * count  # clean, corrupt and one target


def test_twenty_thousand_prompts_are_laid_out_in_one_pass() -> None:
    prompts = token_pairs([((1, 2, 3, n % 100, 4, n), (1, 2, 3, n % 100, 5, n)) for n in range(20_000)])
    planted = list(forests(prompts, [Setting("clean", None, "all"), Setting("corrupt", "clean", "last")], 256))
    assert sum(len(forest.examples) for forest in planted) == 20_000
    nodes = sum(len(forest.both) for forest in planted)
    assert nodes < 2 * 20_000 * 2 + 100 * 4 * 3 + 3 * len(planted) * 20  # about: two leaves per pair, few shared nodes
