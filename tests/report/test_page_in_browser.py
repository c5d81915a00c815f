"""report.html in a real browser, offline: what is shown are the numbers of the tables, and nothing is asked for elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, expect

from browser import NoBrowser, browser, opened
from conftest import only, write_jsonl
from made_sweeps import made_sweep
from tinylab.report.page.document import MOST_BYTES, render
from tinylab.results import load_run
from typed import type_in

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("pages")]
EVIL = "</script><script>document.title = 'taken'</script><b>bold</b> <!--"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        with browser() as found:
            yield found
    except NoBrowser as reason:
        pytest.skip(f"NO BROWSER HERE, no page was looked at: {reason}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pages: None) -> Path:
    """A run of two scales on 24 prompts, with its page."""
    folder = tmp_path_factory.mktemp("run")
    line = ("condition=ioi", "condition.n_examples=24", "battery.scales=[0.0,0.5]", "metrics=[logit_diff,kl_div]", "plots=false")
    assert type_in(folder, *line, "report=true") == 0
    return only(folder, "outputs/runs/*")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, pages: None) -> Path:
    """A sweep of two batteries over two conditions, with its page."""
    folder = tmp_path_factory.mktemp("sweep")
    line = ("-m", "battery=h1,h2", "condition=ioi,facts", "condition.n_examples=16", "plots=false", "metrics=[logit_diff]")
    assert type_in(folder, *line) == 0
    return only(folder, "outputs/sweeps/*")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up sweep: 48 layers of 25 heads in 20 conditions."""
    file = tmp_path_factory.mktemp("large") / "report.html"
    file.write_text(render(made_sweep(layers=48, heads=25, conditions=20)), encoding="utf-8")
    return file


@pytest.mark.parametrize("which", ["run", "sweep", "large"])
@pytest.mark.parametrize("width", [1100, 375])
def test_a_page_asks_for_nothing_complains_of_nothing_and_fits(
    chromium: Browser, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    found: Path = request.getfixturevalue(which)
    file = found if found.is_file() else found / "report.html"
    assert file.stat().st_size < MOST_BYTES
    with opened(chromium, file, width) as seen:
        assert seen.requests == [file.as_uri()]
        assert seen.complaints == []
        assert seen.run("document.documentElement.scrollWidth") <= width
        assert seen.run("document.documentElement.lang") == "en" and seen.page.title()
        levels = seen.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))")
        assert levels[0] == 1 and set(levels[1:]) == {2}
        drawn = seen.run("[...document.querySelectorAll('.chart')].filter(one => !one.querySelector('canvas')).length")
        assert drawn == 0, "every chart is drawn, on a canvas"


