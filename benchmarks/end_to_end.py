"""Whole runs on trained models beside a plain script, each a process from start to end: `make bench-real`.

`make real-models` fetches the models; TINYLAB_REAL_MODELS names another folder that holds theirs. Interleaved: a round of a
case is a first run with an empty cache, `benchmarks/plain_script.py` on the rows that it drew, and a second run with the
cache of the first and no results. What is asked for in part goes to outputs/benchmarks/, not into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from rich.console import Console

from benchmarks.document import put
from benchmarks.report import Sheet, cpu, met, spread
from benchmarks.run import DOCUMENT, RAW, ROOT
from tinylab.machine.threads import cores

MODELS_VARIABLE = "TINYLAB_REAL_MODELS"
MODELS = ("smollm2", "gemma3")
PAIRS = (16, 64)
CONDITION = "ioi"
CORPUS = ROOT / "tinylab/assets/corpora/ioi.jsonl"
ALLOWED = 1e-3
"""Logits. Sums in another order, float32: 3e-5 at most on 4 pairs with either model. A wrong program is far beyond it: a head
zeroed at the last position alone, or a patch from the position before, on a small random model, is 0.6 and more away."""
TITLE = "End to end on trained models"
NOTE = """Written by `make bench-real`, independently of the rest of this document: {machine}.

