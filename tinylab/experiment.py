"""One run, from its config to its folder. `run_experiment` is the whole flow, in reading order."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from tinylab.batteries.shams import SHAM
from tinylab.checks.random_sets import add_random_sets
from tinylab.checks.shams import sham_failed
from tinylab.checks.shuffled_donors import add_shuffled_donors
from tinylab.checks.verify import add_verify_slice, filled_in
from tinylab.computing import Computed, Ready, compute, get_ready
from tinylab.effects.conclusions import Settings, conclude
from tinylab.effects.noise import noise_of
from tinylab.effects.summary import summarise
from tinylab.effects.synergy import joint_tables
from tinylab.engine.base import Engine
from tinylab.errors import OutputError, VerifyFailed
from tinylab.interventions.components import TableKind
from tinylab.interventions.sources import RUNS
from tinylab.machine.threads import set_threads
from tinylab.measures.metrics import METRICS
from tinylab.records.adding import merged_summary, merged_table
from tinylab.records.changes import since_earlier_run
from tinylab.records.checking import write_document
from tinylab.records.documents import RunSummary
from tinylab.records.examples import examples_table
from tinylab.records.identity import Resolved, digest
from tinylab.records.manifest import RunFolder, started
from tinylab.records.provenance import now
from tinylab.records.reading import LATER, read_per_example
from tinylab.records.renewing import put_in_place, renewing, settle
from tinylab.records.storage import read_json, write_table, write_text
from tinylab.records.tables import impact_table, per_example_table
from tinylab.report.observers import run_ended
from tinylab.schema import Config
from tinylab.task.preparation import Prepared

log = logging.getLogger(__name__)


def run_experiment(resolved: Resolved, folder: RunFolder, *, alone: bool = True) -> None:
    """Run a battery on a condition, or reuse the finished run that is already there.

    Args:
        resolved: the checked config, and what it names.
        folder: where the run's files go.
        alone: whether its results are printed; those of a sweep's runs are printed together, when the last has ended.

    Raises:
        TinylabError: see `tinylab.errors`.
    """
    config = resolved.config
    if config.verify_slice.asked:
        filled_in(config.verify_slice, config)  # a device that is not there is reported before anything is computed
    settle(folder)
    folder.tidy()
    if (damaged := folder.set_aside()) is not None:
        log.warning("%s It is set aside as %s.damaged, and the run computed", damaged, folder.manifest.name)
    _compute(resolved, folder)
    verdict = None
    if config.verify_slice.asked:
        set_threads(resolved.threads)
        verdict = add_verify_slice(resolved, folder)
        _judge(config, folder)
    run_ended(folder, plots=config.plots, report=config.report, printed=alone, tracker=config.tracker)
    if verdict == "fail" and config.verify_slice.strict:
        raise VerifyFailed(f"the verify slice of {folder.path} disagrees with the run and verify_slice.strict=true; "
                           f"see {folder.file('verify')}.")


def _compute(resolved: Resolved, folder: RunFolder) -> None:
    """Everything that the run's own engine computes: its numbers, and the controls that go with what they say."""
    config = resolved.config
    finished = None if config.overwrite else _finished(resolved.run_id, folder)
    ready = None
    if finished is None:
        ready = _run(resolved, folder)
    elif lacking := [metric for metric in config.metric_names if metric not in finished["metrics"]]:
        ready = _add(resolved, folder, finished, lacking)
    else:
        _reuse(folder, finished)
        _tell_lacking_shams(config, folder)
    _judge(config, folder)
    if (said := sham_failed(read_json(folder.file("summary"))["controls"], config.model.dtype)) is not None:
        log.warning("%s", said)

    @cache
    def get() -> tuple[Engine, Prepared]:
        there = ready or get_ready(resolved if finished is None else _as_before(resolved, finished))
        return there.choice.engine, there.prepared

    add_random_sets(resolved, folder, get)
    add_shuffled_donors(resolved, folder, get)


