"""What a person should see of pairs: the strongest synergies as a view, and all of them as a matrix of heads, or layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tinylab.arrays import FloatArray
from tinylab.interventions.components import LAYER_PAIR_IMPACT, PAIR_IMPACT, TableKind
from tinylab.measures.metrics import LOGIT_DIFF
from tinylab.report.names import COLUMNS, joined_names, with_names
from tinylab.report.plots import NOT, save
from tinylab.report.views import STRONGEST, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def synergy_view(table: pd.DataFrame) -> View:
    """The pairs that are furthest from the sum of their singles, averaged over seeds.

    Args:
        table: a run's `synergy`.
    """
    metric, kind = _shown(table), _kind(table)
    pairs = _pairs(table, metric)
    half = (pairs["ci_high"] - pairs["ci_low"]) / 2
    pairs = pairs.assign(size=pairs["synergy"].abs(), half=half).sort_values(
        ["size", *kind.component, "scale"], ascending=[False, *[True] * len(kind.component), True])
    varied = ["scale"] if pairs["scale"].nunique() > 1 else []
    rows = [
        [*(row[name] for name in COLUMNS), *(row[name] for name in varied),
         (row["synergy"], None if pd.isna(row["half"]) else row["half"]), row["joint"], row["single1"], row["single2"]]
        for row in pairs.head(STRONGEST).to_dict("records")
    ]
    return View(f"strongest synergies by {metric}: joint change minus the sum of the single ones",
                [*COLUMNS, *varied, "synergy", "joint", "single1", "single2"], rows)


def _shown(table: pd.DataFrame) -> str:
    """The metric that is shown: logit_diff, or else the first."""
    metrics = list(dict.fromkeys(table["metric"]))
    return LOGIT_DIFF if LOGIT_DIFF in metrics else str(metrics[0])


def _kind(table: pd.DataFrame) -> TableKind:
    """What its pairs are of."""
    return PAIR_IMPACT if "head1" in table else LAYER_PAIR_IMPACT


def _pairs(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The pairs by one metric averaged over seeds, both members by name in `first` and `second`."""
    kind = _kind(table)
    rows = table[table["metric"] == metric].groupby(list(kind.keys), as_index=False)[
        ["joint", "single1", "single2", "synergy", "ci_low", "ci_high"]].mean()
    return with_names(rows, kind)[0]


def synergies_sentence(table: pd.DataFrame, file: str) -> str:
    """How many synergies a sweep has joined, and which is the furthest from 0.

    Args:
        table: the sweep's, of heads or of layers.
        file: where it is.
    """
    metric, kind = _shown(table), _kind(table)
    runs = table[table["metric"] == metric].groupby(["run_id", "condition", *kind.keys], as_index=False)["synergy"].mean()
    sizes = runs["synergy"].abs()
    furthest = runs[sizes == sizes.max()].head(1)
    (name,), row = joined_names(furthest, kind), furthest.iloc[0]
    pairs, count = len(runs[list(kind.component)].drop_duplicates()), runs["run_id"].nunique()
    return (f"synergies of {pairs} pair{'s' * (pairs > 1)} in {count} run{'s' * (count > 1)} are joined in {file}; the furthest "
            f"from 0 by {metric}: {name} on {row['condition']}, {row['synergy']:+z.3f}")


def matrix(path: Path, table: pd.DataFrame, title: str) -> None:
    """Draw the synergy of every two heads or layers, a panel for each scale.

    Args:
        path: the PNG to write.
        table: the run's `synergy`.
        title: what the picture shows.
    """
    save(path, draw_matrix(table, title))


def draw_matrix(table: pd.DataFrame, title: str) -> Figure:
    """The picture itself; colours are centred on 0, a dot says that the interval holds 0 (or that there is none)."""
    from matplotlib.figure import Figure

    metric = _shown(table)
    pairs = _pairs(table, metric)
    what = "head" if _kind(table) == PAIR_IMPACT else pairs["granularity"].iloc[0]
    limit = float(pairs["synergy"].abs().max()) or 1.0
    panels = list(pairs.groupby("scale"))
    figure = Figure(figsize=(min(6.0 * len(panels), 24), 5.0), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axis, (scale, rows) in zip(axes, panels, strict=True):
        members, values, told = square(rows)
        image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_facecolor("lightgray")
        axis.set_title(f"{what} × {scale:g}", fontsize=9)
        for (y, x), nonzero in np.ndenumerate(told):
            if y != x and not nonzero:
                axis.text(x, y, NOT, ha="center", va="center", fontsize=11, color="dimgray")
        for which in (axis.xaxis, axis.yaxis):
            which.set_ticks(range(len(members)), members)
        axis.tick_params(axis="x", labelrotation=90)
    figure.colorbar(image, ax=list(axes), label=f"synergy, in {metric}")
    figure.suptitle(f"{title}\n{NOT} the 95 % interval holds 0", fontsize=11)
    return figure


def square(rows: pd.DataFrame) -> tuple[list[str], FloatArray, Any]:
    """Members in order, the synergy of every two [members, members] (NaN on the diagonal), and whether its interval leaves 0 out.

    Args:
        rows: a row for each pair.
    """
    sides = _kind(rows).members
    ends = [tuple(one) for side in sides for one in rows[list(side)].to_numpy().tolist()]
    place = {member: number for number, member in enumerate(sorted(set(ends)))}
    values, told = np.full((len(place), len(place)), np.nan), np.zeros((len(place), len(place)), dtype=bool)
    for row in rows.to_dict("records"):
        one, other = (place[tuple(row[name] for name in side)] for side in sides)
        values[one, other] = values[other, one] = row["synergy"]
        told[one, other] = told[other, one] = row["ci_low"] > 0 or row["ci_high"] < 0
    return [".".join(map(str, member)) for member in place], values, told
