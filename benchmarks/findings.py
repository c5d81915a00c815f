"""`make findings`: H1 and H2 on two trained models and the five shipped conditions, written to docs/findings.md.

Runs are those of the command line, reused where they are finished. Every number of the document is computed here from their
tables; the words around them are in `PROSE`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pandas as pd

import tinylab
from benchmarks.end_to_end import machine
from tinylab.machine.threads import cores
from tinylab.results import Run, Sweep

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/findings.md"
REAL = Path(os.environ.get("TINYLAB_REAL_MODELS", ROOT / ".real-models"))
CONDITIONS = ("facts", "negation", "logic", "ioi", "induction")
MODELS = {"smollm2": "SmolLM2-135M-Instruct", "gemma3": "Gemma 3 270M"}
BATTERIES = {
    "h1": ("H1, each head zeroed", ["battery=h1"]),
    "layer_resid": ("H2, residual stream", ["battery=h2"]),
    "mlp_out": ("H2, MLP output", ["battery=h2", "battery.granularity=mlp_out"]),
    "head_out": ("H2, all heads of a layer", ["battery=h2", "battery.granularity=head_out"]),
    "per_head": ("H2, each head", ["battery=h2", "battery.granularity=head_out", "battery.per_head=true"]),
}
OF_HEADS = ("h1", "per_head")
EXAMPLES = 32
TOP = 10
SHOWN = 5


@dataclass(frozen=True)
class Findings:
    """The sweeps of one model, by battery."""

    name: str
    sweeps: dict[str, Sweep]

    def run(self, battery: str, condition: str) -> Run:
        """One run."""
        return next(run for run in self.sweeps[battery].runs if run.manifest["condition"] == condition)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Layers, heads."""
        provenance = self.run("h1", CONDITIONS[0]).manifest["provenance"]
        return provenance["n_layers"], provenance["n_heads"]

    def able(self, condition: str) -> bool:
        """Whether the model gets at least half of both sides of a task right."""
        ability = self.run("h1", condition).summary["ability"]
        return min(ability[side]["accuracy"] for side in ("clean", "corrupt")) >= 0.5

    def changes(self, battery: str, condition: str) -> pd.DataFrame:
        """Each example's change of the logit difference, a column for each component; index: example and template."""
        rows = self.run(battery, condition).per_example.query("metric == 'logit_diff' and control == 'none'")
        unit = ["layer", "head"] if battery in OF_HEADS else ["layer"]
        changed = rows.assign(change=rows["value"] - rows["baseline"])
        return changed.pivot_table(index=["example", "template"], columns=unit, values="change")

    def strongest(self, battery: str, condition: str) -> list[tuple[int, ...]]:
        """The components with the largest mean |change|."""
        mean = self.changes(battery, condition).mean()
        order = mean.abs().sort_values(ascending=False, kind="stable").index[:TOP]
        return [tuple(np.atleast_1d(component).tolist()) for component in order]

    def effects(self, battery: str, condition: str) -> pd.DataFrame:
        """What is told of each cell, by the logit difference."""
        found = self.run(battery, condition).effects
        assert found is not None
        return found.query("metric == 'logit_diff'")

    def recovery(self, battery: str, condition: str) -> pd.Series:
        """Recovery by layer (or by layer and head)."""
        impact = self.run(battery, condition).impact.query("metric == 'recovery'")
        return impact.groupby(["layer", "head"] if battery in OF_HEADS else "layer")["value"].mean()


def sweep(model: str, battery: str, examples: int) -> Sweep:
    """One sweep over the conditions, computed or reused."""
    name = f"findings_{model}_{battery}"
    command = [sys.executable, "-m", "tinylab", "-m", f"condition={','.join(CONDITIONS)}", *BATTERIES[battery][1], "model=local",
               f"model.path={REAL / model}", f"condition.n_examples={examples}", f"sweep_name={name}",
               f"threads={cores()}"]
    subprocess.run(command, cwd=ROOT, check=True)
    newest = max((ROOT / "outputs/sweeps").glob(f"{name}_*"), key=lambda folder: folder.stat().st_mtime)
    return tinylab.load_sweep(newest)