def _finished(run_id: str, folder: RunFolder) -> dict[str, Any] | None:
    """The manifest of the run if it is finished; one whose files are not what it wrote is reported, and counts for nothing."""
    finished = folder.claimed(run_id)
    if finished is not None and (fault := folder.fault(finished)) is not None:
        log.warning("run %s was complete, but %s: computing it again", run_id, fault)
        return None
    return finished


def _reuse(folder: RunFolder, finished: dict[str, Any]) -> None:
    """Say that a finished run is reused."""
    log.info("run %s is already complete, reusing %s (overwrite=true computes it again)", finished["run_id"], folder.path)
    if "attempt_failed" in finished:  # of an overwrite that this command does not ask for
        folder.write({key: value for key, value in finished.items() if key != "attempt_failed"})


def _tell_lacking_shams(config: Config, folder: RunFolder) -> None:
    """Say how a finished run gets shams that it lacks: they are among its cells, which are not computed again."""
    if config.controls.sham is not True:
        return
    layer = config.battery.table.component[0]
    table = pq.read_table(folder.file("per_example"), columns=[layer, "control"])
    shams = pc.unique(table.filter(pc.equal(table["control"], SHAM))[layer])
    if len(shams) < len(layers := pc.unique(table.filter(pc.equal(table["control"], "none"))[layer])):
        log.info("controls.sham=true: the finished run has shams in %d of %d layers; overwrite=true computes it again with all",
                 len(shams), len(layers))


def _run(resolved: Resolved, folder: RunFolder) -> Ready:
    """Compute a run and write its files; the manifest says complete only when all of them are there."""
    config, run_id = resolved.config, resolved.run_id
    before = folder.read() or {}
    if before.get("status") == "complete" and before.get("run_id") != run_id:
        raise OutputError(f"{folder.path}: holds the finished run {before.get('run_id')}, another one than this ({run_id}); "
                          "choose another folder.")
    beginning = started(resolved)

    def begin() -> None:
        if folder.intact(run_id) is None:
            folder.write(beginning)

    computed = compute(resolved, folder, config.metric_names, begin, since_earlier_run(resolved))
    settings = _plain(resolved)
    tables, summary = _results(resolved, computed)
    tables["effects"], summary["effects"], judged = _effects(config, tables["per_example"], summary["controls"])
    tables |= joint_tables(tables["per_example"], config.battery.table)
    with renewing(folder) as new:  # a finished run, if there is one, stays until all files are there
        write_text(new.file("config"), OmegaConf.to_yaml(OmegaConf.create(settings)))
        for name, table in tables.items():
            write_table(new.file(name), table)
        write_document(RunSummary, new.file("summary"), summary)
        put_in_place(folder, {
            **beginning,
            "status": "complete",
            "judged": judged,
            "provenance": {
                **computed.provenance,
                "config_digest": digest(settings),
                "identity": resolved.identity,
                "started": beginning["started"],
                "finished": now(),
            },
        })
    folder.forget_attempt()
    return computed.ready


def _add(resolved: Resolved, folder: RunFolder, finished: dict[str, Any], lacking: list[str]) -> Ready:
    """Compute the metrics that a finished run lacks, and add them to its files; the numbers that are there stay."""
    log.info("run %s is already complete in %s; computing what it lacks: %s", resolved.run_id, folder.path, ", ".join(lacking))
    beginning = now()
    computed = compute(_as_before(resolved, finished), folder, lacking)
    order = list(dict.fromkeys([resolved.config.labelled, *METRICS, *finished["metrics"]]))
    tables, summary = _results(resolved, computed)
    provenance = finished["provenance"]
    kept = {key: value for key, value in finished.items() if key not in RunFolder.DRAWN}  # pictures of fewer numbers
    examples = tables.pop("examples")
    merged = {"examples": examples} if "examples" not in finished else {}
    merged |= {name: merged_table(pq.read_table(folder.file(name)), table, resolved.config.seeds, order)
              for name, table in tables.items()}
    summary = merged_summary(read_json(folder.file("summary")), summary, order)
    verified = read_json(folder.file("verify"))["metrics"] if folder.file("verify").is_file() else {}
    per_example, controls = merged["per_example"], summary["controls"]
    merged["effects"], summary["effects"], judged = _effects(resolved.config, per_example, controls, verified)
    merged |= joint_tables(per_example, resolved.config.battery.table)
    with renewing(folder) as new:
        for name, table in merged.items():
            write_table(new.file(name), table)
        write_document(RunSummary, new.file("summary"), summary)
        addition = {"metrics": lacking, "started": beginning, "finished": now(), **computed.provenance}
        put_in_place(folder, {
            **kept,
            "judged": judged,
            "metrics": [name for name in order if name in {*finished["metrics"], *lacking}],
            "provenance": {**provenance, "added": [*provenance.get("added", []), addition]},
        })
    folder.forget_attempt()
    return computed.ready


