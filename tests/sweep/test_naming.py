"""The folder that is planned is the folder that is used, whatever it is called; and two sweeps do not share one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Command, write_jsonl
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.sweep.plan import Plan, make_plan
from typed import SHORT, snapshot

PAIR = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
OTHER = {**PAIR, "clean": "In France, the capital is", "corrupt": "In Italy, the capital is"}
TWO = ("-m", "condition=cond_a,cond_b", *SHORT)


@pytest.fixture(autouse=True)
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(*line: str) -> Plan:
    args = flags_parser().parse_args(line)
    with Composer(args) as composer:
        return make_plan(composer, args.overrides, args.multirun)


def name_of(*line: str) -> str:
    folder = plan(*line).sweep_folder
    assert folder is not None
    return folder.name


def sweeps(folder: Path) -> list[Path]:
    return [file.parent for file in folder.rglob("manifest.json") if "jobs" in json.loads(file.read_text())]


# --- planned and used ---


@pytest.mark.parametrize("override", [
    "hydra.sweep.dir=out/${now:%H-%M-%S-%f}",
    "hydra.sweep.dir='it\\'s ${now:%f} [here]'",
    "output_dir='a\\b'",
    "output_dir='a\\\\'",
    "output_dir='a[b]'",
    "output_dir='a b=c,d'",
    "hydra.sweep.subdir='${hydra.job.num}'",
    "run_name='x_${hydra:job.num}_${hydra:runtime.choices.model}'",
])
def test_a_sweep_is_in_the_folder_that_was_planned_and_complete(override: str, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("-m", "condition=cond_a", *SHORT, override) == 0
    (folder,) = sweeps(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert [json.loads(file.read_text())["status"] for file in tmp_path.rglob("manifest.json")] == ["complete"] * 2


def test_jobs_are_numbered_in_a_plan_as_in_a_sweep(tinylab: Command, tmp_path: Path) -> None:
    assert [job.folder for job in plan(*TWO, "hydra.sweep.subdir='${hydra.job.num}'").jobs] == ["0", "1"]
    assert tinylab(*TWO, "hydra.sweep.subdir='${hydra.job.num}'") == 0
    (sweep,) = sweeps(tmp_path)
    tags = [json.loads((sweep / number / "manifest.json").read_text())["condition"] for number in ("0", "1")]
    assert tags == ["cond_a", "cond_b"]


def test_a_run_in_a_folder_with_the_time_in_its_name_is_in_the_planned_one(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*SHORT, "hydra.run.dir='runs/${now:%f}'") == 0
    (manifest,) = tmp_path.rglob("manifest.json")
    assert manifest.parent.parent == tmp_path / "runs"


@pytest.mark.parametrize(("line", "words"), [
    (("output_dir=",), ["output_dir=''", "where the command is typed"]),
    (("output_dir='  '",), ["output_dir='  '", "where the command is typed"]),
    ((*TWO, "output_dir="), ["output_dir=''"]),
    ((*TWO, "hydra.sweep.dir="), ["hydra.sweep.dir=: empty"]),
    ((*TWO, "hydra.sweep.subdir="), ["hydra.sweep.subdir=", "a folder of each job's own"]),
    ((*TWO, "hydra.sweep.subdir=../${condition.tag}"), ["hydra.sweep.subdir=../cond_a", "inside the sweep's"]),
    ((*TWO, "hydra.sweep.subdir=/tmp/${condition.tag}"), ["hydra.sweep.subdir=/tmp/cond_a", "inside the sweep's"]),
    ((*TWO, "hydra.sweep.subdir=one"), ["one folder for two jobs", "condition=cond_a", "condition=cond_b"]),
    ((*TWO, "hydra.sweep.subdir='${hydra.job.id}'"), ["hydra.sweep.subdir", "before the jobs start"]),
    (("-m", "condition=cond_a,cond_a", "hydra.sweep.subdir='${hydra.job.num}'"), ["the same run", "condition=cond_a"]),
    ((*TWO, "output_dir='\\${x}'"), ["output_dir=${x}", "Interpolation key 'x' not found"]),
    ((*TWO, "hydra.sweep.dir=a,b"), ["hydra.sweep.dir=a,b"]),
], ids=str)
def test_a_folder_that_cannot_be_is_refused_in_one_sentence(
    line: tuple[str, ...], words: list[str], tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*line) == 2
    said = capsys.readouterr()
    assert said.err.startswith("tinylab: ") and said.err.count("\n") == 1 and said.out == ""
    assert [word for word in words if word not in said.err] == [], said.err
    assert snapshot(tmp_path) == {}


# --- one sweep, one folder ---


def conf(folder: Path, corpus: str) -> str:
    file = folder / "condition/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"defaults: [jsonl, _self_]\npath: {corpus}\ntag: mine\n", encoding="utf-8")
    return str(folder)


def test_two_folders_of_configs_do_not_share_a_sweep(tinylab: Command, tmp_path: Path) -> None:
    for name, row in (("one", PAIR), ("two", OTHER)):
        write_jsonl(tmp_path / f"{name}.jsonl", [row])
        assert tinylab("-m", "--config-dir", conf(tmp_path / name, f"{name}.jsonl"), "condition=mine", *SHORT) == 0
    kept = [json.loads((sweep / "manifest.json").read_text())["jobs"][0]["run_id"] for sweep in sweeps(tmp_path / "outputs")]
    assert len(set(kept)) == 2


def test_the_same_configs_elsewhere_are_the_same_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for desk in ("here", "there"):
        folder = conf(tmp_path / desk / "conf", "my.jsonl")
        monkeypatch.chdir(tmp_path / desk)
        names += [name_of("-m", "--config-dir", folder, "condition=mine,cond_a"), name_of("-m", "--config-dir", "conf",
                                                                                         "condition=mine,cond_a")]
    assert len(set(names)) == 1


def test_what_a_line_takes_from_its_surroundings_is_part_of_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for examples in ("3", "4"):
        monkeypatch.setenv("EXAMPLES", examples)
        names.add(name_of("-m", "condition=cond_a,cond_b", "condition.n_examples=${oc.env:EXAMPLES}"))
    assert len(names) == 2


def test_one_output_folder_for_two_desks_has_a_sweep_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for desk in ("here", "there"):
        (tmp_path / desk).mkdir()
        monkeypatch.chdir(tmp_path / desk)
        write_jsonl(Path("my.jsonl"), [PAIR])
        names.add(name_of("-m", "condition=jsonl", "condition.path=my.jsonl", "seeds=[0],[1]", f"output_dir={tmp_path}/out"))
    assert len(names) == 2


@pytest.mark.parametrize(("line", "name"), [
    (("condition=cond_a,cond_b",), "sweep_3a55d253ea48"),
    (("experiment=scan_h1",), "scan_h1_c0ceb70369c4"),
    (("condition=jsonl", "condition.path=my.jsonl", "seeds=[0],[1]"), "sweep_a60c0354e290"),
])
def test_sweeps_of_shipped_configs_have_the_names_that_they_always_had(line: tuple[str, ...], name: str) -> None:
    write_jsonl(Path("my.jsonl"), [PAIR])
    assert name_of("-m", *line) == name


def test_a_chosen_folder_takes_the_same_runs_again_and_no_others(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    numbered = ("hydra.sweep.dir=outputs/sweeps/mine", "hydra.sweep.subdir='${hydra.job.num}'", *SHORT)
    assert tinylab("-m", "condition=cond_a", *SHORT) == 0
    assert tinylab("-m", "condition=cond_a", *numbered) == 0
    before = snapshot(Path("outputs/sweeps/mine"))
    assert tinylab("-m", "condition=cond_b", *numbered) == 2
    assert "holds another sweep" in capsys.readouterr().err
    assert snapshot(Path("outputs/sweeps/mine")) == before
    assert tinylab("-m", "condition=cond_a", *numbered) == 0
