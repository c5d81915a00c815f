"""The verify slice: repeat some examples of a run with the reference engine on another device or dtype.

On a machine without an accelerator it is still an independent check: other code computes the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from tinylab.config.groups import LAST, STRATIFIED, VerifySliceConfig
from tinylab.effects.impact import Impact, assemble
from tinylab.effects.strength import Side, compare, top_k_agreement
from tinylab.errors import OutputError
from tinylab.measures.metrics import METRICS, Scorer, scored
from tinylab.models.device import check_dtype, resolve_device
from tinylab.models.loading import kept_model
from tinylab.records.checking import read_document, write_document
from tinylab.records.documents import Verify
from tinylab.records.identity import Resolved
from tinylab.records.manifest import RunFolder, describe
from tinylab.records.renewing import put_in_place, renewing
from tinylab.schema import Config
from tinylab.statistics.strata import shares, templates
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import prepare

TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest accepted difference of one example's metric, by the coarser of the two dtypes."""
log = logging.getLogger(__name__)


def filled_in(asked: VerifySliceConfig, config: Config) -> VerifySliceConfig:
    """The slice's settings with defaults in place of what is null.

    Raises:
        DeviceError: the device is not there, or lacks the dtype.
    """
    dtype = asked.dtype or config.model.dtype
    device = resolve_device(asked.device or "cpu")
    check_dtype(device, dtype)
    replace(config.model, dtype=dtype)
    coarser = max(dtype, config.model.dtype, key=lambda name: TOLERANCES[name])
    return VerifySliceConfig(
        device=device,
        n_examples=asked.n_examples or 20,
        sample=asked.sample or LAST,
        dtype=dtype,
        tolerance=TOLERANCES[coarser] if asked.tolerance is None else asked.tolerance,
        strict=bool(asked.strict),
    )


def add_verify_slice(resolved: Resolved, folder: RunFolder) -> str:
    """Verify a finished run's slice, unless it was already with the same settings; returns the verdict.

    Writes `verify.json` and puts it, with the verdict, into the manifest. A failed verdict is a loud warning.
    """
    config = resolved.config
    asked = filled_in(config.verify_slice, config)
    settings = asdict(asked)
    manifest = folder.read()
    assert manifest is not None
    before = {"sample": LAST, **(manifest.get("verify_slice") or {}).get("settings", {})}
    if not config.overwrite and before == settings and _covers(folder, manifest, config):
        log.info("the verify slice of run %s is already there, reusing it", resolved.run_id)
        return str(manifest["verify_slice"]["verdict"])
    try:
        found = _verify(resolved, asked, folder, manifest)
    except BaseException as error:
        folder.write({**manifest, "verify_slice": {"settings": settings, "verdict": "error", "error": describe(error)}})
        raise
    with renewing(folder) as new:
        write_document(Verify, new.file("verify"), found)
        put_in_place(folder, {**manifest, "verify_slice": {"settings": settings, "verdict": found["verdict"]}})
    if found["verdict"] == "fail":
        worst = max(found["judged"], key=lambda name: found["metrics"][name]["max_abs_diff"])
        log.warning("VERIFY FAILED: %s differs by %.3g from the reference on %s (tolerance %.3g); do not trust these numbers "
                    "before you know why, see %s", worst, found["metrics"][worst]["max_abs_diff"], found["device_verify"],
                    found["tolerance"], folder.file("verify"))
    return str(found["verdict"])


def _covers(folder: RunFolder, manifest: dict[str, Any], config: Config) -> bool:
    """Whether a verify slice is there as it was written, and is of every metric that is asked for."""
    file = folder.file("verify")
    if not file.is_file():
        return False
    try:
        there = read_document(Verify, file)
        fault = folder.fault(manifest, "verify")
    except OutputError as error:
        fault = str(error).rstrip(".")
    if fault is not None:
        log.warning("%s: verifying again", fault)
        return False
    return set(config.metric_names) <= set(there["metrics"])


