"""From measurements to docs/benchmarks.md, to the console, and to raw JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import log2
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks import aggregate, conclusions
from benchmarks.curves import PROMPT_TOKENS, LayoutPoint, Point
from benchmarks.document import kept
from benchmarks.grids import NARROW, Grid
from benchmarks.memory import PLAIN_PASSES, Style
from benchmarks.profiles import BIASES, EMBEDDED, FEW, HEADS_PER_LAYER, KINDS, MANY, OTHER, OUTSIDE, UNEMBEDDING, Profile
from benchmarks.side_by_side import ENOUGH_ROUNDS, SAMPLE, Case
from benchmarks.startup import STARTS
from benchmarks.workloads import DISTINCT_LENGTH, SEED, TASKS, Kind, Task

EXCESS_TARGET = 0.05
PEAK_TARGET = 0.70
EFFECTS_SECONDS, EFFECTS_MEBIBYTES = 5, 500
INTRODUCTION = f"""# Benchmarks

Written by `make bench`, except "End to end on trained models", written by `make bench-real`, and "A 3B model in memory",
written by `make bench-large`; all other numbers are from one run on one machine.

(a) is one forward pass per intervention with plain module hooks, on one padded batch of all prompts, with the logits of
every row. (a') is the same with the logits of the reading row only. (b) is the forked engine. All three compute the same
metrics of the same battery on the same weights, and each metric of (a) and (a') is compared with that of (b).

How it was measured: one process, interleaved. A round is the matmul peak, passes of (a), (b) in full, passes of (a').
Seconds are medians over rounds; up to {ENOUGH_ROUNDS} rounds or more if time allows, otherwise one.
(a) and (a') run {SAMPLE} interventions of a battery at most, spread over layers and heads, one or two per round; every
forward pass of a workload costs the same, so their seconds are seconds per pass × (interventions + 2 unmodified runs).
Weights are random (seed {SEED}). `distinct` are random prompts of {DISTINCT_LENGTH} tokens, no two of which share a beginning;
the others are the shipped corpora's test split in the embedded model's tokens."""
TARGETS_NOTE = """Geometric means over the corpora where there are several. The last but one column is the ratio of the
operations that (a) and (b) execute: the ratio of times that equal efficiency would give. (b) computes no state beyond the
lower bound, so a target above that ratio needs more operations per second than (a) reaches."""
STATES_NOTE = """A state is the output of one block for one token prefix under one intervention. The lower bound counts
the distinct ones, from the prompts alone: all prefixes of the unmodified runs, and for each intervention the distinct
changed prefixes from the first changed position and block on; in the last block reading rows only. Where both
prompts begin alike, a patch replaces activations by equal ones: nothing changes, and nothing has to be computed."""
GRIDS_NOTE = """`battery.positions=each`: every layer at every position of the longest prompt is a separate intervention. (a)
runs whole prompts for each; (b) computes the prefixes from the position and the block on, of prompts that have the position.
`condition.answer=full`: (a) runs every prompt with each answer appended, (b) has both answers as branches of the prompt.
Counted with the layers and heads of the model and {width} numbers a head: widths count no states."""
PEAK_NOTE = """The peak is the best matmul of the model's own MLP sizes, measured in each round. Operations are those of
matmuls and attention, counted by torch's FlopCounterMode on every operator that is called; attention counts including
padding and masked positions. For (b) the same code runs on tensors without data, with one intervention per
layer, multiplied by the heads; for (a) the unmodified runs are counted and multiplied by the rows. Seconds include
everything, not matmuls only."""
CORRECTNESS_NOTE = """The largest difference of any metric between (b) and (a) or (a'), over the unmodified runs and the
interventions that both evaluated. For scale: the largest change of any metric that any intervention of the battery
makes."""
BESIDE_NOTE = """The same as (a), with the hooks of {tools}, each in the way its documentation
shows: `run_with_hooks` of a TransformerBridge with the weights as they are, `with model.trace(...)` of nnsight. The same
weights and padded batch, one forward pass per intervention, the logits of every row, sampled like (a) and in the same
rounds. TransformerLens sets eager attention itself. Seconds of the whole battery; the largest difference of any metric
from (b) over the interventions that both evaluated."""
MEMORY_NOTE = """The most memory held beyond the loaded model: resident set of a fresh process on a CPU, torch's
allocator on a GPU. Distinct prompts; (b) runs H1 on one head per layer, (a) and (a') the unmodified runs and {passes}
interventions."""
CURVES_NOTE = """H1 on all heads of a small model, distinct random prompts. Each knob is doubled alone: layers, heads,
pairs, tokens per prompt, and copies of each pair at an equal number of pairs. `growth` is the power of two that the
time grew by since the row above. H1 has layers × heads interventions, each of which computes the layers above it, so
time grows with the square of the layers; in every other knob it should be proportional or less."""
LAYOUT_NOTE = """Prompts of {tokens} tokens in pairs, no model: building the tries, cutting them into groups, and making
the groups' batches."""
PROFILE_NOTE = """Where the time of (b) goes: shares of the quietest of a few runs, by operators of torch, as torch's
profiler sees them; for matmuls, in brackets, operations per second as a fraction of the peak. H1 on {heads} heads per layer.
Activation functions, norms, attention and biases are the model's own code and cost (a) as much per state: what they take
bounds the part of the peak that (b) as a whole can reach. Prompts are the distinct ones and those with the fewest states."""
EMBEDDED_NOTE = """The same for the model that comes with tinylab, on all pairs of condition=cond_a. The last row is
measured without a profiler, by a clock that is switched wherever the engine calls the model's own code or the metrics, and
where these return (medians). It covers everything that is neither the model nor the metrics: tries, indices, masks, gathers
and copies of rows, interventions and Python's bookkeeping for them."""
STARTUP_NOTE = """A whole default run (`python -m tinylab`, embedded model) in a fresh process, and parts of it, each
measured in fresh processes too; medians of {repeats}."""

AGGREGATE_NOTE = """Artificial finished runs, each with its own condition: {heads} heads × {metrics} metrics ×
{seeds} seeds, a row each. `python -m tinylab.aggregate` in all, which also writes the documents, in a fresh process, and
its peak memory in MiB beyond its imports; then its parts separately: reading manifests and summaries, joining the
tables into the matrix, and the invariants by one metric, from the matrix on disk and every run's effects.parquet."""
EFFECTS_NOTE = """An artificial run, {cells:,} heads × {examples} pairs of {templates} templates × 4 metrics: from its
`per_example` table to `effects.parquet` and its part of the summary, including the ranking, for each correction, in a fresh
process after all imports. The MiB are its peak memory beyond that table. Controls: random sets of the heads that matter
(drawn, planned, compared) and shuffled donors (found, and what survives), without their forward passes. The target is under
{seconds} s and {mebibytes} MiB for one correction and the controls together."""


@dataclass
class Results:
    """Everything one run measured; what was not asked for is empty."""

    shape: str
    device: str
    dtype: str
    parameters: int = 0
    cases: list[Case] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    tools: dict[str, str] = field(default_factory=dict)  # other tools that were measured, with their versions
    memory: dict[Style, float] = field(default_factory=dict)
    curves: list[Point] = field(default_factory=list)
    layouts: list[LayoutPoint] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    startup: dict[str, float] = field(default_factory=dict)
    sweeps: list[aggregate.Point] = field(default_factory=list)
    effects: list[conclusions.Point] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """One table: a heading, sentences, columns, rows."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        """As a section of the document."""
        lines = [self.columns, tuple("---" if at == 0 else "---:" for at in range(len(self.columns))), *self.rows]
        parts = [f"## {self.title}", self.note, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join(part for part in parts if part)

    def show(self, console: Console) -> None:
        """On the console."""
        view = Table(title=self.title)
        for column in self.columns:
            view.add_column(column)
        for row in self.rows:
            view.add_row(*row)
        console.print(view)


def machine(results: Results) -> dict[str, str]:
    """What the run ran on."""
    on_gpu = results.device.startswith("cuda")
    parameters = f", {results.parameters / 1e6:.0f}M parameters" if results.parameters else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "platform": platform.platform(),
        "CPU": f"{cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch",
        "device": torch.cuda.get_device_name(results.device) if on_gpu else "the CPU",
        "model": f"{results.shape}{parameters}, {results.dtype}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def sheets(results: Results) -> list[Sheet]:
    """Every table there is something to put into."""
    found = [Sheet("Machine", "", ("", ""), list(machine(results).items()))]
    if results.cases:
        cases = results.cases
        found += [_verdicts(cases), _speed(cases), _states(cases), _peaks(cases), _differences(cases)]
    if results.grids:
        found.insert(_behind(found, "States"), _grids(results.grids))
    if results.tools:
        found.append(_beside(results))
    if results.memory:
        found.append(_memory(results))
    if results.curves:
        found.append(_curves(results.curves))
    if results.layouts:
        found.append(_layouts(results.layouts))
    if results.profiles:
        small = [profile for profile in results.profiles if profile.model == EMBEDDED]
        large = [profile for profile in results.profiles if profile.model != EMBEDDED]
        found.append(_profiles("Profile", PROFILE_NOTE.format(heads=HEADS_PER_LAYER), large))
        engine = ("the engine's own share", *(f"{profile.engine:.0%}" for profile in small))
        found.append(_profiles("Profile of the embedded model", EMBEDDED_NOTE, small, engine))
    if results.startup:
        found.append(_startup(results.startup))
    if results.sweeps:
        found.append(_sweeps(results.sweeps))
    if results.effects:
        found.append(_effects(results.effects))
    return found


def _verdicts(cases: Sequence[Case]) -> Sheet:
    rows = []
    for task in TASKS:
        for kind, wanted in task.targets.items():
            some = _of(cases, task, kind)
            ratio, ceiling = (geometric_mean(values) for values in ([c.ratio for c in some], [_operations(c) for c in some]))
            name = f"(a) / (b), {task.label}, {kind}"
            rows.append((name, f"≥ {wanted:g}×", f"{ratio:.2f}×", f"{ceiling:.2f}×", met(ratio >= wanted)))
    excess, peak = max(case.excess for case in cases), min(_forked_peak(case) for case in cases)
    few, fast = met(excess <= EXCESS_TARGET), met(peak >= PEAK_TARGET)
    rows.append(("states beyond the lower bound, worst case", f"≤ {EXCESS_TARGET:.0%}", f"{excess:.1%}", "", few))
    rows.append(("matmul peak reached by (b), worst case", f"≥ {PEAK_TARGET:.0%}", f"{peak:.0%}", "", fast))
    return Sheet("Targets", TARGETS_NOTE, ("what", "target", "found", "ratio of operations", "met"), rows)


def _of(cases: Sequence[Case], task: Task, kind: Kind) -> list[Case]:
    return [case for case in cases if case.task == task and case.workload.kind == kind]


def met(reached: bool) -> str:
    """Of a target."""
    return "met" if reached else "**not met**"


def _operations(case: Case) -> float:
    return case.flops_plain / case.flops_forked


def _forked_peak(case: Case) -> float:
    return case.of_peak(case.flops_forked, case.forked)


def _speed(cases: Sequence[Case]) -> Sheet:
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        for case in (case for case in cases if case.task == task):
            times = [spread(seconds) for seconds in (case.plain, case.reading, case.forked)]
            size = f"{len(case.variants)} × {len(case.workload.pairs)}"
            rows.append((*_names(case), size, str(len(case.forked)), *times, f"{case.ratio:.2f}", f"{case.reading_ratio:.2f}"))
        corpora = _of(cases, task, "templated")
        means = [geometric_mean(ratios) for ratios in ([c.ratio for c in corpora], [c.reading_ratio for c in corpora])]
        rows.append((task.label, "*geometric mean, corpora*", "", "", "", "", "", *(f"{mean:.2f}" for mean in means)))
    columns = ("battery", "prompts", "interventions × pairs", "rounds", "(a) s", "(a') s", "(b) s", "(a)/(b)", "(a')/(b)")
    return Sheet("Speed", "Seconds of the whole battery: median (least to most).", columns, rows)


def _names(case: Case) -> tuple[str, str]:
    return case.task.label, case.workload.name


def spread(seconds: Sequence[float]) -> str:
    """Median (least to most)."""
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})" if len(seconds) > 1 else f"{seconds[0]:.2f}"


def _states(cases: Sequence[Case]) -> Sheet:
    rows = [
        (*_names(case), f"{_plain_rows(case):,}", f"{case.states:,}", f"{case.bound:,}", f"{case.excess:+.1%}",
         f"{case.forwards}")
        for case in cases
    ]
    columns = (
        "battery", "prompts", "rows of (a)", "states of (b)", "lower bound", "beyond it", "passes of (b)",
    )
    return Sheet("States", STATES_NOTE, columns, rows)


def _behind(found: Sequence[Sheet], title: str) -> int:
    """The place behind a table, or behind all of them."""
    return next((number + 1 for number, sheet in enumerate(found) if sheet.title == title), len(found))


def _grids(grids: Sequence[Grid]) -> Sheet:
    rows = [
        (grid.battery, grid.prompts, f"{grid.interventions:,} × {grid.pairs}", f"{grid.rows:,}", f"{grid.states:,}",
         f"{grid.bound:,}", f"{grid.excess:+.1%}", f"{grid.forwards}")
        for grid in grids
    ]
    columns = ("battery", "prompts", "interventions × pairs", "rows of (a)", "states of (b)", "lower bound", "beyond it",
               "passes of (b)")
    return Sheet("States of grids and answers", GRIDS_NOTE.format(width=NARROW), columns, rows)


def _plain_rows(case: Case) -> int:
    return case.n_layers * (case.rows + case.rows_each * len(case.variants))


def _peaks(cases: Sequence[Case]) -> Sheet:
    rows = [
        (*_names(case), f"{median(case.peak) / 1e9:.0f}", f"{case.flops_plain / 1e12:.3g}", f"{case.flops_forked / 1e12:.3g}",
         f"{_operations(case):.2f}", f"{case.of_peak(case.flops_plain, case.plain):.0%}", f"{_forked_peak(case):.0%}")
        for case in cases
    ]
    columns = ("battery", "prompts", "peak, GFLOP/s", "(a) TFLOP", "(b) TFLOP", "(a)/(b)", "(a) of peak", "(b) of peak")
    return Sheet("Matmul peak", PEAK_NOTE, columns, rows)


def _differences(cases: Sequence[Case]) -> Sheet:
    rows = [(*_names(case), f"{case.difference:.1e}", f"{case.effect:.1e}") for case in cases]
    return Sheet("Correctness", CORRECTNESS_NOTE, ("battery", "prompts", "largest difference", "largest effect"), rows)


def _beside(results: Results) -> Sheet:
    rows = [
        (*_names(case), f"{len(case.variants)} × {len(case.workload.pairs)}", tool, spread(seconds), spread(case.plain),
         spread(case.forked), f"{median(seconds) / median(case.forked):.2f}", f"{case.beside_difference[tool]:.1e}")
        for case in results.cases for tool, seconds in case.beside.items()
    ]
    columns = (
        "battery", "prompts", "interventions × pairs", "tool", "tool s", "(a) s", "(b) s", "tool/(b)", "largest difference",
    )
    tools = " and ".join(f"{tool} {number}" for tool, number in results.tools.items())
    return Sheet("Compared with other tools", BESIDE_NOTE.format(tools=tools), columns, rows)


def _memory(results: Results) -> Sheet:
    names: dict[Style, str] = {"plain": "(a)", "plain, reading rows": "(a')", "forked": "(b)"}
    rows = [(names[style], f"{mebibytes:.0f}") for style, mebibytes in results.memory.items()]
    return Sheet("Memory", MEMORY_NOTE.format(passes=PLAIN_PASSES), ("", "MiB"), rows)


def _curves(points: Sequence[Point]) -> Sheet:
    rows = []
    for before, point in zip([None, *points], points, strict=False):
        growth = "" if before is None or before.knob != point.knob else f"{log2(point.seconds / before.seconds):+.2f}"
        each = f"{point.seconds / point.states * 1e6:.2f}"
        excess = f"{point.states / point.bound - 1:+.1%}"
        cells = (f"{point.seconds:.3f}", growth, f"{point.states:,}", f"{point.bound:,}", excess, each)
        rows.append((point.knob, str(point.value), *cells))
    columns = ("knob", "value", "seconds", "growth", "states", "lower bound", "beyond it", "µs per state")
    return Sheet("Curves", CURVES_NOTE, columns, rows)


def _layouts(points: Sequence[LayoutPoint]) -> Sheet:
    rows = [
        (point.kind, f"{point.prompts:,}", f"{point.nodes:,}", f"{point.groups:,}",
         *(f"{seconds:.2f}" for seconds in (point.build, point.cut, point.batches)))
        for point in points
    ]
    columns = ("prompts", "number", "nodes", "groups", "build s", "cut s", "batches s")
    return Sheet("Layout", LAYOUT_NOTE.format(tokens=PROMPT_TOKENS), columns, rows)


def _profiles(title: str, note: str, profiles: Sequence[Profile], *more: tuple[str, ...]) -> Sheet:
    columns = ("", *(f"{profile.label}, {profile.prompts}" for profile in profiles))
    rows = [("seconds", *(f"{profile.wall:.3f}" for profile in profiles))]
    for kind in (MANY, FEW, UNEMBEDDING, BIASES, *KINDS, OTHER, OUTSIDE):
        rows.append((kind, *(_part(profile, kind) for profile in profiles)))
    return Sheet(title, note, columns, [*rows, *more])


def _part(profile: Profile, kind: str) -> str:
    of_peak = profile.of_peak(kind)
    return f"{profile.share(kind):.0%}" + ("" if of_peak is None else f" ({of_peak:.0%})")


def _startup(startup: dict[str, float]) -> Sheet:
    rows = [(name, f"{seconds:.2f}") for name, seconds in startup.items()]
    return Sheet("Start-up", STARTUP_NOTE.format(repeats=STARTS), ("", "seconds"), rows)


def _sweeps(points: Sequence[aggregate.Point]) -> Sheet:
    rows = [
        (f"{point.runs:,}", f"{point.rows:,}",
         *(f"{seconds:.2f}" for seconds in (point.whole, point.read, point.join, point.rank)), f"{point.mebibytes:.0f}")
        for point in points
    ]
    shape = aggregate.Shape()
    sizes = {"heads": shape.layers * shape.heads, "metrics": len(aggregate.METRICS), "seeds": len(aggregate.SEEDS)}
    columns = ("runs", "rows", "in all s", "read s", "join s", "invariants s", "MiB")
    return Sheet("Aggregate", AGGREGATE_NOTE.format(**sizes), columns, rows)


def _effects(points: Sequence[conclusions.Point]) -> Sheet:
    *_, beside = points  # the controls, which every run has whatever its correction
    rows = [
        (point.what, f"{point.rows:,}", f"{point.seconds:.2f}", f"{point.mebibytes:.0f}", "" if point is beside else
         met(point.seconds + beside.seconds < EFFECTS_SECONDS and point.mebibytes + beside.mebibytes < EFFECTS_MEBIBYTES))
        for point in points
    ]
    shape = conclusions.Shape()
    note = EFFECTS_NOTE.format(cells=shape.layers * shape.heads, examples=shape.examples, templates=shape.templates,
                               seconds=EFFECTS_SECONDS, mebibytes=EFFECTS_MEBIBYTES)
    return Sheet("Effects", note, ("what", "rows", "seconds", "MiB", "met"), rows)


def write(results: Results, out: Path, raw: Path, console: Console) -> None:
    """The document, but what another command writes of it, the raw numbers, and the tables on the console."""
    tables = sheets(results)
    for table in tables:
        table.show(console)
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps(_raw(results), indent=1) + "\n", encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    others = kept(out.read_text(encoding="utf-8")) if out.is_file() else []
    parts = [INTRODUCTION, *(table.markdown() for table in tables), *others]
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    console.print(f"wrote {out} and {raw}")


def _raw(results: Results) -> dict[str, Any]:
    """Everything as plain data; prompts and interventions by name and number only."""
    cases = [
        {
            "battery": case.task.label, "prompts": case.workload.name, "kind": case.workload.kind,
            "pairs": len(case.workload.pairs), "interventions": len(case.variants),
            **{name: value for name, value in vars(case).items() if name not in ("task", "workload", "variants")},
        }
        for case in results.cases
    ]
    tables = ("grids", "curves", "layouts", "profiles", "sweeps", "effects")
    rest: dict[str, Any] = {name: [asdict(point) for point in getattr(results, name)] for name in tables}
    rest |= {name: getattr(results, name) for name in ("tools", "memory", "startup")}
    return {"machine": machine(results), "cases": cases, **rest}
