"""Each condition with the heads that matter in the other: what the closed forms say, on the prompts of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Command, only
from tinylab import results
from tinylab.aggregate import main as aggregate
from tinylab.planted.closed_forms import TWIN_HEADS, twin_gains
from tinylab.records.storage import read_json, write_json
from tinylab.report.views import cross_sentences
from tinylab.sweep import cross_controls

TWINS = ("model=planted", "model.variant=twins", "condition=planted_c,planted_d", "plots=false", "threads=1")
FILE = "artifacts/cross_condition/cross_controls.json"


def change(on: str, of: str) -> float:
    """Of twin condition `on` when all heads that matter in `of` are zeroed: minus what they add there."""
    gains = twin_gains(on)
    return -sum(gains.get(head, 0.0) for head in TWIN_HEADS[of])


def told(sweep: Path) -> dict[str, Any]:
    (group,) = read_json(sweep / FILE)["groups"]
    found: dict[str, Any] = group
    return found


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_each_condition_changes_by_what_either_circuit_adds_to_it(
    engine: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("-m", *TWINS, f"engine={engine}", "controls.cross=true") == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    group = told(sweep)
    assert group["kind"] == "heads" and set(group["runs"]) == {"planted_c", "planted_d"}
    for on in "cd":
        run = group["runs"][f"planted_{on}"]
        assert [(head["layer"], head["head"]) for head in run["circuit"]] == sorted(TWIN_HEADS[on])
        assert (run["n"], run["of"], run["at"], run["whole"]) == (12, 12, {"scale": 0.0}, pytest.approx(5.0, abs=1e-8))
        assert run["changes"] == {f"planted_{of}": pytest.approx(change(on, of), abs=1e-8) for of in "cd"}
    assert change("c", "d") == -10.0 and change("c", "c") == -5.0
    said = capsys.readouterr().out
    assert ("planted_c: its own 10 heads that matter together change the logit difference by -5.00 (-100 %), the 10 of planted_d "
            "by -10.00 (-200 %)") in said
    assert results.load_sweep(sweep).invariants["heads"] is not None, "what was joined is as it was"


def test_by_itself_it_takes_no_more_than_a_tenth_and_it_is_not_done_twice(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many = "battery.scales=[0,0.5,2,-1,-2,3]"
    assert tinylab("-m", *TWINS, many) == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    group = told(sweep)
    states = [read_json(run / "manifest.json")["provenance"]["states"] for run in sweep.glob("h1_*")]
    assert len(states) == 2 and 0 < group["states"] <= sum(states) / 10
    assert {8 <= run["n"] <= run["of"] for run in group["runs"].values()} == {True}
    before = (sweep / FILE).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(cross_controls, "_group", None)  # nothing may be computed
        assert tinylab("-m", *TWINS, many) == 0
    assert (sweep / FILE).read_text() == before
    assert aggregate([str(sweep), "--cross"]) == 0
    assert {run["n"] for run in told(sweep)["runs"].values()} == {12}
    assert tinylab("-m", *TWINS, many, "effects.smallest=0.9") == 0  # gains under 4.5 matter no more
    assert {len(run["circuit"]) for run in told(sweep)["runs"].values()} == {6}


def test_what_is_too_costly_says_how_to_get_it(tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("-m", *TWINS, "battery.layers=[0,1]") == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    assert not (sweep / FILE).exists()
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "tried with each other's components" in line]
    assert "WARNING" not in line
    assert "controls.cross=true does it, or python -m tinylab.aggregate " in line and line.endswith("--cross")


def test_a_corpus_that_has_changed_is_told_and_fails_nothing(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("-m", *TWINS, "controls.cross=false") == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    run = only(sweep, "h1_planted_c_*")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("n_examples: null", "n_examples: 3"))
    manifest = read_json(run / "manifest.json")
    manifest["digests"].pop("config")
    write_json(run / "manifest.json", manifest)
    capsys.readouterr()
    assert aggregate([str(sweep), "--cross"]) == 0
    assert not (sweep / FILE).exists()


def test_the_sentence_names_the_condition_whose_heads_do_most() -> None:
    runs = {name: {"circuit": [0] * size, "n": 8, "of": 20, "whole": 2.0, "changes": {"a": -1.9, "b": -0.1, "c": 0.5}}
            for name, size in (("a", 3), ("b", 1), ("c", 2))}
    first, *_ = cross_sentences({"kind": "heads", "runs": runs})
    assert first == ("a: its own 3 heads that matter together change the logit difference by -1.90 (-95 %), the 2 of c by +0.50 "
                     "(+25 %), on 8 of 20 examples")