def _verify(resolved: Resolved, asked: VerifySliceConfig, folder: RunFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    from tinylab.engine.reference import ReferenceEngine
    from tinylab.engine.screen import screened

    config = resolved.config
    assert asked.device is not None and asked.dtype is not None and asked.n_examples is not None and asked.sample is not None
    elsewhere = asked.device != manifest["provenance"]["device"]  # where the limits of the run's devices say nothing
    limits = None if elsewhere else config.model.max_memory
    model = kept_model(replace(config.model, dtype=asked.dtype, max_memory=limits), asked.device, resolved.model)
    prepared = screened(prepare(config, load_condition(config.condition), model), config.battery, model,
                        manifest["provenance"].get("screen"))
    names = [pair.template for pair in prepared.condition.pairs]
    some = slice_of(names, asked.n_examples, asked.sample)
    seen = _tell_templates(names, some, asked)
    places = [v for v, cell in enumerate(prepared.cells) if cell.control == "none"]
    real, lacking = [prepared.cells[v] for v in places], (prepared.lacking | prepared.spared)[np.ix_(places, some)]
    computed = scored(config.metric_names, config.condition.answer)
    evaluation = ReferenceEngine(model).evaluate(
        [prepared.tokens[b] for b in some], [cell.variant for cell in real], Scorer(computed)
    )
    pairs = [prepared.condition.pairs[b] for b in some]
    every = dict.fromkeys(config.seeds, list(range(len(some))))
    verified = assemble(config.battery, real, pairs, every, evaluation, computed=computed, wanted=config.metric_names,
                        lacking=lacking)
    main = _main_side(folder, verified)
    metrics = {name: compare(main[name], _verify_side(verified, name)) for name in verified.values}
    for entry in metrics.values():
        entry["missing"] -= int(lacking.sum())  # numbers that are nowhere to be
    judged = [name for name in metrics if METRICS[name].judged] or list(metrics)
    complete = all(entry["missing"] == 0 for name, entry in metrics.items() if not METRICS[name].may_be_undefined)
    good = complete and all(metrics[name]["max_abs_diff"] <= (asked.tolerance or 0.0) for name in judged)
    ranked = config.labelled if config.labelled in main else next(iter(main))
    engine, k = str(manifest["provenance"]["engine"]), min(config.invariants.k, max(1, len(real) // 2))
    if (engine, manifest["provenance"]["device"]) == (ReferenceEngine.name, asked.device) and asked.dtype == config.model.dtype:
        log.warning("the run itself used the reference engine on %s in %s: this slice repeats it and checks nothing else",
                    asked.device, asked.dtype)
    return {
        "device_main": manifest["provenance"]["device"],
        "device_verify": asked.device,
        "dtype_main": config.model.dtype,
        "dtype_verify": asked.dtype,
        "engine_main": engine,
        "engine_verify": ReferenceEngine.name,
        "n_examples": len(some),
        "sample": asked.sample,
        "templates": seen,
        "n_seeds": len(config.seeds),
        "metrics": metrics,
        "top_k": k,
        "top_k_agreement": top_k_agreement(main[ranked], _verify_side(verified, ranked), k),
        "tolerance": asked.tolerance,
        "judged": judged,
        "verdict": "pass" if good else "fail",
    }


def slice_of(names: Sequence[str | None], n: int, sample: str) -> list[int]:
    """Which of a run's examples are repeated, in corpus order: the last n, or as many in all, the last ones of each template.

    Args:
        names: of the examples' templates.
        n: how many; all where there are not more.
        sample: `last` or `stratified`.
    """
    if sample == LAST:
        return list(range(len(names)))[-n:]
    strata = templates(names)
    counts = shares(strata.sizes.tolist(), min(n, len(names)))
    return sorted(int(b) for own, count in zip(strata.each, counts, strict=True) for b in own[len(own) - count :])


def _tell_templates(names: Sequence[str | None], some: Sequence[int], asked: VerifySliceConfig) -> int:
    """How many templates a slice sees, 0 where they are not named; a warning where others would tell more."""
    if None in names:
        return 0
    seen, there = len({names[b] for b in some}), len(set(names))
    if asked.sample == LAST and seen < min(there, len(some)):
        log.warning("the verify slice sees %d of %d templates; verify_slice.sample=%s takes some of %s", seen, there, STRATIFIED,
                    "each" if there <= len(some) else f"{len(some)} of them")
    return seen


def _verify_side(verified: Impact, metric: str) -> Side:
    return Side(verified.values[metric], verified.unmodified[verified.battery.target][metric])


def _main_side(folder: RunFolder, verified: Impact) -> dict[str, Side]:
    """The run's own numbers of the slice, read from its per_example table, by metric."""
    table = pd.read_parquet(folder.file("per_example"))
    keys = list(verified.battery.table.keys)
    table = table[table["control"] == "none"]
    if any(cell.draw is not None for cell in verified.cells):
        keys += ["seed", "draw"]
    table = table.drop_duplicates([*keys, "example", "metric"])
    cells = {tuple({**cell.key, "seed": cell.seed, "draw": cell.draw}[key] for key in keys): v
             for v, cell in enumerate(verified.cells)}
    examples = {pair.row: b for b, pair in enumerate(verified.pairs)}
    shape = (len(cells), len(examples))
    found = {name: Side(np.full(shape, np.nan), np.full(shape[1], np.nan)) for name in verified.values}
    kept = table[table["example"].isin(list(examples)) & table["metric"].isin(list(found))]  # a run may have further metrics
    for metric, rows in kept.groupby("metric"):
        v = [cells[key] for key in rows[keys].itertuples(index=False, name=None)]
        b = [examples[row] for row in rows["example"]]
        found[str(metric)].values[v, b] = rows["value"]
        found[str(metric)].baseline[b] = rows["baseline"]
    return found
