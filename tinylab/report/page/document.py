"""The page as plain data, and the one file that is made of it: HTML, styles, scripts and data, nothing from elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import pandas as pd

from tinylab.cache import keep, recall
from tinylab.errors import ConfigError, install

MOST_BYTES = 5_000_000
"""No page is larger."""
PACKAGES = ("altair", "jinja2", "vl_convert")
TEXT, NUMBER = "string", "number"


@dataclass(frozen=True)
class Dataset:
    """Rows of numbers and words, as CSV and what each column is parsed as."""

    csv: str
    parse: dict[str, str]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Dataset:
        """From a table; what is missing is empty, numbers have six digits."""
        parse = {str(name): NUMBER if pd.api.types.is_numeric_dtype(rows[name]) and rows[name].dtype != bool else TEXT
                 for name in rows.columns}
        return cls(rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"), parse)


@dataclass(frozen=True)
class Column:
    """A column of a table beside a chart."""

    field: str
    title: str
    digits: int | None = None  # None for words and whole numbers


@dataclass(frozen=True)
class Table:
    """A table for people: rows that are there, or that the page makes of a dataset when it is opened."""

    caption: str
    columns: tuple[Column, ...]
    rows: list[dict[str, Any]] | None = None
    dataset: str | None = None
    where: tuple[str, ...] = ()  # controls whose values choose the rows
    across: str | None = None  # a column whose values become columns, of the last of `columns`
    only: tuple[str, ...] = ()  # controls of whose values the rows' condition has to be one


@dataclass(frozen=True)
class Chart:
    """A chart and where its rows come from."""

    name: str  # of the element that it is drawn in
    says: str  # what it shows, for who cannot see it
    spec: dict[str, Any]
    dataset: str
    where: tuple[str, ...] = ()
    """Controls whose values choose the rows: columns of the same names."""
    limit: str | None = None
    """A column whose largest size ends the colours, the chart's signal `limit`."""
    rise: str | None = None
    """A column whose values are the rows of the picture, which is as high as they need."""


@dataclass(frozen=True)
class Control:
    """A choice that charts and tables of the page share."""

    name: str
    label: str
    options: list[tuple[str, str]]  # value, what a person reads
    of: str = ""  # the section in which it stands


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()  # shown
    beside: tuple[Table, ...] = ()  # the charts' own, opened by who wants them
    verdicts: tuple[tuple[str, str, str], ...] = ()  # what was checked, pass | fail | none, what was found
    links: tuple[tuple[str, str], ...] = ()  # a relative path, what it is
    code: str | None = None
    prompts: bool = False  # whether the prompts of the chosen component are shown here


@dataclass(frozen=True)
class Page:
    """A page."""

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    datasets: dict[str, Dataset] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)  # what controls start with


def check_installed() -> None:
    """Raise ConfigError unless everything is there that a page is made with."""
    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"report.html needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
                          f"{install('report')} (in a checkout: pip install -e '.[report]').")


def render(page: Page) -> str:
    """The page as one HTML file.

    Raises:
        ConfigError: a package is missing (`check_installed`).
    """
    check_installed()
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    template = environment.from_string(_asset("page.html.j2"))
    return template.render(page=page, style=_asset("page.css"), script=_asset("page.js"), library=library(), data=_data(page))


def number(value: Any, digits: int | None) -> str:
    """A value as a person reads it."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, bool) or isinstance(value, str) or digits is None:
        return str(value)
    return f"{value:z.{digits}f}"


def _data(page: Page) -> str:
    """What the script reads, as JSON in which no `<` is left that could end an element."""
    charts = [chart for section in page.sections for chart in section.charts]
    tables = [table for section in page.sections for table in section.beside]
    told = {
        "datasets": {name: {"csv": one.csv, "parse": one.parse} for name, one in page.datasets.items()},
        "charts": [{"name": one.name, "spec": one.spec, "dataset": one.dataset, "where": one.where, "limit": one.limit,
                    "rise": one.rise}
                   for one in charts],
        "tables": [{"dataset": one.dataset, "where": one.where, "across": one.across, "only": one.only,
                    "columns": [[column.field, column.title, column.digits] for column in one.columns]} for one in tables],
        "prompts": page.prompts,
        "state": page.state,
    }
    return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _asset(name: str) -> str:
    return files("tinylab.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that an element can hold; made once on a machine, which takes seconds."""
    import altair
    import vl_convert

    vega_lite = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    key = {"vl_convert": version("vl-convert-python"), "vega_lite": vega_lite}
    found = recall("vega", key)
    if found is None:
        found = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vega_lite)
        keep("vega", key, found)
    return str(found).replace("</script", "<\\/script").replace("<!--", "<\\!--")
