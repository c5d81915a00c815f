"""A metric that a finished run lacks is added to it: nothing that is there is computed again, or changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tinylab import experiment
from tinylab.engine import choose
from tinylab.errors import EngineUnsupported, OutputError

Command = Callable[..., int]
FEW = ("condition.n_examples=4", "battery.layers=[0,1]", "plots=false", "seeds=[0,1]")
BATTERIES = {"h1": ("battery=h1",), "h2": ("battery=h2", "battery.sham_control=true")}


def results(root: str) -> dict[str, Any]:
    """The tables and the summary of the only run below an output folder, and its manifest."""
    (path,) = [file.parent for file in Path(root).glob("*/**/manifest.json") if (file.parent / "metrics").is_dir()]
    manifest = json.loads((path / "manifest.json").read_text())
    tables = {name: pd.read_parquet(path / f"metrics/{name}.parquet") for name in (manifest["table"], "per_example")}
    return {**tables, "summary": json.loads((path / "metrics/summary.json").read_text()), "manifest": manifest, "path": path}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in (expected["manifest"]["table"], "per_example"):
        pd.testing.assert_frame_equal(found[name], expected[name], check_exact=True)
    assert json.dumps(found["summary"]) == json.dumps(expected["summary"])
    assert found["manifest"]["metrics"] == expected["manifest"]["metrics"]


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["run", "sweep"])
@pytest.mark.parametrize("battery", BATTERIES)
def test_a_run_that_got_its_metrics_one_after_the_other_equals_one_that_had_them_all(
    battery: str, flags: tuple[str, ...], tinylab: Command
) -> None:
    typed = (*flags, *BATTERIES[battery], *FEW)
    assert tinylab(*typed, "metrics=[kl_div]") == 0
    first = results("outputs")
    assert tinylab(*typed, "metrics=[logit_diff,p_drop]") == 0
    assert tinylab(*typed) == 0
    found = results("outputs")
    assert tinylab(*typed, "output_dir=fresh") == 0
    assert_equal(found, results("fresh"))
    before = first["per_example"]
    after = found["per_example"].query("metric == 'kl_div'").reset_index(drop=True)
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    added = [addition["metrics"] for addition in found["manifest"]["provenance"]["added"]]
    assert added[0] == ["logit_diff", "p_drop"]
    assert added[1] == ["acc_flip_rate", *(["recovery"] if battery == "h2" else [])]


def test_a_run_that_has_the_metrics_is_reused_as_it_is(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab(*FEW) == 0
    before = {file: file.stat().st_mtime_ns for file in results("outputs")["path"].rglob("*.parquet")}
    assert tinylab(*FEW, "metrics=[kl_div]") == 0
    assert "is already complete, reusing" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_dry_run_says_what_a_finished_run_lacks(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab(*FEW, "metrics=[kl_div]") == 0
    capsys.readouterr()
    assert tinylab(*FEW, "metrics=[kl_div,p_drop]", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "is complete but for p_drop" in said
    assert "to compute: 1 of 1 runs" in said


def test_metrics_are_added_by_the_engine_that_computed_the_run(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object) -> tuple[float, bool]:
        raise EngineUnsupported("The engines disagree.")

    with monkeypatch.context() as patch:
        patch.setattr(choose, "_difference", fails)
        assert tinylab(*FEW, "metrics=[logit_diff]") == 0
    assert tinylab(*FEW, "metrics=[logit_diff,kl_div]") == 0
    provenance = results("outputs")["manifest"]["provenance"]
    assert [provenance["engine"], provenance["added"][0]["engine"]] == ["reference", "reference"]


def test_an_addition_that_was_cut_off_between_its_files_is_made_whole(
    tinylab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_args: object) -> None:
        raise OutputError("no room for the summary")

    assert tinylab(*FEW, "metrics=[logit_diff]") == 0
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_document", full_disk)
        assert tinylab(*FEW, "metrics=[logit_diff,kl_div]") == 2
    assert results("outputs")["manifest"]["status"] == "complete"
    assert tinylab(*FEW, "metrics=[logit_diff,kl_div]") == 0
    assert tinylab(*FEW, "metrics=[logit_diff,kl_div]", "output_dir=fresh") == 0
    assert_equal(results("outputs"), results("fresh"))


def test_a_verify_slice_of_fewer_metrics_is_made_again(tinylab: Command) -> None:
    verify = ("+verify_slice.device=cpu", "verify_slice.n_examples=2")
    assert tinylab(*FEW, "metrics=[logit_diff]", *verify) == 0
    assert tinylab(*FEW, "metrics=[logit_diff,kl_div]", *verify) == 0
    content = json.loads((results("outputs")["path"] / "metrics/verify.json").read_text())
    assert set(content["metrics"]) == {"logit_diff", "kl_div"}
    assert content["verdict"] == "pass"
