"""Random sets of components (`tinylab.effects.random_sets`), evaluated for a finished run as a verify slice is.

The run is complete and on disk before: what interrupts this loses nothing of it, and the same command does it then. A finished
run that lacks it gets it added.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylab.batteries.base import Cell
from tinylab.checks.beside import Ready, evaluated
from tinylab.config.groups import AUTO
from tinylab.effects.random_sets import PART, Circuit, affordable, compared, draw, together
from tinylab.engine.base import Engine
from tinylab.interventions.variants import Variant
from tinylab.records.checking import write_document
from tinylab.records.documents import RunSummary
from tinylab.records.identity import Resolved
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import read_effects
from tinylab.records.renewing import put_in_place, renewing
from tinylab.records.storage import read_json
from tinylab.task.preparation import Prepared
from tinylab.task.tokens import TokenPair

HOW = "controls.random_sets=true computes them anyway"
NULLS = ("uniform", "same_layers")
log = logging.getLogger(__name__)

def add_random_sets(resolved: Resolved, folder: RunFolder, ready: Ready) -> None:
    """Compare the components that matter with random sets of them, unless it was done; write that into summary.json.

    Only batteries whose cells are single units of a layer (heads) have such sets.

    Args:
        resolved: the run.
        folder: where it lies, finished.
        ready: the run's engine and prompts.
    """
    asked, kind = resolved.config.controls.random_sets, resolved.config.battery.table
    if not kind.of_units:
        return
    if asked is False:
        log.info("controls.random_sets=false: no random sets; true compares the %s that matter with them", kind.plural)
        return
    manifest = folder.read()
    assert manifest is not None
    effects = read_effects(folder, manifest)
    if effects is None:
        return
    by = resolved.config.labelled
    summary, circuit = read_json(folder.file("summary")), Circuit.of(effects, kind, by)
    told: dict[str, Any] = {
        "asked": str(asked).lower(), "draws": resolved.config.controls.draws, "seed": resolved.config.seeds[0],
        "at": circuit.at, "circuit": [kind.listed(circuit.components[place]) for place in circuit.members],
        "n": None, "of": summary["baselines"][manifest["target_run"]][by]["n"], "states": None, "damage": None,
        **dict.fromkeys(NULLS), "notes": _nothing_to_draw(circuit, kind.plural),
    }
    if _is_there(summary.get("random_sets"), told):
        return
    if not told["notes"]:
        engine, prepared = ready()
        cells = circuit.cells_among(prepared.cells, kind)
        if cells is None:
            return
        told |= _evaluated(resolved, folder, circuit, cells, engine=engine, prepared=prepared,
                           states=manifest["provenance"]["states"])
    for note in told["notes"]:
        log.info("no random sets: %s", note)
    with renewing(folder) as new:
        write_document(RunSummary, new.file("summary"), {**summary, "random_sets": told})
        put_in_place(folder, manifest)


def _nothing_to_draw(circuit: Circuit, plural: str) -> list[str]:
    """Why there are no sets to be drawn."""
    if not circuit.judged:
        return ["no labels say which matter"]
    if not circuit.members:
        return [f"none of the {len(circuit.components)} {plural} matters or is mixed"]
    if len(circuit.members) == len(circuit.components):
        return [f"all {len(circuit.components)} {plural} matter or are mixed: any set of as many is the same"]
    return []


def _is_there(before: dict[str, Any] | None, told: dict[str, Any]) -> bool:
    """Whether a run has this comparison, or one of more examples."""
    same = ("draws", "seed", "at", "circuit")
    if before is None or any(before.get(key) != told[key] for key in same):
        return False
    if before["asked"] == told["asked"]:
        return True
    return before["n"] is not None and (told["asked"] == AUTO or before["n"] == before["of"])


def _evaluated(
    resolved: Resolved, folder: RunFolder, circuit: Circuit, cells: Sequence[Cell], *, engine: Engine, prepared: Prepared,
    states: int,
) -> dict[str, Any]:
    """What summary.json says of the sets, or why they were not evaluated."""
    controls, seed = resolved.config.controls, resolved.config.seeds[0]
    drawn = draw(circuit.members, circuit.layers, controls.draws, seed)
    every = list(dict.fromkeys([circuit.members, *(one for sets in drawn.values() for one in sets)]))
    variants = [together([cells[place] for place in places]) for places in every]
    examples: list[int] | None = list(range(len(prepared.tokens)))
    if controls.random_sets == AUTO:
        examples = affordable(
            [pair.template for pair in prepared.condition.pairs], seed,
            lambda some: engine.plan([prepared.tokens[b] for b in some], variants).states, states / PART,
        )
    if examples is None:
        return {"notes": [f"{len(every)} sets on few examples would cost more than a tenth of the run; {HOW}"]}
    found, level, computed = _changes(resolved, folder, engine, [prepared.tokens[b] for b in examples], variants)
    if not np.isfinite(found).all():
        return {"notes": ["logits of heads that are changed together are not finite"]}
    damage = dict(zip(every, np.abs(found), strict=True))
    own = float(damage[circuit.members])
    return {
        "n": len(examples), "states": computed, "damage": own,
        **{null: compared(own, np.array([damage[one] for one in sets]), level) for null, sets in drawn.items()},
    }


def _changes(
    resolved: Resolved, folder: RunFolder, engine: Engine, pairs: Sequence[TokenPair], variants: Sequence[Variant]
) -> tuple[np.ndarray[Any, Any], float, int]:
    """The mean change that each variant makes by the metric of labels; the level of the unmodified run; states computed."""
    found = evaluated(resolved, folder, engine, pairs, variants, what="random sets", unit=" sets")
    unmodified = found.baselines[variants[0].target][:, 0]
    return (found.values[:, :, 0] - unmodified).mean(axis=1), float(unmodified.mean()), found.states