def _judge(config: Config, folder: RunFolder) -> None:
    """Work effects out again where a finished run was judged by other settings or statistics, or a slice found more noise."""
    manifest, summary = folder.read(), read_json(folder.file("summary"))
    assert manifest is not None
    verified = read_json(folder.file("verify"))["metrics"] if folder.file("verify").is_file() else {}
    settings, noise = Settings.of(config.effects, config.invariants.k), noise_of(summary["controls"], verified)
    if manifest.get("judged") == settings.judged(noise):
        return
    table = read_per_example(folder, manifest)
    if any(name not in table.column_names for name in LATER):
        return  # of a version that kept less
    effects, told = conclude(table, TableKind.of_manifest(manifest), settings, noise, config.labelled)
    kept = {key: value for key, value in manifest.items() if key not in RunFolder.DRAWN}  # pictures of other labels
    with renewing(folder) as new:
        write_table(new.file("effects"), effects)
        write_document(RunSummary, new.file("summary"), {**summary, "effects": told})
        put_in_place(folder, {**kept, "judged": settings.judged(noise)})


def _effects(
    config: Config, per_example: pa.Table, controls: dict[str, Any], verified: dict[str, Any] | None = None
) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """The table of effects, its part of the summary, and by what they were judged."""
    settings, noise = Settings.of(config.effects, config.invariants.k), noise_of(controls, verified or {})
    table, told = conclude(per_example, config.battery.table, settings, noise, config.labelled)
    return table, told, settings.judged(noise)


def _as_before(resolved: Resolved, finished: dict[str, Any]) -> Resolved:
    """The run as it was computed, so that no table mixes two: where its self-check failed, by the reference engine.

    What its screen found stays.
    """
    resolved = replace(resolved, screen=finished["provenance"].get("screen"))
    if finished["provenance"].get("engine") != "reference":
        return resolved
    return replace(resolved, config=replace(resolved.config, engine=replace(resolved.config.engine, name="reference")))


def _results(resolved: Resolved, computed: Computed) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables by artifact, and the summary."""
    kind, impact, run_id = resolved.config.battery.table, computed.impact, resolved.run_id
    model, prompts = computed.ready.model, computed.ready.prepared.tokens
    tables = {
        "examples": examples_table(
            run_id, impact.pairs, tokens={run: [model.spelt(pair.prompt(run).tokens) for pair in prompts] for run in RUNS},
            difference={run: numbers[resolved.config.labelled] for run, numbers in impact.unmodified.items()},
            answered=impact.ability,
        ),
        kind.name: impact_table(kind, run_id, impact.rows()),
        "per_example": per_example_table(
            kind, run_id, impact.cells, impact.pairs, seeds=impact.seeds, metrics=impact.per_example()
        ),
    }
    told = started(resolved)
    keys = ("run_id", "condition", "battery", "direction", "target_run", "positions", "model")
    return tables, {**{key: told[key] for key in keys}, "seeds": list(resolved.config.seeds), **summarise(impact)}


def _plain(resolved: Resolved) -> dict[str, Any]:
    """The resolved config as plain data."""
    battery = resolved.config.battery
    cls = type(battery)
    plain = {key: value for key, value in asdict(resolved.config).items() if key != "reference" or value is not None}
    return {**plain, "battery": {"_target_": f"{cls.__module__}.{cls.__qualname__}", **asdict(battery)}}
