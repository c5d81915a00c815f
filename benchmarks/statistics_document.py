"""`make statistics`: simulations of known truth at length, written to docs/statistics.md and the picture beside it.

Every number of its tables is computed here, from seeds; the words around them are in `PROSE`.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import numpy as np

from benchmarks import simulations
from benchmarks.simulations import BALANCED, CORRELATION, SHAPES, Coverage, Found

DOCUMENT = Path(__file__).parent.parent / "docs/statistics.md"
DESIGNS = [*((each,) * templates for templates in (4, 8) for each in (4, 15)), (3, 6, 12, 19)]
CONDITIONS = (2, 5)


@dataclass(frozen=True)
class Extent:
    """How many data sets."""

    intervals: int = 20_000
    slow: int = 1_000  # of what resamples or flips each set
    claims: int = 4_000
    ranks: int = 400


SHORT = Extent(40, 4, 20, 4)
"""In seconds: whether it works."""


def skewness(sigma: float) -> float:
    """Of a lognormal."""
    square = np.exp(sigma**2)
    return float((square + 2) * np.sqrt(square - 1))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; shares to three digits."""
    lines = [header, ["---"] * len(header), *rows]
    told = [[f"{cell:.3f}".replace("0.", ".", 1).replace("-", "−") if isinstance(cell, float) else str(cell) for cell in line]
            for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in told)


def design(sizes: Sequence[int]) -> str:
    """Templates and examples, in words."""
    return f"{len(sizes)} × {sizes[0]}" if len(set(sizes)) == 1 else " + ".join(map(str, sizes))


@cache
def covered(shape: str, sizes: tuple[int, ...], extent: Extent) -> tuple[Coverage, Coverage]:
    """Of the t intervals, and of the bootstrap over templates."""
    return simulations.coverage(shape, sizes, extent.intervals), simulations.bootstrap_coverage(shape, sizes, extent.slow)


def coverage_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes × designs."""
    for shape in SHAPES:
        for sizes in DESIGNS:
            t, bootstrap = covered(shape, sizes, extent)
            yield shape, design(sizes), t.fixed, t.new, bootstrap.fixed, bootstrap.new


def ratio_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes × two designs: the ratio, and the F test."""
    for shape in SHAPES:
        for sizes in ((4,) * 4, BALANCED, (3, 6, 12, 19)):
            yield (shape, design(sizes), simulations.ratio_coverage(shape, sizes, 5 * extent.slow),
                   simulations.false_heterogeneity(shape, sizes, extent.intervals))


