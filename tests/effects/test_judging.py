"""Effects of a finished run are worked out anew, from its numbers alone, where they are judged otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import Command, only
from tinylab.effects.conclusions import METHOD
from tinylab.records.storage import read_json, write_json

FEW = ("battery.layers=[1]", "battery.heads=[0,1]", "condition.n_examples=32", "plots=false", "metrics=[logit_diff]",
       "controls=none")
Judged = tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], bytes]


def judged(run: Path) -> Judged:
    """How a run was judged, what its summary says of effects, their table, and the numbers per example as they are on disk."""
    return (read_json(run / "manifest.json")["judged"], read_json(run / "metrics/summary.json")["effects"],
            pq.read_table(run / "metrics/effects.parquet").to_pylist(), (run / "metrics/per_example.parquet").read_bytes())


@pytest.fixture
def run(tinylab: Command, tmp_path: Path) -> Path:
    assert tinylab(*FEW) == 0
    return only(tmp_path, "outputs/runs/*")


@pytest.fixture
def without_models(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the run no model can be had."""
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("tinylab.computing.kept_model", refused)


@pytest.mark.usefixtures("without_models")
def test_another_setting_is_worked_out_from_the_numbers_that_are_there(run: Path, tinylab: Command) -> None:
    first = judged(run)
    assert tinylab(*FEW, "effects.smallest=0.9") == 0
    second = judged(run)
    assert [one[0]["smallest"] for one in (first, second)] == [0.05, 0.9]
    assert first[2] != second[2] and first[3] == second[3]
    assert second[1]["counts"]["negligible"] == 2
    assert tinylab(*FEW) == 0
    assert judged(run) == first


@pytest.mark.usefixtures("without_models")
@pytest.mark.parametrize("before", [None, METHOD - 1], ids=["of the first", "of the last"])
def test_effects_of_earlier_statistics_are_worked_out_anew(before: int | None, run: Path, tinylab: Command) -> None:
    first, written = judged(run), (run / "metrics/effects.parquet").stat().st_mtime_ns
    assert tinylab(*FEW) == 0
    assert (run / "metrics/effects.parquet").stat().st_mtime_ns == written, "those of now are kept"
    manifest = read_json(run / "manifest.json")
    told = {name: value for name, value in manifest["judged"].items() if name != "method"}
    write_json(run / "manifest.json", {**manifest, "judged": told if before is None else {**told, "method": before}})
    assert tinylab(*FEW) == 0
    assert (run / "metrics/effects.parquet").stat().st_mtime_ns > written
    assert judged(run) == first
