"""Where baselines disagree: in sign, in what is strongest; and what a sweep over them writes and says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import only
from tinylab.interventions.components import HEAD_IMPACT
from tinylab.sweep.baselines import Side, compare
from typed import type_in

HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def side(name: str, logits: list[float], half: list[float]) -> Side:
    return Side(name, f"id of {name}", HEADS, np.array(logits), np.array(half))


def test_signs_disagree_where_both_intervals_are_on_their_own_side_of_nothing() -> None:
    zero = side("zero", [-3.0, 1.0, 0.5, 0.1], [1.0, 0.5, 0.6, 0.0])
    mean = side("mean", [2.0, -0.4, -1.0, 0.1], [1.0, 0.5, 0.2, 0.0])
    told = compare([zero, mean], 2, HEAD_IMPACT)
    assert [(one["component"], one["sign"], one["strongest_by"]) for one in told["components"]] == [
        ({"layer": 0, "head": 0}, True, ["zero", "mean"]),
        ({"layer": 0, "head": 1}, False, ["zero"]),  # mean's interval holds nothing
        ({"layer": 1, "head": 0}, False, ["mean"]),  # and here zero's
    ]
    assert told["components"][0]["effects"]["mean"] == {"logits": 2.0, "plus_minus": 1.0, "rank": 1}
    assert told["shared"] == {"zero": {"mean": 1}, "mean": {}}
    assert told["rank_correlation"]["zero"]["mean"] == pytest.approx(0.8)  # ranks 1 2 3 4 and 1 3 2 4


def test_of_equals_the_first_component_is_the_stronger_and_no_variation_is_no_correlation() -> None:
    told = compare([side("zero", [1.0] * 4, [np.nan] * 4), side("mean", [4.0, 3.0, 2.0, -1.0], [0.1] * 4)], 1, HEAD_IMPACT)
    assert [one["component"] for one in told["components"]] == [{"layer": 0, "head": 0}]
    assert told["rank_correlation"]["zero"]["mean"] is None and not told["components"][0]["sign"]


def test_a_sweep_over_baselines_says_where_they_disagree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("condition.n_examples=24", "plots=false", "controls=none")
    assert type_in(tmp_path, "-m", "battery.ablation=zero,mean", "condition=cond_a", *small) == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    manifest = json.loads((sweep / "manifest.json").read_text())
    told = json.loads((sweep / manifest["artifacts"]["baselines"]).read_text())
    (group,) = told["groups"]
    assert list(group["runs"]) == ["zero", "mean"]
    effects = {name: pd.read_parquet(next(sweep.glob(f"*_{run_id}")) / "metrics/effects.parquet").query("metric == 'logit_diff'")
               for name, run_id in group["runs"].items()}
    for name, table in effects.items():
        order = table.assign(size=table["effect_logits"].abs()).sort_values("size", ascending=False).head(10)
        mine = [one["component"] for one in group["components"] if name in one["strongest_by"]]
        assert {(one["layer"], one["head"]) for one in mine} == set(zip(order["layer"], order["head"], strict=True))
        first = table.set_index(["layer", "head"])
        for one in group["components"]:
            row = first.loc[(one["component"]["layer"], one["component"]["head"])]
            assert one["effects"][name]["logits"] == pytest.approx(row["effect_logits"])
            level = row["effect_logits"] / row["effect"]
            assert one["effects"][name]["plus_minus"] == pytest.approx((row["ci_high"] - row["ci_low"]) / 2 * abs(level))
    said = capsys.readouterr().out
    assert "h1 on cond_a, tiny: where baselines disagree (zero and mean share" in said
    assert group["condition"] == "cond_a" and group["kind"] == "heads"


def test_runs_that_differ_in_more_than_the_baseline_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("condition.n_examples=8", "battery.layers=[0]", "plots=false", "controls=none")
    assert type_in(tmp_path, "-m", "battery.positions=all,last", "condition=cond_a", *small) == 0
    assert not list(tmp_path.rglob("baselines.json")) and "baselines disagree" not in capsys.readouterr().out


def test_baselines_at_several_sites_are_compared_site_by_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("condition.n_examples=8", "battery.layers=[0]", "condition=cond_a", "plots=false", "controls=none")
    assert type_in(tmp_path, "-m", "battery.site=q,v", "battery.ablation=zero,mean", *small) == 0
    told = json.loads(next(tmp_path.rglob("baselines.json")).read_text())
    assert [group.get("settings") for group in told["groups"]] == [{"battery.site": "q"}, {"battery.site": "v"}]
    said = " ".join(capsys.readouterr().out.split())
    for site in ("q", "v"):  # of 8 heads all are among the 10 strongest
        told = f"battery.site={site}: baselines agree in sign and in what is strongest (zero and mean share 8 of 8)"
        assert f"h1 on cond_a, tiny, {told}" in said
    assert "where baselines disagree" not in said and "┃ how ┃" not in said  # a sentence, and no empty table
