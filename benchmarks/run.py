"""Measure the forked engine and write docs/benchmarks.md: `make bench`, under ten minutes on two quiet cores.

Options: see `python benchmarks/run.py --help`. Raw numbers go to outputs/benchmarks/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import aggregate, conclusions, controls
from benchmarks.curves import curves, layouts
from benchmarks.grids import grids
from benchmarks.memory import STYLES, Style, peak_memory
from benchmarks.peers import installed, tools
from benchmarks.profiles import profiles
from benchmarks.report import Results, write
from benchmarks.side_by_side import Case, measure
from benchmarks.startup import startup
from benchmarks.workloads import CORPORA, SHAPES, TASKS, embedded_model, random_model, workloads

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/benchmarks.md"
RAW = ROOT / "outputs/benchmarks"
STANDARD = "gpt2-cpu-float32"
"""The run that docs/benchmarks.md is about; others are written beside the raw numbers."""
SECTIONS = ("grids", "memory", "curves", "layout", "profile", "startup", "aggregate", "effects", "engines")
"""The last one takes the time that the others leave."""


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    seconds: float  # in all, but the engines get one round at least
    pairs: int
    corpora: tuple[str, ...]
    width: int  # of the curves' models
    steps: int  # per curve
    layouts: tuple[int, ...]
    repeats: int  # of what is cheap
    styles: tuple[Style, ...]  # whose memory is measured
    runs: tuple[int, ...]  # of the sweeps that are joined
    effects: conclusions.Shape  # of the run that is concluded


FULL = Extent(560, 32, CORPORA, 256, 4, (1_000, 10_000, 100_000), 3, STYLES, (10, 100, 1_000), conclusions.Shape())
QUICK = Extent(0, 6, ("facts", "induction"), 32, 2, (100, 1_000), 1, STYLES[-1:], (4,), conclusions.Shape(2, 4, 16, 4))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    asked = _parser().parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    extent = QUICK if asked.quick else FULL
    shape = "quick" if asked.quick else asked.shape
    name = "-".join([shape, asked.device, asked.dtype, *([asked.only] if asked.only else [])])
    standard = name == STANDARD and asked.pairs is None
    out = asked.out or (DOCUMENT if standard else RAW / f"{name}.md")
    raw = asked.raw or RAW / f"{name}.json"
    pairs = asked.pairs or extent.pairs
    console = Console(width=150)
    results = Results(shape, asked.device, asked.dtype)
    until = time.perf_counter() + (extent.seconds if asked.seconds is None else asked.seconds)
    for section in SECTIONS if asked.only is None else (asked.only,):
        began = time.perf_counter()
        if section == "engines":
            _engines(results, extent.corpora, pairs, until, console)
        else:
            _measure(section, results, extent, pairs)
        console.print(f"{section}: {time.perf_counter() - began:.0f} s")
    write(results, out, raw, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, in seconds: whether the benchmark works")
    parser.add_argument("--shape", choices=[name for name in SHAPES if name != "quick"], default="gpt2", help="default: gpt2")
    parser.add_argument("--device", default="cpu", help="cpu (the default), or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32")
    parser.add_argument("--only", choices=SECTIONS, help="one section only")
    parser.add_argument("--pairs", type=int, help=f"prompt pairs per workload, default {FULL.pairs}")
    parser.add_argument("--seconds", type=float, help=f"in all, about; default {FULL.seconds:g}")
    parser.add_argument("--out", type=Path, help="the document; default docs/benchmarks.md, outputs/benchmarks/ if another run")
    parser.add_argument("--raw", type=Path, help="the raw numbers; default under outputs/benchmarks/")
    return parser


def _engines(results: Results, corpora: Sequence[str], pairs: int, until: float, console: Console) -> None:
    """(a), (a') and (b) side by side, and other tools where they are installed, into the results."""
    model, tokeniser = random_model(SHAPES[results.shape](), results.device, results.dtype), embedded_model()
    results.tools = installed()
    results.parameters = model.model.num_parameters()
    results.cases = [Case.of(model, task, some) for task in TASKS for some in workloads(task, model, tokeniser, pairs, corpora)]
    measure(model, results.cases, tools(model, tokeniser.tokenizer), until - time.perf_counter(), console.print)


def _measure(section: str, results: Results, extent: Extent, pairs: int) -> None:
    """One of the other sections, into the results."""
    if section == "grids":
        results.grids = grids(results.shape, embedded_model(), pairs, extent.corpora)
    elif section == "memory":
        results.memory = peak_memory(results.shape, results.device, results.dtype, pairs, extent.styles)
    elif section == "curves":
        results.curves = curves(results.device, results.dtype, extent.width, extent.steps, extent.repeats)
    elif section == "layout":
        results.layouts = layouts(extent.layouts)
    elif section == "startup":
        results.startup = startup(extent.repeats)
    elif section == "aggregate":
        results.sweeps = aggregate.points(extent.runs, aggregate.Shape())
    elif section == "effects":
        results.effects = [*conclusions.points(extent.effects), controls.point(extent.effects)]
    else:
        model = random_model(SHAPES[results.shape](), results.device, results.dtype)
        results.profiles = profiles(results.shape, model, pairs, extent.repeats)


if __name__ == "__main__":
    main()
