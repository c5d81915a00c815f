"""A run's results as the plain tables of its page."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tinylab.checks.shams import sham_failed
from tinylab.effects.measured import Measured
from tinylab.interventions.components import TableKind
from tinylab.interventions.sources import RUNS
from tinylab.measures.metrics import LOGIT_DIFF, LOGPROB_DIFF, named
from tinylab.measures.recovery import RECOVERY_FLOOR
from tinylab.statistics.bootstrap import bootstrap_interval

TOP = 30
"""Components whose effects are shown as dots."""
KEPT = 20
"""Components, the strongest, whose examples the page holds."""
ROOM = 1_500_000
"""Bytes that the examples of components may take, and as many again the prompts."""
ALL = "all"


def ability(summary: dict[str, Any], examples: pd.DataFrame | None) -> pd.DataFrame:
    """How the model answers unmodified prompts: a row for all, and for each template, of each of the two runs.

    Args:
        summary: of the run.
        examples: of the run; without them nothing is known of templates' logit differences and intervals.
    """
    told = summary.get("ability")
    baselines = {run: of.get(LOGIT_DIFF) or of.get(LOGPROB_DIFF) or {} for run, of in summary["baselines"].items()}
    rows = []
    for run in RUNS:
        groups = {ALL: examples}
        if examples is not None and examples["template"].notna().all() and examples["template"].nunique() > 1:
            groups.update((str(name), part) for name, part in examples.groupby("template", sort=False))
        for name, part in groups.items():
            row: dict[str, Any] = {"run": run, "template": name, "low": None, "high": None}
            row |= {key: baselines[run].get(key) for key in ("n", "mean")}
            if part is not None:
                numbers = part[f"{run}_difference"].to_numpy()
                clusters = part["template"].where(part["template"].notna(), None).tolist() if name == ALL else [None] * len(part)
                bounds, _ = bootstrap_interval(numbers[:, None], lambda means: means[:, 0], clusters=clusters)
                row |= {"n": len(part), "low": bounds and bounds[0], "high": bounds and bounds[1]}
                if name != ALL:
                    row["mean"] = float(numbers.mean())
            answered = (told or {}).get(run, {})
            answered = answered if name == ALL else answered.get("by_template", {}).get(name, {})
            rows.append(row | {key: answered.get(key) for key in ("accuracy", "answer_probability")})
    return pd.DataFrame(rows).astype({name: float for name in ("mean", "low", "high", "accuracy", "answer_probability")})


def verdicts(manifest: dict[str, Any], summary: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """What was checked of a run, whether it passed, and what was found."""
    provenance, shams = manifest["provenance"], summary["controls"].get("sham")
    failed = sham_failed(summary["controls"], provenance["dtype"])
    largest = max(shams.values(), default=0.0) if shams else 0.0
    found = [("sham", "none", "no sham was made") if not shams else
             ("sham", "pass", f"interventions that should change nothing change at most {largest:.2g}") if failed is None else
             ("sham", "fail", failed)]
    check = provenance.get("self_check") or {}
    difference = provenance.get("self_check_max_difference")
    at_most = "" if difference is None else f": the fast engine differs from the plain one by at most {difference:.2g}"
    if check.get("verdict") is None:
        found.append(("self-check", "none", f"none was made, the {provenance['engine']} engine ran"))
    elif provenance.get("engine_fallback_reason"):
        found.append(("self-check", "fail", f"{provenance['engine_fallback_reason']}; the plain engine ran"))
    else:
        found.append(("self-check", "pass" if check["verdict"] == "pass" else "fail", f"{check['verdict']}{at_most}"))
    verify = manifest.get("verify_slice")
    found.append(("verify slice", "none", "not asked for (+verify_slice.device=cpu)") if verify is None else
                 ("verify slice", "pass" if verify["verdict"] == "pass" else "fail",
                  f"{verify['verdict']} on {verify['settings']['device']}"))
    return tuple(found)


def dropped(manifest: dict[str, Any]) -> str:
    """How many pairs were used, and why others were not."""
    corpus = manifest["provenance"]["corpus"]
    reasons = ", ".join(f"{reason}: {count}" for reason, count in corpus["dropped"].items())
    return f"{corpus['used']} of {corpus['kept']} usable pairs were used; dropped: {reasons or 'none'}."


def shown_metric(metrics: Sequence[str]) -> str:
    """The metric by which examples are shown: the logit difference, or else the first that every example has."""
    if LOGIT_DIFF in metrics:
        return LOGIT_DIFF
    return next((name for name in metrics if not named(name).pooled), metrics[0])


def top_of(cells: pd.DataFrame, measured: Measured | None, kind: TableKind, by: str = LOGIT_DIFF) -> pd.DataFrame:
    """The strongest cells of each metric and panel, and of one metric the means of their templates.

    Args:
        cells: of `cells_of`.
        measured: that metric by example; None where it is not there.
        kind: of the run's table.
        by: the metric of labels, whose effects are fractions.
    """
    columns = ["cell", "name", "panel", "metric", "rank", "effect", "ci_low", "ci_high", "n", "examples_opposite", "label"]
    ranked = cells.sort_values(["metric", "panel", "rank"])
    top = ranked[ranked.groupby(["metric", "panel"]).cumcount() < TOP][columns].assign(template="")
    if measured is None or None in measured.names or len(measured.templates.sizes) < 2:
        return top
    whole = float(measured.whole.mean())
    unit = whole if measured.metric.name == by and abs(whole) >= RECOVERY_FLOOR else 1.0
    names = [measured.names[members[0]] for members in measured.templates.each]
    means = pd.DataFrame(measured.templates.means(measured.change) / unit, columns=pd.Index(names, name="template"))
    keyed = pd.concat([measured.keys.reset_index(drop=True), means], axis=1).melt(
        id_vars=list(kind.keys), value_vars=names, var_name="template", value_name="effect")
    numbered = cells[cells["metric"] == measured.metric.name][[*kind.keys, "cell"]]
    keyed = keyed.merge(numbered, on=list(kind.keys))[["cell", "template", "effect"]]
    own = top[top["metric"] == measured.metric.name].drop(columns=["effect", "template"])
    dots = own.merge(keyed, on="cell").assign(ci_low=np.nan, ci_high=np.nan)
    return pd.concat([top, dots[top.columns]], ignore_index=True)


def strongest_examples(cells: pd.DataFrame, measured: Measured | None, kind: TableKind, table: pa.Table) -> pd.DataFrame:
    """Of the strongest cells every example: its change and value, as many cells as there is room for.

    Args:
        cells: of `cells_of`.
        measured: the shown metric by example; None where it is not there.
        kind: of the run's table.
        table: the run's `per_example`, which tells the examples' row numbers.
    """
    columns = ["cell", "name", "example", "template", "change", "value", "baseline"]
    if measured is None:
        return pd.DataFrame(columns=columns)
    own = cells[cells["metric"] == measured.metric.name].sort_values("rank")
    keyed = measured.keys.reset_index(drop=True).reset_index(names="v").merge(own[[*kind.keys, "cell", "name", "rank"]],
                                                                              on=list(kind.keys)).sort_values("rank")
    rows = np.unique(table["example"].to_numpy())
    few = max(1, min(KEPT, ROOM // (60 * max(1, len(rows)))))
    names = ["" if name is None else name for name in measured.names]
    parts = [
        pd.DataFrame({"cell": one["cell"], "name": one["name"], "example": rows, "template": names,
                      "change": measured.change[one["v"]], "value": measured.values[one["v"]], "baseline": measured.baseline})
        for one in keyed.head(few).to_dict("records")
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset=["value"]) if parts else pd.DataFrame(columns=columns)


def prompts_of(examples: pd.DataFrame | None) -> dict[str, Any]:
    """The prompts by example: tokens, those in which clean and corrupt differ, answers; as many as there is room for."""
    if examples is None:
        return {"rows": {}, "left_out": None}
    rows: dict[str, Any] = {}
    taken = 0
    for one in examples.to_dict("records"):
        clean, corrupt = [str(token) for token in one["clean_tokens"]], [str(token) for token in one["corrupt_tokens"]]
        differing = differing_tokens(clean, corrupt)
        taken += 40 + sum(len(token.encode()) + 3 for token in (*clean, *corrupt, one["target"], one["foil"]))
        if taken > ROOM:
            break
        rows[str(one["example"])] = {
            "clean": clean, "corrupt": corrupt, "differ": differing, "target": one["target"], "foil": one["foil"],
            "right": [bool(one[f"{run}_right"]) for run in RUNS],
            "p": [round(float(one[f"{run}_answer_probability"]), 3) for run in RUNS],
        }
    return {"rows": rows, "left_out": len(examples) - len(rows)}


def differing_tokens(clean: Sequence[str], corrupt: Sequence[str]) -> tuple[list[int], list[int]]:
    """The places of the tokens in which two prompts differ, in each."""
    found: tuple[list[int], list[int]] = ([], [])
    for kind, first, last, other, end in SequenceMatcher(None, clean, corrupt, autojunk=False).get_opcodes():
        if kind != "equal":
            found[0].extend(range(first, last))
            found[1].extend(range(other, end))
    return found
