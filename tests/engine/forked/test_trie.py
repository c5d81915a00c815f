"""Tries: one node per distinct prefix, and one state per state that is equal by construction."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinylab.engine.forked.attention import Reach, TreeAttention
from tinylab.engine.forked.batches import AffectedStates, Batch, Layout, Setting
from tinylab.engine.forked.trie import NONE, Trie, acted_on, build, padded
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Positions
from tinylab.task.tokens import Prompt, TokenPair

PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)  # few words, so that prefixes are shared
PROMPTS = st.lists(PROMPT, min_size=1, max_size=12)
BOTH = st.tuples(PROMPT, PROMPT).map(lambda both: tuple(p[: min(map(len, both))] for p in both))  # of equal length
PAIRS = st.lists(BOTH, min_size=1, max_size=8)
LISTED = st.sets(st.integers(0, 2), min_size=1).map(sorted).map(tuple)
POSITIONS = st.one_of(st.sampled_from(["last", "all"]), LISTED)


def prefixes(prompts: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {prompt[: end + 1] for prompt in prompts for end in range(len(prompt))}


def is_above(tree: Trie | AffectedStates, ancestor: int, node: int) -> bool:
    """Whether a node is another's ancestor, or the same, by their numbers."""
    return bool(ancestor <= node < tree.end[ancestor])


def spelled(tree: Trie, node: int) -> tuple[int, ...]:
    """The prefix that a node stands for."""
    return tuple(int(tree.tokens[other]) for other in range(len(tree)) if is_above(tree, other, node))


def path(tree: Trie, sequence: int) -> list[int]:
    return [int(node) for node in tree.paths[sequence] if node != NONE]


@given(PROMPTS)
def test_there_are_as_many_nodes_as_distinct_prefixes(prompts: list[tuple[int, ...]]) -> None:
    tree = build(padded(prompts))
    assert len(tree) == len(prefixes(prompts))
    assert {spelled(tree, node) for node in range(len(tree))} == prefixes(prompts)


@given(PROMPTS)
def test_paths_spell_their_prompts_and_end_at_their_ends(prompts: list[tuple[int, ...]]) -> None:
    tree = build(padded(prompts))
    for sequence, prompt in enumerate(prompts):
        nodes = path(tree, sequence)
        assert tuple(tree.tokens[nodes].tolist()) == prompt
        assert spelled(tree, int(tree.ends[sequence])) == prompt
        np.testing.assert_array_equal(tree.depth[nodes], np.arange(len(prompt)))
        assert tree.lengths[sequence] == len(prompt)
    for node, sequence in enumerate(tree.through):
        assert node in path(tree, int(sequence))


@given(PROMPTS)
def test_a_node_sees_exactly_its_prefix(prompts: list[tuple[int, ...]]) -> None:
    """Itself, its ancestors, and nobody else: no sibling, no child."""
    tree = build(padded(prompts))
    words = [spelled(tree, node) for node in range(len(tree))]
    expected = [[row[: len(column)] == column for column in words] for row in words]
    assert [[is_above(tree, other, node) for other in range(len(tree))] for node in range(len(tree))] == expected