def interval(row: pd.Series, low: str, high: str) -> str:
    """An interval of an effect."""
    return "–" if pd.isna(row[low]) else f"[{row[low]:+.2f}, {row[high]:+.2f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ability_table(models: Sequence[Findings]) -> str:
    """Can the models do the tasks."""
    rows = []
    for model in models:
        for condition in CONDITIONS:
            run = model.run("h1", condition)
            sides = [run.summary["ability"][side] for side in ("clean", "corrupt")]
            corpus = run.manifest["provenance"]["corpus"]
            dropped = sum(corpus["dropped"].values())
            rows.append([
                MODELS[model.name], f"`{condition}`", " / ".join(f"{side['accuracy']:.2f}" for side in sides),
                " / ".join(f"{side['answer_probability']:.2f}" for side in sides),
                " / ".join(f"{run.summary['baselines'][side]['logit_diff']['mean']:+.2f}" for side in ("clean", "corrupt")),
                sides[0]["n"], dropped, "yes" if model.able(condition) else "**no**",
            ])
    return table(["model", "condition", "top-1, clean / corrupt", "probability of the answer", "logit difference", "pairs",
                  "rows dropped", "at least half right"], rows)


def heads_table(model: Findings, battery: str) -> str:
    """The heads with the largest effects in each condition."""
    rows = []
    for condition in CONDITIONS:
        effects = model.effects(battery, condition)
        for _, one in effects.reindex(effects["effect_logits"].abs().sort_values(ascending=False).index).head(SHOWN).iterrows():
            rows.append([
                f"`{condition}`", f"{one['layer']}.{one['head']}", f"{one['effect_logits']:+.2f}",
                "–" if pd.isna(one["effect"]) else f"{one['effect']:+.2f} {interval(one, 'ci_low', 'ci_high')}",
                interval(one, "new_templates_low", "new_templates_high"), one["label"] or "–",
                f"{one['templates_opposite']} of {one['templates']}", "–" if pd.isna(one["p_top_k"]) else f"{one['p_top_k']:.2f}",
            ])
    return table(["condition", "head", "logits", "fraction of the whole, 95 %", "95 % for new templates", "label",
                  "templates of opposite sign", f"P(top {TOP})"], rows)


def labels_table(models: Sequence[Findings]) -> str:
    """How many heads matter, and how far the order can be relied on."""
    rows = []
    for model in models:
        for battery in OF_HEADS:
            for condition in CONDITIONS:
                told = model.run(battery, condition).summary["effects"]
                counts, ranked = told["counts"] or {}, told["ranking"]
                rows.append([
                    MODELS[model.name], BATTERIES[battery][0], f"`{condition}`",
                    *(counts.get(label, "–") for label in ("matters", "mixed", "negligible", "undecided")),
                    told["examples_to_decide"] or "–",
                    *("–" if ranked[name] is None else f"{ranked[name]:.2f}" for name in ("stability", "naive", "held_out")),
                ])
    return table(["model", "battery", "condition", "matter", "mixed", "negligible", "undecided", "pairs to decide half of these",
                  f"stability of the top {TOP}", "their mean size, where chosen", "on other pairs"], rows)


def invariants_table(models: Sequence[Findings]) -> str:
    """What the sweeps claim of all five conditions, and the overlap of the lists of the strongest beside chance."""
    rows = []
    for model in models:
        for battery in BATTERIES:
            (group,) = model.sweeps[battery].invariants["groups"]
            claimed = [".".join(map(str, one.values())) if isinstance(one, dict) else str(one) for one in group[group["kind"]]]
            one = group["per_metric"]["logit_diff"]
            chance, found = one["by_chance"], len(one[group["kind"]])
            p = ["–" if chance[name] is None else f"{chance[name]:.2g}" for name in ("p", "p_within_layers")]
            rows.append([MODELS[model.name], BATTERIES[battery][0], ", ".join(claimed) or "none", found,
                         f"{chance['expected']:.2f}", *p])
    return table(["model", "battery", "matter in all five", f"among the {TOP} strongest of all five", "by chance", "p",
                  "p within layers"], rows)


