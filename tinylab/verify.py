"""The verify slice: repeat the last examples of a run with the reference engine on another device or dtype.

On a machine without an accelerator it is still an independent check: other code computes the same numbers.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from tinylab.conditions import load_condition
from tinylab.impact import Impact, assemble
from tinylab.manifest import RunFolder, describe
from tinylab.metrics import FloatArray, Scorer, with_logit_diff
from tinylab.models import check_dtype, load_model, resolve_device
from tinylab.schema import Config, VerifySliceConfig
from tinylab.storage import write_json
from tinylab.tables import KEYS

TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest accepted difference of one example's metric, by the coarser of the two dtypes."""
JUDGED = ("logit_diff", "kl_div", "p_drop")
"""Metrics that the verdict looks at: a flip is a jump at a tie, and recovery is logit_diff divided."""
log = logging.getLogger(__name__)


def filled_in(asked: VerifySliceConfig, config: Config) -> VerifySliceConfig:
    """The slice's settings with defaults in place of what is null.

    Raises:
        DeviceError: the device is not there, or lacks the dtype.
    """
    dtype = asked.dtype or config.model.dtype
    device = resolve_device(asked.device or "cpu")
    check_dtype(device, dtype)
    coarser = max(dtype, config.model.dtype, key=lambda name: TOLERANCES[name])
    return VerifySliceConfig(
        device=device,
        n_examples=asked.n_examples or 20,
        dtype=dtype,
        tolerance=TOLERANCES[coarser] if asked.tolerance is None else asked.tolerance,
        strict=bool(asked.strict),
    )


def add_verify_slice(config: Config, folder: RunFolder, run_id: str) -> str:
    """Verify a finished run's slice, unless it was already with the same settings; returns the verdict.

    Writes `verify.json` and puts it, with the verdict, into the manifest. A failed verdict is a loud warning.
    """
    settings = asdict(filled_in(config.verify_slice, config))
    manifest = folder.read()
    assert manifest is not None
    if not config.overwrite and manifest.get("verify_slice", {}).get("settings") == settings and folder.file("verify").is_file():
        log.info("the verify slice of run %s is already there, reusing it", run_id)
        return str(manifest["verify_slice"]["verdict"])
    try:
        found = _verify(config, filled_in(config.verify_slice, config), folder, manifest["provenance"]["device"])
    except BaseException as error:
        folder.write({**manifest, "verify_slice": {"settings": settings, "verdict": "error", "error": describe(error)}})
        raise
    write_json(folder.file("verify"), found)
    folder.write({**manifest, "verify_slice": {"settings": settings, "verdict": found["verdict"]}})
    if found["verdict"] == "fail":
        worst = max(found["judged"], key=lambda name: found["metrics"][name]["max_abs_diff"])
        log.warning("VERIFY FAILED: %s differs by %.3g from the reference on %s (tolerance %.3g); do not trust these numbers "
                    "before you know why, see %s", worst, found["metrics"][worst]["max_abs_diff"], found["device_verify"],
                    found["tolerance"], folder.file("verify"))
    return str(found["verdict"])


def _verify(config: Config, asked: VerifySliceConfig, folder: RunFolder, main_device: str) -> dict[str, Any]:
    from tinylab.engine.reference import ReferenceEngine
    from tinylab.experiment import prepare

    assert asked.device is not None and asked.dtype is not None and asked.n_examples is not None
    model = load_model(replace(config.model, dtype=asked.dtype), asked.device)
    prepared = prepare(config, load_condition(config.condition), model)
    last = list(range(len(prepared.tokens)))[-asked.n_examples :]
    real = [cell for cell in prepared.cells if cell.control == "none"]
    computed = with_logit_diff(config.metric_names)
    evaluation = ReferenceEngine(model).evaluate(
        [prepared.tokens[b] for b in last], [cell.variant for cell in real], Scorer(computed)
    )
    pairs = [prepared.condition.pairs[b] for b in last]
    every = dict.fromkeys(config.seeds, list(range(len(last))))
    verified = assemble(config.battery, real, pairs, every, evaluation, computed=computed, wanted=config.metric_names)
    main = _main_side(folder, verified)
    metrics = {name: _compare(main[name], values, _baseline(verified, name)) for name, values in verified.values.items()}
    judged = [name for name in JUDGED if name in metrics] or list(metrics)
    good = all(metrics[name]["max_abs_diff"] <= (asked.tolerance or 0.0) for name in judged)
    return {
        "device_main": main_device,
        "device_verify": asked.device,
        "dtype_main": config.model.dtype,
        "dtype_verify": asked.dtype,
        "engine_verify": ReferenceEngine.name,
        "n_examples": len(last),
        "n_seeds": len(config.seeds),
        "metrics": metrics,
        "top_k_agreement": _top_k_agreement(config, main, verified),
        "tolerance": asked.tolerance,
        "judged": judged,
        "verdict": "pass" if good else "fail",
    }


def _main_side(folder: RunFolder, verified: Impact) -> dict[str, FloatArray]:
    """The run's own values of the slice, [cells, examples] by metric; NaN where it has none."""
    table = pd.read_parquet(folder.file("per_example"))
    keys = list(KEYS[verified.battery.table])
    table = table[table["control"] == "none"].drop_duplicates([*keys, "example", "metric"])
    cells = {tuple(cell.key[key] for key in keys): v for v, cell in enumerate(verified.cells)}
    examples = {pair.row: b for b, pair in enumerate(verified.pairs)}
    found = {name: np.full(values.shape, np.nan) for name, values in verified.values.items()}
    kept = table[table["example"].isin(list(examples))]
    for metric, rows in kept.groupby("metric"):
        v = [cells[key] for key in rows[keys].itertuples(index=False, name=None)]
        found[str(metric)][v, [examples[row] for row in rows["example"]]] = rows["value"]
    return found


def _baseline(verified: Impact, metric: str) -> FloatArray:
    return verified.unmodified[verified.battery.target][metric]


def _compare(main: FloatArray, verify: FloatArray, baseline: FloatArray) -> dict[str, Any]:
    """One metric on both sides; a sign flip is a cell whose change from the unmodified run has the other sign."""
    both = ~np.isnan(main) & ~np.isnan(verify)
    if not both.any():
        return {"main": None, "verify": None, "abs_diff": None, "max_abs_diff": 0.0, "sign_flips": 0}
    change = [np.nanmean(np.where(both, side, np.nan) - baseline, axis=1) for side in (main, verify)]
    difference = float(np.abs(main - verify)[both].max())
    flips = (np.sign(change[0]) * np.sign(change[1]) < 0) & (np.minimum(*np.abs(change)) > 1e-6)
    means = [float(side[both].mean()) for side in (main, verify)]
    return {
        "main": means[0],
        "verify": means[1],
        "abs_diff": abs(means[0] - means[1]),
        "max_abs_diff": difference,
        "sign_flips": int(flips.sum()),
    }


def _top_k_agreement(config: Config, main: dict[str, FloatArray], verified: Impact) -> float:
    """The fraction of the slice's k strongest cells that both sides name, by the first metric's change."""
    metric = "logit_diff" if "logit_diff" in main else next(iter(main))
    k = min(config.invariants.k, len(verified.cells))
    strongest = []
    for side in (main[metric], verified.values[metric]):
        change = np.nan_to_num(np.abs(np.nanmean(side - _baseline(verified, metric), axis=1)))
        strongest.append({int(v) for v in np.argsort(-change, kind="stable")[:k]})
    return len(strongest[0] & strongest[1]) / k
