"""One run from the command line: its files, its numbers, its identity, and what stops it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import tinylab as package
from conftest import Command, only, write_jsonl
from tinylab.paths import locate
from typed import SHORT, snapshot, type_in, type_in_shell

TINY: Final = locate("pkg://tinylab/assets/tiny")
HEAD_IMPACT: Final = {
    "run_id": "string",
    "seed": "int64",
    "layer": "int64",
    "head": "int64",
    "scale": "double",
    "metric": "string",
    "value": "double",
}
LAYER_IMPACT: Final = {
    "run_id": "string",
    "seed": "int64",
    "layer": "int64",
    "granularity": "string",
    "metric": "string",
    "value": "double",
}
PER_EXAMPLE: Final = {"run_id": "string", "seed": "int64", "example": "int64", "template": "string", "layer": "int64"}
PER_EXAMPLE_END: Final = {"metric": "string", "value": "double", "baseline": "double", "control": "string",
                          "source": "double", "item": "string", "draw": "int64"}
FILES: Final = {"manifest.json", "config.yaml", "run.log", "heatmap.png", "metrics/per_example.parquet",
                "metrics/effects.parquet", "metrics/examples.parquet", "metrics/summary.json"}
ALL_H1: Final = {"logit_diff", "kl_div", "acc_flip_rate", "p_drop"}
PAIR: Final = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}


def manifest(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return content


def arrow_types(file: Path) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in pq.read_schema(file)]


def head_impact(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "metrics/head_impact.parquet")


def per_example(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "metrics/per_example.parquet")


@pytest.fixture(scope="module")
def h1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished H1 run with two seeds, two scales and its picture."""
    folder = tmp_path_factory.mktemp("h1")
    overrides = ["condition.n_examples=5", "battery.layers=[0,2]", "battery.heads=[1,3]", "battery.scales=[0,0.5]", "seeds=[0,7]"]
    assert type_in(folder, *overrides) == 0
    return only(folder, "outputs/runs/*")