@given(PROMPTS, st.data())
def test_a_part_is_the_trie_of_its_prompts_alone(prompts: list[tuple[int, ...]], data: Any) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, unique=True))
    tree = build(padded(prompts))
    part, nodes = tree.part(np.array(chosen))
    alone = build(padded([prompts[sequence] for sequence in chosen]))
    for name in ("tokens", "depth", "end"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    for sequence in range(len(chosen)):
        assert path(part, sequence) == path(alone, sequence)
    assert [spelled(tree, int(node)) for node in nodes] == [spelled(part, node) for node in range(len(part))]


def test_a_small_trie_by_hand() -> None:
    tree = build(padded([(7, 8, 9), (7, 5), (7, 8)]))
    assert tree.tokens.tolist() == [7, 5, 8, 9]
    assert tree.depth.tolist() == [0, 1, 1, 2]
    assert tree.end.tolist() == [4, 2, 4, 4]
    assert [path(tree, sequence) for sequence in range(3)] == [[0, 2, 3], [0, 1], [0, 2]]
    assert tree.ends.tolist() == [3, 1, 2]


# Edited prompts


def places(positions: Positions, length: int) -> list[int]:
    if positions == "last":
        return [length - 1]
    return list(range(length)) if positions == "all" else list(positions)


def history(target: tuple[int, ...], source: tuple[int, ...] | None, positions: Positions, at: int, sham: bool) -> Hashable:
    """All that the state at a position depends on: tokens up to it, where it was changed up to it, and what was put in.

    What was put in at a position is the source run's state there, which its tokens up to there determine; with
    several positions the latest one's contains the others'. `last` is each run's own. Where that is the state that
    was there anyway, nothing was changed (a sham counts as a change).
    """
    changes: list[tuple[int, tuple[int, ...]]] = []
    for number, place in enumerate(places(positions, len(target))):
        there = () if source is None else source[: places(positions, len(source))[number] + 1]
        if place <= at and (source is None or sham or there != target[: place + 1]):
            changes.append((place, there))
    return target[: at + 1], tuple(changes)


def usable(pairs: list[Any], positions: Positions) -> list[Any]:
    """Those in which a list of positions exists."""
    return [pair for pair in pairs if not isinstance(positions, tuple) or max(positions) < min(len(pair[0]), len(pair[1]))]


def check_sharing(pairs: list[Any], positions: Positions, source: str) -> None:
    """Two edited prompts share a node exactly where their states must be equal."""
    if not pairs:
        return
    targets, others = [target for target, _ in pairs], [target if source == "itself" else other for target, other in pairs]
    setting = Setting("clean", {"none": None, "other": Own("corrupt"), "itself": Own("clean")}[source], positions)
    layout = Layout([TokenPair(target, other, 0, 1) for target, other in zip(targets, others, strict=True)], [setting])
    both, (tree, sources) = layout._both, layout._targets[setting]
    nodes: dict[Hashable, int] = {}
    for sequence, (target, other) in enumerate(zip(targets, others, strict=True)):
        mine = path(tree, sequence)
        assert tuple(tree.tokens[mine].tolist()) == target
        for at, node in enumerate(mine):
            key = history(target, None if source == "none" else other, positions, at, sham=source == "itself")
            assert nodes.setdefault(key, node) == node
            assert (tree.marks[node] != NONE) == bool(key[1])  # type: ignore[index]
            changed_here = [there for place, there in key[1] if place == at]  # type: ignore[index]
            assert (sources[node] != NONE) == bool(changed_here)
            if changed_here and source != "none":
                assert spelled(both, int(sources[node])) == changed_here[0]
    assert len(set(nodes.values())) == len(nodes) == len(tree)  # distinct histories never meet


@example([((0, 0), (1, 1)), ((0, 0), (1, 2))], "all", "other")  # alike in tokens and in the first change, not in the second
@given(PAIRS, POSITIONS, st.sampled_from(["other", "itself", "none"]))
@settings(max_examples=300)
def test_edited_prompts_share_correctly(pairs: list[Any], positions: Positions, source: str) -> None:
    check_sharing(usable(pairs, positions), positions, source)


@given(st.lists(st.tuples(PROMPT, PROMPT), min_size=1, max_size=8), st.sampled_from(["other", "itself"]))
def test_patches_at_the_last_position_share_correctly_at_unequal_lengths(pairs: list[Any], source: str) -> None:
    check_sharing(pairs, "last", source)


@given(st.lists(st.tuples(PROMPT, PROMPT), min_size=1, max_size=8), LISTED)
def test_patches_at_listed_positions_share_correctly_at_unequal_lengths(pairs: list[Any], positions: Positions) -> None:
    check_sharing(usable(pairs, positions), positions, "other")


def test_a_position_behind_the_end_of_a_prompt_is_refused() -> None:
    with pytest.raises(IndexError, match="position 2 in a prompt of 2 tokens"):
        acted_on([Prompt((5, 6, 7)), Prompt((5, 6))], 3, (0, 2))


# Batches


def token_pairs(pairs: list[Any]) -> list[TokenPair]:
    return [TokenPair(clean, corrupt, 0, 1) for clean, corrupt in pairs]


def settings_of(positions: Positions) -> list[Setting]:
    runs: tuple[RunName, RunName] = ("clean", "corrupt")
    patches = [Setting(target, Own(source), positions) for target in runs for source in runs]
    return [Setting("clean", None, positions), *patches]


def laid_out(prompts: list[TokenPair], some: list[Setting], limit: int, most: int) -> list[Batch]:
    layout = Layout(prompts, some)
    return [layout.batch(examples) for examples in layout.groups(limit, most)]


@given(PAIRS, POSITIONS, st.integers(1, 25), st.integers(1, 8))
@settings(max_examples=150)
def test_batches_cover_each_example_once_within_the_limits_unless_one_pair_exceeds_them(
    pairs: list[Any], positions: Positions, limit: int, most: int
) -> None:
    prompts = token_pairs(usable(pairs, positions))
    if not prompts:
        return
    found = laid_out(prompts, settings_of(positions), limit, most)
    assert sorted(b for batch in found for b in batch.examples.tolist()) == list(range(len(prompts)))
    for batch in found:
        largest = max(len(tree) for tree in (batch.whole, *batch.affected.values()))
        assert len(batch.examples) <= most
        distinct = {(prompts[b].clean, prompts[b].corrupt) for b in batch.examples}
        assert largest <= limit or len(distinct) == 1


@given(PAIRS, POSITIONS)
@settings(max_examples=150)
def test_affected_states_hang_where_they_should(pairs: list[Any], positions: Positions) -> None:
    """Above each state stand, from the root down, unmodified states of the same tokens and then affected ones."""
    prompts = token_pairs(usable(pairs, positions))
    if not prompts:
        return
    some = settings_of(positions)
    for batch in laid_out(prompts, some, 20, 5):
        for setting, affected in batch.affected.items():
            for r in range(len(affected)):
                cached, depth = int(affected.cached[r]), int(affected.depth[r])
                above = affected.above[r, :depth]
                tokens = [*batch.both.tokens[above[:cached]], *affected.tokens[above[cached:]], affected.tokens[r]]
                assert spelled(batch.both, int(affected.origin[r])) == tuple(int(token) for token in tokens)
                inside = [other for other in range(len(affected)) if is_above(affected, other, r)]
                assert inside == [*above[cached:], r]
            for e, b in enumerate(batch.examples):
                target: tuple[int, ...] = getattr(prompts[b], setting.target)
                if affected.ends[e] == NONE:
                    assert prompts[b].clean == prompts[b].corrupt or positions != "all"
                    assert setting.source is not None
                else:
                    end = int(affected.read[affected.ends[e]])
                    assert spelled(batch.both, int(affected.origin[end])) == target


def test_only_what_lies_behind_the_first_real_change_is_computed() -> None:
    prompts = token_pairs([((1, 2, 3, 4, 5), (1, 2, 9, 4, 5)), ((1, 2, 3, 4, 6), (1, 2, 3, 4, 6))])
    sizes = {}
    for setting in [*settings_of("all"), *settings_of("last"), *settings_of((1, 3))]:
        (batch,) = laid_out(prompts, [setting], 100, 100)
        sizes[setting.source and setting.source.run, setting.target, setting.positions] = len(batch.affected[setting])
    assert sizes["clean", "corrupt", "all"] == 3  # 9 4 5; the second pair is equal
    assert sizes["clean", "clean", "all"] == 6  # a sham: everything
    assert sizes[None, "clean", "all"] == 6
    assert sizes["clean", "corrupt", "last"] == 1
    assert sizes["clean", "corrupt", (1, 3)] == 2  # 4 5: both begin with 1 2
    assert sizes[None, "clean", (1, 3)] == 5  # 2 3 4 5, and 6


def test_many_prompts_are_cut_without_losing_what_they_share() -> None:
    """20,000 prompts with ten tokens in common: each group lays those out once."""
    count = 10_000
    tokens = np.random.default_rng(0).integers(0, 50_000, (2 * count, 30))
    tokens[:, :10], tokens[:, 10] = tokens[0, :10], np.arange(2 * count)
    prompts = [tuple(row) for row in tokens.tolist()]
    pairs = token_pairs(list(zip(prompts[:count], prompts[count:], strict=True)))
    found = laid_out(pairs, [Setting("clean", None, "all")], 2048, 2048)
    assert sum(len(batch.examples) for batch in found) == count
    assert sum(len(batch.whole) for batch in found) == 2 * count * 20 + 10 * len(found)
    assert len(found) == -(-count // ((2048 - 10) // 40))


# Tiles


@pytest.mark.parametrize(("most", "variants"), [(12, 1), (12, 3), (12, 12), (100, 100), (100, 65)])
def test_attention_is_asked_for_no_variant_that_is_not_there(most: int, variants: int) -> None:
    """One changed row for each of five pairs: where variants fill their tiles evenly, nothing is padded."""
    setting = Setting("corrupt", Own("clean"), "last")
    prompts = token_pairs([((1, 2, 3), (first, 4, 5)) for first in range(5)])
    (batch,) = laid_out(prompts, [setting], 1000, 1000)
    affected, asked = batch.affected[setting], list[int]()
    assert len(affected) == 5

    def compute(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert mask.shape == (len(query), 1, query.shape[2], keys.shape[2])
        asked.append(len(query) * query.shape[2])
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, mask).transpose(1, 2)

    rows, nodes = torch.randn(variants * 5, 1, 4), torch.randn(len(batch.both), 1, 4)
    attention = TreeAttention(affected, np.arange(5), torch.device("cpu"), 10**6, most)
    attention.attend(compute, rows, (rows, rows), cached=(nodes, nodes), variants=variants, reach=Reach())
    uneven = variants % -(-variants // 64)  # the groups of more variants than share a tile are of one size
    assert sum(asked) == 5 * (variants + uneven)
