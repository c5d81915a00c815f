"""`dry_run=true` tells what a command would cost, and does nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from conftest import Command, only, write_jsonl
from tinylab import app
from typed import snapshot

FEW = "condition.n_examples=6"


def told(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│\n").split("│")]


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_dry_run_tells_what_the_run_then_does(tinylab: Command, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["battery=h2", "battery.granularity=mlp_out", "battery.positions=all", f"engine={engine}", FEW]
    assert tinylab(*asked, "dry_run=true") == 0
    lines = [told(line) for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert not any(Path("outputs").rglob("*.*"))
    assert tinylab(*asked) == 0
    manifest = json.loads(only(Path("outputs/runs"), "*/manifest.json").read_text())
    provenance = manifest["provenance"]
    found = next(line for line in lines if line[0].startswith("h2_cond_a"))
    assert found[0] == f"h2_cond_a_{manifest['run_id']}"
    used, name = "forked" if engine == "auto" else "reference", provenance["engine"]
    assert found[1:6] == ["6", "5", used, f"{provenance['forwards']:,}", f"{provenance['states']:,}"]
    assert name == used
    assert found[-1] == "no"
    assert tinylab(*asked, "dry_run=true") == 0
    assert next(told(line) for line in capsys.readouterr().out.splitlines() if line.startswith("│ h2_"))[-1] == "yes"


def test_a_dry_run_of_a_sweep_lists_every_run_and_launches_none(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("-m", "condition=cond_a,cond_b", "battery=h1,h2", FEW, "dry_run=true") == 0
    lines = [told(line) for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert sorted(line[0].rsplit("_", 1)[0] for line in lines) == ["h1_cond_a", "h1_cond_b", "h2_cond_a", "h2_cond_b"]
    assert not any(Path("outputs").rglob("*.*"))


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib",), ("hydra/launcher=submitit_local",)])
def test_a_dry_run_of_a_sweep_tells_what_is_complete_and_sums_up_the_rest(
    launcher: tuple[str, ...], tinylab: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tinylab("condition=cond_a", FEW) == 0
    before = snapshot(Path("outputs"))
    capsys.readouterr()
    monkeypatch.setattr(app, "_hydra", None)  # nothing may be launched
    monkeypatch.setattr(subprocess, "Popen", None)
    assert tinylab("-m", "condition=cond_a,cond_b", "battery=h1,h2", FEW, *launcher, "dry_run=true") == 0
    said = capsys.readouterr().out
    lines = {line[0].rsplit("_", 1)[0]: line for line in map(told, said.splitlines()) if len(line) > 5}
    complete = {name: line[-1] for name, line in lines.items()}
    assert complete == {"h1_cond_a": "yes", "h2_cond_a": "no", "h1_cond_b": "no", "h2_cond_b": "no"}
    assert all(line[6].split()[1] in {"KiB", "MiB"} and line[7].split()[1] in {"KiB", "MiB"} for line in lines.values())
    forwards, states = (sum(int(line[column].replace(",", "")) for name, line in lines.items() if complete[name] == "no")
                        for column in (4, 5))
    assert f"to compute: 3 of 4 runs, {forwards:,} forward passes, {states:,} states" in said
    assert snapshot(Path("outputs")) == before


def test_a_dry_run_warns_of_rows_as_the_run_then_does(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"clean": "The capital of Iraq is", "corrupt": "The capital of Egypt is", "target": " Baghdad", "foil": " Cairo"}
    write_jsonl(Path("mine.jsonl"), [row, {**row, "foil": " Baghdad"}, row])
    line = ("condition=jsonl", "condition.path=mine.jsonl", "battery.layers=[0]", "plots=false")
    assert tinylab(*line, "dry_run=true") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert tinylab(*line, "dry_run=json") == 0
    (planned,) = json.loads(capsys.readouterr().out)
    assert tinylab(*line) == 0
    log = only(Path("outputs/runs"), "*/run.log").read_text()
    assert planned["warnings"] == [
        "1 of 3 rows: the same row stands in the corpus before: it counts each time",
        "1 of 3 rows dropped (target and foil begin with the same token: 1)"]
    for warning in planned["warnings"]:
        assert f"warning: {warning}" in said and f"WARNING tinylab.computing: {warning}" in log


def test_a_dry_run_makes_a_users_mistake_as_plain_as_a_run(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("condition=jsonl", "condition.path=nowhere.jsonl", "condition.tag=mine", "dry_run=true") == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_the_run_says_its_cost_before_it_starts(tinylab: Command) -> None:
    assert tinylab(FEW) == 0
    log = only(Path("outputs/runs"), "*/run.log").read_text()
    provenance = json.loads(only(Path("outputs/runs"), "*/manifest.json").read_text())["provenance"]
    assert f"forked engine: {provenance['forwards']:,} forward passes, {provenance['states']:,} states, 4 MiB" in log


def test_a_dry_run_as_data_is_what_the_table_says(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("-m", "condition=cond_a,cond_b", "condition.n_examples=4", "battery.layers=[0]", "plots=false")
    assert tinylab(*line, "dry_run=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["condition"], one["complete"], one["pairs"]) for one in found] == [("cond_a", "no", 4), ("cond_b", "no", 4)]
    assert not Path("outputs").exists()
    assert tinylab(*line) == 0
    capsys.readouterr()
    assert tinylab(*line, "dry_run=json") == 0
    for before, after in zip(found, json.loads(capsys.readouterr().out), strict=True):
        manifest = json.loads((Path(after["folder"]) / "manifest.json").read_text(encoding="utf-8"))
        assert after["complete"] == "yes" and after["folder"] == before["folder"]
        assert (before["run_id"], before["states"]) == (manifest["run_id"], manifest["provenance"]["states"])


def test_a_dry_run_of_another_kind_is_one_sentence(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("dry_run=yaml") == 2
    assert capsys.readouterr().err == (
        "tinylab: dry_run=yaml: expected true, false, or json (the same as data for other programs).\n")
