"""The first version's configs run: converted and with another model, they give the numbers of a command that says the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from conftest import only, write_jsonl
from old_lab import BATTERIES, DATASET, ROOT, SPLIT, lay_out, run_file, scan_file, write
from tinylab import convert
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.batteries.pairs import HeadsPairZero
from tinylab.batteries.subset import HeadsSubsetZero
from tinylab.config.groups import ConditionConfig
from tinylab.first_version import command
from typed import composed, snapshot

Command = Callable[..., int]
HERE = ("model=tiny", "model.dtype=float32", "device=cpu", "plots=false", "controls=none")
"""What replaces the old config's model and device, which are not on this machine."""


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old lab's configs, where the first version was typed."""
    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path)


def experiment(name: str, out: str = "conf") -> dict[str, Any]:
    return dict(yaml.safe_load(Path(out, f"experiment/{name}.yaml").read_text()))


def impact(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(only(folder, "*/metrics/*_impact.parquet")).drop(columns="run_id")


def rows_of(split: str, corpus: str = "names_v1") -> Path:
    """The rows of one split alone, chosen here."""
    rows = [json.loads(line) for line in Path(f"lab/data/corpora/{corpus}.jsonl").read_text().splitlines()]
    return write_jsonl(Path(f"{corpus}_{split}.jsonl"), [rows[number] for number in sorted(SPLIT[split])])


SAYS: dict[str, tuple[str, ...]] = {
    "battery_h1_random": ("battery=h1", "battery.layers=[1]", "battery.heads=[0,3]", "battery.keep_value_bias=true"),
    "battery_h2_c2x": ("battery=h2", "battery.granularity=head_out", "battery.positions=all", "battery.sham_control=true"),
    "battery_h5_triplet": ("battery=subset", "battery.sets={triplet:['0.2','0.4','0.7'],5-0:['1.0','1.5']}",
                           "battery.keep_value_bias=true"),
}
"""What today's command line says for some batteries."""
MEANT: dict[str, Battery] = {
    "battery_h1_heads_zero": HeadsZero(name="h1", scales=[0.0, 0.5], keep_value_bias=True),
    "battery_h1_random": HeadsZero(name="h1", layers=[1], heads=[0, 3], keep_value_bias=True),
    "battery_h2_c2x": ActivationPatch(name="h2", granularity="head_out", positions="all", sham_control=True),
    "battery_h2_x2c": ActivationPatch(name="h2", patch_direction="corrupt->clean", positions="last", layers=[0, 1]),
    "battery_h2_last": ActivationPatch(name="h2", granularity="mlp_out", positions="last"),
    "battery_h5_pairs": HeadsPairZero(name="pairs", heads=["0.1", "0.4", "1.0", "1.2"], keep_value_bias=True),
    "battery_h5_triplet": HeadsSubsetZero(name="subset", sets={"triplet": ["0.2", "0.4", "0.7"], "5-0": ["1.0", "1.5"]},
                                          keep_value_bias=True),
}


def test_every_battery_of_the_old_lab_is_here() -> None:
    assert MEANT.keys() == BATTERIES.keys()


@pytest.mark.parametrize("battery", MEANT)
def test_a_converted_battery_is_the_one_that_was_meant(battery: str, configs: Path) -> None:
    assert command.main([str(write(configs / "run.json", run_file(battery))), "--out", "conf"]) == 0
    config = composed(f"experiment=run_{battery}", flags=("--config-dir", "conf"))
    assert config.battery == MEANT[battery]
    assert (config.seeds, config.device.type, config.model.dtype) == ([0, 1], "mps", "float16")
    assert (config.condition.tag, config.condition.split, config.controls.random_sets) == (
        "names_v1", "test", True if battery == "battery_h1_random" else "auto")


@pytest.mark.parametrize("battery", ["battery_h2_c2x", "battery_h5_triplet"])
def test_a_converted_run_has_the_numbers_of_the_command_that_says_the_same(battery: str, configs: Path, tinylab: Command) -> None:
    file = write(configs / "run.json", run_file(battery))
    assert command.main([str(file), "--out", "conf"]) == 0
    assert tinylab("--config-dir", "conf", f"experiment=run_{battery}", *HERE, "output_dir=old") == 0
    corpus = rows_of("test")
    assert tinylab(*SAYS[battery], "condition=jsonl", f"condition.path={corpus}", "seeds=[0,1]", *HERE, "output_dir=new") == 0
    old, new = impact(Path("old/runs")), impact(Path("new/runs"))
    pd.testing.assert_frame_equal(old, new, check_exact=True)
    assert len(old)


def test_run_converts_a_scan_and_runs_it_and_both_conditions_have_their_own_rows(configs: Path, tinylab: Command) -> None:
    file = write(configs / "scan_h1_example.json", scan_file("battery_h1_random"))
    assert command.is_old_config(str(file))
    assert command.run([str(file), *HERE]) == 0
    sweep = only(Path(), "outputs/sweeps/scan_h1_*")
    matrix = pd.read_parquet(sweep / "artifacts/cross_condition/head_matrix.parquet")
    for tag, split, corpus in (("cond_a", "test", "names_v1"), ("cond_b", "train", "repeats_v1")):
        typed = (*SAYS["battery_h1_random"], "condition=jsonl", f"condition.path={rows_of(split, corpus)}", "seeds=[0,1,2]")
        assert tinylab(*typed, *HERE, f"output_dir={tag}", f"threads={_threads()}") == 0
        columns = ["seed", "layer", "head", "scale", "metric", "value"]
        own = matrix[matrix["condition"] == tag][columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, impact(Path(f"{tag}/runs")), check_exact=True)
        assert only(sweep, f"scan_h1_{tag}_*").is_dir()


def _threads() -> int:
    from tinylab.machine.threads import job_threads

    return job_threads(None, multirun=True)


def test_a_verify_slice_is_verified(configs: Path) -> None:
    verified = run_file("battery_h2_x2c", run_name="h2_with_verify", verify_slice={"device": "cpu", "n_examples": 3})
    assert command.run([str(write(configs / "run_h2_with_verify.json", verified)), *HERE]) == 0
    told = json.loads(only(Path(), "outputs/runs/h2_with_verify_*/metrics/verify.json").read_text())
    assert (told["device_verify"], told["n_examples"], told["n_seeds"], told["verdict"]) == ("cpu", 3, 2, "pass")


def test_a_condition_may_have_its_own_battery_overrides_and_model(configs: Path) -> None:
    scan = scan_file("battery_h1_heads_zero", "scan_h2")
    scan["conditions"][0]["battery_overrides"] = {"scales": [0.0], "layers": [1]}
    model = {"name": "EleutherAI/pythia-70m"}
    scan["conditions"][1] |= {"battery": "lab/configs/battery_h2_c2x.json", "model": model, "seeds": [5]}
    assert command.main([str(write(configs / "scan_h2_example.json", scan)), "--out", "conf"]) == 0
    a, b = experiment("scan_h2_cond_a"), experiment("scan_h2_cond_b")
    assert (a["battery"]["scales"], a["battery"]["layers"], a["seeds"]) == ([0.0], [1], [0, 1, 2])
    assert (b["battery"]["granularity"], b["seeds"], b["model"]["dtype"]) == ("head_out", [5], "float16")
    assert composed("experiment=scan_h2_cond_b", flags=("--config-dir", "conf")).model.name == "EleutherAI/pythia-70m"
    assert composed("experiment=scan_h2_cond_a", flags=("--config-dir", "conf")).condition.tag == "cond_a"


def test_keys_that_were_never_read_are_named_and_none_is_lost(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = run_file("battery_h1_heads_zero", profiling={"interval_s": 1.0, "mystery": 2}, note="x")
    assert command.main([str(write(configs / "run.json", old)), "--out", "conf"]) == 0
    said = capsys.readouterr().out
    for text in (said, Path("conf/experiment/run_battery_h1_heads_zero.yaml").read_text()):
        assert "never read by the first version, nor here: _comment" in text
        assert "nor here: metrics, batch_size, max_seq_len, note, model.family, profiling.mystery" in text
        assert "profiling: no power is measured here" in text
    for word in ("padding", "acc_flip_rate"):
        assert word in said


@pytest.mark.parametrize(
    ("battery", "note"),
    [
        ("battery_h1_random", "random_control drew 1 of each layer's heads"),
        ("battery_h2_c2x", "pairs whose prompts have unequal lengths are left out"),
        ("battery_h2_c2x", "sham_control: the shams are computed in addition to"),
        ("battery_h2_x2c", "positions=last, on purpose"),
        ("battery_h5_pairs", "battery=pairs runs every two of its 4 heads: 4 pairs in addition to the 2"),
    ],
)
def test_where_the_conversion_differs_is_said(battery: str, note: str, configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(write(configs / "run.json", run_file(battery))), "--out", "conf"]) == 0
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"battery": "lab/configs/gone.json"}, "names lab/configs/gone.json, which is not there"),
        ({"metric_span": "middle"}, "metric_span='middle' cannot be expressed"),
        ({"device": "tpu"}, "device='tpu' cannot be expressed"),
        ({"model": {"name": "gpt2", "dtype": "int8"}}, "model.dtype='int8' cannot be expressed"),
        ({"model": {}}, "model.name is missing"),
        ({"model": "gpt2"}, "model is a str, expected an object"),
        ({"seeds": "many"}, "run.json: seeds=many"),
        ({"dataset": {**DATASET, "split": "dev"}}, "dataset.split='dev': expected one of train, val, test"),
        ({"dataset": {**DATASET, "id": "gone"}}, "gone.jsonl is not there"),
        ({"run_name": "a/b"}, "run_name='a/b'"),
    ],
)
def test_what_cannot_be_expressed_is_one_sentence_and_nothing_is_written(
    change: dict[str, Any], said: str, configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(configs / "run.json", {**run_file("battery_h1_heads_zero"), **change})
    before = snapshot(Path())
    for typed in (lambda: command.main([str(file), "--out", "conf"]), lambda: command.run([str(file), *HERE])):
        assert typed() == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
        assert error.count("\n") == 1
    assert snapshot(Path()) == before


@pytest.mark.parametrize(
    ("battery", "said"),
    [
        ({"type": "sae_toggle"}, "type='sae_toggle' cannot be expressed: there is no such battery here"),
        ({"type": "activation_patch", "granularity": "neuron"}, "granularity='neuron' cannot be expressed"),
        ({"type": "activation_patch", "positions": "middle"}, "battery.positions=middle"),
        ({"type": "heads_zero", "layers": "some"}, "layers='some': expected all, or a list of numbers"),
        ({"type": "heads_zero", "scales": 0.0}, "scales=0.0: expected a list of numbers"),
        ({"type": "heads_pair_zero", "pairs": []}, "pairs=[]: expected a list of pairs"),
        ({"type": "heads_pair_zero", "pairs": [{"layer": 0, "h1": 1}]}, "pairs[0].h2 is missing"),
        ({"type": "heads_pair_zero", "pairs": [{"layer": 0, "h1": 1, "h2": 2, "layer2": 3}]}, "pairs[0].layer2"),
        ({"type": "heads_subset_zero", "groups": [{"layer": 0, "heads": []}]}, "groups[0].heads=[]"),
    ],
)
def test_a_battery_that_cannot_be_expressed_is_one_sentence(
    battery: dict[str, Any], said: str, configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(configs / "mine.json", battery)
    assert command.main([str(write(configs / "run.json", run_file("mine"))), "--out", "conf"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("conf").exists()


def test_the_full_target_is_the_whole_answer_where_that_can_be_scored(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(configs / "run.json", run_file("battery_h1_heads_zero", metric_span="full_target"))
    code = command.main([str(file), "--out", "conf"])
    if "answer" in {one.name for one in fields(ConditionConfig)}:
        assert code == 0
        assert experiment("run_battery_h1_heads_zero")["condition"]["answer"] == "full"
    else:
        assert code == 2
        assert "metric_span='full_target' cannot be expressed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_hash": "0" * 64}, "is not the sha256"),
        ({"test": [2, 11]}, "test has row 11, but"),
        ({"test": [2, 2]}, "row 2 is twice in test"),
        ({"val": [2]}, "row 2 is in val and in test"),
        ({"test": []}, "test is empty"),
        ({"test": "all"}, "test='all': expected a list of row numbers"),
    ],
)
def test_a_split_file_of_other_rows_is_refused(
    change: dict[str, Any], said: str, configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = configs.parent / "data/splits/names_v1.split.json"
    write(split, {**json.loads(split.read_text()), **change})
    assert command.main([str(write(configs / "run.json", run_file("battery_h2_last"))), "--out", "conf"]) == 2
    assert said in capsys.readouterr().err


def test_the_corpus_keeps_its_rows_and_their_order_and_each_has_its_split(configs: Path) -> None:
    corpus = configs.parent / "data/corpora/names_v1.jsonl"
    corpus.write_bytes(corpus.read_bytes().replace(b"\n", b"\r\n"))  # whatever the line ends, the hash is of this text
    assert command.main([str(write(configs / "run.json", run_file("battery_h2_last"))), "--out", "conf"]) == 0
    rows = [json.loads(line) for line in Path("conf/corpora/names_v1.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in row if key != "split"} for row in rows] == \
        [json.loads(line) for line in corpus.read_text().splitlines()]
    told = {number: name for name, numbers in SPLIT.items() for number in numbers}
    assert [row["split"] for row in rows] == [told.get(number, "none") for number in range(11)]


def test_a_folder_of_data_may_be_given_with_corpora_and_splits_side_by_side(configs: Path, tmp_path: Path) -> None:
    data = tmp_path / "elsewhere"
    data.mkdir()
    for file in (configs.parent / "data").glob("*/names_v1.*"):
        file.rename(data / file.name)
    file = write(configs / "run.json", run_file("battery_h2_last"))
    assert command.main([str(file), "--out", "conf"]) == 2
    assert command.main([str(file), "--out", "conf", "--data-dir", "gone"]) == 2
    assert command.main([str(file), "--out", "conf", "--data-dir", "elsewhere"]) == 0


@pytest.mark.parametrize(
    ("model", "option", "name"),
    [
        ("gpt2-small", "gpt2", "openai-community/gpt2"),
        ("gpt2-medium", "gpt2-medium", "openai-community/gpt2-medium"),
        ("gpt2-large", "openai-community_gpt2-large", "openai-community/gpt2-large"),
        ("pythia-160m", "pythia-160m", "EleutherAI/pythia-160m"),
        ("mistralai/Mistral-7B-v0.1", "mistralai_Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1"),
    ],
)
def test_a_model_is_the_preset_or_the_hubs(model: str, option: str, name: str, configs: Path) -> None:
    told = {"name": model, "dtype": "bfloat16", "revision": "step1000", "low_memory": True}
    file = write(configs / "run.json", run_file("battery_h2_last", model=told, device="cuda:1"))
    assert command.main([str(file), "--out", "conf"]) == 0
    assert {"override /model": option} in experiment("run_battery_h2_last")["defaults"]
    told = experiment("run_battery_h2_last")
    assert told["model"] == {"dtype": "bfloat16", "add_bos": True, "revision": "step1000"}
    assert ({"override /device": "cuda"} in told["defaults"], told["engine"]) == (True, {"max_states": 16384})
    own = Path(f"conf/model/{option}.yaml")
    assert own.is_file() != (ROOT / f"conf/model/{option}.yaml").is_file()
    assert yaml.safe_load((own if own.is_file() else ROOT / own).read_text())["name"] == name


def test_converting_again_changes_nothing_and_other_content_is_refused(
    configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(configs / "run.json", run_file("battery_h2_last"))
    assert convert.main([str(file), "--out", "conf"]) == 0
    before = {name: digest for name, (_, digest) in snapshot(Path("conf")).items()}
    assert convert.main([str(file), "--out", "conf"]) == 0
    write(file, run_file("battery_h2_last", seeds=[4]))
    assert convert.main([str(file), "--out", "conf"]) == 2
    assert "exists with different content" in capsys.readouterr().err
    assert {name: digest for name, (_, digest) in snapshot(Path("conf")).items()} == before


def test_the_program_has_both_commands(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tinylab.program import main

    file = str(write(configs / "run.json", run_file("battery_h1_random", run_name="old_h1")))
    assert main(["convert", file, "--out", "conf"]) == 0
    assert experiment("old_h1")["battery"]["heads"] == [0, 3]
    assert main(["run", file, "--data-dir", "lab/data", *HERE]) == 0
    assert only(Path(), "outputs/runs/old_h1_*/metrics/head_impact.parquet").is_file()
    capsys.readouterr()
    for words in (["convert", "gone.json", "--out", "conf2"], ["run", "gone.json"]):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith(f"tinylab {words[0]}: gone.json: cannot be read")


def test_two_files_of_one_name_are_refused_together_and_a_battery_alone_is_no_run(
    configs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(configs / "one.json", run_file("battery_h2_last"))
    two = write(configs / "two.json", run_file("battery_h2_last", seeds=[9]))
    assert command.main([str(one), str(two), "--out", "conf"]) == 2
    assert "is also another one's" in capsys.readouterr().err
    assert command.main([str(configs / "battery_h2_last.json"), "--out", "conf"]) == 2
    assert "is a battery's file" in capsys.readouterr().err
    assert not Path("conf").exists()