@pytest.fixture(scope="module")
def h2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished H2 run with two seeds and its sham."""
    folder = tmp_path_factory.mktemp("h2")
    assert (
        type_in(folder, "battery=h2", "condition=facts", "condition.n_examples=6", "seeds=[0,7]", "battery.sham_control=true")
        == 0
    )
    return only(folder, "outputs/runs/*")


# --- files and types ---


def test_an_h1_run_has_exactly_the_contracts_files(h1: Path) -> None:
    files = {str(path.relative_to(h1)) for path in h1.rglob("*") if path.is_file()}
    assert files == FILES | {"metrics/head_impact.parquet"}
    assert h1.name == f"h1_cond_a_{manifest(h1)['run_id']}"


def test_an_h2_run_has_exactly_the_contracts_files(h2: Path) -> None:
    files = {str(path.relative_to(h2)) for path in h2.rglob("*") if path.is_file()}
    assert files == FILES | {"metrics/layer_impact.parquet"}
    assert h2.name == f"h2_facts_{manifest(h2)['run_id']}"


def test_the_columns_of_h1_are_the_contracts_in_order_and_type(h1: Path) -> None:
    assert arrow_types(h1 / "metrics/head_impact.parquet") == list(HEAD_IMPACT.items())
    expected = {**PER_EXAMPLE, "head": "int64", "scale": "double", **PER_EXAMPLE_END}
    assert arrow_types(h1 / "metrics/per_example.parquet") == list(expected.items())


def test_the_columns_of_h2_are_the_contracts_in_order_and_type(h2: Path) -> None:
    assert arrow_types(h2 / "metrics/layer_impact.parquet") == list(LAYER_IMPACT.items())
    expected = {**PER_EXAMPLE, "granularity": "string", **PER_EXAMPLE_END}
    assert arrow_types(h2 / "metrics/per_example.parquet") == list(expected.items())


def test_the_manifests_top_level_keys_are_relative_paths_of_files_that_exist(h1: Path, h2: Path) -> None:
    for run, table, other in ((h1, "head_impact", "layer_impact"), (h2, "layer_impact", "head_impact")):
        content = manifest(run)
        assert content["status"] == "complete"
        assert other not in content and "verify" not in content
        for key in (table, "per_example", "summary", "heatmap", "config"):
            assert not Path(content[key]).is_absolute()
            assert (run / content[key]).is_file()


def test_the_heat_map_is_a_picture(h1: Path) -> None:
    assert (h1 / "heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_the_provenance_has_every_field_of_the_design(h1: Path) -> None:
    provenance = manifest(h1)["provenance"]
    assert {
        "config_digest",
        "corpus",
        "model",
        "bos",
        "dtype",
        "device",
        "engine",
        "attention",
        "packages",
        "git",
        "seeds",
        "wall_seconds",
        "engine_seconds",
        "forwards",
        "states",
        "peak_memory_bytes",
    } <= set(provenance)
    assert set(provenance["model"]) >= {"name", "revision", "digest"}
    assert set(provenance["git"]) == {"commit", "dirty"}
    assert {"torch", "transformers", "pandas", "pyarrow", "hydra-core", "tinylab"} <= set(provenance["packages"])
    assert provenance["packages"]["torch"] == torch.__version__
    assert provenance["packages"]["pyarrow"] == pa.__version__
    assert 0 < provenance["engine_seconds"] <= provenance["wall_seconds"]
    assert provenance["forwards"] > 0 and provenance["states"] > 0 and provenance["peak_memory_bytes"] > 2**20
    assert (provenance["dtype"], provenance["seeds"]) == ("float32", [0, 7])
    assert any("tokenizer" in key for key in (*provenance, *provenance["model"], *provenance["bos"]))


def test_the_corpus_in_the_provenance_is_the_file(h1: Path) -> None:
    corpus = manifest(h1)["provenance"]["corpus"]
    assert corpus["sha256"] == hashlib.sha256(locate("pkg://tinylab/assets/corpora/ioi.jsonl").read_bytes()).hexdigest()
    assert corpus["dropped"] == {}
    assert corpus["kept"] == 120, "what the split has that can be used"
    assert corpus["used"] == per_example(h1)["example"].nunique(), "what the seed drew of it"


def test_config_yaml_is_resolved_and_says_what_was_asked(h1: Path) -> None:
    text = (h1 / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text and "???" not in text
    assert config["battery"]["layers"] == [0, 2]
    assert config["condition"]["n_examples"] == 5
    assert config["run_name"] == "h1_cond_a"
    assert config["seeds"] == [0, 7]


# --- numbers ---


def test_every_cell_seed_and_metric_has_one_row(h1: Path) -> None:
    table = head_impact(h1)
    assert len(table) == 2 * 2 * 2 * 2 * len(ALL_H1)
    assert not table.duplicated(["seed", "layer", "head", "scale", "metric"]).any()
    assert not table.isna().any().any()
    assert set(table["metric"]) == ALL_H1
    assert (set(table["layer"]), set(table["head"]), set(table["scale"]), set(table["seed"])) == (
        {0, 2},
        {1, 3},
        {0.0, 0.5},
        {0, 7},
    )
    assert set(table["run_id"]) == {manifest(h1)["run_id"]}


def test_h1_values_are_the_means_over_examples(h1: Path) -> None:
    keys = ["seed", "layer", "head", "scale", "metric"]
    examples = per_example(h1)
    means = examples[examples["control"] == "none"].groupby(keys)["value"].mean()
    values = head_impact(h1).set_index(keys)["value"]
    pd.testing.assert_series_equal(values.sort_index(), means.sort_index(), rtol=1e-12)


def test_h2_values_are_the_means_over_examples_without_controls(h2: Path) -> None:
    keys = ["seed", "layer", "granularity", "metric"]
    examples = per_example(h2)
    assert set(examples["control"]) == {"none", "sham"}
    means = examples[examples["control"] == "none"].groupby(keys)["value"].mean()
    table = pd.read_parquet(h2 / "metrics/layer_impact.parquet")
    values = table[~table["metric"].isin(["recovery", "recovery_mean"])].set_index(keys)["value"]
    pd.testing.assert_series_equal(values.sort_index(), means.drop("recovery", level="metric").sort_index(), rtol=1e-12)


def test_recovery_is_the_ratio_of_means_and_its_companion_the_mean_of_ratios(h2: Path) -> None:
    examples = per_example(h2)
    examples = examples[examples["control"] == "none"]
    table = pd.read_parquet(h2 / "metrics/layer_impact.parquet").set_index(["metric", "seed", "layer"])["value"]
    baselines = json.loads((h2 / "metrics/summary.json").read_text())["baselines"]
    patched = examples[examples["metric"] == "logit_diff"]
    for (seed, layer), rows in patched.groupby(["seed", "layer"]):
        target = rows["baseline"].mean()
        assert target == pytest.approx(baselines["corrupt"]["logit_diff"]["per_seed"][str(seed)])
        source = baselines["clean"]["logit_diff"]["per_seed"][str(seed)]
        assert table["recovery", seed, layer] == pytest.approx((rows["value"].mean() - target) / (source - target))
    ratios = examples[examples["metric"] == "recovery"].groupby(["seed", "layer"])["value"].mean()
    for (seed, layer), ratio in ratios.items():
        assert table["recovery_mean", seed, layer] == pytest.approx(ratio)
    last = max(layer for _, layer in ratios.index)
    assert table["recovery", 0, last] == pytest.approx(1.0, abs=1e-4)  # the last residual at the last token is the clean run


def test_the_sham_changes_nothing(h2: Path) -> None:
    examples = per_example(h2)
    sham = examples[(examples["control"] == "sham") & (examples["metric"] == "logit_diff")]
    assert len(sham) == 2 * 6 * examples["layer"].nunique()
    assert (sham["value"] - sham["baseline"]).abs().max() < 1e-4


def test_the_summary_is_the_mean_over_all_cells(h1: Path) -> None:
    summary = json.loads((h1 / "metrics/summary.json").read_text())
    table = head_impact(h1)
    for metric, entry in summary["metrics"].items():
        rows = table[table["metric"] == metric]
        assert entry["mean"] == pytest.approx(rows["value"].mean())
        assert entry["per_seed"] == {str(seed): pytest.approx(own["value"].mean()) for seed, own in rows.groupby("seed")}
        low, high = entry["ci95"]
        assert low <= entry["mean"] <= high
        assert entry["n"] == per_example(h1)["example"].nunique()
    examples = per_example(h1)
    baseline = examples[examples["metric"] == "logit_diff"].drop_duplicates(["seed", "example"])["baseline"].mean()
    assert summary["baselines"]["clean"]["logit_diff"]["mean"] == pytest.approx(baseline)
    assert summary["baselines"]["clean"]["kl_div"]["mean"] == 0.0
    assert summary["baselines"]["corrupt"]["logit_diff"]["n"] == examples["example"].nunique()


def test_the_examples_are_rows_of_the_active_split_and_their_templates(h1: Path) -> None:
    rows = [json.loads(line) for line in locate("pkg://tinylab/assets/corpora/ioi.jsonl").read_text().splitlines()]
    examples = per_example(h1)
    assert all(rows[number]["split"] == "test" for number in examples["example"].unique())
    assert all(
        rows[number]["template"] == template for number, template in zip(examples["example"], examples["template"], strict=True)
    )
    assert examples.groupby("seed")["example"].nunique().to_dict() == {0: 5, 7: 5}


def test_without_a_subsample_every_seed_repeats_the_deterministic_cells(tinylab: Command, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [PAIR, {**PAIR, "clean": "Paris is in France. The capital of France is"}])
    assert tinylab("condition=jsonl", f"condition.path={path}", "battery.layers=[1]", "seeds=[0,1,2]", "plots=false") == 0
    tables = [
        rows.drop(columns="seed").reset_index(drop=True)
        for _, rows in head_impact(only(tmp_path, "outputs/runs/*")).groupby("seed")
    ]
    assert len(tables) == 3
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)


@pytest.mark.parametrize(
    ("battery", "chosen", "found"),
    [("h1", "kl_div", {"kl_div"}), ("h2", "recovery,p_drop", {"recovery", "recovery_mean", "p_drop"})],
)
def test_metrics_chooses(battery: str, chosen: str, found: set[str], tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(f"battery={battery}", f"metrics=[{chosen}]", *SHORT) == 0
    run = package.load_run(only(tmp_path, "outputs/runs/*"))
    table = run.head_impact if battery == "h1" else run.layer_impact
    assert table is not None
    assert set(table["metric"]) == set(run.summary["metrics"]) == found
    assert set(run.per_example["metric"]) == set(chosen.split(","))


# --- reuse ---


def test_a_finished_run_is_reused_and_says_so(
    h1: Path, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*SHORT) == 0
    run = only(tmp_path, "outputs/runs/*")
    before = snapshot(run)
    capsys.readouterr()
    assert tinylab(*SHORT) == 0
    said = capsys.readouterr()
    after = snapshot(run)
    del before["run.log"], after["run.log"]
    assert after == before
    assert f"run {run.name.rpartition('_')[2]} is already complete, reusing" in said.out + said.err
    assert tinylab(*SHORT, "overwrite=true") == 0
    assert only(tmp_path, "outputs/runs/*") == run
    again = snapshot(run)
    table = "metrics/head_impact.parquet"
    assert again["manifest.json"][0] > before["manifest.json"][0] and again[table][0] > before[table][0]
    assert again[table][1] == before[table][1]  # recomputed bit for bit


def test_a_run_whose_table_is_lost_is_computed_again(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*SHORT) == 0
    run = only(tmp_path, "outputs/runs/*")
    table = head_impact(run)
    (run / "metrics/head_impact.parquet").unlink()
    assert tinylab(*SHORT) == 0
    pd.testing.assert_frame_equal(head_impact(run), table, check_exact=True)


def test_a_changed_corpus_is_another_run_in_another_folder(tinylab: Command, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [PAIR])
    line = ["condition=jsonl", f"condition.path={path}", *SHORT]
    assert tinylab(*line) == 0
    first = only(tmp_path, "outputs/runs/*")
    before = snapshot(first)
    write_jsonl(path, [PAIR, {**PAIR, "clean": "It is well known that the capital of France is"}])
    assert tinylab(*line) == 0
    second = next(run for run in (tmp_path / "outputs/runs").iterdir() if run != first)
    assert snapshot(first) == before
    assert per_example(second)["example"].nunique() == 2


# --- pairs of unequal length, and own models ---


def uneven(folder: Path) -> list[str]:
    rows = [PAIR, {**PAIR, "corrupt": "Everybody knows that the capital of Italy is"}]
    return [
        "condition=jsonl",
        f"condition.path={write_jsonl(folder / 'uneven.jsonl', rows)}",
        "plots=false",
        "battery.layers=[0]",
    ]


@pytest.mark.parametrize("battery", ["h1", "h2"])
def test_unequal_lengths_are_fine_where_positions_need_not_align(battery: str, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(f"battery={battery}", *uneven(tmp_path)) == 0
    corpus = manifest(only(tmp_path, "outputs/runs/*"))["provenance"]["corpus"]
    assert (corpus["kept"], corpus["dropped"]) == (2, {})


@pytest.mark.parametrize("positions", ["all", "[1,2]"])
def test_unequal_lengths_are_dropped_and_counted_where_positions_align(positions: str, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("battery=h2", f"battery.positions={positions}", "battery.granularity=mlp_out", *uneven(tmp_path)) == 0
    corpus = manifest(only(tmp_path, "outputs/runs/*"))["provenance"]["corpus"]
    assert (corpus["kept"], corpus["dropped"]) == (1, {"prompts of unequal length": 1})


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of 2 layers × 2 heads with the embedded tokenizer, as a user would save it."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(TINY / "tokenizer.json")), bos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_model_works_and_its_path_is_not_part_of_the_run(random_model: Path, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("model=local", f"model.path={random_model}", "condition=facts", "condition.n_examples=3", "plots=false") == 0
    run = only(tmp_path, "outputs/runs/*")
    table = head_impact(run)
    assert set(zip(table["layer"], table["head"], strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert manifest(run)["provenance"]["model"]["name"] == "mine"
    moved = random_model.rename(random_model.with_name("moved"))
    try:
        assert tinylab("model=local", f"model.path={moved}", "condition=facts", "condition.n_examples=3", "plots=false") == 0
    finally:
        moved.rename(random_model)
    assert only(tmp_path, "outputs/runs/*") == run


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_work_on_the_cpu(dtype: str, tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(f"model.dtype={dtype}", "device=cpu", "battery.heads=[0,1]", *SHORT) == 0
    run = only(tmp_path, "outputs/runs/*")
    assert manifest(run)["provenance"]["dtype"] == dtype
    assert head_impact(run)["value"].notna().all()


def test_without_bos_the_numbers_differ_and_the_manifest_says_so(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("model.add_bos=false", *SHORT) == 0
    assert tinylab("model.add_bos=true", *SHORT) == 0
    runs = list((tmp_path / "outputs/runs").iterdir())
    assert {manifest(run)["provenance"]["bos"]["add_bos"] for run in runs} == {True, False}
    assert head_impact(runs[0])["value"].to_list() != head_impact(runs[1])["value"].to_list()


# --- what stops a run: exit code 2, one sentence, nothing left behind ---


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("desk")
    assert type_in(folder, *SHORT) == 0
    write_jsonl(folder / "good.jsonl", [PAIR])
    (folder / "empty.jsonl").write_text("")
    write_jsonl(folder / "no_foil.jsonl", [PAIR, {key: value for key, value in PAIR.items() if key != "foil"}])
    write_jsonl(folder / "long_answer.jsonl", [PAIR, {**PAIR, "target": " Antananarivo zyzzyva"}])
    write_jsonl(folder / "long_prompt.jsonl", [PAIR, {**PAIR, "clean": "The capital of France " * 60 + "is"}])
    write_jsonl(folder / "same.jsonl", [{**PAIR, "foil": " Paris"}])
    (folder / "no_model").mkdir()
    (folder / "no_weights").mkdir()
    (folder / "no_weights/config.json").write_text((TINY / "config.json").read_text())
    (folder / "pickle").mkdir()
    (folder / "pickle/config.json").write_text((TINY / "config.json").read_text())
    (folder / "pickle/pytorch_model.bin").write_bytes(b"x")
    (folder / "broken").mkdir()
    (folder / "broken/config.json").write_text((TINY / "config.json").read_text())
    (folder / "broken/model.safetensors").write_bytes(b"not safetensors")
    (folder / "broken/tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    (folder / "no_tokenizer").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "no_tokenizer" / name).write_bytes((TINY / name).read_bytes())
    (folder / "strange").mkdir()
    (folder / "strange/config.json").write_text('{"model_type": "no_such_architecture"}')
    (folder / "strange/model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes())
    (folder / "file").write_text("in the way")
    return folder


OWN: Final = "condition=jsonl"
STOPS: Final[dict[str, tuple[list[str], list[str]]]] = {
    "missing corpus": ([OWN, "condition.path=gone.jsonl"], ["condition.path=gone.jsonl", "No such file"]),
    "empty corpus": ([OWN, "condition.path=empty.jsonl"], ["empty.jsonl", "empty"]),
    "row without field": ([OWN, "condition.path=no_foil.jsonl"], ["no_foil.jsonl, line 2", "no field 'foil'"]),
    "multi-token target": (
        [OWN, "condition.path=long_answer.jsonl", "condition.single_token=true", "condition.strict=true"],
        ["row 1", "Antananarivo", "several tokens", "condition.strict=false"],
    ),
    "prompt too long": ([OWN, "condition.path=long_prompt.jsonl", "condition.strict=true"], ["row 1", "tokens", "context"]),
    "nothing usable": ([OWN, "condition.path=same.jsonl"], ["none of its 1 rows", "same token"]),
    "strict": ([OWN, "condition.path=same.jsonl", "condition.strict=true"], ["row 0", "condition.strict=true"]),
    "unknown split of a shipped one": (["condition.split=tset"], ["tset", "did you mean 'test'"]),
    "head out of range": (["battery.heads=[99]"], ["battery.heads=[99]", "99 is out of range", "0 to"]),
    "layer out of range": (["battery.layers=[0,77]"], ["battery.layers=[0, 77]", "77 is out of range", "0 to"]),
    "negative layer": (["battery.layers=[-1]"], ["battery.layers=[-1]", "-1 is out of range"]),
    "layer of h2 out of range": (["battery=h2", "battery.layers=[77]"], ["battery.layers=[77]", "77 is out of range"]),
    "position out of range": (["battery=h2", "battery.positions=[2,500]"], ["battery.positions=[2, 500]", "positions 0 to"]),
    "every position listed": (
        ["battery=h2", OWN, "condition.path=good.jsonl", "battery.positions=[0,1,2,3,4,5]"],
        ["battery.positions"],
    ),
    "output under a file": (["output_dir=file/sub"], ["output_dir", "file/sub", "cannot be written"]),
    "output is a file": (["output_dir=file"], ["output_dir", "file", "cannot be written"]),
    "model folder not there": (["model=local", "model.path=nowhere"], ["model.path=nowhere", "no such folder"]),
    "model folder is a file": (["model=local", "model.path=file"], ["model.path=file", "no such folder"]),
    "folder that is no model": (["model=local", "model.path=no_model"], ["model.path=no_model", "config.json"]),
    "model without weights": (["model=local", "model.path=no_weights"], ["model.path=no_weights", "safetensors"]),
    "model of pickled weights": (["model=local", "model.path=pickle"], ["model.path=pickle", "safetensors"]),
    "broken weights": (["model=local", "model.path=broken"], ["broken", "model.safetensors"]),
    "model without tokenizer": (["model=local", "model.path=no_tokenizer"], ["no_tokenizer", "tokenizer"]),
    "unknown architecture": (["model=local", "model.path=strange"], ["strange", "no_such_architecture"]),
    "unknown option": (["model=nope"], ["nope", "tiny"]),
    "mistyped key": (["condition.slpit=test"], ["condition.slpit", "did you mean 'split'"]),
}
if not torch.cuda.is_available():
    STOPS["no cuda"] = (["device=cuda"], ["device=cuda", "available: cpu"])
if not torch.backends.mps.is_available():
    STOPS["no mps"] = (["device=mps"], ["device=mps", "available:"])


@pytest.mark.parametrize(("args", "words"), STOPS.values(), ids=STOPS)
def test_what_stops_a_run_is_one_sentence_and_leaves_everything_as_it_was(
    args: list[str], words: list[str], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(desk)
    assert type_in(desk, *args) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("tinylab: ")]
    assert len(lines) == 1 and said.count("\n") == 1, said
    assert [word for word in words if word not in said] == [], said
    assert snapshot(desk) == before


@pytest.mark.parametrize("kind", ["missing corpus", "folder that is no model", "output under a file"])
def test_a_first_run_that_is_stopped_leaves_nothing_behind(kind: str, desk: Path, tinylab: Command, tmp_path: Path) -> None:
    (tmp_path / "no_model").mkdir()
    (tmp_path / "file").write_text("in the way")
    before = snapshot(tmp_path)
    assert tinylab(*STOPS[kind][0]) == 2
    assert snapshot(tmp_path) == before


def test_a_stopped_run_in_a_folder_of_ones_own_deletes_nothing_of_it(tinylab: Command, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/notes.txt").write_text("years of work")
    assert tinylab("hydra.run.dir=precious", OWN, "condition.path=gone.jsonl") == 2
    assert (tmp_path / "precious/notes.txt").read_text() == "years of work"


def test_a_row_without_a_split_belongs_to_the_asked_one(desk: Path, tinylab: Command) -> None:
    assert tinylab(OWN, f"condition.path={desk / 'good.jsonl'}", "condition.split=test", *SHORT) == 0


def test_a_hub_model_without_network_is_one_sentence(tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = type_in_shell(tmp_path, "-m", "tinylab", "model=hf", "model.name=nobody/nothing", **offline)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("tinylab: model.name=nobody/nothing") and "is not in the local cache" in done.stderr
    assert list(tmp_path.glob("outputs/runs/*")) == []


def test_a_name_that_is_no_hub_id_is_one_sentence(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("model=hf", "model.name=a/b/c") == 2
    said = capsys.readouterr().err
    assert said.startswith("tinylab: ") and said.count("\n") == 1 and "a/b/c" in said