def test_what_is_shown_of_a_head_is_in_the_table(chromium: Browser, run: Path) -> None:
    effects = pd.read_parquet(run / "metrics/effects.parquet")
    told = effects.query("metric == 'logit_diff' and layer == 1 and head == 5 and scale == 0.0").iloc[0]
    of_metric = effects.query("metric == 'logit_diff'")
    rank = int((of_metric["effect"].abs() > abs(told["effect"])).sum()) + 1
    with opened(chromium, run / "report.html") as seen:
        seen.page.mouse.move(*seen.place("map", "name", "1.5"))
        shown = seen.tooltip()
    assert {name: number(shown[name]) for name in ("effect", "95 % from", "to")} == pytest.approx(
        {"effect": told["effect"], "95 % from": told["ci_low"], "to": told["ci_high"]}, abs=5e-5)
    assert (shown["component"], number(shown["examples"]), number(shown["rank"])) == ("1.5", 24, rank)
    assert shown["of opposite sign"] == f"{told['examples_opposite']:.0%}" and shown["label"] == told["label"]


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def test_a_click_on_a_head_shows_its_examples_and_no_others(chromium: Browser, run: Path) -> None:
    loaded = load_run(run)
    own = loaded.per_example.query("metric == 'logit_diff' and layer == 1 and head == 5 and scale == 0.0 and control == 'none'")
    with opened(chromium, run / "report.html") as seen:
        before = seen.rows("strip")
        seen.page.mouse.click(*seen.place("map", "name", "1.5"))
        seen.page.wait_for_function("n => tinylab.state.cell !== n", arg=str(before[0]["cell"]))
        seen.run("() => tinylab.ready")
        rows = seen.rows("strip")
        prompts = seen.page.locator("#prompts .prompt")
        assert len(rows) == len(own) == 24 == prompts.count()
        found = {int(row["example"]): row["change"] for row in rows}
        assert found == pytest.approx(dict(zip(own["example"], own["value"] - own["baseline"], strict=True)), rel=1e-5)
        weakest = loaded.effects.query("metric == 'logit_diff'").assign(size=lambda e: e["effect"].abs()).nsmallest(1, "size")
        seen.page.select_option("select[data-control=panel]", f"scale {weakest['scale'].iloc[0]:g}")
        seen.run("() => tinylab.ready")
        seen.page.mouse.click(*seen.place("map", "name", f"{weakest['layer'].iloc[0]}.{weakest['head'].iloc[0]}"))
        seen.page.wait_for_selector("#nothing-strip:not([hidden])")
        assert seen.rows("strip") == [] and "20 strongest of 64" in seen.page.locator("#examples").inner_text()


def test_the_tokens_in_which_clean_and_corrupt_differ_are_marked(chromium: Browser, run: Path) -> None:
    examples = load_run(run).examples
    assert examples is not None
    with opened(chromium, run / "report.html") as seen:
        first = seen.page.locator("#prompts .prompt").first
        row = int(re.search(r"row (\d+)", first.inner_text()).group(1))  # type: ignore[union-attr]
        marked = [one.inner_text() for one in first.locator("mark").all()]
    pair = examples.set_index("example").loc[row]
    differ = [(one, other) for one, other in zip(pair["clean_tokens"], pair["corrupt_tokens"], strict=True) if one != other]
    assert [word.strip() for word in marked] == [token.strip("␣") for side in zip(*differ, strict=True) for token in side]


def test_the_metric_and_the_scale_switch_map_and_table_together(chromium: Browser, run: Path) -> None:
    effects = pd.read_parquet(run / "metrics/effects.parquet").query("metric == 'kl_div' and scale == 0.5")
    with opened(chromium, run / "report.html") as seen:
        table = seen.page.locator("#map details")
        table.locator("summary").click()
        expect(table.locator("tbody tr")).to_have_count(32)
        seen.page.select_option("select[data-control=metric]", "kl_div")
        seen.page.select_option("select[data-control=panel]", "scale 0.5")
        seen.run("() => tinylab.ready")
        drawn = {row["name"]: row["effect"] for row in seen.rows("map")}
        listed = {cells[0]: number(cells[1]) for row in table.locator("tbody tr").all()
                  if (cells := row.locator("th, td").all_inner_texts())}
        assert table.locator("thead th").all_inner_texts()[:2] == ["component", "effect"]
    expected = {f"{row.layer}.{row.head}": row.effect for row in effects.itertuples()}
    assert drawn == pytest.approx(expected, rel=1e-5) and listed == pytest.approx(expected, abs=5e-5)


def test_everything_that_can_be_chosen_is_reached_with_the_keyboard_in_order(chromium: Browser, run: Path) -> None:
    reachable = "a[href], select, summary, pre[tabindex], .scroll[tabindex]"
    with opened(chromium, run / "report.html") as seen:
        expected = seen.run("""reachable => {
            const shown = [...document.querySelectorAll(reachable)].filter(one => one.checkVisibility());
            shown.forEach((one, place) => one.dataset.place = place);
            return shown.length;
        }""", reachable)
        reached = []
        for _ in range(expected):
            seen.page.keyboard.press("Tab")
            reached.append(seen.run("document.activeElement.dataset.place"))
        assert reached == [str(place) for place in range(expected)]
        seen.page.locator("#map summary").focus()
        seen.page.keyboard.press("Enter")
        expect(seen.page.locator("#map tbody tr")).to_have_count(32)  # a browser tells of an opened table a moment later
        seen.page.locator("select[data-control=cell]").focus()
        before = seen.run("tinylab.state.cell")
        seen.page.keyboard.press("ArrowDown")
        seen.page.wait_for_function("before => tinylab.state.cell !== before", arg=before)
        assert seen.run("() => tinylab.ready") and len(seen.rows("strip")) == 24


