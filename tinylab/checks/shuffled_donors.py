"""Shuffled donors (`tinylab.effects.shuffled_donors`), evaluated for a finished run of patching as a verify slice is.

The run is complete and on disk before: what interrupts this loses nothing of it, and the same command does it then. A finished
run that lacks it gets it added. Donors are among the examples themselves, so that their source runs are there in any case.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinylab.checks.beside import Ready, evaluated
from tinylab.config.groups import AUTO
from tinylab.effects.measured import Measured
from tinylab.effects.random_sets import PART, most_of
from tinylab.effects.shuffled_donors import MOST, Donations, Examples, survival
from tinylab.engine.base import Engine
from tinylab.interventions.components import TableKind
from tinylab.interventions.sources import Donor, Own
from tinylab.interventions.variants import Variant
from tinylab.records.checking import write_document
from tinylab.records.documents import RunSummary
from tinylab.records.identity import Resolved
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import LATER, read_per_example
from tinylab.records.renewing import put_in_place, renewing
from tinylab.records.storage import read_json
from tinylab.statistics.strata import Groups
from tinylab.task.preparation import Prepared
from tinylab.task.references import lengths_to_align
from tinylab.task.tokens import TokenPair

HOW = "controls.shuffled_donors=true computes them anyway"
DONOR = Donor(0)
"""An example has one."""
log = logging.getLogger(__name__)


def add_shuffled_donors(resolved: Resolved, folder: RunFolder, ready: Ready) -> None:
    """Make the patches that matter from other examples too, unless it was done; write what survives into summary.json.

    Only batteries whose activations come from a run of the pair have something to shuffle.

    Args:
        resolved: the run.
        folder: where it lies, finished.
        ready: the run's engine and prompts.
    """
    asked, kind = resolved.config.controls.shuffled_donors, resolved.config.battery.table
    if resolved.config.battery.source is None:
        return
    if asked is False:
        log.info("controls.shuffled_donors=false: no shuffled donors; true patches the %s that matter from other examples too",
                 kind.plural)
        return
    manifest, summary = folder.read(), read_json(folder.file("summary"))
    assert manifest is not None
    if (effects := summary.get("effects")) is None:
        return  # of a version that told less
    table = read_per_example(folder, manifest)
    if any(name not in table.column_names for name in LATER):
        return
    candidates = [{name: one[name] for name in kind.keys} for one in effects["matter"][:MOST]]
    told: dict[str, Any] = {
        "asked": str(asked).lower(), "seed": resolved.config.seeds[0], "candidates": candidates, "n": None,
        "of": summary["baselines"][manifest["target_run"]][resolved.config.labelled]["n"],
        **dict.fromkeys(("alone", "templates", "same_answer", "states", "survives", "ci95", "median")),
        "cells": [], "notes": _nothing_to_patch(effects, kind.plural),
    }
    if _is_there(summary.get("shuffled_donors"), told):
        return
    if not told["notes"]:
        engine, prepared = ready()
        variants = _from_donors(candidates, prepared, kind)
        measured = Measured.read(table, kind, resolved.config.labelled)
        told |= _evaluated(resolved, folder, measured, candidates, variants, engine=engine, prepared=prepared,
                           states=manifest["provenance"]["states"])
    for note in told["notes"]:
        log.info("no shuffled donors: %s", note)
    with renewing(folder) as new:
        write_document(RunSummary, new.file("summary"), {**summary, "shuffled_donors": told})
        put_in_place(folder, manifest)


def _nothing_to_patch(effects: dict[str, Any], plural: str) -> list[str]:
    """Why there are no cells to be tried."""
    if effects["counts"] is None:
        return ["no labels say which matter"]
    return [] if effects["matter"] else [f"none of the {effects['cells']} {plural} matters"]


def _is_there(before: dict[str, Any] | None, told: dict[str, Any]) -> bool:
    """Whether a run has this, or the same of more examples or cells."""
    if before is None or any(before.get(key) != told[key] for key in ("seed", "candidates")):
        return False
    if before["asked"] == told["asked"]:
        return True
    whole = before["n"] is not None and before["n"] + before["alone"] == before["of"]
    return before["n"] is not None and (told["asked"] == AUTO or (whole and len(before["cells"]) == len(before["candidates"])))


def _from_donors(candidates: Sequence[dict[str, Any]], prepared: Prepared, kind: TableKind) -> list[Variant]:
    """The cells' variants with a donor's run in place of the own."""
    keyed = {tuple(cell.key[name] for name in kind.keys): cell.variant for cell in prepared.cells
             if cell.control == "none" and isinstance(cell.variant.source, Own)}
    return [replace(keyed[tuple(one.values())], source=DONOR) for one in candidates]


def _evaluated(
    resolved: Resolved, folder: RunFolder, measured: Measured, candidates: Sequence[dict[str, Any]], variants: Sequence[Variant],
    *, engine: Engine, prepared: Prepared, states: int,
) -> dict[str, Any]:
    """What summary.json says of the donors, or why they were not evaluated."""
    seed, examples = resolved.config.seeds[0], _examples(resolved, prepared)
    chosen: Donations | None = examples.deranged(range(len(prepared.tokens)), seed)
    assert chosen is not None
    alone = len(prepared.tokens) - len(chosen.examples)
    if not chosen.examples:
        return {"alone": alone, "notes": ["no two examples are of one template, and of one length where positions align"]}
    if resolved.config.controls.shuffled_donors == AUTO:
        chosen, variants = _affordable(resolved, prepared, examples, variants, engine=engine, most=states / PART)
    if chosen is None:
        return {"alone": alone, "notes": [f"one cell on few examples would cost more than a tenth of the run; {HOW}"]}
    found = evaluated(resolved, folder, engine, _with_donors(resolved, prepared, chosen), variants, what="shuffled donors",
                      unit=" cells")
    shuffled = found.values[:, :, 0] - found.baselines[variants[0].target][:, 0]
    if not np.isfinite(shuffled).all():
        return {"alone": alone, "notes": ["logits of patches from other examples are not finite"]}
    some = measured.where(np.isin(np.arange(len(prepared.tokens)), chosen.examples))
    places = {key: place for place, key in enumerate(some.keys.itertuples(index=False, name=None))}
    cells = candidates[: len(variants)]
    told = survival(shuffled, some.change[[places[tuple(one.values())] for one in cells]], some.templates, some.items)
    of_cells = told.pop("of_cells")
    return {
        "n": len(chosen.examples), "alone": alone, "templates": 0 if None in some.names else len(some.templates.sizes),
        "same_answer": chosen.same_answer, "states": found.states, **told,
        "cells": [{"cell": cell, **one} for cell, one in zip(cells, of_cells, strict=True)],
    }


def _examples(resolved: Resolved, prepared: Prepared) -> Examples:
    """Who may be whose donor."""
    battery, tokens = resolved.config.battery, prepared.tokens
    assert battery.source is not None
    run = battery.source.run
    names = [pair.template for pair in prepared.condition.pairs]
    templates = ["" for _ in names] if None in names else names
    return Examples(
        Groups.of([*zip(templates, lengths_to_align(tokens, battery).tolist(), strict=True)]),
        [pair.prompt(run).tokens for pair in tokens],
        [pair.target if run == "clean" else pair.foil for pair in tokens],
    )


def _with_donors(resolved: Resolved, prepared: Prepared, chosen: Donations) -> list[TokenPair]:
    """The pairs of some examples, each with its donor's source run."""
    source, tokens = resolved.config.battery.source, prepared.tokens
    assert source is not None
    return [replace(tokens[b], donors=(tokens[donor].prompt(source.run),))
            for b, donor in zip(chosen.examples, chosen.donors, strict=True)]


def _affordable(
    resolved: Resolved, prepared: Prepared, examples: Examples, variants: Sequence[Variant], *, engine: Engine, most: float
) -> tuple[Donations | None, Sequence[Variant]]:
    """As many examples as cost no more than allowed, None for too few, and the cells: fewer where all leave too few examples."""
    seed = resolved.config.seeds[0]
    order, least = examples.in_order(seed)

    def cost(some: list[int]) -> int:
        pairs = _with_donors(resolved, prepared, examples.deranged(some, seed))
        return engine.plan(pairs, tried).states if pairs else 0

    tried = variants
    while True:
        if (found := most_of(order, least, cost, most)) is not None and (chosen := examples.deranged(found, seed)).examples:
            return chosen, tried
        if len(tried) == 1:
            return None, tried
        tried = tried[: len(tried) // 2]
