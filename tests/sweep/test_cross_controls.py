"""Each condition with the heads that matter in the other: what the closed forms say, on the prompts of both."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import only
from tinylab import results
from tinylab.aggregate import main as aggregate
from tinylab.planted.closed_forms import TWIN_HEADS, twin_gains
from tinylab.records.storage import read_json, write_json
from tinylab.report.views import cross_sentences
from tinylab.sweep import cross_controls
from tinylab.sweep.cross_controls import add_cross_controls, of_own
from typed import type_in

TWINS = ("model=planted", "model.variant=twins", "condition=planted_c,planted_d", "plots=false", "threads=1",
         "metrics=[logit_diff]", "controls.random_sets=false", "engine=forked")
FILE = "artifacts/cross_condition/cross_controls.json"


def change(on: str, of: str) -> float:
    """Of twin condition `on` when all heads that matter in `of` are zeroed: minus what they add there."""
    gains = twin_gains(on)
    return -sum(gains.get(head, 0.0) for head in TWIN_HEADS[of])


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which a sweep was typed with the control, and what was printed."""
    folder = tmp_path_factory.mktemp("twins")
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("tinylab.report.screen.Console.print", lambda self, *words: said.extend(map(str, words)))
        assert type_in(folder, "-m", *TWINS, "controls.cross=true") == 0
    return folder, "\n".join(said)


@pytest.fixture
def sweep(typed: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the sweep without the control."""
    shutil.copytree(typed[0] / "outputs", tmp_path / "outputs")
    folder = only(tmp_path, "outputs/sweeps/*")
    (folder / FILE).unlink()
    return folder


def told(sweep: Path) -> dict[str, Any]:
    (group,) = read_json(sweep / FILE)["groups"]
    found: dict[str, Any] = group
    return found


def test_each_condition_changes_by_what_either_circuit_adds_to_it(typed: tuple[Path, str]) -> None:
    folder, said = typed
    sweep = only(folder, "outputs/sweeps/*")
    group = told(sweep)
    assert group["kind"] == "heads" and set(group["runs"]) == {"planted_c", "planted_d"}
    for on in "cd":
        run = group["runs"][f"planted_{on}"]
        assert [(head["layer"], head["head"]) for head in run["circuit"]] == sorted(TWIN_HEADS[on])
        assert (run["n"], run["of"], run["at"], run["whole"]) == (12, 12, {"scale": 0.0}, pytest.approx(5.0, abs=1e-8))
        assert run["changes"] == {f"planted_{of}": pytest.approx(change(on, of), abs=1e-8) for of in "cd"}
        assert run["of_own"] == {f"planted_{of}": pytest.approx(change(on, of) / change(on, on)) for of in "cd"}
    assert change("c", "d") == -10.0 and change("c", "c") == -5.0
    assert ("planted_c: its own 10 heads that matter or are mixed together change the logit difference by -5.00 (-100 %), the "
            "10 of planted_d by -10.00 (-200 %)") in said
    loaded = results.load_sweep(sweep)
    assert loaded.invariants["heads"] is not None, "what was joined is as it was"
    assert loaded.summary["cross_controls"] == [
        {"model": "planted-twins", "described": group["described"], "condition": f"planted_{on}", "n": 12, "of": 12,
         "own": pytest.approx(change(on, on)),
         "others": {f"planted_{of}": {"change": pytest.approx(change(on, of)), "of_own": run["of_own"][f"planted_{of}"]}}}
        for on, of, run in (("c", "d", group["runs"]["planted_c"]), ("d", "c", group["runs"]["planted_d"]))]
    assert loaded.cross_controls == read_json(sweep / FILE)


def test_damage_is_compared_with_that_of_a_runs_own_components() -> None:
    assert of_own({"a": -4.0, "b": 3.0, "c": -8.0}, "a") == {"a": 1.0, "b": 0.75, "c": 2.0}
    assert of_own({"a": -4.0, "b": 0.0}, "b") == {"a": None, "b": None}


def test_by_itself_it_takes_no_more_than_its_part_and_it_is_not_done_twice(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixth in place of a tenth, as these runs are small."""
    monkeypatch.setattr(cross_controls, "PART", 6)
    add_cross_controls(sweep, "auto")
    group = told(sweep)
    states = [read_json(run / "manifest.json")["provenance"]["states"] for run in sweep.glob("h1_*")]
    assert len(states) == 2 and 0 < group["states"] <= sum(states) / 6
    assert {8 <= run["n"] < run["of"] for run in group["runs"].values()} == {True}
    before = (sweep / FILE).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(cross_controls, "_group", None)  # nothing may be computed
        add_cross_controls(sweep, "auto")
    assert (sweep / FILE).read_text() == before
    assert aggregate([str(sweep), "--cross"]) == 0
    assert {run["n"] for run in told(sweep)["runs"].values()} == {12}
    add_cross_controls(sweep, "auto")
    assert {run["n"] for run in told(sweep)["runs"].values()} == {12}, "one of more examples stays"
    assert aggregate([str(sweep), "--k", "3"]) == 0
    assert [row["n"] for row in results.load_sweep(sweep).summary["cross_controls"]] == [12, 12], "joined again it is there still"
    document = read_json(sweep / FILE)
    document["groups"][0]["runs"]["planted_c"]["run_id"] = "1" * 12
    write_json(sweep / FILE, document)
    assert aggregate([str(sweep)]) == 0
    assert "cross_controls" not in results.load_sweep(sweep).summary, "it is of another run"
    run = only(sweep, "h1_planted_c_*")
    write_json(run / "manifest.json", read_json(run / "manifest.json") | {"run_id": "0" * 12})
    add_cross_controls(sweep, False)
    add_cross_controls(sweep, "auto")
    assert not (sweep / FILE).exists(), "it was of another run"


@pytest.mark.parametrize("limit", ["PART", "MOST"])
def test_what_is_too_costly_says_how_to_get_it(
    limit: str, sweep: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if limit == "MOST":
        monkeypatch.setattr(cross_controls, "MOST", 1)
    with caplog.at_level(logging.INFO):
        add_cross_controls(sweep, "auto")  # 8 of 12 examples of 25 cells: over a tenth
    assert not (sweep / FILE).exists()
    (record,) = [record for record in caplog.records if record.name == "tinylab.sweep.cross_controls"]
    assert record.levelname == "INFO" and "controls.cross=true" in record.message and record.message.endswith("--cross")


def test_a_run_that_cannot_be_made_again_is_told_and_fails_nothing(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = only(sweep, "h1_planted_c_*")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("n_examples: null", "n_examples: 3"))
    add_cross_controls(sweep, True)
    assert not (sweep / FILE).exists()
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "config.yaml: what it names (corpus, model, device) is not here as it was" in record.message


def test_the_sentence_names_the_condition_whose_heads_do_most() -> None:
    runs = {name: {"circuit": [0] * size, "n": 8, "of": 20, "whole": 2.0, "changes": {"a": -1.9, "b": -0.1, "c": 0.5}}
            for name, size in (("a", 3), ("b", 1), ("c", 2))}
    first, *_ = cross_sentences({"kind": "heads", "runs": runs})
    assert first == ("a: its own 3 heads that matter or are mixed together change the logit difference by -1.90 (-95 %), the "
                     "2 of c by +0.50 (+25 %), on 8 of 20 examples")
