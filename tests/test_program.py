"""The one program: its commands, what it says of itself, and that every old form is as it was."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from conftest import Command, only, write_jsonl
from saved_datasets import save
from tinylab import __version__, app, program
from tinylab.command import COMMANDS
from tinylab.config.options import options_of
from tinylab.sweep.finished import run_lock
from tinylab.sweep.single import varied
from typed import SHORT, composed, snapshot, type_in, type_in_shell

CROSS = "artifacts/cross_condition"
PAIR = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
SENTENCES = {
    "lst": "did you mean 'list'?",
    "condition=cond_a list": "a command is the first word, as in tinylab list",
    "list modles": "did you mean 'models'?",
    "help condtion": "did you mean 'condition'?",
    "--nonsense": "--nonsense: no such flag",
    "--cfg": "--cfg/-c: expected one argument; tinylab --hydra-help lists the flags.",
    "--cfg jbo": "--cfg/-c jbo: not an option; did you mean 'job'? known: job, hydra, all.",
    "--resolve": "add --cfg job",
    "--package condition": "add --cfg job",
    "--shell-completion": "install=bash",
    "model=gtp2": "did you mean 'gpt2'?",
    "n_examples=5": "did you mean 'condition.n_examples' or 'verify_slice.n_examples'?",
    "+n_examples=5": "did you mean 'condition.n_examples' or 'verify_slice.n_examples'?",
    "conditon.split=5": "did you mean 'condition.split'?",
    "-m layers=0,1": "did you mean 'battery.layers'?",
    "n_example=5": "did you mean 'condition.n_examples' or 'verify_slice.n_examples'?",
    "h2": "did you mean 'battery=h2'?",
    "help h2": "did you mean 'battery=h2'?",
    "run facts": "did you mean 'condition=facts'?",
    "-m condition=glob(zzz*)": "no condition that can run by itself has such a name",
    "-m seeds=glob(*)": "a sweep over nothing",
    "plots=maybe": "plots=maybe: expected true or false.",
    "report=maybe": "report=maybe: expected true, false or null.",
    "threads=two": "threads=two: expected a whole number or null.",
    "effects.alpha=low": "effects.alpha=low: expected a number.",
    "seeds=0": "seeds=0: expected a list of whole numbers, such as seeds=[0].",
    "battery.heads=[0.1]": "battery.heads=[0.1]: expected a list of whole numbers or null.",
    "condition=jsonl condition.path=[a]": "condition.path=[a]: expected a text.",
    "output_dir=null": "output_dir=null: expected a text.",
    "models": "did you mean 'list models'?",
    "condition = facts": "did you mean 'condition=…'?",
    "dry_run": "did you mean 'dry_run=…'?",
    "--condition facts": "--condition: settings are typed without dashes; did you mean 'condition=…'?",
    "battery=h1 --dry-run=true": "did you mean 'dry_run=true'?",
    "--battery.scales=[0.5] --cfg job": "did you mean 'battery.scales=[0.5]'?",
    "help scales": "did you mean 'battery.scales'?",
    "help battery.scals": "battery.scals: unknown key; did you mean 'scales'?",
    "validate nowhere": "no such folder",
    "aggregate nowhere": "no such folder",
    "sweep condition=nope": "known: cond_a",
}
"""What is typed, and words of the one sentence that answers with exit code 2."""
FLAGS = {
    "aggregate": "FOLDER (a sweep's folder, ",
    "aggregate x --kk 5": "--kk: no such flag; did you mean '--k'? known: --help, --out, ",
    "aggregate x --k five": "--k five: expected a whole number of at least 1; tinylab aggregate --help says more.",
    "aggregate x --at-least 0": "--at-least 0: expected a whole number of at least 1; ",
    "aggregate x --rank hihgest": "--rank hihgest: not an option; did you mean 'highest'? known: magnitude, highest, lowest.",
    "aggregate x --metrics": "--metrics: expected at least one argument; ",
    "list models too": "too: one word too many; tinylab list --help says more.",
    "validate": "FOLDER (of a run or a sweep) is missing; tinylab validate --help says more.",
    "convert": "FILE.gguf and FOLDER (new, or empty) are missing; ",
    "convert old.json": "--out (where the YAMLs go) is missing; ",
    "reproduce --twice": "--twice: no such flag; ",
    "selftest --config-dir": "--config-dir: expected one argument; ",
}
"""Lines whose flags are wrong, and how the sentence begins that answers them."""


@pytest.mark.parametrize("line", SENTENCES)
def test_a_mistake_is_one_sentence(line: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(tmp_path)
    assert tinylab(*shlex.split(line)) == 2
    said = capsys.readouterr()
    assert SENTENCES[line] in said.err, said.err
    assert (said.err.count("\n"), said.out, snapshot(tmp_path)) == (1, "", before)


@pytest.mark.parametrize("line", FLAGS)
def test_a_mistake_in_a_commands_flags_is_one_sentence(
    line: str, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        tinylab(*line.split())
    said = capsys.readouterr()
    assert said.err.startswith(f"tinylab {line.split(maxsplit=1)[0]}: {FLAGS[line]}"), said.err
    assert (end.value.code, said.err.count("\n"), said.out) == (2, 1, "")


def test_a_corpus_or_a_folder_without_what_it_is_for_is_answered_with_what_to_type(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "my.jsonl", [PAIR])
    save(tmp_path / "saved", pa.Table.from_pylist([PAIR]))
    (tmp_path / "outputs/runs/one").mkdir(parents=True)
    (tmp_path / "outputs/runs/one/manifest.json").write_text("{}")
    answers = {
        "my.jsonl": "did you mean 'condition=jsonl condition.path=my.jsonl'?",
        "saved": "did you mean 'condition=jsonl condition.path=saved'?",
        "outputs": "outputs: neither a command nor key=value; known: run",
        "condition=saved": "For a folder of your own use condition=jsonl condition.path=saved.",
        "aggregate outputs": "it holds 1 runs or sweeps: name those, as in outputs/*/*",
        "validate outputs/runs": "it holds 1 runs or sweeps: name those, as in outputs/runs/*",
    }
    for line, answer in answers.items():
        assert tinylab(*line.split()) == 2
        assert answer in (said := capsys.readouterr().err) and said.count("\n") == 1, said


def test_what_a_person_types_to_look_around_is_answered(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = {
        "help": COMMANDS, "--version": [f"tinylab {__version__} (hydra-core", "torch"],
        "--help condition": ["cond_a", "condition.n_examples=null", "rows at random"],
        "help battery=h2": ["battery.patch_direction=clean->corrupt"], "--list-models": ["openai-community/gpt2", "tiny"],
        "list": ["tinylab list conditions"], "list metrics": ["kl_div", "nats"], "list experiments": ["scan_h1"],
        "help seeds": ["seeds=[0]", "drive what is random"], "help battery.sets": ["battery=subset", "battery.sets=???"],
        "help condition.n_examples": ["a setting of every condition", "condition.n_examples=null"],
        "list runs": ["no runs in outputs"], "--cfg job --resolve": ["run_name: h1_cond_a"],
    }
    for line, expected in words.items():
        assert tinylab(*line.split()) == 0
        said = capsys.readouterr()
        assert [word for word in expected if word not in said.out] == [], line
        assert said.err == ""


def test_data_for_other_programs_has_the_users_own_options_first(tinylab: Command, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "conf/condition"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text("# My own task.\ndefaults: [jsonl, _self_]\npath: my.jsonl\ntag: mine\n")
    (mine / "facts.yaml").write_text("defaults: [jsonl, _self_]\npath: other.jsonl\n")
    assert tinylab("list", "conditions", "--json", "--config-dir", "conf") == 0
    told = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (told["mine"]["about"], told["mine"]["corpus"], told["mine"]["required"]) == ("My own task.", "my.jsonl", [])
    assert told["facts"]["corpus"] == "other.jsonl"
    assert told["jsonl"]["required"] == ["path"]
    for row in told.values():
        if not row["required"] and row["name"] not in ("mine", "facts"):  # as Hydra composes them
            assert composed(f"condition={row['name']}").condition.tag == row["tag"]
    assert tinylab("list", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"models", "conditions", "batteries", "metrics", "experiments", "runs"}


@pytest.mark.parametrize("line", ["--version", "help", "list conditions", "help condition=facts"])
def test_looking_around_imports_nothing_large(line: str, tmp_path: Path) -> None:
    code = ("import sys\nfrom tinylab.program import main\nassert main() == 0\n"
            "print({'numpy', 'pyarrow', 'pandas', 'torch', 'pydantic', 'tinylab.app'} & set(sys.modules), file=sys.stderr)")
    done = type_in_shell(tmp_path, "-c", code, *line.split())
    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_runs_are_listed_a_line_each_with_what_became_of_them(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*SHORT) == 0
    run = only(tmp_path, "outputs/runs/*")
    other = run.with_name(f"{'a_long_name_' * 9}0123456789ab")
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps({"status": "running", "run_id": "0123456789ab"}))
    capsys.readouterr()
    assert tinylab("list", "runs") == 0
    said = [line.strip("│ ").split() for line in capsys.readouterr().out.splitlines() if "outputs/" in line]
    started = json.loads((run / "manifest.json").read_text())["provenance"]["started"]
    assert [line[::2] for line in said] == [
        [f"outputs/runs/{run.name}", "complete", "h1", "cond_a", "tiny", started[:10]],
        [f"outputs/runs/{other.name}", "interrupted", "–", "–", "–", "–"]]
    with run_lock(Path("outputs"), "0123456789ab"):
        assert tinylab("list", "runs", "--json") == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["complete", "running"]


def test_module_and_console_script_are_the_same_program(tmp_path: Path) -> None:
    module = type_in_shell(tmp_path, "-m", "tinylab", "list", "models", "--json", fresh=True)
    entry = "import sys\nfrom tinylab.program import main\nsys.exit(main())"
    script = type_in_shell(tmp_path, "-c", entry, "list", "models", "--json")
    assert (module.returncode, module.stdout) == (0, script.stdout)
    assert {"tiny", "gpt2"} <= {row["name"] for row in json.loads(module.stdout)}
    root = Path(program.__file__).parents[1]
    if (file := root / "pyproject.toml").is_file():
        assert 'tinylab = "tinylab.program:main"' in file.read_text()


def test_a_line_without_a_command_goes_to_hydra_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []
    monkeypatch.setattr(app, "main", lambda words: got.append(list(words)) or 7)
    lines = [[], ["battery=h1"], ["-m", "condition=a,b"], ["--cfg", "job"], ["--help"], ["--config-dir", "list", "x=1"],
             ["~experiment"], ["threads=1", "-m", "condition=a,b"], ["--hydra-help"], ["--help", "battery=h2"]]
    for line in lines:
        assert program.main(line) == 7
    assert got == lines
    assert program.main(["sweep", "x=1,2"]) == program.main(["run", "x=1"]) == 7
    assert got[-2:] == [["--multirun", "x=1,2"], ["x=1"]]


def test_completion_offers_commands_first_and_then_groups(monkeypatch: pytest.MonkeyPatch, tinylab: Command,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tinylab"])
    monkeypatch.setenv("COMP_LINE", "tinylab se")
    assert tinylab("-sc", "query=bash") == 0
    assert capsys.readouterr().out.split()[0] == "selftest"
    monkeypatch.setenv("COMP_LINE", "tinylab condition=fa")
    assert tinylab("-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == ["condition=facts"]


def test_batteries_go_by_the_names_of_their_kinds_too() -> None:
    from tinylab.records.identity import run_id

    for name, kind in (("h1", "heads_zero"), ("h2", "activation_patch")):
        assert run_id(composed(f"battery={kind}")) == run_id(composed(f"battery={name}"))
        assert composed(f"battery={kind}").battery.name == name


def test_a_glob_takes_the_conditions_that_can_run(tinylab: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "conf/condition"
    own.mkdir(parents=True)
    write_jsonl(tmp_path / "pairs.jsonl", [PAIR] * 4)
    for name, path in (("x_good", "pairs.jsonl"), ("x_gone", "nowhere.jsonl"), ("x_template", "???")):
        (own / f"{name}.yaml").write_text(f"defaults: [jsonl, _self_]\npath: {path}\ntag: {name}\n")
    (own / "x_planted.yaml").write_text("defaults: [planted_a, _self_]\ntag: x_planted\n")
    line = ["--config-dir", "conf", "condition=glob(x_*)", "-m", *SHORT[1:], "overwrite=false"]  # overrides before -m
    assert tinylab(*line) == 3  # a condition that is broken in itself is a failure as ever
    assert "without x_planted (has rows that this model cannot use); x_template (needs condition.path=…)" in caplog.text
    jobs = json.loads(only(tmp_path, "outputs/sweeps/*/manifest.json").read_text())["jobs"]
    assert [job["condition"] for job in jobs] == ["x_gone", "x_good"]
    assert "nowhere.jsonl" in capsys.readouterr().out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a sweep over three conditions, two of one corpus, was typed."""
    folder = tmp_path_factory.mktemp("made")
    small = ["condition.n_examples=16", "battery.layers=[0,1]", "plots=false"]
    assert type_in(folder, "sweep", "condition=cond_a,cond_b,ioi", *small) == 0
    return folder


