"""How the tables of a sweep's page are drawn: Vega-Lite specifications, whose rows the page fills in."""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt

from tinylab.report.page.run_charts import COLOURS, EMPTY, LEGEND, ON_TILES, finished, tooltip, unclickable, zero

OF_CELLS = (("condition:N", "condition", None), ("name:N", "component", None), ("effect:Q", "effect", "+.4f"),
            ("ci_low:Q", "95 % from", "+.4f"), ("ci_high:Q", "to", "+.4f"), ("n:Q", "examples", None), ("rank:Q", "rank", None),
            ("label:N", "label", None))
SERIES = alt.Scale(domain=["found in all", "found in two, on average", "by chance", "by chance within layers"],
                   range=["#1b3a57", "#1b8a8a", "#c4561e", "#8a6d3b"])
DASHES = alt.Scale(domain=SERIES.domain, range=[[1, 0], [6, 2], [4, 4], [2, 3]])
SIDE = {"width": 142, "height": 115}
"""Pixels of one of the small multiples."""


@cache
def conditions_chart() -> dict[str, Any]:
    """The clean logit difference of each run with its interval."""
    base = alt.Chart(EMPTY).encode(y=alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=150)))
    told = tooltip(("label:N", "run", None), ("mean:Q", "clean logit difference", "+.4f"), ("low:Q", "95 % from", "+.4f"),
                   ("high:Q", "to", "+.4f"), ("n:Q", "pairs", None), ("clean:Q", "clean right", ".0%"),
                   ("corrupt:Q", "corrupt right", ".0%"))
    lines = base.mark_rule(strokeWidth=2, color="#1b6ca8").encode(x=alt.X("low:Q", title="clean logit difference"), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1, color="#1b6ca8").encode(x="mean:Q", tooltip=told)
    return finished((zero() + lines + dots).properties(width="container", height=100))


@cache
def shared_chart() -> dict[str, Any]:
    """Components by conditions, those that most conditions share first."""
    base = alt.Chart(EMPTY).encode(
        x=alt.X("condition:N", sort=None, title=None, axis=alt.Axis(labelAngle=-50, orient="top", labelLimit=110)),
        y=alt.Y("name:N", sort=None, title=None))
    tiles = base.mark_rect(stroke="#ddd", strokeWidth=0.3).encode(
        color=alt.Color("effect:Q", scale=COLOURS, legend=LEGEND),
        tooltip=tooltip(*OF_CELLS, ("count:Q", "conditions that share it", None))).add_params(alt.param(name="limit", value=1))
    marks = base.mark_text(baseline="middle", fontSize=13, tooltip=None).encode(text="mark:N", color=ON_TILES)
    return finished((tiles + unclickable(marks)).properties(width="container", height=100))


@cache
def multiples_chart(axes: tuple[str, str], conditions: tuple[str, ...]) -> dict[str, Any]:
    """A small map for each condition, all on one scale.

    Args:
        axes: what is to the right and upwards.
        conditions: in order.
    """
    tiles = alt.Chart().mark_rect().encode(
        x=alt.X("x:O", sort=alt.EncodingSortField("x_place", op="min"), title=axes[0],
                axis=alt.Axis(labelOverlap=True, labelAngle=0)),
        y=alt.Y("y:O", sort=alt.EncodingSortField("y_place", op="min", order="descending"), title=axes[1],
                axis=alt.Axis(labelOverlap=True)),
        color=alt.Color("effect:Q", scale=COLOURS, legend=LEGEND), tooltip=tooltip(*OF_CELLS),
    ).properties(**SIDE)
    chart = tiles.facet(facet=alt.Facet("condition:N", sort=list(conditions), title=None), columns=5, data=EMPTY).add_params(
        alt.param(name="limit", value=1))
    spec = finished(chart.resolve_axis(x="independent", y="independent").resolve_scale(color="shared"))
    del spec["autosize"]
    return {**spec, "usermeta": {"room": SIDE["width"] + 62}}