def familywise_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes × numbers of cells: any false claim."""
    for shape in SHAPES:
        for cells in (32, 270):
            sets = extent.claims if cells == 32 else extent.slow
            found = simulations.false_claims(shape, sets, cells=cells)
            flipped = simulations.false_claims(shape, extent.slow // 2, cells=cells, flips=2000)["maxt"]
            yield shape, cells, found["uncorrected"], found["holm"], found["bh"], flipped


def label_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes: any wrong label, where every cell is as near to a wrong one as can be."""
    for shape in SHAPES:
        wrong = [simulations.wrong_labels(shape, extent.slow, correction) for correction in ("holm", "bh")]
        wrong.append(simulations.wrong_labels(shape, extent.slow // 2, "maxt"))
        yield shape, *wrong, simulations.false_mixed(shape, extent.claims)


def skew_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Examples of each template: any false claim of skewed numbers, and any false `mixed`."""
    for each in (4, 8, 15, 30, 60, 120):
        yield (f"4 × {each}", simulations.false_claims("skew", extent.slow, sizes=[each] * 4)["holm"],
               simulations.false_mixed("skew", extent.slow, sizes=[each] * 4))


def discovery_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes: what Holm and BH find of 20 among 270."""
    for shape in SHAPES:
        found = simulations.discoveries(shape, extent.slow)
        yield shape, *(number for rule in ("holm", "bh") for number in told(found[rule]))


def told(found: Found) -> tuple[float, float, float]:
    """Shares of false claims, of sets with any, and of what is found."""
    return found.false, found.any_false, found.power


def conjunction_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes × conditions: any component claimed that lacks an effect in one of them; and what is found of the others."""
    for shape in SHAPES:
        for m in CONDITIONS:
            worst = simulations.conjunctions(shape, m, extent.slow)
            some = simulations.conjunctions(shape, m, extent.slow // 2, shared=10, effect=1.0)
            yield (shape, m, *(worst[rule].any_false for rule in worst), *(some[rule].power for rule in some))


def rank_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes: how often cells of so sure a place are among the strongest."""
    for shape in SHAPES:
        claimed, truly = simulations.top_k_calls(shape, extent.ranks)
        bins = [(0.95, 1.01), (0.7, 0.95), (0.3, 0.7), (0.0, 0.3)]
        found = [truly[(low <= claimed) & (claimed < high)] for low, high in bins]
        yield shape, *(float(one.mean()) if len(one) else "–" for one in found), *simulations.exaggeration(shape, extent.ranks)


def power_rows(extent: Extent) -> Iterator[Sequence[object]]:
    """Shapes: examples that are said to be needed, and how many cells so many decide."""
    for shape in SHAPES:
        n, share = simulations.decided(shape, max(2, extent.ranks // 2))
        yield shape, n, share


def draw(path: Path, extent: Extent) -> None:
    """Coverage by design: t intervals filled, the bootstrap over templates hollow; a colour for each shape."""
    figure, axes = matplotlib.pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, name, title in zip(axes, ("fixed", "new"), ("these templates, new words", "new templates"), strict=True):
        for place, shape in enumerate(SHAPES):
            x = np.arange(len(DESIGNS)) + 0.15 * (place - 1.5)
            t, bootstrap = ([getattr(covered(shape, sizes, extent)[which], name) for sizes in DESIGNS] for which in (0, 1))
            axis.plot(x, t, "o", color=f"C{place}", markersize=5, label=shape)
            axis.plot(x, bootstrap, "s", color=f"C{place}", markersize=5, fillstyle="none")
        axis.axhline(0.95, color="grey", linewidth=0.8)
        axis.set_xticks(range(len(DESIGNS)), [design(sizes) for sizes in DESIGNS])
        axis.set(title=title, xlabel="templates × examples")
    axes[0].set(ylabel="share of 95 % intervals that cover", ylim=(0.6, 1.01))
    axes[0].plot([], [], "ks", fillstyle="none", label="bootstrap over templates")
    axes[0].legend(fontsize=8, ncols=2, loc="lower right")
    figure.savefig(path, dpi=80)
    matplotlib.pyplot.close(figure)


SECTIONS: dict[str, tuple[Sequence[str], Callable[[Extent], Iterator[Sequence[object]]]]] = {
    "coverage": (("shape", "templates × examples", "t, these templates", "t, new templates", "bootstrap over templates: these",
                  "bootstrap over templates: new"), coverage_rows),
    "ratio": (("shape", "templates × examples", "interval of the ratio covers", "F finds a difference that is not there"),
              ratio_rows),
    "familywise": (("shape", "cells", "uncorrected", "Holm", "Benjamini–Hochberg", "max-T"), familywise_rows),
    "labels": (("shape", "any wrong label, `holm`", "`bh`", "`maxt`", "any false `mixed`, worst case"), label_rows),
    "skew": (("skew: templates × examples", "Holm: any false claim", "any false `mixed`, worst case"), skew_rows),
    "discovery": (("shape", "Holm: false share", "any false", "power", "BH: false share", "any false", "power"), discovery_rows),
    "conjunction": (("shape", "conditions", "any false: partial conjunction", "Holm in every run", "the same k strongest",
                     "a quarter more", "power: partial conjunction", "Holm in every run", "the same k strongest",
                    "a quarter more"), conjunction_rows),
    "ranks_table": (("shape", "P(top k) ≥ .95", ".70–.95", ".30–.70", "< .30", "k strongest of nothing, naive", "held out"),
                    rank_rows),
    "power": (("shape", "examples said to be needed", "share of cells that so many decide"), power_rows),
}


def write(document: Path, extent: Extent) -> None:
    """Write the document and its picture."""
    matplotlib.use("agg")
    parts = {}
    for name, (header, rows) in SECTIONS.items():
        parts[name] = table(header, rows(extent))
        print(f"{name}\n{parts[name]}\n", flush=True)
    draw(document.with_suffix(".png"), extent)
    document.write_text(PROSE.format(
        date=datetime.datetime.now(datetime.UTC).date(),
        versions=", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy")),
        skewness=skewness(simulations.SKEW), strong=skewness(simulations.STRONG_SKEW), correlation=CORRELATION,
        intervals=extent.intervals, slow=extent.slow, half=extent.slow // 2, ratios=5 * extent.slow, claims=extent.claims,
        ranks=extent.ranks, picture=document.with_suffix(".png").name, **parts), encoding="utf-8")


PROSE = """# What the numbers of a run mean, and how often they are right

Written by `make statistics` on {date} ({versions}). The simulations are seeded: the same versions give the same tables. They
are in `benchmarks/simulations.py`; the tests run shorter versions, with bounds. The columns of `effects.parquet` and the keys
of `invariants.json` are listed in [reference.md](reference.md); the functions can be used alone (`tinylab.statistics`).

## Two questions, two intervals

d is an example's change of the logit difference, b the denominator of which it is a fraction: the unmodified run's logit
difference, for patching the difference between the source run and the target run. Template t has n_t of the n examples.

**These templates, new words** (`effect`, `ci_low`, `ci_high`, `p`). Estimand: R = Σd/Σb in the population of words from which
the corpus' rows of *these* templates come, each template with the weight it has in the run. With e = (d − R·b)/b̄, se² = Σ
(n_t/n)²·s_t²(e)/n_t, and t with Satterthwaite's degrees of freedom (1946). Assumption: examples of a template are independent,
and their number does not make Σb nearly 0. This is HC2 with a dummy for each template (MacKinnon & White 1985); for one
template the one-sample t test, for two Welch's. Linearised ratio: Cochran 1977, section 6.3. If a word is used in several rows
(`condition.item_field`), items are independent instead of examples: CR2 with the degrees of freedom of Bell & McCaffrey 2002.

**New templates** (`new_templates_effect`, `new_templates_low`, `new_templates_high`). Estimand: the mean over templates of the
population from which these are a sample, each counted once. The mean of G template means with sd/√G and t with G − 1 degrees
of freedom. Assumption: templates are independent draws, and nearly normal, which four of them cannot show. Reused words add
what they share between templates (two-way clustering: Cameron, Gelbach & Miller 2011). This interval is what a claim about the
*task* needs; it is wider, often much wider.

`simultaneous_low` and `simultaneous_high` are the first interval at 1 − alpha/V for V cells (`effects=holm`), at 1 − R·alpha/V
where R cells are decided (`effects=bh`: of the intervals of decided cells a share of alpha is wrong on average, Benjamini &
Yekutieli 2005), or with the critical value of the largest |t| of all cells when signs of deviations are flipped
(`effects=maxt`, Westfall & Young 1993; assumes symmetry). `p_holm` bounds the chance of any false claim among the cells of a
metric (Holm 1979), `q_bh` the mean share of false claims (Benjamini & Hochberg 1995).

`label`. `matters`: the whole simultaneous interval is beyond ±`effects.smallest`; `negligible`: the whole interval is within
(Lakens, Scheel & Isager 2018); otherwise `undecided`, which is not "no effect". `mixed` overrides: some template is over
+smallest and another under −smallest; for each side the smallest one-sided p of the templates' t tests times their number,
then the larger side, by Holm over cells (Gail & Simon 1985). `nonzero` is not a test: the mean change is over ten times the
noise that a sham or the verify slice found; where changes vary by no more than rounding, it decides p (1 or 0). `new_templates`:
the second interval's t test beyond the smallest effect, by Holm among the cells that matter.

`heterogeneity_p` is the F test of equal templates, `between_template_sd` their spread beyond that of their examples (Searle,
Casella & McCulloch 1992). `share_beyond` with `share_low` and `share_high`, for metrics that are not a logit difference: the
share of examples that change by more than `effects.smallest`, exact for independent examples (Clopper & Pearson 1934). Their
mean change has a t interval too, but a KL divergence is skewed and never negative: no sign test, no label.

If words are reused, the F test and that spread take the mean of a word's examples in a template for one example (a word in
several templates makes p larger, not smaller); a share's interval is the exact one of as many independent examples as its
variance is worth (Korn & Graubard 1998); ranks resample whole words, and halves share none.

`p_top_k`: how often a cell is among the k with the largest |mean change| when examples are resampled within their templates,
deviations stretched by √(n_t/(n_t − 1)) (Rao & Wu 1988). It is about these templates, and does not account for effects that
cancel in the mean of a `mixed` cell. `effects.ranking.stability` is Φ of Nogueira, Sechidis & Brown 2018: 1 where all
samples give one list, 0
for lists drawn by chance. `naive` and `held_out` are the mean size of the k strongest on the half of the examples that selected
them, and on the other half.

`examples_to_decide` and `templates_to_decide`: about how many examples would decide half of the undecided cells, and how many
templates would show half of those that matter to matter for new ones, with probability .8, if effects and spreads are as found.
Before a run the same is said in standard deviations, for equal spreads.

## Several conditions

`conjunction` in `invariants.json`. Estimand: whether a component has an effect of one sign beyond the smallest in all m
conditions (or in `at_least` r of them). p = min(1, 2·min over the two signs of (m − r + 1)·p₍ᵣ₎), p₍ᵣ₎ the r-th smallest of
the conditions' one-sided p-values; with r = m the largest (Benjamini & Heller 2008). Then Holm over components. This makes no
assumption about how conditions depend on each other, and needs no k. `count` is the number of conditions in which a component
has the label `matters`: a description, not a test.

`by_chance` is about the intersection of lists of the k strongest, which is a description: `p`, the probability of at least as
many shared components if lists were drawn among all components (a chain of hypergeometric distributions), and
`p_within_layers`, if they were drawn within layers, with as many from each layer as were found. Both say whether *some* are
shared beyond chance, never which.

## Coverage of 95 % intervals

Template effects and examples have the same shape of distribution, variance 1 each: normal; skew, a lognormal of skewness
{skewness:.2f} (of the 32 heads and 8 templates of `cond_a` nine in ten have less); strong skew, one of {strong:.2f}; t3,
Student's t with 3 degrees of freedom; bimodal, two narrow heaps. {intervals:,} data sets each ({slow:,} of the bootstrap): a
share of .95 has a standard error of .0015 (.007).

![Coverage by design]({picture})

{coverage}

Earlier versions used the percentile bootstrap over templates. It answers neither question: for these templates it covers too
often if they differ, as they do here, and for new ones far too rarely. With skewed numbers a t interval
covers less often, for new templates no matter how many examples each has: few templates cannot show their skew.

The ratio R with b of 12 ± 2 logits, {ratios:,} data sets; and the F test where templates do not differ, {intervals:,}.

{ratio}

## False claims among many cells

4 templates of 8 examples; deviations of two cells of a run correlate by {correlation}. No cell has an effect; the share of
runs that claim any, nominally .05: {claims:,} runs of 32 cells, {slow:,} of 270, {half:,} for max-T. Under this null
Benjamini–Hochberg bounds the same share.

{familywise}

Symmetric shapes keep the nominal level. Skew does not: far tails are reached more often on the side of the skew, and more
cells reach farther into the tail; no correction fixes that.

Labels where R is 0, +smallest or −smallest exactly, a third of 33 cells each, so that everything but `undecided` is wrong at
the boundary: the share of runs with any wrong label ({slow:,} runs; {half:,} for `maxt`). `bh` bounds the share of wrong
labels among those that are decided, not this. In the last column one template is far above +smallest and the others are at
−smallest exactly, in all of 32 cells ({claims:,} runs).

{labels}

`mixed` tests each template by its own examples, eight here, one-sided, so it suffers most from skew to the wrong side. If
changes are skewed, look at the templates' means before believing a sign change that is not large. More examples help only
slowly ({slow:,} runs of 32 cells):

{skew}

## What is found

20 of 270 cells have an effect of one standard deviation of examples, 32 examples, {slow:,} runs: the mean share of false
claims, the share of runs with any, and the share of the 20 that is found.

{discovery}

As many examples as `examples_to_decide` recommends after a first run of 32, where all effects are twice the smallest of
interest: it aims to decide .8 of the cells.

{power}

## Components of several conditions

40 components, each without any effect in one condition and of two standard deviations in all others, 32 examples a
condition, {slow:,} sweeps: the share of sweeps in which any is claimed to be shared by all conditions, nominally .05. For
comparison, a component is called shared if it is among the k strongest of every condition: with k as many as matter there,
which nobody knows in practice, and with a quarter more. Then 10 of the components have an effect of one standard deviation in
every condition, the others in all but one: the share of the 10 that is claimed ({half:,} sweeps).

{conjunction}

Skew is to the right and effects are negative here: the worse of the two cases, as the tests are one-sided.

"Holm in every run" tests each condition alone and intersects: its errors nearly add up over conditions. Lists of the strongest
err if k is too large.

## Ranks

32 cells with normal effects of half a standard deviation, 32 examples, k = 8, {ranks:,} runs: of the cells with that
P(top k), the share that truly are among the 8. Then 32 cells without any effect: the mean size of the 8 strongest in standard
deviations of examples, on the half that selected them and on the other; the truth is 0.

{ranks_table}
"""


def main() -> None:
    """Write docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few data sets, in seconds: whether it works")
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="the document; default docs/statistics.md")
    options = parser.parse_args()
    write(options.out, SHORT if options.short else Extent())


if __name__ == "__main__":
    main()
