"""Configuration as a user types it: every shipped YAML, every wrong key, the forms of the verify slice, own YAMLs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from conftest import Command, only, write_jsonl
from tinylab.app import main
from tinylab.config.composing import Composer, config_folder
from tinylab.config.groups import ConditionConfig, VerifySliceConfig
from tinylab.config.hydra_internals import flags_parser
from tinylab.schema import validate
from typed import SHORT, composed, type_in_shell

CONF = config_folder()
OPTIONS = [(file.parent.name, file.stem) for file in sorted(CONF.glob("*/*.yaml")) if file.parent.name != "experiment"]
REQUIRED = {
    ("battery", "pairs"): ["battery.heads=['0.0','1.10']"],
    ("battery", "subset"): ["battery.sets=[['0.0','1.10']]"],
    ("condition", "jsonl"): ["condition.path=mine.jsonl"],
    ("model", "hf"): ["model.name=someone/something"],
    ("model", "gguf"): ["model.path=my.gguf"],
    ("model", "local"): ["model.path=my_model"],
}
PAIR = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
HEAVY = {"torch", "transformers", "pandas", "matplotlib", "safetensors", "joblib", "pydantic"}


@contextmanager
def composer(*flags: str) -> Iterator[Composer]:
    with Composer(flags_parser().parse_args(flags)) as opened:
        yield opened


def conditions_folder(folder: Path, text: str) -> Path:
    """A user's own config folder with condition/mine.yaml."""
    file = folder / "my_conf" / "condition" / "mine.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return folder / "my_conf"


# --- what is shipped ---