@cache
def overlap_chart() -> dict[str, Any]:
    """How many of the k strongest are shared, against k, beside what chance gives."""
    base = alt.Chart(EMPTY).encode(x=alt.X("k:Q", title="k, how many count as the strongest", axis=alt.Axis(tickMinStep=1)))
    told = tooltip(("series:N", "series", None), ("k:Q", "k", None), ("shared:Q", "shared", ".2f"),
                   ("high:Q", "95 % by chance", None))
    band = base.transform_filter("isValid(datum.high)").mark_area(opacity=0.15, color="#c4561e", tooltip=None).encode(
        y="shared:Q", y2="high:Q")
    legend = alt.Legend(orient="top", title=None, columns=2, labelLimit=200)
    lines = base.mark_line(point={"size": 22}).encode(
        y=alt.Y("shared:Q", title="components shared", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("series:N", scale=SERIES, legend=legend), tooltip=told,
        strokeDash=alt.StrokeDash("series:N", scale=DASHES, legend=legend))
    return finished((band + lines).properties(width="container", height=260))


@cache
def agreement_chart() -> dict[str, Any]:
    """Condition by condition: colours by rank correlation, numbers of shared components."""
    base = alt.Chart(EMPTY).encode(
        x=alt.X("second:N", sort=None, title=None, axis=alt.Axis(labelAngle=-50, orient="top", labelLimit=110)),
        y=alt.Y("first:N", sort=None, title=None, axis=alt.Axis(labelLimit=110)))
    told = tooltip(("first:N", "condition", None), ("second:N", "and", None), ("correlation:Q", "rank correlation", "+.4f"),
                   ("shared:Q", "strongest that they share", None), ("k:Q", "of", None))
    tiles = base.mark_rect().encode(tooltip=told, color=alt.Color(
        "correlation:Q", scale=alt.Scale(scheme="redblue", domain=[-1, 1]), legend=LEGEND))
    words = base.mark_text(baseline="middle", fontSize=12, tooltip=None).encode(
        text="shared:Q", color=alt.condition("abs(datum.correlation) > 0.7", alt.value("white"), alt.value("#222")))
    return finished((tiles + unclickable(words)).properties(width="container", height=100))


@cache
def pairs_chart() -> dict[str, Any]:
    """Any two conditions against each other, with the intervals of both."""
    base = alt.Chart(EMPTY)
    across = base.mark_rule(opacity=0.35).encode(x=alt.X("x_low:Q", title="effect in the first"), x2="x_high:Q",
                                                 y=alt.Y("y:Q", title="effect in the second"))
    upwards = base.mark_rule(opacity=0.35).encode(x="x:Q", y="y_low:Q", y2="y_high:Q")
    told = tooltip(("name:N", "component", None), ("x:Q", "in the first", "+.4f"), ("x_low:Q", "95 % from", "+.4f"),
                   ("x_high:Q", "to", "+.4f"), ("y:Q", "in the second", "+.4f"), ("y_low:Q", "95 % from", "+.4f"),
                   ("y_high:Q", "to", "+.4f"), ("x_label:N", "label in the first", None), ("y_label:N", "in the second", None))
    dots = base.mark_point(filled=True, size=55, opacity=0.9, color="#1b3a57").encode(x="x:Q", y="y:Q", tooltip=told)
    lines = zero() + alt.Chart(EMPTY).mark_rule(color="#999", strokeDash=[3, 3], tooltip=None).encode(y=alt.datum(0))
    return finished((lines + across + upwards + dots).properties(width="container", height=380))


@cache
def crossed_chart() -> dict[str, Any]:
    """What the components of one condition do to another, as a fraction of its unmodified value."""
    base = alt.Chart(EMPTY).encode(
        x=alt.X("components of:N", sort=None, title="components of", axis=alt.Axis(labelAngle=-50, orient="top", labelLimit=110)),
        y=alt.Y("on:N", sort=None, title="prompts of", axis=alt.Axis(labelLimit=110)))
    told = tooltip(("on:N", "prompts of", None), ("components of:N", "components of", None), ("how many:Q", "how many", None),
                   ("change:Q", "change in logits", "+.4f"), ("share:Q", "as a fraction", "+.4f"), ("n:Q", "examples", None))
    tiles = base.mark_rect().encode(tooltip=told, color=alt.Color("share:Q", scale=COLOURS, legend=LEGEND)).add_params(
        alt.param(name="limit", value=1))
    words = base.mark_text(baseline="middle", fontSize=12, tooltip=None).encode(
        text=alt.Text("share:Q", format="+.0%"),
        color=alt.condition("abs(datum.share) > 0.6 * limit", alt.value("white"), alt.value("#222")))
    return finished((tiles + unclickable(words)).properties(width="container", height=100))
