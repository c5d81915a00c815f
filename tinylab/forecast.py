"""What a command would run, what that would cost, and what it could decide: `dry_run=true`. Nothing is computed or written."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from tinylab.effects.prospect import prospect
from tinylab.engine.base import Prediction, readable
from tinylab.models.device import resolve_device
from tinylab.models.loading import skeleton
from tinylab.models.weights import loaded_bytes
from tinylab.records.changes import since_earlier_run
from tinylab.records.identity import Resolved, resolve
from tinylab.records.manifest import RunFolder
from tinylab.report.screen import console
from tinylab.schema import JSON, Config
from tinylab.sweep.finished import locate_run
from tinylab.task.corpus import load_condition
from tinylab.task.notes import about_rows
from tinylab.task.preparation import prepare


@dataclass(frozen=True)
class Planned:
    """A run that would be, and what it would cost."""

    run_id: str
    folder: str
    condition: str
    battery: str
    model: str
    pairs: int
    cells: int
    engine: str
    forwards: int
    states: int
    weights_bytes: int
    activation_bytes: int  # at most, in addition to the weights
    complete: str  # yes, no, or partly: but for metrics
    lacking: list[str]  # metrics that a finished run lacks
    decides: str | None  # what its examples can decide, where it is to be computed
    note: str | None  # how it differs from an earlier run with the same settings
    warnings: list[str]  # of rows that it drops, or uses all the same

    @staticmethod
    def of(resolved: Resolved, folder: Path) -> Planned:
        """What a config, and its folder, would become.

        Raises:
            TinylabError: what the run itself would raise before it computes.
        """
        config, identity = resolved.config, resolved.run_id
        pairs, cells, cost, decides, warnings = forecast(config)
        there = locate_run(RunFolder(folder), identity, config.overwrite).intact(identity)
        lacking = [] if there is None else [metric for metric in config.metric_names if metric not in there["metrics"]]
        complete = "no" if there is None or config.overwrite else "partly" if lacking else "yes"
        due = complete != "yes"
        return Planned(
            identity, str(folder), config.condition.tag, config.battery.name, config.model.label, pairs, cells,
            "reference" if config.engine.name == "reference" else "forked", cost.forwards, cost.states, cost.weights,
            cost.activations, complete, lacking, decides if due else None, since_earlier_run(resolved) if due else None,
            warnings,
        )


def dry_run(configs: Sequence[Config], folders: Sequence[Path]) -> None:
    """Print a line for every run: its folder, whether it is already there, forward passes, states, memory; what it can decide.

    Args:
        configs: of the runs.
        folders: where each one's files would go.

    Raises:
        TinylabError: what the run itself would raise before it computes.
    """
    planned = [Planned.of(resolved, folder) for resolved, folder in zip(map(resolve, configs), folders, strict=True)]
    if configs[0].dry_run == JSON:
        sys.stdout.write(json.dumps([asdict(one) for one in planned], indent=2, ensure_ascii=False) + "\n")
        return
    view = Table(title="dry run: nothing is computed or written", title_justify="left")
    view.add_column("run", no_wrap=True)
    for name in ("pairs", "cells", "engine", "forward passes", "states", "weights", "activations, at most"):
        view.add_column(name, justify="right")
    view.add_column("already complete")
    warned: dict[str, list[str]] = {}
    decided: dict[str, list[str]] = {}
    for one in planned:
        numbers = (f"{number:,}" for number in (one.forwards, one.states))
        view.add_row(Path(one.folder).name, str(one.pairs), str(one.cells), one.engine, *numbers, readable(one.weights_bytes),
                     readable(one.activation_bytes), one.complete)
        for warning in one.warnings:
            warned.setdefault(f"warning: {warning}", []).append(Path(one.folder).name)
        if one.decides is not None:
            decided.setdefault(one.decides, []).append(Path(one.folder).name)
    out = console()
    out.print(view)
    for one in planned:
        if one.complete == "partly":
            out.print(f"{Path(one.folder).name} is complete but for {', '.join(one.lacking)}")
        if one.note is not None:
            out.print(f"{Path(one.folder).name}: {one.note}")
    for sentence, names in (warned | decided).items():
        out.print(f"{names[0] if len(names) == 1 else f'{len(names)} runs'}: {sentence}")
    due = [one for one in planned if one.complete != "yes"]
    out.print(f"to compute: {len(due)} of {len(configs)} runs, {sum(one.forwards for one in due):,} forward passes, "
              f"{sum(one.states for one in due):,} states")
    if any(config.engine.name == "auto" for config in configs):
        out.print("engine=auto: the cost is the forked engine's, and a self-check decides when the run starts; engine=reference "
                  "shows the plain one's")


def forecast(config: Config) -> tuple[int, int, Prediction, str | None, list[str]]:
    """Pairs used, cells, the cost of a run from the model's shape alone, what its examples can decide if it has labels, warnings.

    Raises:
        TinylabError: what the run itself would raise before it computes.
    """
    condition = load_condition(config.condition)
    from tinylab.engine.cost import Shape, plain_cost
    from tinylab.engine.forked.budget import Budget, predict
    from tinylab.engine.screen import screen_cost

    model = skeleton(config.model)
    prepared = prepare(config, condition, model)
    variants = [cell.variant for cell in prepared.cells]
    if config.engine.name == "reference":
        cost = plain_cost(Shape.of(model), prepared.tokens, variants)
    else:
        device = resolve_device(config.device.type)
        budget = Budget.of(device, config.engine.max_states)
        cost = predict(Shape.of(model), device, prepared.tokens, variants, budget)
    if config.battery.screen is not None:
        forwards, states = screen_cost(prepared.tokens, model.n_layers)
        cost = replace(cost, forwards=cost.forwards + forwards, states=cost.states + states)
    if config.model.quantize != "none":
        cost = replace(cost, weights=loaded_bytes(config.model) or cost.weights)
    decides = prospect(prepared, config.effects) if config.labelled in config.metric_names else None
    return len(prepared.tokens), len(prepared.cells), cost, decides, about_rows(prepared.condition, condition.rows)