def test_prompts_that_end_scripts_are_only_text(chromium: Browser, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"clean": f"{EVIL} When Mary and John met, {one} gave it to",
         "corrupt": f"{EVIL} When Mary and John met, {other} gave it to",
         "target": f" {other}", "foil": f" {one}", "template": EVIL}
        for one, other in (("Mary", "John"), ("John", "Mary"), ("Mary", "John"), ("John", "Mary"))
    ]
    write_jsonl(tmp_path / "evil.jsonl", rows)
    line = ("condition=jsonl", "condition.path=evil.jsonl", "condition.single_token=false", "battery.layers=[0]", "report=true")
    assert type_in(tmp_path, *line, "plots=false") == 0
    with opened(chromium, only(tmp_path, "outputs/runs/*/report.html")) as seen:
        assert seen.page.title() != "taken" and seen.complaints == []
        assert seen.page.locator("b").count() == 0
        assert seen.page.locator("#prompts").inner_text().count(EVIL) >= 4


def test_a_sweeps_table_and_scatter_hold_the_runs_effects(chromium: Browser, sweep: Path) -> None:
    effects = {name: pd.read_parquet(only(sweep, f"h1_{name}_*") / "metrics/effects.parquet").set_index(["layer", "head"])
               for name in ("ioi", "facts")}
    with opened(chromium, sweep / "report.html") as seen:
        rows = seen.rows("pairs")
        one = next(row for row in rows if row["name"] == "0.1")
        assert len(rows) == 32
        assert [one[key] for key in ("x", "x_low", "y", "y_high")] == pytest.approx(
            [effects["ioi"].loc[(0, 1), "effect"], effects["ioi"].loc[(0, 1), "ci_low"], effects["facts"].loc[(0, 1), "effect"],
             effects["facts"].loc[(0, 1), "ci_high"]], rel=1e-5)
        seen.page.select_option("select[data-control=second] >> nth=0", "ioi")
        seen.run("() => tinylab.ready")
        assert all(row["x"] == row["y"] for row in seen.rows("pairs"))
        seen.page.locator("#shared summary").click()
        expect(seen.page.locator("#shared tbody tr")).to_have_count(32)
        head = seen.page.locator("#shared thead th").all_inner_texts()
        assert head == ["component", "conditions", "ioi", "facts"]
        seen.page.select_option("select[data-control=group] >> nth=0", "1")
        seen.run("() => tinylab.ready")
        assert {row["name"] for row in seen.rows("shared")} == {f"layer {layer}" for layer in range(4)}
        assert np.allclose(sorted(row["k"] for row in seen.rows("overlap") if row["series"] == "found in all"), [1, 2, 3, 4])


def test_a_large_sweep_is_shown_whole(chromium: Browser, large: Path) -> None:
    with opened(chromium, large) as seen:
        rows = seen.rows("multiples")
        assert len(rows) == 48 * 25 * 20 and len({row["condition"] for row in rows}) == 20
        assert len(seen.rows("agreement")) == 400


def test_print_shows_charts_and_no_controls(chromium: Browser, run: Path) -> None:
    with opened(chromium, run / "report.html") as seen:
        seen.page.emulate_media(media="print")
        assert not seen.page.locator(".controls").first.is_visible() and not seen.page.locator("nav").is_visible()
        assert seen.page.locator("#chart-map canvas").is_visible()
        assert len(seen.page.pdf(format="A4")) > 10_000
