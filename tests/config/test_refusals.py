"""Settings and files that no run can have: one sentence, exit code 2, and everything on disk as before."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from conftest import Command, only
from tinylab.config.files import check_aliases
from typed import SHORT, composed, snapshot

LONG, ACCENTS = "a" * 300, "\u00e9" * 122  # 244 bytes: too many beside an id
NESTED = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
BOMB = f"path: x\ntag: y\na0: &a0 [{', '.join('x' * 9)}]\n{NESTED}\n"
VALUES = {
    "not a number": (["battery.scales=[nan]"], ["battery.scales=nan", "finite"]),
    "a sham that is none": (["controls.sham=7"], ["controls.sham=7", "true, false, or auto"]),
    "a donor too many": (["controls.shuffled_donors=2"], ["controls.shuffled_donors=2", "true, false, or auto"]),
    "no draws": (["controls.draws=0"], ["controls.draws=0", "at least 1"]),
    "no end": (["battery.scales=[0.0,-inf]"], ["battery.scales=-inf", "finite"]),
    "too large for a float": (["battery.scales=[1e999]"], ["battery.scales=inf", "finite"]),
    "a tolerance that is none": (["+verify_slice.tolerance=nan"], ["verify_slice.tolerance=nan", "finite"]),
    "an error that is none": (["effects.alpha=0"], ["effects.alpha=0", "between 0 and 1", "0.05"]),
    "an error that is certain": (["effects.alpha=1"], ["effects.alpha=1", "between 0 and 1"]),
    "an error of more than all": (["effects.alpha=5"], ["effects.alpha=5", "between 0 and 1"]),
    "an error that is no number": (["effects.alpha=nan"], ["effects.alpha=nan"]),
    "an error in words": (["effects.alpha=small"], ["effects.alpha", "small"]),
    "no smallest effect": (["effects.smallest=0"], ["effects.smallest=0", "between 0 and 1"]),
    "a smallest effect below nothing": (["effects.smallest=-0.1"], ["effects.smallest=-0.1", "between 0 and 1"]),
    "a smallest effect of all": (["effects.smallest=1.0"], ["effects.smallest=1.0", "between 0 and 1"]),
    "another correction": (["effects.correction=bonferroni"], ["effects.correction=bonferroni", "holm, bh, maxt"]),
    "another group of effects": (["effects=tukey"], ["effects/tukey", "bh", "holm", "maxt"]),
    "another sample": (["verify_slice.sample=first"], ["verify_slice.sample=first", "last, stratified"]),
    "a seed beyond 64 bits": (["seeds=[99999999999999999999]"], ["seeds=99999999999999999999", "64 bits"]),
    "a seed that fits no table": (["seeds=[9223372036854775808]"], ["seeds=9223372036854775808", "64 bits"]),
    "a quoted seed": (["seeds=['99999999999999999999']"], ["seeds=99999999999999999999", "64 bits"]),
    "a position beyond 64 bits": (["battery=h2", "battery.positions=[99999999999999999999]"], ["battery.positions", "64 bits"]),
    "examples beyond 64 bits": (["condition.n_examples=99999999999999999999"], ["condition.n_examples", "64 bits"]),
    "threads of twenty digits": (["threads=99999999999999999999"], ["threads=99999999999999999999", "at most 1,024"]),
    "a long run_name": ([f"run_name={LONG}"], ["run_name=aaa", "300 bytes", "at most 242"]),
    "a long name in bytes": ([f"run_name='{ACCENTS}'"], ["run_name=\u00e9", "244 bytes", "at most 242"]),
    "a long sweep_name": (["-m", f"sweep_name={LONG}"], ["sweep_name=aaa", "300 bytes"]),
    "a name with a bell": (["run_name='a\ab'"], ["run_name='a\\x07b'", "printed"]),
    "a run in a file": (["hydra.run.dir=afile/x"], ["hydra.run.dir", "afile/x cannot be written"]),
    "a sweep in a file": (["-m", "hydra.sweep.dir=afile/x"], ["hydra.sweep.dir", "afile/x cannot be written"]),
    "a path beyond all limits": ([f"output_dir={'/'.join(['d' * 200] * 25)}"], ["output_dir", "cannot be written"]),
    "another folder for each job": (["hydra.job.chdir=true"], ["hydra.job.chdir=true", "where the command is typed"]),
    "the same in a sweep": (["-m", "hydra.job.chdir=true"], ["hydra.job.chdir=true", "where the command is typed"]),
    "no launcher": (["-m", "hydra.launcher=null"], ["hydra.launcher: none", "joblib"]),
    "no sweeper": (["-m", "hydra.sweeper=null"], ["hydra.sweeper: none"]),
    "batches of nothing": (["-m", "hydra.sweeper.max_batch_size=0"], ["hydra.sweeper.max_batch_size=0", "at least 1"]),
    "a number for a condition": (["condition=123"], ["condition=123", "cond_a"]),
    "a number for an experiment": (["experiment=5"], ["experiment=5", "scan_h1"]),
    "numbers for experiments": (["-m", "experiment=5,6"], ["experiment=5", "scan_h1"]),
    "a truth for an engine": (["engine=true"], ["engine=true", "forked"]),
    "a number for a launcher": (["-m", "hydra/launcher=7"], ["hydra/launcher=7", "joblib"]),
    "nothing for Hydra": (["hydra=null"], ["hydra=null"]),
    "a verbosity that is none": (["hydra.verbose=5"], ["Hydra cannot use its settings", "AssertionError"]),
    "a flag without what it is for": (["--resolve"], ["--resolve", "--cfg"]),
    "a callback that is a function": (["+hydra.callbacks.x._target_=os.system"], ["hydra.callbacks.x._target_=os.system"]),
    "a callback that is none": (["+hydra.callbacks.x._target_=pathlib.Path"], ["hydra.callbacks.x._target_", "no callback"]),
    "an object in a callback": (["+hydra.callbacks.sweep.x._target_=os.getcwd"], ["hydra.callbacks.sweep.x", "no objects"]),
    "an object in a launcher": (["-m", "+hydra.launcher.x._target_=os.getcwd"], ["hydra.launcher.x._target_", "no objects"]),
}
"""What is typed, and words of the sentence that answers."""
FILES = {
    "not UTF-8": (b"path: my.jsonl\ntag: caf\xe9\n", ["mine.yaml", "not UTF-8"]),
    "itself in its defaults": (b"defaults: [mine]\n", ["leads back to itself"]),
    "a circle of defaults": (b"defaults: [other]\n", ["leads back to itself"]),
    "a bomb": (BOMB.encode(), ["mine.yaml", "aliases", "100,000"]),
    "an alias inside itself": (b"path: &p [*p]\ntag: y\n", ["mine.yaml", "aliases"]),
    "a bomb of merged keys": (f"{BOMB}b: {{<<: [{'*a8, ' * 9}]}}\n".encode(), ["mine.yaml", "aliases"]),
    "an object of Python": (b"path: x\ntag: !!python/object/apply:os.mkdir [pwned]\n", ["mine.yaml", "os.mkdir"]),
    "an object of Hydra": (b"path: x\ntag: y\n_target_: os.getcwd\n", ["condition._target_", "unknown key"]),
    "a list": (b"- 1\n- 2\n", ["tinylab: "]),
    "no defaults list": (b"defaults: 5\n", ["defaults must be a list"]),
    "two keys in one default": (b"defaults: [{x: 1, y: 2}]\n", ["Too many keys"]),
    "a zero byte": (b"path: \0\n", ["mine.yaml", "special characters"]),
    "no YAML": (b"a: b: c\n", ["mine.yaml", "line 1"]),
    "an interpolation without end": (b"path: '${'\ntag: y\n", ["tinylab: "]),
}
"""What condition/mine.yaml holds, and words of the sentence that answers."""
TARGETS = {
    "a function": "os.getcwd",
    "a class that is no battery": "pathlib.Path",
    "a dataclass that is none": "tinylab.schema.RootConfig",
    "the battery of batteries": "tinylab.batteries.base.Battery",
    "a module": "tinylab.batteries.base",
    "nothing of a module": "tinylab.batteries.base.Nothing",
    "no module": "no_such_module.Battery",
    "no path": "a..b",
    "an empty path": "''",
    "a number": "5",
    "nothing": "null",
    "a list": "[os.getcwd]",
    "a module that breaks": "broken_module.Battery",
}


def refused(tinylab: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, *line: str) -> str:
    before = snapshot(tmp_path)
    began = time.monotonic()
    assert tinylab(*line) == 2
    assert time.monotonic() - began < 20
    said = capsys.readouterr()
    assert said.err.startswith("tinylab: ") and said.err.count("\n") == 1, said.err
    assert said.out == ""
    assert snapshot(tmp_path) == before
    return said.err


@pytest.mark.parametrize("what", VALUES)
def test_a_value_that_no_run_can_have(what: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, words = VALUES[what]
    (tmp_path / "afile").write_text("in the way")
    said = refused(tinylab, capsys, tmp_path, *line)
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_config(what: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = FILES[what]
    folder = tmp_path / "conf/condition"
    folder.mkdir(parents=True)
    (folder / "other.yaml").write_text("defaults: [mine]\n")
    (folder / "mine.yaml").write_bytes(content)
    said = refused(tinylab, capsys, tmp_path, "--config-dir", "conf", "condition=mine")
    assert [word for word in words if word not in said] == [], said
    if b"*" in content:
        assert "aliases" in refused(tinylab, capsys, tmp_path, "hydra.searchpath=[conf]", "condition=mine")


@pytest.mark.parametrize("what", TARGETS)
def test_a_target_that_is_no_battery_is_refused_and_not_called(
    what: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('on import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (tmp_path / "conf/battery").mkdir(parents=True)
    (tmp_path / "conf/battery/mine.yaml").write_text(f"name: mine\n_target_: {TARGETS[what]}\n")
    assert "battery._target_" in refused(tinylab, capsys, tmp_path, "--config-dir", "conf", "battery=mine")


def test_a_factory_of_log_handlers_is_refused(tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    handler = "{x: {(): os.getcwd}}"
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        f"# @package _global_\nrun_name: mine\nhydra:\n  job_logging:\n    handlers: {handler}\n")
    said = refused(tinylab, capsys, tmp_path, "--config-dir", "conf", "experiment=mine")
    assert "hydra.job_logging.handlers.x.()=os.getcwd" in said and "no objects" in said


def test_what_looks_like_aliases_in_a_large_file_is_none_and_depth_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "requests.yaml").write_text("url: 'http://x?a=1&b=2'\ncode: f(*args)\n" * 10_000)
    (tmp_path / "deep.yaml").write_text(f"a: &x 1\nv: *x\nd: {'[' * 3000}{']' * 3000}\n")
    check_aliases(str(tmp_path))


def test_a_formatter_of_logs_may_be_chosen_as_hydra_lets_it_be(tinylab: Command, tmp_path: Path) -> None:
    (tmp_path / "conf/hydra/job_logging").mkdir(parents=True)
    (tmp_path / "conf/hydra/job_logging/mine.yaml").write_text(
        "defaults: [default]\nformatters: {plain: {(): logging.Formatter, format: '%(message)s'}}\n")
    assert tinylab("--config-dir", "conf", "hydra/job_logging=mine", *SHORT, "dry_run=true") == 0


def test_aliases_that_stand_for_little_are_fine(tmp_path: Path) -> None:
    (tmp_path / "condition").mkdir()
    (tmp_path / "condition/mine.yaml").write_text("path: &name my.jsonl\ntag: *name\n")
    assert composed("condition=mine", flags=("--config-dir", str(tmp_path))).condition.tag == "my.jsonl"


def test_a_file_that_is_not_used_may_be_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/old.yaml").write_bytes(b"name: caf\xe9\n")
    assert composed(flags=("--config-dir", str(tmp_path))).condition.tag == "cond_a"


def test_a_name_that_just_fits_is_a_folder(tinylab: Command, tmp_path: Path) -> None:
    name = "\u00e9" * 121
    assert tinylab(*SHORT, f"run_name='{name}'", f"sweep_name='{name}'") == 0
    assert len(only(tmp_path, "outputs/runs/*").name.encode()) == 255


def test_the_largest_seed_is_in_the_table(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*SHORT, "seeds=[9223372036854775807]") == 0
    summary = json.loads(only(tmp_path, "outputs/runs/*/metrics/summary.json").read_text())
    assert summary["seeds"] == [2**63 - 1]


@pytest.mark.parametrize("option", ["disabled", "stdout"])
def test_hydras_other_ways_to_log_are_taken(option: str, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*SHORT, f"hydra/job_logging={option}") == 0
    assert json.loads(only(tmp_path, "outputs/runs/*/manifest.json").read_text())["status"] == "complete"


def test_a_folder_that_is_gone_is_said(tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert tinylab(*SHORT) == 2
    assert capsys.readouterr().err.startswith("tinylab: the folder in which this was typed is gone")
