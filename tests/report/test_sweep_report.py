"""What a person sees of a sweep: claims with their effects, what chance gives, and a picture with one colour scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from conftest import only
from tinylab import aggregate
from tinylab.errors import OutputError
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.report import observers
from tinylab.report.plots import Drawn, draw_runs
from tinylab.report.views import invariants_sentences, invariants_view
from tinylab.results import load_sweep
from typed import SHORT

Command = Callable[..., int]
CROSS = "artifacts/cross_condition"
HEAD = {"layer": 0, "head": 1}
GROUP: dict[str, Any] = {
    "described": "h1", "model": "tiny", "kind": "heads", "component": ["layer", "head"], "conditions": ["a", "b"],
    "components": 32,
    "heads": [HEAD], "intersection": {"heads": [HEAD, {"layer": 2, "head": 0}]}, "notes": [], "expected_by_chance": 3.125,
    "sign_agreement": {"shared": 2, "same_sign": 1},
    "conjunction": {
        "at_least": 2, "of": 2, "smallest": 0.05, "alpha": 0.05, "correction": "holm",
        "components": [
            {**HEAD, "p": 1e-5, "p_adjusted": 0.00016, "sign": "-", "count": 1, "matters_in": ["a"], "mixed_in": ["b"],
             "effects": {"a": -0.516, "b": -0.2}, "plus_minus": {"a": 0.041, "b": None}},
            {"layer": 2, "head": 0, "p": 0.2, "p_adjusted": 0.4, "sign": "+", "count": 1, "matters_in": ["b"], "mixed_in": ["b"],
             "effects": {"a": None, "b": 0.3}, "plus_minus": {"a": None, "b": 0.1}},
        ],
    },
    "per_metric": {"logit_diff": {
        "heads": [HEAD, {"layer": 2, "head": 0}],
        "top_k": {"a": [HEAD, {"layer": 2, "head": 0}], "b": [{"layer": 2, "head": 0}, HEAD]},
        "by_chance": {"expected": 3.125, "p": 0.000162, "expected_within_layers": 6.75, "p_within_layers": 0.114}}},
}
WHOLE = {"k": 10, "rank": "magnitude", "metrics": ["logit_diff"], "set": "partial_conjunction"}


def test_claims_are_shown_with_p_and_each_runs_effect_interval_and_label() -> None:
    view = invariants_view(GROUP, WHOLE)
    assert view.title == "h1 on tiny: heads that matter with one sign in every condition (a, b): 1"
    assert view.columns == ["layer", "head", "p (holm)", "a", "b"]
    assert view.rows == [[0, 1, "1.6e-04", "-0.52 ± 0.04 matters", "-0.20 mixed"]]


def test_in_some_conditions_is_said_and_many_runs_are_counted() -> None:
    group = deepcopy(GROUP)
    group["conditions"] = [f"c{number}" for number in range(7)]
    group["conjunction"].update(at_least=3, of=7)
    view = invariants_view(group, WHOLE)
    assert "in at least 3 of 7 conditions (c0, " in view.title
    assert view.columns == ["layer", "head", "p (holm)", "matters in", "mixed in"]
    assert view.rows == [[0, 1, "1.6e-04", "1 of 7", 1]]


def test_sentences_say_what_was_claimed_and_how_what_is_mixed_and_what_chance_gives() -> None:
    assert invariants_sentences(GROUP, WHOLE) == [
        "1 of 32 heads change the logit difference by more than 0.05 of it, with one sign, in every condition: partial "
        "conjunction, holm, alpha 0.05",
        "of these, mixed (one sign in some templates, the other in others): 0.1 (b)",
        "2 heads are among the 10 strongest of both by logit_diff: by chance 3.12 (p 1.6e-04), within layers 6.75 (p 0.11); "
        "1 of 2 with one sign",
    ]


def test_what_is_not_known_is_not_said() -> None:
    group = {**deepcopy(GROUP), "sign_agreement": None, "conjunction": None}
    group["per_metric"]["logit_diff"]["by_chance"] = dict.fromkeys(group["per_metric"]["logit_diff"]["by_chance"])
    assert invariants_sentences(group, WHOLE) == ["2 heads are among the 10 strongest of both by logit_diff: by chance 3.12"]
    assert invariants_sentences({**group, "notes": ["one condition only: …"]}, WHOLE) == []


@pytest.mark.parametrize("before", [False, True])
def test_ranks_are_shown_where_they_are_what_is_asked_for_and_for_documents_of_before(before: bool) -> None:
    group = deepcopy(GROUP)
    if before:
        group["heads"] = group.pop("intersection")["heads"]
        group.pop("conjunction")
    view = invariants_view(group, {**WHOLE, "set": "intersection"})
    assert view.title == "h1 on tiny: heads among the 10 strongest of every condition (a, b) by magnitude of logit_diff: 2"
    assert view.columns == ["layer", "head", "rank in a (logit_diff)", "rank in b (logit_diff)"]
    assert view.rows == [[0, 1, 1, 2], [2, 0, 2, 1]]


# The picture


def drawn(values: dict[tuple[Any, ...], float], kind: TableKind, labels: list[str] | None, baseline: float = 3.0) -> Drawn:
    rows = [{"run_id": "x", "seed": 0, **dict(zip(kind.keys, key, strict=True)), "metric": "logit_diff", "value": value}
            for key, value in values.items()]
    told = None if labels is None else pd.DataFrame([key for key in values], columns=list(kind.keys)).assign(label=labels)
    return Drawn(pa.Table.from_pylist(rows), {"logit_diff": {"mean": baseline}}, told)


def texts(axis: Any) -> dict[tuple[int, int], str]:
    return {(int(text.get_position()[0]), int(text.get_position()[1])): text.get_text() for text in axis.texts}


def test_runs_are_panels_with_one_colour_scale_and_their_own_baselines_and_marks() -> None:
    first = drawn({(0, 0, 0.0): 1.0, (0, 1, 0.0): 3.0}, HEAD_IMPACT, ["matters", "undecided"])
    other = drawn({(0, 0, 0.0): 12.0, (0, 1, 0.0): 5.0}, HEAD_IMPACT, ["mixed", "matters"], baseline=10.0)
    figure = draw_runs({"z": first, "a": other}, HEAD_IMPACT, "logit_diff", "a title")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["z", "a"]
    assert [np.asarray(axis.images[0].get_array()).tolist() for axis in panels] == [[[-2.0, 0.0]], [[2.0, -5.0]]]
    assert {axis.images[0].get_clim() for axis in panels} == {(-5.0, 5.0)}
    assert [texts(axis) for axis in panels] == [{(0, 0): "", (1, 0): "·"}, {(0, 0): "±", (1, 0): ""}]


def test_scales_are_panels_of_each_run_and_runs_without_labels_have_no_marks() -> None:
    two = {(0, 0, 0.0): 1.0, (0, 0, 0.5): 2.0}
    figure = draw_runs({"a": drawn(two, HEAD_IMPACT, None), "b": drawn(two, HEAD_IMPACT, ["mixed", "mixed"])}, HEAD_IMPACT,
                       "logit_diff", "a title")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["a, head × 0", "a, head × 0.5", "b, head × 0", "b, head × 0.5"]
    assert [texts(axis)[0, 0] for axis in panels] == ["", "", "±", "±"]


def test_layers_have_one_column_for_each_run() -> None:
    runs = {name: drawn({(0, "mlp_out"): 1.0, (1, "mlp_out"): 4.0 + shift}, LAYER_IMPACT, ["matters", "mixed"])
            for name, shift in (("z", 0.0), ("a", 3.0))}
    (panel,) = [axis for axis in draw_runs(runs, LAYER_IMPACT, "logit_diff", "a title").axes if axis.images]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["z", "a"]
    np.testing.assert_array_equal(np.asarray(panel.images[0].get_array()), [[-2.0, -2.0], [1.0, 4.0]])
    assert panel.images[0].get_clim() == (-4.0, 4.0) and texts(panel)[1, 1] == "±"


def test_more_panels_than_fit_into_a_row_go_below() -> None:
    one = drawn({(0, 0, 0.0): 1.0}, HEAD_IMPACT, None)
    figure = draw_runs({f"c{number}": one for number in range(8)}, HEAD_IMPACT, "logit_diff", "a title")
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 8 and len({round(axis.get_position().y0, 3) for axis in panels}) == 2


@pytest.fixture
def sweep(tinylab: Command, tmp_path: Path) -> Path:
    assert tinylab("-m", "condition=cond_a,cond_b", "battery=h1,h2", *SHORT[:2]) == 0
    return only(tmp_path, "outputs/sweeps/*")


def manifest(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep / "manifest.json").read_text())
    return found


def test_a_sweep_is_drawn_and_its_pictures_are_among_its_artifacts(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = manifest(sweep)
    assert set(told["artifacts"]) == {"head_matrix", "layer_matrix", "summary", "invariants", "heatmap_heads", "heatmap_layers"}
    assert set(told["digests"]) == set(told["artifacts"])
    first = {name: (sweep / path).read_bytes() for name, path in told["artifacts"].items() if path.endswith(".png")}
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert aggregate.main([str(sweep)]) == 0
    assert f"heatmap_heads: {sweep}/{CROSS}/heatmap_heads.png" in capsys.readouterr().out.replace("\n", "")
    assert manifest(sweep) == told and (sweep / CROSS / "heatmap_heads.png").read_bytes() == first["heatmap_heads"]
    (sweep / CROSS / "heatmap_heads.png").unlink()
    assert len(load_sweep(sweep).runs) == 4  # a picture that is lost takes nothing away
    (sweep / CROSS / "invariants.json").write_text("{}")
    with pytest.raises(OutputError, match="invariants.json is not what was written"):
        load_sweep(sweep)
    monkeypatch.setattr(observers, "heatmap_of_runs", _broken)
    assert aggregate.main([str(sweep)]) == 0
    assert set(manifest(sweep)["artifacts"]) == {"head_matrix", "layer_matrix", "summary", "invariants"}
    assert not list((sweep / CROSS).glob("*.png")), "no picture of an earlier join beside the new one"


def _broken(*_args: object, **_kwargs: object) -> None:
    raise ZeroDivisionError("nobody expected this")
