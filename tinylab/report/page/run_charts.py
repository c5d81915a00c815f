"""How the tables of a run's page are drawn: Vega-Lite specifications, whose rows the page fills in."""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt

COLOURS = alt.Scale(scheme="redblue", domain=[{"expr": "-limit"}, {"expr": "limit"}], clamp=True)
"""Centred on 0: red where the number falls, blue where it rises."""
RUN_COLOURS = alt.Scale(domain=["clean", "corrupt"], range=["#1b6ca8", "#c4561e"])
LEGEND = alt.Legend(orient="top", title=None, gradientLength=200, format="+.2~g")
ON_TILES = alt.condition("abs(datum.effect) > 0.6 * limit", alt.value("white"), alt.value("#333"))
"""What is written on a tile can be read on any of the colours."""
EMPTY = alt.NamedData(name="table")


def finished(chart: Any) -> dict[str, Any]:
    """A chart as plain data: as wide as its place on the page, its fonts as large as the page's."""
    spec: dict[str, Any] = chart.configure_axis(labelFontSize=12, titleFontSize=12, labelLimit=170, grid=False).configure_view(
        stroke=None).configure_legend(labelFontSize=12).configure_header(labelFontSize=12, title=None).to_dict(validate=False)
    spec["background"], spec["autosize"] = "white", {"type": "fit-x", "contains": "padding"}
    return spec


def tooltip(*told: tuple[str, str, str | None]) -> list[alt.Tooltip]:
    """What is shown of a mark: a field, its title, its format."""
    return [alt.Tooltip(field, title=title) if form is None else alt.Tooltip(field, title=title, format=form)
            for field, title, form in told]


OF_CELLS = (("name:N", "component", None), ("effect:Q", "effect", "+.4f"), ("ci_low:Q", "95 % from", "+.4f"),
            ("ci_high:Q", "to", "+.4f"), ("n:Q", "examples", None), ("rank:Q", "rank", None),
            ("examples_opposite:Q", "of opposite sign", ".0%"), ("label:N", "label", None))


@cache
def ability_chart() -> dict[str, Any]:
    """The logit difference of both unmodified runs by template, with intervals."""
    base = alt.Chart(EMPTY).encode(y=alt.Y("template:N", sort=None, title=None), color=alt.Color(
        "run:N", scale=RUN_COLOURS, legend=alt.Legend(orient="top", title=None)))
    told = tooltip(("run:N", "run", None), ("template:N", "template", None), ("mean:Q", "logit difference", "+.4f"),
                   ("low:Q", "95 % from", "+.4f"), ("high:Q", "to", "+.4f"), ("n:Q", "examples", None),
                   ("accuracy:Q", "right", ".0%"), ("answer_probability:Q", "probability of the answer", ".3f"))
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="logit difference (target − foil)"), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x="mean:Q", tooltip=told)
    return finished((zero() + lines + dots).properties(width="container", height=100))


@cache
def map_chart(axes: tuple[str, str], columns: tuple[Any, ...], rows: tuple[Any, ...]) -> dict[str, Any]:
    """Component by component: colours by effect, a mark where the test does not find it to matter; a click chooses one.

    Args:
        axes: what is to the right and upwards.
        columns: the places to the right, in order.
        rows: the places upwards, the lowest first.
    """
    picked = alt.selection_point(name="picked", fields=["cell"], on="click", toggle=False, nearest=False)
    base = alt.Chart(EMPTY).encode(
        x=alt.X("x:O", sort=list(columns), title=axes[0],
                axis=alt.Axis(labelAngle=-60 if _long(columns) else 0, labelOverlap=True)),
        y=alt.Y("y:O", sort=list(rows[::-1]), title=axes[1]),
    )
    tiles = base.mark_rect().encode(
        color=alt.Color("effect:Q", scale=COLOURS, legend=LEGEND), tooltip=tooltip(*OF_CELLS),
        stroke=alt.condition(picked, alt.value("black"), alt.value("#ddd"), empty=False),
        strokeWidth=alt.condition(picked, alt.value(2), alt.value(0.3), empty=False),
    ).add_params(picked, alt.param(name="limit", value=1))
    marks = base.mark_text(baseline="middle", fontSize=13, tooltip=None).encode(text="mark:N", color=ON_TILES)
    return finished((tiles + unclickable(marks)).properties(width="container", height=100))


@cache
def top_chart() -> dict[str, Any]:
    """The strongest as dots with their intervals, and the means of templates as small dots."""
    base = alt.Chart(EMPTY).encode(y=alt.Y("name:N", sort=None, title=None))
    whole, parts = base.transform_filter("datum.template == null || datum.template === ''"), base.transform_filter(
        "datum.template != null && datum.template !== ''")
    lines = whole.mark_rule(strokeWidth=2, color="#1b3a57").encode(x=alt.X("ci_low:Q", title="effect"), x2="ci_high:Q")
    dots = whole.mark_point(filled=True, size=70, color="#1b3a57", opacity=1).encode(x="effect:Q", tooltip=tooltip(*OF_CELLS))
    small = parts.mark_point(filled=True, size=18, color="#c4561e", opacity=0.8).encode(
        x="effect:Q", tooltip=tooltip(("name:N", "component", None), ("template:N", "template", None),
                                      ("effect:Q", "its mean", "+.4f")))
    return finished((zero() + lines + small + dots).properties(width="container", height=100))


@cache
def strip_chart(metric: str) -> dict[str, Any]:
    """The change of every example of the chosen component, by template."""
    told = tooltip(("example:Q", "row", None), ("template:N", "template", None), ("change:Q", f"change of {metric}", "+.4f"),
                   ("value:Q", "to", "+.4f"), ("baseline:Q", "from", "+.4f"))
    dots = alt.Chart(EMPTY).mark_tick(thickness=2, size=12, color="#1b3a57", opacity=0.7).encode(
        x=alt.X("change:Q", title=f"change of {metric}"), y=alt.Y("template:N", sort=None, title=None), tooltip=told)
    return finished((zero() + dots).properties(width="container", height=100))


def zero() -> Any:
    """A line at 0."""
    return alt.Chart(EMPTY).mark_rule(color="#999", strokeDash=[3, 3], tooltip=None).encode(x=alt.datum(0))


def unclickable(marks: Any) -> Any:
    """Marks that leave the pointer to what is below them."""
    marks.mark.interactive = False
    return marks


def _long(names: tuple[Any, ...]) -> bool:
    return any(isinstance(name, str) and len(name) > 3 for name in names)