def test_there_are_the_groups_and_options_that_the_design_names() -> None:
    groups = {group: {option for other, option in OPTIONS if other == group} for group, _ in OPTIONS}
    assert set(groups) == {"battery", "condition", "model", "device", "verify_slice", "engine", "effects", "controls", "tracker"}
    assert groups["effects"] == {"holm", "bh", "maxt"}
    assert groups["controls"] == {"auto", "none", "all"}
    assert groups["battery"] >= {"h1", "h2"}
    assert groups["condition"] >= {"cond_a", "cond_b", "facts", "negation", "logic", "ioi", "induction", "jsonl"}
    assert groups["condition"] >= {f"planted_{name}" for name in (*"abcdefg", "llama")}
    assert groups["model"] >= {"tiny", "gpt2", "gpt2-medium", "pythia-160m", "llama-3.2-1b", "hf", "local", "planted"}
    assert groups["device"] == {"auto", "cpu", "cuda", "mps"}
    assert groups["verify_slice"] == {"none", "cpu"}
    assert {file.stem for file in CONF.glob("experiment/*.yaml")} >= {"scan_h1", "scan_h2", "h2_with_verify"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_validates(group: str, option: str) -> None:
    required = REQUIRED.get((group, option), [])
    config = composed(f"{group}={option}", *required)
    raw = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"), resolve=True)
    assert isinstance(raw, dict)
    node = getattr(config, group)
    for key, value in raw.items():
        given = any(override.startswith(f"{group}.{key}=") for override in required)
        if not given and not str(key).startswith(("_", "defaults")):
            assert getattr(node, getattr(node, "spelt", {}).get(key, str(key))) == value


@pytest.mark.parametrize(("group", "option"), REQUIRED)
def test_an_option_that_needs_a_value_says_which(
    group: str, option: str, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(f"{group}={option}") == 2
    key = REQUIRED[group, option][0].split("=")[0]
    assert f"{key}=…" in capsys.readouterr().err


@pytest.mark.parametrize("name", [option for group, option in OPTIONS if group == "condition" and option != "jsonl"])
def test_every_shipped_conditions_tag_is_its_files_name(name: str) -> None:
    assert composed(f"condition={name}").condition.tag == name


@pytest.mark.parametrize(("name", "battery"), [("scan_h1", "h1"), ("scan_h2", "h2")])
def test_a_scan_is_a_sweep_of_both_readme_conditions(name: str, battery: str) -> None:
    with composer() as opened:
        config = opened.compose([f"experiment={name}"])
        assert config.hydra.mode == RunMode.MULTIRUN
        assert dict(config.hydra.sweeper.params) == {"condition": "cond_a,cond_b"}
        assert validate(config).battery.name == battery


def test_h2_with_verify_is_a_patching_run_with_its_slice() -> None:
    config = composed("experiment=h2_with_verify")
    assert (config.battery.name, config.verify_slice) == ("h2", VerifySliceConfig(device="cpu"))


def test_without_arguments_it_is_h1_on_cond_a_with_the_embedded_model_on_the_best_device() -> None:
    config = composed()
    assert (config.battery.name, config.condition.tag, config.model.label, config.device.type) == ("h1", "cond_a", "tiny", "auto")


def test_the_defaults_of_h2_are_those_of_the_design() -> None:
    battery = vars(composed("battery=h2").battery)
    assert (battery["granularity"], battery["patch_direction"], battery["positions"]) == ("layer_resid", "clean->corrupt", "last")


# --- the user's mistakes ---

MISTAKES = {
    "unknown option": (["condition=nope"], ["nope", "cond_a", "cond_b", "jsonl"]),
    "unknown model": (["model=gpt5"], ["gpt5", "tiny", "gpt2-medium"]),
    "unknown variant": (["model=planted", "model.variant=twin"], ["model.variant=twin", "did you mean 'twins'", "ledger, gates"]),
    "unknown experiment": (["experiment=nope"], ["nope", "scan_h1", "h2_with_verify"]),
    "mistyped group": (["batery=h1"], ["batery", "did you mean 'battery'", "condition"]),
    "mistyped key": (["condition.pth=x"], ["condition.pth", "did you mean 'path'", "n_examples"]),
    "mistyped battery key": (["battery.layrs=[0]"], ["battery.layrs", "did you mean 'layers'", "scales"]),
    "key of another battery": (["battery.granularity=mlp_out"], ["battery.granularity", "scales", "heads"]),
    "mistyped root key": (["sedes=[1]"], ["sedes", "did you mean 'seeds'", "metrics"]),
    "added root key": (["+nonsense=1"], ["nonsense", "seeds", "run_name"]),
    "added group key": (["+condition.nonsense=1"], ["condition.nonsense", "n_examples", "split"]),
    "added battery key": (["+battery.nonsense=1"], ["battery.nonsense", "scales"]),
    "added nested key": (["+model.extra.deep=1"], ["model.extra", "dtype", "revision"]),
    "added verify key": (
        ["+verify_slice.n_exampels=5"],
        ["verify_slice.n_exampels", "did you mean 'n_examples'", "device", "strict"],
    ),
    "mistyped verify key": (["verify_slice.n_exampels=5"], ["verify_slice.n_exampels", "did you mean 'n_examples'", "device"]),
    "forced key": (["++invariants.kk=5"], ["invariants.kk", "k, metrics, rank"]),
    "int of text": (["condition.n_examples=many"], ["condition.n_examples", "many"]),
    "int of fraction": (["condition.n_examples=2.5"], ["condition.n_examples", "2.5"]),
    "too small": (["condition.n_examples=0"], ["condition.n_examples", "at least 1"]),
    "bool of text": (["overwrite=maybe"], ["overwrite", "maybe"]),
    "list of text": (["battery.scales=[zero]"], ["battery.scales", "zero"]),
    "scalar for list": (["seeds=0"], ["seeds", "0"]),
    "no seeds": (["seeds=[]"], ["seeds", "[]"]),
    "the same seed twice": (["seeds=[1,1]"], ["seeds", "[1, 1]"]),
    "unknown dtype": (["model.dtype=float8"], ["model.dtype", "float8", "bfloat16", "float64"]),
    "unknown device type": (["device.type=tpu"], ["device.type", "tpu", "cuda", "mps"]),
    "unknown metric": (["metrics=[loss]"], ["metrics", "loss", "kl_div", "p_drop"]),
    "patching metric for h1": (["metrics=[recovery]"], ["recovery", "logit_diff"]),
    "unknown granularity": (["battery=h2", "battery.granularity=neuron"], ["neuron", "layer_resid", "mlp_out", "head_out"]),
    "unknown direction": (["battery=h2", "battery.patch_direction=both"], ["both", "clean->corrupt", "corrupt->clean"]),
    "unknown rank": (["invariants.rank=best"], ["invariants.rank", "best", "magnitude"]),
    "unknown set": (["invariants.set=all"], ["invariants.set", "all", "partial_conjunction, intersection, union"]),
    "a number beside a set that has none": (["invariants.set=intersection", "invariants.at_least=2"], ["at_least=2", "leave"]),
    "unknown engine": (["engine=fast"], ["fast", "forked", "reference"]),
    "no positions": (["battery=h2", "battery.positions=null"], ["battery.positions", "last", "all"]),
    "positions taken away": (["battery=h2", "~battery.positions"], ["battery.positions", "last", "all"]),
    "odd positions": (["battery=h2", "battery.positions=first"], ["battery.positions", "first", "last"]),
    "negative position": (["battery=h2", "battery.positions=[-1]"], ["battery.positions", "-1"]),
    "slash in run_name": (["run_name=a/b"], ["run_name", "a/b"]),
    "no equals sign": (["condition"], ["condition"]),
    "sweep without -m": (["condition=cond_a,cond_b"], ["condition=cond_a,cond_b", "-m"]),
    "range without -m": (["condition.n_examples=range(1,3)"], ["condition.n_examples", "-m"]),
    "no such config-dir": (["--config-dir", "nowhere"], ["--config-dir", "nowhere"]),
    "group set to null": (["condition=null"], ["condition", "null"]),
    "battery set to null": (["battery=null"], ["battery", "null"]),
    "two options of a group": (["condition=[cond_a,cond_b]", *SHORT], ["condition", "-m"]),
    "a package that is not there": (
        ["condition=jsonl", "condition.path=pkg://nowhere/x.jsonl"],
        ["condition.path", "pkg://nowhere/x.jsonl"],
    ),
    "a model's package that is not there": (["model=local", "model.path=pkg://nowhere/x"], ["model.path", "pkg://nowhere/x"]),
}


@pytest.mark.parametrize(("args", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_on_stderr_exit_code_2_and_nothing_written(
    args: list[str], words: list[str], tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*args) == 2
    said = capsys.readouterr()
    assert said.err.startswith("tinylab: ")
    assert said.err.count("\n") == 1 and said.err.endswith("\n")
    assert [word for word in words if word not in said.err] == [], said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["unknown option", "mistyped key", "added verify key", "bool of text"])
def test_the_same_mistake_in_a_sweep_is_the_same_sentence(
    kind: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args, words = MISTAKES[kind]
    assert tinylab("-m", "seeds=[0],[1]", *args) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert all(word in said.err for word in words), said.err
    assert list(tmp_path.iterdir()) == []


def test_a_group_with_several_values_is_not_advised_to_become_a_list(
    tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("condition=cond_a,cond_b") == 2
    assert "condition=[" not in capsys.readouterr().err


def test_patching_the_whole_residual_stream_is_refused_with_the_reason(
    tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("battery=h2", "battery.positions=all") == 2
    said = capsys.readouterr().err
    assert "turns the target run into the source run" in said
    assert "positions=last" in said


@pytest.mark.parametrize("granularity", ["mlp_out", "head_out"])
def test_all_positions_are_fine_for_other_granularities(granularity: str) -> None:
    assert composed("battery=h2", "battery.positions=all", f"battery.granularity={granularity}").battery.acts_at == "all"


def test_hydra_full_error_shows_the_traceback(tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, "-m", "tinylab", "condition=nope", HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr
    assert done.returncode != 0


# --- the verify slice ---

FORMS = {
    "nothing": ([], VerifySliceConfig()),
    "added": (["+verify_slice.device=cpu"], VerifySliceConfig(device="cpu")),
    "set": (["verify_slice.device=cpu"], VerifySliceConfig(device="cpu")),
    "added twice": (["+verify_slice.device=cpu", "+verify_slice.n_examples=5"], VerifySliceConfig(device="cpu", n_examples=5)),
    "mixed": (["verify_slice.device=cpu", "+verify_slice.n_examples=5"], VerifySliceConfig(device="cpu", n_examples=5)),
    "group": (["verify_slice=cpu"], VerifySliceConfig(device="cpu")),
    "group and added": (["verify_slice=cpu", "+verify_slice.n_examples=3"], VerifySliceConfig(device="cpu", n_examples=3)),
    "group and set": (["verify_slice=cpu", "verify_slice.n_examples=3"], VerifySliceConfig(device="cpu", n_examples=3)),
    "number only": (["+verify_slice.n_examples=3"], VerifySliceConfig(n_examples=3)),
    "strict only": (["verify_slice.strict=true"], VerifySliceConfig(strict=True)),
    "not strict": (["verify_slice.strict=false"], VerifySliceConfig(strict=False)),
    "dtype": (["verify_slice=cpu", "verify_slice.dtype=float64"], VerifySliceConfig(device="cpu", dtype="float64")),
    "sample only": (["verify_slice.sample=stratified"], VerifySliceConfig(sample="stratified")),
}


@pytest.mark.parametrize(("overrides", "expected"), FORMS.values(), ids=FORMS)
def test_every_form_of_the_verify_slice_is_understood(overrides: list[str], expected: VerifySliceConfig) -> None:
    verify = composed(*overrides).verify_slice
    assert verify == expected
    assert verify.asked == bool(overrides)


@pytest.mark.parametrize(
    "override",
    [
        "+verify_slice.device=tpu",
        "+verify_slice.dtype=float8",
        "+verify_slice.n_examples=0",
        "+verify_slice.tolerance=-1",
        "+verify_slice.n_examples=few",
    ],
)
def test_an_added_verify_key_is_checked_like_any_other(
    override: str, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(override) == 2
    assert capsys.readouterr().err.startswith(f"tinylab: {override[1:].split('=', maxsplit=1)[0]}")


# --- the user's own YAML files ---


@pytest.mark.parametrize("defaults", ["[jsonl]", "[jsonl, _self_]"])
def test_an_own_yaml_inherits_jsonl_and_its_own_keys_win(defaults: str, tmp_path: Path) -> None:
    folder = conditions_folder(tmp_path, f"defaults: {defaults}\npath: my.jsonl\ntag: mine\nclean_field: question\n")
    own = composed("condition=mine", flags=("--config-dir", str(folder))).condition
    assert own == ConditionConfig(tag="mine", path="my.jsonl", split=None, clean_field="question")


def test_an_own_yaml_runs_alone_and_is_swept_beside_a_shipped_one(tinylab: Command, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "my.jsonl", [PAIR, {**PAIR, "clean": "In France, the capital is", "corrupt": "In Italy, the capital is"}]
    )
    conditions_folder(tmp_path, "defaults: [jsonl, _self_]\npath: my.jsonl\ntag: mine\n")
    assert tinylab("--config-dir", "my_conf", "condition=mine", *SHORT, "sweep_name=unused") == 0
    alone = only(tmp_path, "outputs/runs/h1_mine_*")
    assert (
        tinylab(
            "-m", "--config-dir", "my_conf", "condition=cond_a,mine", *SHORT, "sweep_name=both", "run_name=r_${condition.tag}"
        )
        == 0
    )
    sweep = only(tmp_path, "outputs/sweeps/both_*")
    manifest = json.loads((sweep / "manifest.json").read_text())
    assert [job["condition"] for job in manifest["jobs"]] == ["cond_a", "mine"]
    assert only(sweep, "r_cond_a_*").is_dir()
    assert only(sweep, "r_mine_*").name.removeprefix("r_mine_") == alone.name.removeprefix("h1_mine_")


def test_an_own_yaml_with_a_mistyped_key_is_refused_by_name(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = conditions_folder(tmp_path, "defaults: [jsonl, _self_]\npath: my.jsonl\ntagg: mine\n")
    assert tinylab("--config-dir", str(folder), "condition=mine") == 2
    said = capsys.readouterr().err
    assert "condition.tagg" in said and "did you mean 'tag'" in said


def test_an_own_yaml_without_a_path_or_tag_is_told_what_is_missing(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = conditions_folder(tmp_path, "path: my.jsonl\n")
    assert tinylab("--config-dir", str(folder), "condition=mine") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "condition.tag" in said


def test_an_own_yaml_that_is_not_yaml_is_one_line(tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = conditions_folder(tmp_path, "path: [my.jsonl\ntag: mine\n")
    assert tinylab("--config-dir", str(folder), "condition=mine") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "mine.yaml" in said


def test_own_options_are_listed_beside_the_shipped_ones(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = conditions_folder(tmp_path, "defaults: [jsonl, _self_]\npath: my.jsonl\ntag: mine\n")
    assert tinylab("--config-dir", str(folder), "condition=nope") == 2
    said = capsys.readouterr().err
    assert "mine" in said and "cond_a" in said


# --- the process ---


def test_help_tells_the_groups_and_examples_in_about_a_second_without_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import atexit, sys, time\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, time.process_time()))\n"
        "from tinylab.app import main\nsys.exit(main(['--help']))"
    )
    done = type_in_shell(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    *text, facts = done.stdout.strip().splitlines()
    *modules, seconds = facts.split()
    assert HEAVY & set(modules) == set()
    assert float(seconds) < 2.5
    for word in [
        "battery: activation_patch, attention, blocks, grid, h1, h2",
        "cond_a",
        "llama-3.2-1b",
        "scan_h1",
        "verify_slice: cpu, none",
        "python -m tinylab -m condition=cond_a,cond_b",
    ]:
        assert word in "\n".join(text)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_command_line_imports_nothing_heavy_either(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tinylab.app import main\nassert main(['condition=nope']) == 2\n"
        "print('|'.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = type_in_shell(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.strip().split("|")) == set()


@pytest.mark.parametrize(
    "flags",
    [
        ("--cfg", "job"), ("--cfg", "job", "--resolve"), ("--cfg", "all"), ("--cfg", "job", "battery=h2"),
        *(("--cfg", "all", "--resolve", f"hydra/launcher={name}")
          for name in ("joblib", "submitit_local", "submitit_slurm", "ray")),
    ],
)
def test_hydras_own_flags_work_and_run_nothing(
    flags: tuple[str, ...], tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*flags) == 0
    assert capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flag", "what"), [("--cfg", "job"), ("--info", "config")])
def test_hydras_flags_with_multirun_are_one_sentence(
    flag: str, what: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("-m", flag, what) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tinylab: --multirun with {flag}: ") and "dry_run=true" in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["-m", "tinylab"], [str(Path(sys.executable).with_name("tinylab"))]], ids=["module", "console script"]
)
def test_the_process_ends_with_the_exit_code_and_one_line(command: list[str], tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, *command, "condition=nope", fresh=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "cond_a" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_is_exit_code_2_and_names_the_program(tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, "-m", "tinylab", "--nonsense")
    assert done.returncode == 2
    assert "tinylab: --nonsense: no such flag" in done.stderr


def test_main_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "to be taken away again")
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    assert [main(["condition=nope"]), main(["condition=nope"])] == [2, 2]
    assert "HYDRA_FULL_ERROR" not in os.environ
