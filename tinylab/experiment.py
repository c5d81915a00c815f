"""One run, from its config to its folder. `run_experiment` is the whole flow, in reading order."""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from tqdm import tqdm

from tinylab import report
from tinylab.changes import since_earlier_run
from tinylab.checkpoint import Checkpoint
from tinylab.conditions import corpus_sha256, load_condition
from tinylab.engine.interventions import Engine
from tinylab.errors import OutputError, TinylabError, VerifyFailed
from tinylab.identity import RESULTS_VERSION, battery_content, battery_settings, digest
from tinylab.impact import Impact, assemble
from tinylab.imports import large_import
from tinylab.manifest import RunFolder, git_state, now, package_versions, peak_memory_bytes
from tinylab.metrics import Scorer, with_logit_diff
from tinylab.models import CausalModel, kept_model, resolve_device
from tinylab.plots import heatmap
from tinylab.preparation import Prepared, prepare
from tinylab.records.checking import write_document
from tinylab.records.documents import RunSummary
from tinylab.schema import Config
from tinylab.storage import read_json, write_table, write_text
from tinylab.tables import impact_table, per_example_table
from tinylab.verify import add_verify_slice, filled_in
from tinylab.weights import identify

log = logging.getLogger(__name__)


def run_experiment(config: Config, folder: RunFolder, run_id: str, threads: int) -> None:
    """Run a battery on a condition, or reuse the finished run that is already there.

    Args:
        config: the checked config.
        folder: where the run's files go.
        run_id: the run's identity.
        threads: torch's threads in this process.

    Raises:
        TinylabError: see `tinylab.errors`.
    """
    if config.verify_slice.asked:
        filled_in(config.verify_slice, config)  # a device that is not there is told before anything is computed
    finished = None if config.overwrite else folder.complete(run_id)
    if finished is not None and _still_the_same(config, finished):
        if "attempt_failed" in finished:  # of an overwrite that this command does not ask for
            finished = {key: value for key, value in finished.items() if key != "attempt_failed"}
            folder.write(finished)
        log.info("run %s is already complete, reusing %s (overwrite=true computes it again)", run_id, folder.path)
        if config.plots and not folder.file("heatmap").is_file():
            _draw(folder, finished, config)
            folder.write(finished)
    else:
        _compute(config, folder, run_id, threads)
    if config.verify_slice.asked:
        set_threads(threads)
    verdict = add_verify_slice(config, folder, run_id) if config.verify_slice.asked else None
    report.print_run(folder)
    if verdict == "fail" and config.verify_slice.strict:
        raise VerifyFailed(f"the verify slice of {folder.path} disagrees with the run and verify_slice.strict=true; "
                           f"see {folder.file('verify')}.")


def _compute(config: Config, folder: RunFolder, run_id: str, threads: int) -> None:
    """Compute a run and write its files; the manifest says complete only when all of them are there."""
    began = time.monotonic()
    before = folder.read() or {}
    if before.get("status") == "complete" and before.get("run_id") != run_id:
        raise OutputError(f"{folder.path}: holds the finished run {before.get('run_id')}, another one than this ({run_id}); "
                          "choose another folder.")
    condition = load_condition(config.condition)
    if (change := since_earlier_run(config)) is not None:
        log.warning("%s", change)
    identify(config.model)  # what cannot be found is told before torch is imported
    with large_import("transformers"):
        from tinylab.engine.biases import biases_for, convention
        from tinylab.engine.choose import choose_engine

    set_threads(threads)
    device = resolve_device(config.device.type)
    if device == "mps":
        log.warning("device=mps has been seen to get signs wrong; add +verify_slice.device=cpu to check these numbers")
    model = kept_model(config.model, device)
    rows = len(condition.pairs) + sum(condition.dropped.values())
    prepared = prepare(config, condition, model)
    if prepared.condition.dropped:
        told = ", ".join(f"{reason}: {count}" for reason, count in prepared.condition.dropped.items())
        log.warning("%d of %d rows dropped (%s)", sum(prepared.condition.dropped.values()), rows, told)
    variants = [cell.variant for cell in prepared.cells]
    value_bias = convention(biases_for(model, variants))
    choice = choose_engine(model, config.engine, prepared.tokens)
    prediction = choice.engine.plan(prepared.tokens, variants)
    log.info("%s engine: %s", choice.engine.name, prediction.sentence())
    started = _started(config, run_id)
    folder.tidy()
    if folder.complete(run_id) is None:
        folder.write(started)
    engine_began = time.monotonic()
    checkpoint = Checkpoint(folder.checkpoint, {
        "run_id": run_id, "threads": threads, "engine": choice.engine.name, "device": device,
        "forwards": prediction.forwards, "states": prediction.states, "packages": package_versions(),
    })
    if config.overwrite:
        checkpoint.discard()
    impact, forwards, states = _evaluate(config, prepared, choice.engine, checkpoint)
    engine_seconds = time.monotonic() - engine_began
    _check_finite(impact, config)
    folder.write(started)  # only now is a finished run, if there is one, overwritten
    _write(config, folder, run_id, prepared, impact)
    folder.write({
        **started,
        "status": "complete",
        "provenance": {
            **_provenance(model, prepared, device),
            "value_bias": value_bias,
            "config_digest": digest(_plain(config)),
            "results_version": RESULTS_VERSION,
            "dtype": config.model.dtype,
            "engine": choice.engine.name,
            "engine_fallback_reason": choice.reason,
            "self_check_max_difference": choice.max_difference,
            "seeds": list(config.seeds),
            "forwards": forwards,
            "states": states,
            "wall_seconds": round(time.monotonic() - began, 3),
            "engine_seconds": round(engine_seconds, 3),
            "peak_memory_bytes": peak_memory_bytes(),
            "started": started["started"],
            "finished": now(),
        },
    })
    checkpoint.discard()