def depth_table(models: Sequence[Findings]) -> str:
    """Where effects lie, as a fraction of the model's depth."""
    rows = []
    for condition in CONDITIONS:
        cells: list[object] = [f"`{condition}`"]
        for model in models:
            layers = model.shape[0]
            resid = model.recovery("layer_resid", condition)
            half = resid.index[(resid >= 0.5).to_numpy()]
            cells.append(f"{(int(half[0]) + 1) / layers:.2f} (layer {int(half[0])})" if len(half) else "–")
            for battery in OF_HEADS:
                cells.append(f"{np.mean([(layer + 1) / layers for layer, _ in model.strongest(battery, condition)]):.2f}")
        rows.append(cells)
    names = [MODELS[model.name] for model in models]
    what = ("residual stream recovers half at", f"{TOP} strongest heads, H1", f"{TOP} strongest heads, H2")
    return table(["condition", *(f"{name}: {one}" for name in names for one in what)], rows)


def overlap_table(models: Sequence[Findings]) -> str:
    """Heads that are strongest both when zeroed and when patched."""
    rows = []
    for model in models:
        total = model.shape[0] * model.shape[1]
        counts = [len(set(model.strongest("h1", c)) & set(model.strongest("per_head", c))) for c in CONDITIONS]
        rows.append([MODELS[model.name], *counts, f"{TOP * TOP / total:.1f}"])
    return table(["model", *(f"`{condition}`" for condition in CONDITIONS), "by chance"], rows)


def negative(models: Sequence[Findings]) -> str:
    """How alike the two ways of acting rank the heads, in one sentence."""
    found = []
    for model in models:
        alike = []
        for condition in CONDITIONS:
            zeroed, patched = (model.changes(battery, condition).mean().abs() for battery in OF_HEADS)
            alike.append(float(zeroed.rank().corr(patched.rank())))
        found.append(f"{min(alike):.2f} to {max(alike):.2f} for {MODELS[model.name]}")
    return f"The rank correlation of |change| over all heads is {' and '.join(found)}, by condition."


def time_table(models: Sequence[Findings]) -> str:
    """What it took."""
    rows = []
    for model in models:
        for battery, (title, _) in BATTERIES.items():
            told = [model.run(battery, condition).manifest["provenance"] for condition in CONDITIONS]
            rows.append([MODELS[model.name], title, sum(t["forwards"] for t in told), f"{sum(t['states'] for t in told):,}",
                         f"{sum(t['engine_seconds'] for t in told):.0f}", f"{sum(t['wall_seconds'] for t in told):.0f}"])
    header = ["model", "battery, five conditions", "forward passes", "states", "seconds in the engine", "seconds in all"]
    return table(header, rows)


def draw_heads(model: Findings, path: Path) -> None:
    """H1: a panel for each condition; colours are the change as a fraction of the unmodified logit difference."""
    figure, axes = matplotlib.pyplot.subplots(1, len(CONDITIONS), figsize=(12, 4.4), layout="constrained", sharey=True)
    for axis, condition in zip(axes, CONDITIONS, strict=True):
        base = abs(model.run("h1", condition).summary["baselines"]["clean"]["logit_diff"]["mean"])
        grid = model.changes("h1", condition).mean().unstack("head") / base
        image = axis.imshow(grid.to_numpy(), cmap="RdBu", vmin=-0.5, vmax=0.5, aspect="auto", origin="lower")
        axis.set(title=condition + ("" if model.able(condition) else " (cannot do it)"), xlabel="head")
        axis.set_xticks(range(grid.shape[1]))
    axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=list(axes), label="change, fraction of the logit difference")
    figure.suptitle(f"{MODELS[model.name]}: each head zeroed")
    figure.savefig(path, dpi=100)
    matplotlib.pyplot.close(figure)


