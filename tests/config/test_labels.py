"""No label lies: results are called by what was loaded, and a preset's name is never given to another source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from conftest import write_jsonl
from typed import SHORT, composed

TINY = Path(__file__).parent.parent.parent / "tinylab/assets/tiny"
ROW = {"clean": "The capital of Iraq is", "corrupt": "The capital of Egypt is", "target": " Baghdad", "foil": " Cairo"}
Command = Callable[..., int]


@pytest.fixture
def desk(tmp_path: Path) -> None:
    """A corpus, a model's folder, and configs of one's own that inherit a preset with a source."""
    write_jsonl(tmp_path / "mine.jsonl", [ROW, ROW])
    shutil.copytree(TINY, tmp_path / "my_model")
    folder = tmp_path / "conf/condition"
    folder.mkdir(parents=True)
    (folder / "again.yaml").write_text("defaults: [cond_a, _self_]\ntag: again\n")
    (tmp_path / "conf/battery").mkdir()
    (tmp_path / "conf/battery/zeroing.yaml").write_text("defaults: [h1, _self_]\nname: h2\n")
    (tmp_path / "conf/battery/halving.yaml").write_text("defaults: [h1, _self_]\nname: halving\nscales: [0.5]\n")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["model.name=gpt2"], "model=hf model.name=gpt2"),
        (["model=gpt2", "model.name=Qwen/Qwen3-0.6B"], "model=hf model.name=Qwen/Qwen3-0.6B"),
        (["model=gpt2", "model.path=my_model"], "model=local model.path=my_model"),
        (["model.path=my_model"], "model=local model.path=my_model"),
        (["model=planted", "condition=planted_a", "model.path=my_model"], "model=local model.path=my_model"),
        (["condition.path=mine.jsonl"], "condition=jsonl condition.path=mine.jsonl"),
        (["--config-dir", "conf", "condition=again", "condition.path=mine.jsonl"], "condition=jsonl condition.path=mine.jsonl"),
        (["-m", "condition=cond_a,cond_b", "condition.path=mine.jsonl"], "condition=jsonl condition.path=mine.jsonl"),
        (["-m", "model.name=gpt2,gpt2-medium"], "model=hf model.name=gpt2"),
        (["model=local", "model.path=my_model", "model.name=other"], "model=hf model.name=other"),
        (["battery.name=h2"], "battery=h1 is called h1 in every result"),
        (["battery=h2", "++battery.name=h1"], "battery=h2 is called h2 in every result"),
        (["-m", "battery.name=h1,h2"], "battery.name=h2: battery=h1 is called h1"),
        (["--config-dir", "conf", "battery=zeroing"], "battery.name=h2: results call activation_patch so"),
        (["model=Qwen/Qwen3-0.6B"], "model=hf model.name=Qwen/Qwen3-0.6B"),
        (["model=./my_model"], "model=local model.path=./my_model"),
        (["condition=data/my.jsonl"], "condition=jsonl condition.path=data/my.jsonl"),
    ],
    ids=" ".join,
)
def test_another_source_under_a_presets_name_is_an_error_that_says_what_was_meant(
    typed: list[str], meant: str, desk: None, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*typed) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert meant in line
    assert not Path("outputs").exists()


def test_what_was_meant_runs_and_is_called_by_what_was_loaded(desk: None, tinylab: Command) -> None:
    mine = ("condition=jsonl", "condition.path=mine.jsonl", "condition.tag=mine")
    assert tinylab(*mine, "model=local", "model.path=my_model", *SHORT[1:]) == 0
    (folder,) = Path("outputs/runs").glob("h1_mine_*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["model"], manifest["provenance"]["model"]["name"], manifest["condition"]) == ("my_model", "my_model", "mine")


def test_the_matrix_calls_planted_and_embedded_models_by_what_they_are(tinylab: Command) -> None:
    assert tinylab("-m", "condition=planted_a", "model=planted", "model.variant=ledger", "battery.layers=[0]") == 0
    (matrix,) = Path("outputs/sweeps").glob("*/artifacts/cross_condition/head_matrix.parquet")
    assert set(pd.read_parquet(matrix)["model"]) == {"planted-ledger"}
    assert tinylab(*SHORT) == 0
    (folder,) = Path("outputs/runs").glob("h1_cond_a_*")
    assert json.loads((folder / "manifest.json").read_text())["model"] == "tiny"


def test_a_battery_of_ones_own_has_its_own_name(desk: None, tmp_path: Path) -> None:
    battery = composed("battery=halving", flags=("--config-dir", str(tmp_path / "conf"))).battery
    assert (battery.name, battery.kind) == ("halving", "heads_zero")


def test_one_corpus_under_two_tags_is_told_and_is_no_invariant(desk: None, tinylab: Command) -> None:
    assert tinylab("-m", "--config-dir", "conf", "condition=cond_a,again", "invariants.k=2", *SHORT) == 0
    (file,) = Path("outputs/sweeps").glob("*/artifacts/cross_condition/invariants.json")
    note = json.loads(file.read_text())["note"]
    assert "cond_a and again are one corpus under 2 tags: they count as one condition" in note
    assert "one condition only: what is listed holds for it, and is not an invariant" in note


def test_a_head_that_flips_no_answer_is_no_invariant_by_flips(tinylab: Command) -> None:
    asked = ("condition=cond_a,cond_b", "condition.n_examples=8", "plots=false", "invariants.metrics=[acc_flip_rate]")
    assert tinylab("-m", *asked) == 0
    (matrix,) = Path("outputs/sweeps").glob("*/artifacts/cross_condition/head_matrix.parquet")
    table = pd.read_parquet(matrix)
    flips = table[(table["metric"] == "acc_flip_rate") & (table["value"] != 0)]  # an unmodified run flips nothing
    by_condition = [set(rows[["layer", "head"]].itertuples(index=False, name=None)) for _, rows in flips.groupby("condition")]
    found = json.loads(matrix.with_name("invariants.json").read_text())
    assert {(head["layer"], head["head"]) for head in found["intersection"]["heads"]} == set.intersection(*by_condition)
    assert [len(own) for own in by_condition] == [5, 4]
    assert found["expected_by_chance"]["heads"] == pytest.approx(5 * 4 / 32)
    assert "5 of 32 components change acc_flip_rate at all" in found["note"]
