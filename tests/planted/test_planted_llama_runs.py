"""The planted Llama from the command line: the tables of H1 and H2 hold its closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest

from conftest import only
from tinylab.planted import llama_closed_forms as forms
from tinylab.planted.corpora import llama_rows
from typed import type_in

ROWS: Final = llama_rows()
MODEL: Final = ("model=planted", "model.variant=llama", "condition=planted_llama", "plots=false", "threads=1")
TOLERANCE: Final = 1e-4
"""Why it is not less: see `tests/planted/test_planted_llama.py`."""


def run(folder: Path, *overrides: str) -> Path:
    """A finished run's folder."""
    assert type_in(folder, *MODEL, *overrides) == 0
    return only(folder, "outputs/runs/*")


def closed(number: Callable[[str, int], float]) -> list[float]:
    """A closed form for every example."""
    return [number(row["template"], 1 + len(row["clean"].split())) for row in ROWS]


def check(found: Path, table: str, key: dict[str, Any], values: list[float]) -> None:
    """The logit differences of one cell: the table has their mean, `per_example` each of them."""
    for name, expected in ((table, [float(np.mean(values))]), ("per_example", values)):
        frame = pd.read_parquet(found / f"metrics/{name}.parquet")
        chosen = frame[(frame["metric"] == "logit_diff") & np.logical_and.reduce([frame[k] == v for k, v in key.items()])]
        if name == "per_example":
            chosen = chosen[chosen["control"] == "none"].sort_values("example")
            assert list(chosen["template"]) == [row["template"] for row in ROWS]
        np.testing.assert_allclose(chosen["value"], expected, rtol=0, atol=TOLERANCE, err_msg=str(key))


def recovery(values: list[float]) -> float:
    """Of denoised levels, over all examples: a ratio of means."""
    whole = float(np.mean(closed(forms.logit_diff)))
    return (float(np.mean(values)) + whole) / (2 * whole)


def of_metric(found: Path, table: str, metric: str) -> pd.DataFrame:
    frame = pd.read_parquet(found / f"metrics/{table}.parquet")
    return frame[frame["metric"] == metric]


@pytest.fixture(scope="module")
def h1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H1 at two scales, with a verify slice that must agree to 1e-9."""
    overrides = ("battery=h1", "battery.scales=[0,0.5]", "+verify_slice.device=cpu", "+verify_slice.strict=true")
    return run(tmp_path_factory.mktemp("h1"), *overrides)


def test_h1_has_the_closed_forms_in_both_tables(h1: Path) -> None:
    for scale, numbers in ((0.0, forms.zeroed), (0.5, forms.halved)):
        for layer, head in numbers("keys", 7):
            key = {"layer": layer, "head": head, "scale": scale}
            check(h1, "head_impact", key, closed(lambda template, n, at=(layer, head), of=numbers: of(template, n)[at]))


def test_the_run_was_forked_in_float64_on_every_pair(h1: Path) -> None:
    provenance = json.loads((h1 / "manifest.json").read_text())["provenance"]
    assert (provenance["engine"], provenance["dtype"]) == ("forked", "float64")
    assert provenance["self_check_max_difference"] <= 1e-10
    assert (provenance["corpus"]["kept"], provenance["corpus"]["dropped"]) == (len(ROWS), {})


def test_the_summary_has_the_baselines(h1: Path) -> None:
    baselines = json.loads((h1 / "metrics/summary.json").read_text())["baselines"]
    level = float(np.mean(closed(forms.logit_diff)))
    for run_name, expected in (("clean", level), ("corrupt", -level)):
        assert baselines[run_name]["logit_diff"]["mean"] == pytest.approx(expected, abs=TOLERANCE)
        assert baselines[run_name]["logit_diff"]["n"] == len(ROWS)


def test_patched_streams_are_all_or_nothing_at_the_last_position(tmp_path: Path) -> None:
    found = run(tmp_path, "battery=h2")
    level = closed(forms.logit_diff)
    check(found, "layer_impact", {"layer": 0}, [-value for value in level])
    check(found, "layer_impact", {"layer": 1}, level)
    assert list(of_metric(found, "layer_impact", "recovery")["value"]) == pytest.approx([0, 1], abs=TOLERANCE)


def test_the_mlp_is_patched_in_layer_1_alone(tmp_path: Path) -> None:
    found = run(tmp_path, "battery=h2", "battery.granularity=mlp_out")
    values = closed(lambda template, n: -1 if template == "answers" else 3 / n - 3)
    check(found, "layer_impact", {"layer": 1}, values)
    assert list(of_metric(found, "layer_impact", "recovery")["value"]) == pytest.approx([0, recovery(values)], abs=TOLERANCE)


def test_noised_heads_of_a_layer(tmp_path: Path) -> None:
    """At every position: all of layer 1 for both templates, all of layer 0 for `keys` alone."""
    found = run(tmp_path, "battery=h2", "battery.granularity=head_out", "battery.positions=all",
                "battery.patch_direction='corrupt->clean'")
    check(found, "layer_impact", {"layer": 0}, closed(lambda template, n: 7 if template == "answers" else -3 * (1 + 1 / n)))
    check(found, "layer_impact", {"layer": 1}, closed(lambda template, n: -forms.logit_diff(template, n)))


@pytest.mark.parametrize(("direction", "sign"), [("clean->corrupt", 1), ("corrupt->clean", -1)])
def test_each_head_patched_alone(tmp_path: Path, direction: str, sign: int) -> None:
    """At every position. The circuit treats all words alike, so the other direction gives the opposite numbers."""
    found = run(tmp_path, "battery=h2", "battery.granularity=head_out", "battery.per_head=true", "battery.positions=all",
                f"battery.patch_direction='{direction}'")
    recoveries = of_metric(found, "head_impact", "recovery").set_index(["layer", "head"])["value"]
    for at in forms.denoised("keys", 7):
        values = closed(lambda template, n, at=at: forms.denoised(template, n)[at])
        check(found, "head_impact", {"layer": at[0], "head": at[1]}, [sign * value for value in values])
        assert recoveries[at] == pytest.approx(recovery(values), abs=TOLERANCE)


def test_there_is_no_value_bias_to_keep(tmp_path: Path) -> None:
    found = run(tmp_path, "battery.keep_value_bias=true")
    for layer, head in forms.zeroed("keys", 7):
        values = closed(lambda template, n, at=(layer, head): forms.zeroed(template, n)[at])
        check(found, "head_impact", {"layer": layer, "head": head}, values)