Wall time of whole processes, from start to end, on {condition} pairs of the shipped corpus; medians over rounds (least to most).
`plain` is `benchmarks/plain_script.py`, what one would write with transformers alone: all prompts as one batch, padded on the
left, one hook and one forward pass per intervention, logits of the last row only, sdpa, float32; it computes logit_diff and
writes a CSV. `every row` is the same without `logits_to_keep`, as one would first write such a script: the model then
computes the logits of every row; H2 only, once. `start` is the plain script without an intervention: Python, torch and
transformers start, model and tokenizer are loaded, the prompts run unmodified; no tool ends sooner, and `plain/start` is what one
that needs no time for its interventions would reach. `states` is how many times more tokens × layers the plain script computes
than the lab, which computes none twice and none that cannot have changed: the ratio of times of equal efficiency and no start.
`first` is `python -m tinylab` with its defaults (all metrics, intervals,
manifest, picture) and an empty cache folder, `second` the same with that cache and without the first run's results, so that the
battery is computed again. Threads of each: {threads}; weights' files are read once before. The difference is the largest of any
logit_diff of any pair under any intervention, or without one; more than {allowed:g} is an error. For scale: the largest change
that an intervention makes."""


@dataclass(frozen=True)
class Battery:
    """A battery, how often it is measured, and how many times faster than the plain script a first and a second run should be."""

    label: str
    rounds: int
    first: float
    second: float


BATTERIES = {"h1": Battery("H1 all heads", 1, 2.5, 3), "h2": Battery("H2 layer_resid last", 3, 3, 6)}


@dataclass(frozen=True)
class Ran:
    """A whole run: its seconds, its numbers by layer, head and example, and what its manifest tells of where they come from."""

    seconds: float
    numbers: pd.DataFrame
    provenance: dict[str, Any]
    states: int


class Failed(Exception):
    """A process ended badly, or two sides disagree; one sentence."""


@dataclass
class Case:
    """A battery on some pairs with one model: seconds of each round, and how far the numbers are apart."""

    model: str
    battery: str
    pairs: int
    interventions: int = 0
    plain: list[float] = field(default_factory=list)
    every_row: list[float] = field(default_factory=list)  # of the plain script that keeps the logits of every row
    start: list[float] = field(default_factory=list)  # of the plain script without an intervention
    states: float = 0.0  # how many times more the plain script computes
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    engine_first: list[float] = field(default_factory=list)  # seconds of the battery alone, as manifests tell
    engine_second: list[float] = field(default_factory=list)
    engine: str = ""
    difference: float = 0.0
    effect: float = 0.0

    def add(self, first: Ran, plain: Ran, second: Ran) -> None:
        """Add a round.

        Raises:
            Failed: the numbers are apart, or not of the same interventions and rows; the first run found a kept verdict of the
                self-check, or the second did not.
        """
        found = [(ran.provenance.get("self_check") or {}).get("cached") for ran in (first, second)]
        if found not in ([None, None], [False, True]):
            raise Failed(f"{self.model}, {self.battery}, {self.pairs} pairs: a verdict of the self-check was there already for "
                         f"the first run: {found[0]}, for the second: {found[1]}; expected False and True.")
        for ran in (first, second):
            difference = _difference(ran.numbers, plain.numbers)
            if not difference <= ALLOWED:
                raise Failed(f"{self.model}, {self.battery}, {self.pairs} pairs: the run and the plain script differ by "
                             f"{difference:.2g} logits, more than {ALLOWED:g}.")
            self.difference = max(self.difference, difference)
        self.plain.append(plain.seconds)
        for seconds, engine, ran in ((self.first, self.engine_first, first), (self.second, self.engine_second, second)):
            seconds.append(ran.seconds)
            engine.append(ran.provenance["engine_seconds"])
        self.engine = first.provenance["engine"]
        self.states = plain.states / second.states
        self.interventions = len(plain.numbers.groupby(level=["layer", "head"]))
        self.effect = float((plain.numbers["value"] - plain.numbers["baseline"]).abs().max())

    def row(self) -> tuple[str, ...]:
        """Of the table."""
        battery = BATTERIES[self.battery]
        ratios = ((median(self.plain) / median(seconds), wanted)
                  for seconds, wanted in ((self.first, battery.first), (self.second, battery.second)))
        told = [f"{ratio:.2f} (≥ {wanted:g}: {met(ratio >= wanted)})" for ratio, wanted in ratios]
        measured = (self.every_row, self.start, self.plain, self.first, self.second)
        times = [spread(seconds) if seconds else "–" for seconds in measured]
        bounds = f"{median(self.plain) / median(self.start):.2f}" if self.start else "–", f"{self.states:.2f}"
        return (self.model, battery.label, f"{self.interventions} × {self.pairs}", str(len(self.plain)), *times, *told, *bounds,
                f"{self.difference:.1e}", f"{self.effect:.1e}")


@dataclass(frozen=True)
class Bench:
    """Where the models are, and the threads of every process."""

    place: Path
    threads: int

    def round(self, case: Case) -> None:
        """Measure a first run, the plain script and a second run once, and add them to the case.

        Raises:
            Failed: a process ended badly, or see `Case.add`.
        """
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            first = self._lab(case, work / "first", work / "cache")
            plain = self._plain(case, first, work / "plain.csv")
            second = self._lab(case, work / "second", work / "cache")
            case.add(first, plain, second)
            case.start.append(self._plain(case, first, work / "start.csv", "--layers").seconds)
            if case.battery == "h2" and not case.every_row:
                case.every_row.append(self._plain(case, first, work / "every_row.csv", "--every-row").seconds)

    def _lab(self, case: Case, out: Path, cache: Path) -> Ran:
        """A run of the lab, into a folder without results."""
        seconds, _ = self._timed(
            "tinylab", "model=local", f"model.path='{self.place / case.model}'", f"battery={case.battery}",
            f"condition={CONDITION}", f"condition.n_examples={case.pairs}", f"threads={self.threads}", f"output_dir='{out}'",
            TINYLAB_CACHE=str(cache),
        )
        (run,) = out.glob("runs/*")
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(run / manifest["per_example"])
        wanted = table[(table["metric"] == "logit_diff") & (table["control"] == "none")]
        return Ran(seconds, indexed(wanted), manifest["provenance"], manifest["provenance"]["states"])

    def _plain(self, case: Case, lab: Ran, out: Path, *options: str) -> Ran:
        """The plain script on the rows that the lab drew, with BOS where the lab put it."""
        rows = sorted(set(lab.numbers.index.get_level_values("example")))
        bos = ["--bos"] if lab.provenance["bos"]["token_id"] is not None else []
        seconds, told = self._timed(
            "benchmarks.plain_script", case.battery, "--model", str(self.place / case.model), "--corpus", str(CORPUS),
            *bos, *options, "--out", str(out), "--rows", *map(str, rows),
        )
        return Ran(seconds, indexed(pd.read_csv(out)), {}, int(told.split()[0]))

    def _timed(self, module: str, *arguments: str, **variables: str) -> tuple[float, str]:
        """Seconds of `python -m module` from start to end, and what it printed.

        Raises:
            Failed: it ended badly.
        """
        command = [sys.executable, "-m", module, *arguments]
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": str(self.threads)}
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}")
        return seconds, done.stdout

    def warm_up(self, models: Sequence[str]) -> None:
        """Read the weights once, and start the lab once: the disk and files that libraries make are nobody's share."""
        for model in models:
            for file in (self.place / model).glob("*.safetensors"):
                with file.open("rb") as stream:
                    while stream.read(1 << 24):
                        pass
        with tempfile.TemporaryDirectory() as out:
            self._timed("tinylab", "condition.n_examples=2", f"output_dir='{out}'", TINYLAB_CACHE=f"{out}/cache")


