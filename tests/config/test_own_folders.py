"""A file of the user's is used, or refused by name: never passed over for one of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Command, only, write_jsonl
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.schema import Config, validate
from tinylab.sweep.plan import Plan, make_plan
from typed import SHORT, snapshot

PAIR = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
OTHER = {**PAIR, "clean": "In France, the capital is", "corrupt": "In Italy, the capital is"}
MINE = "defaults: [jsonl, _self_]\npath: my.jsonl\ntag: cond_a\n"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder with a condition of a shipped name, in an empty desk."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "my.jsonl", [PAIR, OTHER])
    return write(tmp_path / "conf", "condition/cond_a.yaml", MINE)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def composed(*line: str) -> Config:
    args = flags_parser().parse_args(line)
    with Composer(args) as composer:
        return validate(composer.compose(args.overrides))


def plan(*line: str) -> Plan:
    args = flags_parser().parse_args(line)
    with Composer(args) as composer:
        return make_plan(composer, args.overrides, args.multirun)


def refused(tinylab: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, *line: str) -> str:
    """The one sentence of a command that is refused and leaves everything as it was."""
    before = snapshot(tmp_path)
    assert tinylab(*line) == 2
    said = capsys.readouterr()
    assert said.err.startswith("tinylab: ") and said.err.count("\n") == 1 and said.out == ""
    assert snapshot(tmp_path) == before
    return said.err


# --- folders ---


def test_a_run_reads_the_users_condition_and_not_ours_of_the_same_name(conf: Path, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("--config-dir", "conf", "condition=cond_a", *SHORT) == 0
    run = only(tmp_path, "outputs/runs/h1_cond_a_*")
    assert "path: my.jsonl" in (run / "config.yaml").read_text()
    assert json.loads((run / "metrics/summary.json").read_text())["metrics"]["logit_diff"]["n"] == 2


def test_the_config_that_is_shown_is_the_one_that_runs(conf: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("--config-dir", "conf", "--cfg", "job", "condition=cond_a") == 0
    assert "path: my.jsonl" in capsys.readouterr().out


def test_a_sweep_reads_it_too_beside_ours(conf: Path, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("-m", "--config-dir", "conf", "condition=cond_a,cond_b", *SHORT) == 0
    runs = [only(tmp_path, f"outputs/sweeps/*/h1_{name}_*/config.yaml").read_text() for name in ("cond_a", "cond_b")]
    assert ["path: my.jsonl" in text for text in runs] == [True, False]


def test_a_root_config_and_a_launcher_of_the_users_go_first_as_well(conf: Path) -> None:
    root = "defaults: [battery: h2, condition: cond_b, model: tiny, device: cpu, engine: auto, verify_slice: none, _self_]\n"
    text = (Path(__file__).parents[2] / "conf/config.yaml").read_text().partition("run_name:")[2]
    write(conf, "config.yaml", f"{root}run_name:{text}")
    write(conf, "hydra/launcher/joblib.yaml",
          "_target_: hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher\nn_jobs: 1\n")
    assert composed("--config-dir", "conf").condition.tag == "cond_b"
    assert plan("-m", "--config-dir", "conf", "hydra/launcher=joblib", "condition=cond_b").workers == 1


def test_config_path_replaces_ours_and_is_counted_from_where_the_command_is_typed(conf: Path, tmp_path: Path) -> None:
    root = "defaults: [battery: h1, condition: only, model: tiny, device: cpu, engine: auto, verify_slice: none, _self_]\n"
    shipped = Path(__file__).parents[2] / "conf"
    write(tmp_path / "whole", "config.yaml", f"{root}run_name:" + (shipped / "config.yaml").read_text().partition("run_name:")[2])
    for name in ("battery/h1", "model/tiny", "device/cpu", "engine/auto", "verify_slice/none"):
        write(tmp_path / "whole", f"{name}.yaml", (shipped / f"{name}.yaml").read_text())
    write(tmp_path / "whole", "condition/only.yaml", "path: other.jsonl\ntag: only\n")
    write(conf, "condition/only.yaml", "path: my.jsonl\ntag: only\n")
    assert composed("--config-path", "whole").condition.path == "other.jsonl"
    assert composed("--config-path", "whole", "--config-dir", "conf").condition.path == "my.jsonl"


@pytest.mark.parametrize(("line", "words"), [
    (("hydra.searchpath=[conf]", "condition=cond_a"), ["condition/cond_a.yaml", "would be ignored", "--config-dir"]),
    (("hydra.searchpath=[file://conf]",), ["condition/cond_a.yaml", "would be ignored", "--config-dir"]),
    (("-m", "hydra.searchpath=[conf]", "condition=cond_a,cond_b"), ["condition/cond_a.yaml", "would be ignored"]),
    (("--cfg", "job", "hydra.searchpath=[conf]"), ["condition/cond_a.yaml", "would be ignored"]),
    (("--config-dir", "logs"), ["hydra/job_logging/default.yaml", "would be ignored", "another name"]),
    (("--config-path", "nowhere"), ["--config-path nowhere", "no such folder"]),
], ids=str)
def test_a_file_that_would_be_passed_over_is_refused_by_name(
    line: tuple[str, ...], words: list[str], conf: Path, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "logs", "hydra/job_logging/default.yaml", "version: 1\n")
    said = refused(tinylab, capsys, tmp_path, *line)
    assert [word for word in words if word not in said] == [], said


def test_a_folder_on_the_searchpath_with_names_of_its_own_is_used(conf: Path, tmp_path: Path) -> None:
    write(tmp_path / "more", "condition/mine.yaml", MINE.replace("cond_a", "mine"))
    assert composed("hydra.searchpath=[more]", "condition=mine").condition.path == "my.jsonl"


# --- presets that say how to sweep ---


def test_presets_that_carry_sweeps_are_refused_together_and_run_alone(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(tinylab, capsys, tmp_path, "-m", "experiment=scan_h1,scan_h2")
    assert all(word in said for word in ("experiment=scan_h1", "condition=cond_a,cond_b", "type each preset alone"))
    assert [len(plan("-m", f"experiment={name}").jobs) for name in ("scan_h1", "scan_h2")] == [2, 2]


def test_what_the_refusal_offers_runs_all_four() -> None:
    jobs = plan("-m", "experiment=scan_h1,scan_h2", "condition=cond_a,cond_b").jobs
    assert [(job.battery, job.condition) for job in jobs] == [
        ("h1", "cond_a"), ("h1", "cond_b"), ("h2", "cond_a"), ("h2", "cond_b"),
    ]


@pytest.mark.parametrize("text", ["launcher:\n    n_jobs: 1", "sweep:\n    dir: elsewhere"], ids=["launcher", "folder"])
def test_presets_that_say_where_or_how_a_sweep_runs_are_refused_in_a_sweep_over_them(
    text: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = text.partition(":")[0]
    for name, said in (("one", text), ("two", "job:\n    name: two")):
        write(tmp_path / "conf", f"experiment/{name}.yaml", f"# @package _global_\nrun_name: {name}\nhydra:\n  {said}\n")
    assert f"sets hydra.{key}" in refused(
        tinylab, capsys, tmp_path, "-m", "--config-dir", "conf", "hydra/launcher=joblib", "experiment=one,two"
    )
