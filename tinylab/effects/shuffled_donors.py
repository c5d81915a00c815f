"""Does a patch from another example do as much as one from an example's own pair? Then it moves what a template has in common.

Each example gets a donor: another one of its template, of as many tokens where positions have to align. Donors are deranged: of
some examples each is the donor of one, and none is its own. A donor whose prompt is the same word for word is none; one whose
source run has the same answer brings that answer whatever it takes with it, so as few as possible are such.

What survives is the mean change of logit_diff under the donors over that under the own source, a ratio of means over the same
examples. It is 1 where the source does not matter. A patch that takes the target run's answer away and brings another one than
the source's leaves half of the effect: what is over that comes from no content of the pair.

Letters: V cells, B examples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from tinylab.effects.random_sets import FEWEST, NOISE, beginnings
from tinylab.statistics.estimates import fixed_templates
from tinylab.statistics.strata import Groups

MOST = 10
"""So many cells are tried, the strongest of those that matter."""
HALF = 0.5
"""What is left of an effect where the target run's answer is taken away and another one than the source's is brought."""
ALARMING = 0.75
"""From so much of the effect on that survives, halfway between that and everything."""
TOGETHER = 500
"""Examples of a group that are deranged together, at most: it takes their square in memory."""


@dataclass(frozen=True)
class Donations:
    """Which examples have a donor, and which one that is."""

    examples: list[int]  # ascending
    donors: list[int]  # of each
    same_answer: int  # how many donors' source runs have the answer of the example's own


@dataclass(frozen=True)
class Examples:
    """What decides who may be whose donor, of B examples."""

    groups: Groups  # those that may stand in for each other: of a template, and of a length where positions have to align
    prompts: Sequence[Hashable]  # of the source runs
    answers: Sequence[int]  # of the source runs

    def deranged(self, places: Sequence[int], seed: int) -> Donations:
        """Donors of some examples from among them: as few as can be without one, then as few as can be with the same answer.

        Args:
            places: of the examples.
            seed: what is drawn depends on it.
        """
        from scipy.optimize import linear_sum_assignment

        rng, answers = np.random.default_rng(seed), np.array(self.answers)
        prompts = Groups.of(self.prompts).codes
        found: dict[int, int] = {}
        for members in self._together(places):
            size, own = len(members), members[:, None]
            same = (prompts[own] == prompts[members]) * (size + 1) ** 2 + (answers[own] == answers[members]) * size
            for row, column in zip(*linear_sum_assignment(rng.random((size, size)) + same), strict=True):
                if prompts[members[row]] != prompts[members[column]]:  # which they are not of an example itself
                    found[int(members[row])] = int(members[column])
        examples = sorted(found)
        donors = [found[place] for place in examples]
        return Donations(examples, donors, sum(self.answers[b] == self.answers[d] for b, d in found.items()))

    def _together(self, places: Sequence[int]) -> list[Int[np.ndarray, " n"]]:
        """Those of each group that are among some places, in parts of two at least."""
        chosen = np.isin(np.arange(len(self.prompts)), places)
        members = [group[chosen[group]] for group in self.groups.each]
        return [part for group in members if len(group) > 1 for part in np.array_split(group, -(-len(group) // TOGETHER))]

    def in_order(self, seed: int) -> tuple[list[int], int]:
        """All that are not alone in their group, in an order of which any beginning is a fair part; and the least beginning.

        It has two of a group, of different answers where there are such, then two of the next; then as much of each as of others.

        Args:
            seed: what the order depends on.
        """
        rng = np.random.default_rng(seed)
        groups = [group for group in self.groups.each if len(group) > 1]
        parts = [self._unlike(rng.permutation(groups[place])) for place in rng.permutation(len(groups))]
        order = beginnings(parts)
        return order, min(len(order), FEWEST)

    def _unlike(self, members: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The same with the first whose answer is another than the first one's in second place."""
        other = next((place for place, b in enumerate(members) if self.answers[b] != self.answers[members[0]]), 1)
        return np.concatenate([members[:1], members[other : other + 1], np.delete(members[1:], other - 1)])


def survival(
    shuffled: Float64[np.ndarray, "V B"], own: Float64[np.ndarray, "V B"], templates: Groups, items: Groups | None = None
) -> dict[str, Any]:
    """Which part of the effect survives: of each cell, of all together (changes added up by the sign of the own), the median.

    Args:
        shuffled: changes of logit_diff under the donors.
        own: under the own source.
        templates: of the examples.
        items: what several examples reuse, such as a word; None where each has its own.
    """
    means = own.mean(axis=1)
    of_cells = [{"own": float(mean), "shuffled": float(new.mean()), **_ratio(new, old, templates, items)}
                for mean, new, old in zip(means, shuffled, own, strict=True)]
    signs = np.sign(means)
    fractions = [one["survives"] for one in of_cells if one["survives"] is not None]
    return {
        **_ratio(signs @ shuffled, signs @ own, templates, items),
        "median": float(np.median(fractions)) if fractions else None,
        "of_cells": of_cells,
    }


def _ratio(
    new: Float64[np.ndarray, " B"], old: Float64[np.ndarray, " B"], templates: Groups, items: Groups | None
) -> dict[str, Any]:
    """A ratio of means with its interval; null where there is nothing to be a part of, or nothing to make an interval of."""
    if abs(old.mean()) <= NOISE:
        return {"survives": None, "ci95": None}
    estimate = fixed_templates(new[None], old, templates, items)
    bounds = [float(bound[0]) for bound in estimate.interval()]
    return {"survives": float(estimate.value[0]), "ci95": bounds if np.isfinite(bounds).all() else None}


def is_alarming(told: dict[str, Any]) -> bool:
    """Whether most of an effect survives, and by its interval, if it has one, more than half.

    Args:
        told: `survives` and `ci95` of a cell, or of all together.
    """
    survives, bounds = told["survives"], told["ci95"]
    return survives is not None and survives >= ALARMING and (bounds is None or bounds[0] > HALF)
