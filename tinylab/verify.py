"""The verify slice: repeat the last examples of a run with the reference engine on another device or dtype.

On a machine without an accelerator it is still an independent check: other code computes the same numbers.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tinylab.conditions import load_condition
from tinylab.impact import Impact, assemble
from tinylab.manifest import RunFolder, describe
from tinylab.metrics import FloatArray, Scorer, with_logit_diff
from tinylab.models import check_dtype, kept_model, resolve_device
from tinylab.preparation import prepare
from tinylab.records.checking import write_document
from tinylab.records.documents import Verify
from tinylab.schema import Config, VerifySliceConfig
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
        found = _verify(config, filled_in(config.verify_slice, config), folder, manifest)
    except BaseException as error:
        folder.write({**manifest, "verify_slice": {"settings": settings, "verdict": "error", "error": describe(error)}})
        raise
    write_document(Verify, folder.file("verify"), found)
    folder.write({**manifest, "verify_slice": {"settings": settings, "verdict": found["verdict"]}})
    if found["verdict"] == "fail":
        worst = max(found["judged"], key=lambda name: found["metrics"][name]["max_abs_diff"])
        log.warning("VERIFY FAILED: %s differs by %.3g from the reference on %s (tolerance %.3g); do not trust these numbers "
                    "before you know why, see %s", worst, found["metrics"][worst]["max_abs_diff"], found["device_verify"],
                    found["tolerance"], folder.file("verify"))
    return str(found["verdict"])


def _verify(config: Config, asked: VerifySliceConfig, folder: RunFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    from tinylab.engine.reference import ReferenceEngine

    assert asked.device is not None and asked.dtype is not None and asked.n_examples is not None
    model = kept_model(replace(config.model, dtype=asked.dtype), asked.device)
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
    metrics = {name: _compare(main[name], _verify_side(verified, name)) for name in verified.values}
    judged = [name for name in JUDGED if name in metrics] or list(metrics)
    complete = all(entry["missing"] == 0 for name, entry in metrics.items() if name != "recovery")
    good = complete and all(metrics[name]["max_abs_diff"] <= (asked.tolerance or 0.0) for name in judged)
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
        "n_examples": len(last),
        "n_seeds": len(config.seeds),
        "metrics": metrics,
        "top_k": k,
        "top_k_agreement": _top_k_agreement(main, verified, k),
        "tolerance": asked.tolerance,
        "judged": judged,
        "verdict": "pass" if good else "fail",
    }


@dataclass(frozen=True)
class Side:
    """One metric on one side, NaN where it is undefined: values [cells, examples], unmodified run [examples]."""

    values: FloatArray
    baseline: FloatArray

    @property
    def change(self) -> FloatArray:
        """Each cell's mean change from the unmodified run, over the examples where it is defined."""
        defined = ~np.isnan(self.values)
        total = np.where(defined, self.values - self.baseline, 0.0).sum(axis=1)
        means: FloatArray = np.divide(total, defined.sum(axis=1), out=np.full(len(total), np.nan), where=defined.any(axis=1))
        return means


def _verify_side(verified: Impact, metric: str) -> Side:
    return Side(verified.values[metric], verified.unmodified[verified.battery.target][metric])


def _main_side(folder: RunFolder, verified: Impact) -> dict[str, Side]:
    """The run's own numbers of the slice, read from its per_example table, by metric."""
    table = pd.read_parquet(folder.file("per_example"))
    keys = list(KEYS[verified.battery.table])
    table = table[table["control"] == "none"].drop_duplicates([*keys, "example", "metric"])
    cells = {tuple(cell.key[key] for key in keys): v for v, cell in enumerate(verified.cells)}
    examples = {pair.row: b for b, pair in enumerate(verified.pairs)}
    shape = (len(cells), len(examples))
    found = {name: Side(np.full(shape, np.nan), np.full(shape[1], np.nan)) for name in verified.values}
    kept = table[table["example"].isin(list(examples))]
    for metric, rows in kept.groupby("metric"):
        v = [cells[key] for key in rows[keys].itertuples(index=False, name=None)]
        b = [examples[row] for row in rows["example"]]
        found[str(metric)].values[v, b] = rows["value"]
        found[str(metric)].baseline[b] = rows["baseline"]
    return found


def _compare(main: Side, verify: Side) -> dict[str, Any]:
    """One metric on both sides.

    A sign flip is a cell whose change from its own side's unmodified run has the other sign; `missing` counts the
    numbers that only one side has, or neither.
    """
    both = ~np.isnan(main.values) & ~np.isnan(verify.values)
    missing = int((~both).sum())
    if not both.any():
        return {"main": None, "verify": None, "abs_diff": None, "max_abs_diff": 0.0, "sign_flips": 0, "missing": missing}
    flips = (np.sign(main.change) * np.sign(verify.change) < 0) & (np.fmin(np.abs(main.change), np.abs(verify.change)) > 1e-6)
    means = [float(side.values[both].mean()) for side in (main, verify)]
    return {
        "main": means[0],
        "verify": means[1],
        "abs_diff": abs(means[0] - means[1]),
        "max_abs_diff": float(np.abs(main.values - verify.values)[both].max()),
        "sign_flips": int(flips.sum()),
        "missing": missing,
    }


def _top_k_agreement(main: dict[str, Side], verified: Impact, k: int) -> float:
    """The fraction of the slice's k strongest cells that both sides name, by the change of logit_diff or the first metric."""
    metric = "logit_diff" if "logit_diff" in main else next(iter(main))
    strongest = []
    for side in (main[metric], _verify_side(verified, metric)):
        order = np.argsort(-np.abs(side.change), kind="stable")  # NaN last
        strongest.append({int(v) for v in order[:k] if not np.isnan(side.change[v])})
    return len(strongest[0] & strongest[1]) / k