def set_threads(threads: int) -> None:
    """Give torch its threads in this process."""
    import torch

    torch.set_num_threads(threads)


def _check_finite(impact: Impact, config: Config) -> None:
    """Refuse to report numbers that are none.

    Raises:
        TinylabError: a logit overflowed or was undefined.
    """
    numbers = [values for name, values in impact.values.items() if name != "recovery"]
    numbers += [values for run in impact.unmodified.values() for name, values in run.items() if name != "recovery"]
    broken = sum(int((~np.isfinite(values)).sum()) for values in numbers)
    if broken:
        raise TinylabError(f"{broken} numbers are not finite: the model overflows in {config.model.dtype} on "
                           f"{config.condition.tag}; "
                           "use model.dtype=float32 (or bfloat16, or float64), nothing was written.")


def _started(config: Config, run_id: str) -> dict[str, Any]:
    """What the manifest says from the first moment on."""
    battery = config.battery
    return {
        "status": "running",
        "run_id": run_id,
        "run_name": config.run_name,
        "condition": config.condition.tag,
        "battery": battery_content(config),
        "table": battery.table,
        "direction": "none" if battery.source is None else f"{battery.source}->{battery.target}",
        "target_run": battery.target,
        "positions": str(list(battery.acts_at)) if isinstance(battery.acts_at, tuple) else battery.acts_at,
        "model": config.model.name or config.model.path,
        "process": {"host": socket.gethostname(), "pid": os.getpid()},
        "started": now(),
    }


def _evaluate(config: Config, prepared: Prepared, engine: Engine, checkpoint: Checkpoint) -> tuple[Impact, int, int]:
    """Evaluate every cell on every example, with a progress bar; also forwards and states computed."""
    computed = with_logit_diff(config.metric_names)
    examples = len(prepared.tokens)
    layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} cells, {rate_fmt}, {remaining} left"
    title = f"{config.battery.name} on {config.condition.tag}"
    with tqdm(total=len(prepared.cells), desc=title, unit=" cells", bar_format=layout, disable=None) as bar:
        evaluation = engine.evaluate(
            prepared.tokens,
            [cell.variant for cell in prepared.cells],
            Scorer(computed),
            lambda done: bar.update(done / examples),
            keeper=checkpoint,
        )
    impact = assemble(
        config.battery, prepared.cells, prepared.condition.pairs, prepared.seeds, evaluation,
        computed=computed, wanted=config.metric_names,
    )
    return impact, evaluation.forwards, evaluation.states


def _write(config: Config, folder: RunFolder, run_id: str, prepared: Prepared, impact: Impact) -> None:
    """Write config, tables, summary and picture."""
    table = config.battery.table
    folder.file("verify").unlink(missing_ok=True)  # it belonged to the numbers that are being replaced
    write_text(folder.file("config"), OmegaConf.to_yaml(OmegaConf.create(_plain(config))))
    write_table(folder.file(table), impact_table(table, run_id, impact.rows()))
    write_table(
        folder.file("per_example"),
        per_example_table(table, run_id, impact.cells, impact.pairs, seeds=prepared.seeds, metrics=impact.per_example()),
    )
    started = _started(config, run_id)
    told = {key: started[key] for key in ("run_id", "condition", "battery", "direction", "target_run", "positions", "model")}
    write_document(RunSummary, folder.file("summary"), {**told, "seeds": list(config.seeds), **impact.summary()})
    folder.file("heatmap").unlink(missing_ok=True)
    if config.plots:
        _draw(folder, started, config)


def _draw(folder: RunFolder, manifest: dict[str, Any], config: Config) -> None:
    """Draw the heat map of the tables that are in the folder."""
    direction = "" if manifest["direction"] == "none" else f", {manifest['direction']} at {manifest['positions']}"
    baselines = read_json(folder.file("summary"))["baselines"][manifest["target_run"]]
    heatmap(
        folder.file("heatmap"),
        pq.read_table(folder.file(manifest["table"])),
        baselines,
        title=f"{config.battery.name} on {config.condition.tag}, {manifest['model']}{direction}",
        patched=manifest["direction"] != "none",
    )


def _provenance(model: CausalModel, prepared: Prepared, device: str) -> dict[str, Any]:
    """Where the numbers come from: model, corpus, software."""
    import torch

    return {
        "model": asdict(model.identity),
        "architecture": type(model.model).__name__,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "tokenizer": model.describe_tokenizer(),
        "bos": {"add_bos": model.add_bos, "token_id": model.bos},
        "corpus": {
            "path": prepared.condition.path,
            "sha256": prepared.condition.sha256,
            "kept": prepared.kept,
            "used": len(prepared.condition.pairs),
            "dropped": prepared.condition.dropped,
        },
        "device": device,
        "threads": torch.get_num_threads(),
        "attention": model.model.config._attn_implementation,
        "packages": package_versions(),
        "git": git_state(),
    }


def _plain(config: Config) -> dict[str, Any]:
    """The resolved config as plain data."""
    return {**asdict(config), "battery": battery_settings(config)}


def _still_the_same(config: Config, manifest: dict[str, Any]) -> bool:
    """Whether the corpus and the weights of a finished run are still those in its manifest."""
    provenance = manifest["provenance"]
    identity = identify(config.model)
    same_model = (identity.revision, identity.digest) == (provenance["model"]["revision"], provenance["model"]["digest"])
    same_corpus = corpus_sha256(config.condition.path) == provenance["corpus"]["sha256"]
    if not (same_model and same_corpus):
        log.warning("run %s is complete, but its %s changed since: computing it again", manifest["run_id"],
                    "corpus" if same_model else "weights")
    return same_model and same_corpus