def indexed(table: pd.DataFrame) -> pd.DataFrame:
    """Value and baseline by layer, head (-1 where a battery has none) and example."""
    heads = table["head"].fillna(-1).astype(int) if "head" in table else -1
    return table.assign(head=heads).set_index(["layer", "head", "example"])[["value", "baseline"]].sort_index()


def _difference(found: pd.DataFrame, expected: pd.DataFrame) -> float:
    """The largest of any value or baseline.

    Raises:
        Failed: they are not of the same interventions and rows.
    """
    if not found.index.equals(expected.index):
        raise Failed(f"The run has {len(found)} logit differences, the plain script {len(expected)}, of other interventions "
                     "or rows.")
    return float(np.abs(found.to_numpy() - expected.to_numpy()).max())  # no number if one is none


def sheet(cases: Sequence[Case], threads: int) -> Sheet:
    """The table."""
    columns = ("model", "battery", "interventions × pairs", "rounds", "every row s", "start s", "plain s", "first s", "second s",
               "plain/first (target)", "plain/second (target)", "plain/start", "states", "largest difference", "largest effect")
    note = NOTE.format(machine=", ".join(machine().values()), condition=CONDITION, threads=threads, allowed=ALLOWED)
    return Sheet(TITLE, note, columns, [case.row() for case in cases])


def machine() -> dict[str, str]:
    """What it ran on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "platform": platform.platform(),
        "CPU": f"{cpu()}, {cores()} cores",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    asked = _parser().parse_args(arguments)
    place = Path(os.environ.get(MODELS_VARIABLE, ROOT / ".real-models")).resolve()
    for model in asked.models:
        if not (place / model / "config.json").is_file():
            _end(f"{place / model}: no model; `make real-models` fetches {' and '.join(MODELS)}, or set {MODELS_VARIABLE} to "
                 "the folder that has them.", 2)
    bench, console = Bench(place, asked.threads), Console(width=200)
    cases = [Case(model, battery, pairs) for model in asked.models for battery in asked.batteries for pairs in asked.pairs]
    try:
        bench.warm_up(asked.models)
        for case in cases:
            for number in range(asked.rounds or BATTERIES[case.battery].rounds):
                bench.round(case)
                told = ", ".join(f"{name} {getattr(case, name)[-1]:.1f} s" for name in ("first", "plain", "second"))
                console.print(f"{case.model}, {case.battery}, {case.pairs} pairs, round {number + 1}: {told}")
    except Failed as error:
        _end(str(error), 1)
    _write(cases, asked, console)


def _end(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr)
    raise SystemExit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help=f"folders' names; default: {' '.join(MODELS)}")
    parser.add_argument("--batteries", nargs="+", choices=list(BATTERIES), default=list(BATTERIES), help="default: both")
    parser.add_argument("--pairs", nargs="+", type=int, default=list(PAIRS), help="default: 16 64")
    rounds = ", ".join(f"{battery.rounds} of {name}" for name, battery in BATTERIES.items())
    parser.add_argument("--rounds", type=int, help=f"of every case; default: {rounds}")
    parser.add_argument("--threads", type=int, default=cores(), help="of every process; default: the cores")
    parser.add_argument("--out", type=Path, help="the document whose section is written; default docs/benchmarks.md")
    parser.add_argument("--raw", type=Path, default=RAW / "end_to_end.json", help="the raw numbers")
    return parser


def _write(cases: Sequence[Case], asked: argparse.Namespace, console: Console) -> None:
    """The section of the document, the raw numbers, and the table on the console."""
    whole = (asked.models, asked.batteries, asked.pairs) == (list(MODELS), list(BATTERIES), list(PAIRS))
    out: Path = asked.out or (DOCUMENT if whole else RAW / "end_to_end.md")
    table = sheet(cases, asked.threads)
    table.show(console)
    asked.raw.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": {**machine(), "threads": asked.threads}, "cases": [asdict(case) for case in cases]}
    asked.raw.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    before = out.read_text(encoding="utf-8") if out.is_file() else ""
    out.write_text(put(before, table.markdown()), encoding="utf-8")
    console.print(f"wrote {out} and {asked.raw}")


if __name__ == "__main__":
    main()