def draw_layers(models: Sequence[Findings], path: Path) -> None:
    """H2: recovery by relative depth, a line for each condition."""
    kinds = [battery for battery in BATTERIES if battery not in OF_HEADS and battery != "h1"]
    figure, axes = matplotlib.pyplot.subplots(len(models), len(kinds), figsize=(12, 6), layout="constrained", sharex=True)
    for row, model in zip(axes, models, strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            for condition in CONDITIONS:
                found = model.recovery(kind, condition)
                style = "-" if model.able(condition) else ":"
                axis.plot((found.index + 1) / model.shape[0], found, style, label=condition)
            axis.set(title=f"{MODELS[model.name]}\n{BATTERIES[kind][0]}", xlabel="depth", ylabel="recovery")
            axis.axhline(0, color="grey", linewidth=0.5)
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    matplotlib.pyplot.close(figure)


def write(models: Sequence[Findings], examples: int) -> None:
    """Write the document and its pictures."""
    matplotlib.use("agg")
    for model in models:
        draw_heads(model, DOCUMENT.with_name(f"findings_{model.name}.png"))
    draw_layers(models, DOCUMENT.with_name("findings_layers.png"))
    parts = PROSE.format(
        examples=examples, top=TOP, shown=SHOWN, machine=", ".join(machine().values()),
        ability=ability_table(models), labels=labels_table(models), negative=negative(models),
        **{f"{model.name}_{battery}": heads_table(model, battery) for model in models for battery in OF_HEADS},
        invariants=invariants_table(models), depth=depth_table(models), overlap=overlap_table(models), time=time_table(models),
    )
    DOCUMENT.write_text(parts, encoding="utf-8")


PROSE = """# Findings on two trained models

Written by `make findings`; every number is computed from the tables of the runs that it makes. {machine}.

SmolLM2-135M-Instruct (30 layers × 9 heads; Q4_1, Apache-2.0) and Gemma 3 270M (18 layers × 4 heads; Q4_K_M, under the Gemma
Terms of Use), both read from GGUF files by `python -m tinylab.convert` (`make real-models`). Each of the five shipped
conditions, {examples} pairs drawn by seed 0 from the test split; H1 zeroes each head at every position, H2 puts the clean
run's activation at the last token into the corrupt run (denoising). Float32. BOS as the tokenizer itself adds it: Gemma's,
none for SmolLM2.

```bash
make findings
```

## Can they do the tasks?

{ability}

Top-1 is over the whole vocabulary, so another sensible word counts as wrong. A model can do a task, here, if it
gets at least half of the clean and half of the corrupt prompts right.

## The heads that matter

Each head (layer.head, counted from 0) zeroed, in each condition (red: the task suffers):

![SmolLM2's heads](findings_smollm2.png)
![Gemma's heads](findings_gemma3.png)

How many matter (the whole simultaneous 95 % interval is beyond 5 % of the unmodified logit difference; docs/statistics.md), and
how reliable the order of the strongest is:

{labels}

The largest {shown} by |mean change|, regardless of label. The two intervals answer two questions: these templates with new
words, and new templates of the same kind; if a condition has few templates the second is wide.

### SmolLM2, each head zeroed

{smollm2_h1}

### Gemma 3, each head zeroed

{gemma3_h1}

### SmolLM2, each head patched

{smollm2_per_head}

### Gemma 3, each head patched

{gemma3_per_head}

## Layers

The clean run's activation at the last token, put into the corrupt run (recovery: 0 is the corrupt run's logit difference, 1
the clean run's; dotted: tasks that the model cannot do):

![Recovery by depth](findings_layers.png)

That the residual stream of the last layer recovers everything is trivial: nothing comes after it.

## Invariants

Components that matter in all five conditions with one sign (partial conjunction, Holm over components), and, as a description,
how many are among the {top} strongest of all five, compared with random lists drawn among all components, and within layers.

{invariants}

## Where the two models agree

As a fraction of depth (1 is the last layer): where patching the residual stream first recovers half, and the mean depth of the
{top} strongest heads.

{depth}

## A negative result

Zeroing a head at every position and patching it at the last token do not find the same heads, so neither list alone is "the
heads that matter". Heads among the {top} strongest both when zeroed and when patched at the last token:

{overlap}

{negative}

## What this does not show

- There are two models, one of each kind, and both quantised: Q4 weights are not the weights that were trained, and no number
  here was compared with the unquantised models'.
- {examples} pairs with one to eight wordings each, made for a small model in plain English; SmolLM2 is a chat model and was
  prompted without its template.
- Zeroing a head puts later layers out of distribution; a large change does not prove that the head computes the
  answer. Zeroing one head at a time misses heads that can replace each other.
- Another model of the same size may solve the tasks differently: one model of each kind says nothing about kinds.

## What it took

{time}

Seconds are those of this machine, from the manifests; loading and the self-check of each sweep's first run are in the last
column.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not there yet and write the document; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="pairs of each condition")
    args = parser.parse_args(argv)
    models = [Findings(model, {battery: sweep(model, battery, args.examples) for battery in BATTERIES}) for model in MODELS]
    write(models, args.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