def test_single_runs_are_joined_as_a_sweep_of_them(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = only(made, "outputs/sweeps/sweep_*")
    runs = [str(sweep / name) for name in json.loads((sweep / "manifest.json").read_text())["runs"]]
    assert type_in(made, "aggregate", *runs, "--out", "joined") == 0
    for name in ("invariants.json", "summary.json", "head_matrix.parquet"):
        assert (made / "joined" / CROSS / name).read_bytes() == (sweep / CROSS / name).read_bytes()
    assert type_in(made, "validate", "joined", str(sweep), *runs[:1]) == 0
    assert type_in(made, "aggregate", *runs[:2]) == 0  # without --out beside the other sweeps
    (beside,) = (made / "outputs/sweeps").glob("runs_*")
    assert set(pd.read_parquet(beside / CROSS / "head_matrix.parquet")["condition"]) == {"cond_a", "cond_b"}
    capsys.readouterr()
    for line, words in (([runs[0]], "one run"), ([runs[0], runs[0]], "the same run"),
                        ([*runs[:2], "--out", "joined"], "holds another"),
                        ([str(sweep), "--out", "elsewhere"], "no folder given is a run's")):
        assert type_in(made, "aggregate", *line) == 2
        assert words in capsys.readouterr().err


def test_settings_in_which_runs_of_one_name_differ_are_told_apart() -> None:
    runs = [{"condition.tag": tag, "condition.n_examples": n, "battery.name": "h1", "battery.scales": [0.0],
             "condition.strict": tag == "b"} for tag, n in (("a", 4), ("a", 8), ("b", 4))]
    assert varied(runs) == [{"condition.n_examples": "4"}, {"condition.n_examples": "8"}, {"condition.n_examples": "4"}]
    assert varied(runs[1:]) == [{}, {}]  # of two conditions the tags tell


def test_one_corpus_under_two_tags_is_no_invariant(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = only(made, "outputs/sweeps/sweep_*")
    assert type_in(made, "aggregate", *map(str, [only(sweep, "h1_cond_a_*"), only(sweep, "h1_ioi_*")]), "--out", "same") == 0
    said = capsys.readouterr().out
    assert "cond_a and ioi are one corpus under 2 tags: they count as one condition" in said
    assert "in one condition, which is not an invariant (cond_a, ioi)" in said and "in every condition" not in said


def test_a_sweep_prints_one_line_for_each_run_and_no_runs_own_table(made: Path) -> None:
    done = type_in_shell(made, "-m", "tinylab", "-m", "condition=cond_a,cond_b,ioi", "condition.n_examples=16",
                         "battery.layers=[0,1]", "plots=false", "overwrite=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 of 3 runs\n") and "strongest by change" not in done.stdout and "INFO" not in done.stdout
    assert len(done.stdout.splitlines()) < 3 + 30
    assert "INFO tinylab.computing" in (only(made, "outputs/sweeps/sweep_*/h1_cond_b_*") / "run.log").read_text()


def test_a_damaged_table_is_named_by_validate(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = only(made, "outputs/sweeps/sweep_*/h1_cond_b_*")
    file = run / "metrics/effects.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    try:
        assert type_in(made, "validate", str(run)) == 2
        assert "effects.parquet is not what was written" in capsys.readouterr().err
    finally:
        file.write_bytes(whole)


def test_options_are_read_with_what_they_inherit_and_comments_on_their_keys(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g/base.yaml").write_text("# About it.\n# More.\nx: 1   # what x is\n        # and more of it\ny: ???\n")
    (tmp_path / "g/own.yaml").write_text("defaults: [base, _self_]\ny: '#'\n")
    (tmp_path / "g/round.yaml").write_text("defaults: [round]\nz: 1\n")
    base, own, round_ = options_of("g", [tmp_path])
    assert (base.about, base.required, base.comments) == ("About it. More.", ["y"], {"x": "what x is and more of it"})
    assert (own.values, own.comments, round_.values) == ({"x": 1, "y": "#"}, base.comments, {"z": 1})
