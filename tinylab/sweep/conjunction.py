"""Components that have an effect of one sign in every condition of a group, or in at least r: a partial conjunction.

Each component is tested in each condition beyond the smallest effect of interest; the p-value of the conjunction
(`tinylab.statistics.conjunction`) is corrected over components. It needs no k, and claims any component that lacks an effect in
some condition with no more than the error that is allowed. Runs of one condition count once, with the largest of their p-values.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.interventions.components import TableKind
from tinylab.statistics.conjunction import partial_conjunction, with_one_sign
from tinylab.statistics.families import benjamini_hochberg, holm
from tinylab.sweep.effects import Effects

NAMED = 3
"""So many runs are named in a note; of more only their number is told."""
EVERY_RUN = 100
"""In groups of more runs, what is not claimed is told of the runs in which it matters or is mixed, not of every run."""


def conjunction(
    effects: Effects, conditions: Sequence[Sequence[int]], at_least: int, names: Sequence[str], kind: TableKind
) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """The components that are claimed, in order, and what invariants.json says of them.

    Args:
        effects: of the group's m runs.
        conditions: the places of each condition's runs.
        at_least: in how many conditions; with more than there are nothing is claimed.
        names: of the runs.
        kind: of the table.
    """
    m, judged = len(conditions), effects.judged
    p, positive = _tested(effects, conditions, min(at_least, m))
    if at_least > m:
        p = np.full_like(p, np.nan)
    adjusted = (benjamini_hochberg if judged.correction == "bh" else holm)(p)
    claimed = adjusted <= judged.alpha
    listed = np.flatnonzero(claimed | effects.matters.any(axis=0))
    ordered = listed[np.lexsort((listed, p[listed], ~claimed[listed]))]
    count = np.sum([effects.matters[places].all(axis=0) for places in conditions], axis=0)
    told = {"p": _plain(p), "p_adjusted": _plain(adjusted),
            "sign": [("+" if up else "-") if one < 1 else None for one, up in zip(p, positive, strict=True)],
            "count": count.tolist()}
    found = []
    for c in ordered.tolist():
        of_interest = effects.matters[:, c] | effects.mixed[:, c] | claimed[c] | (len(names) <= EVERY_RUN)
        runs = np.flatnonzero(of_interest).tolist()
        found.append({
            **dict(zip(kind.component, effects.components[c], strict=True)),
            **{name: values[c] for name, values in told.items()},
            "matters_in": [names[run] for run in runs if effects.matters[run, c]],
            "mixed_in": [names[run] for run in runs if effects.mixed[run, c]],
            "effects": dict(zip((names[run] for run in runs), _plain(effects.effect[runs, c]), strict=True)),
            "plus_minus": dict(zip((names[run] for run in runs), _plain(effects.half[runs, c]), strict=True)),
        })
    return [effects.components[c] for c in np.flatnonzero(claimed).tolist()], {
        "at_least": at_least, "of": m, "smallest": judged.smallest, "alpha": judged.alpha, "correction": judged.correction,
        "components": found,
    }


def _tested(
    effects: Effects, conditions: Sequence[Sequence[int]], at_least: int
) -> tuple[FloatArray, np.ndarray[Any, Any]]:
    """p-values that each component has an effect of one sign in so many conditions, [C], and whether that is the positive one."""
    above, below = (np.stack([p[list(places)].max(axis=0) for places in conditions]) for p in (effects.above, effects.below))
    positive = partial_conjunction(above, at_least) <= partial_conjunction(below, at_least)
    return with_one_sign(above, below, at_least), positive


def sign_agreement(effects: Effects, shared: Sequence[tuple[int, ...]]) -> dict[str, int] | None:
    """How many of some components change the logit difference in one direction in every run; None where a run does not tell."""
    places = {component: place for place, component in enumerate(effects.components)}
    if any(component not in places for component in shared):
        return None
    signs = np.sign(effects.logits[:, [places[component] for component in shared]])
    if np.isnan(signs).any() or not len(effects.components):
        return None
    return {"shared": len(shared), "same_sign": int((np.abs(signs.sum(axis=0)) == len(signs)).sum())}


def notes_on_effects(effects: Effects, conditions: int, at_least: int, names: Sequence[str]) -> list[str]:
    """What limits the claims of a group."""
    notes = list(effects.judged.notes)
    if at_least > conditions:
        notes.append(f"at_least={at_least}, but {conditions} conditions have runs: nothing is claimed")
    for why, places in effects.lacking.items():
        some = ", ".join(names[place] for place in places[:NAMED])
        more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
        notes.append(f"{some}{more}: no effects ({why}), so nothing is claimed by partial conjunction")
    return notes


def _plain(values: FloatArray) -> list[float | None]:
    """Numbers as JSON has them: null where there is none."""
    return [value if isfinite(value) else None for value in values.tolist()]
