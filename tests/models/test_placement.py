"""Models that lie on several devices give the numbers of those in memory; on this machine: memory and disk."""

from __future__ import annotations

import gc
import json
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import accelerate
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from conftest import Command, only
from families import EVERY, make
from strange import strange
from tinylab.config.groups import ModelConfig
from tinylab.engine.trial import flaws
from tinylab.errors import ConfigError, ModelError
from tinylab.interventions.sites import MLP_OUT
from tinylab.models import loading
from tinylab.models.loading import load_model
from tinylab.models.placement import spread
from tinylab.models.weights import loaded_bytes
from tinylab.paths import locate
from tinylab.records.identity import run_id
from typed import composed

TINY = locate("pkg://tinylab/assets/tiny")
SPLIT = ("model.device_map=auto", "model.max_memory={cpu:3MiB}")
FEW = ("condition.n_examples=2", "plots=false", "device=cpu", "threads=1")


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_kept", {})


def saved(name: str, folder: Path) -> Path:
    """A random model of a family in a folder of its own, with the embedded model's tokenizer."""
    if name == "tiny":
        return TINY
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = make(EVERY[name], vocab_size=len(tokenizer), max_position_embeddings=64, intermediate_size=2048).model
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def split(folder: Path, **limits: str) -> Any:
    return load_model(ModelConfig(path=str(folder), device_map="auto", max_memory=limits or {"cpu": "3MiB"}), "cpu").model


def tables(run: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in sorted(run.glob("metrics/*.parquet"))}


def manifest(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return content


PLACES = {"tiny": {"cpu", "disk"}, "llama": {"cpu", "disk"}, "qwen3_moe": {"disk"}}
BATTERIES = {
    "heads": ("battery=h1", "battery.keep_value_bias=true", "battery.layers=[0,2]", "battery.heads=[1]"),
    "blocks": ("battery=h2", "battery.positions=all", "battery.granularity=mlp_out"),
}


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("battery", BATTERIES)
@pytest.mark.parametrize("name", PLACES)
def test_a_model_split_over_memory_and_disk_gives_the_tables_of_one_in_memory(
    name: str, battery: str, engine: str, tinylab: Command, tmp_path: Path
) -> None:
    """Bit for bit: each matmul gets the same numbers in the same order, wherever its weights were before."""
    line = ["model=local", f"model.path={saved(name, tmp_path / name)}", f"engine={engine}", *BATTERIES[battery], *FEW]
    most = (tmp_path / name if name != "tiny" else TINY).joinpath("model.safetensors").stat().st_size * 3 // 4_000
    for folder, more in (("whole", ()), ("split", ("model.device_map=auto", f"model.max_memory={{cpu:{most}KB}}"))):
        assert tinylab(*line, f"output_dir={folder}", *more) == 0
    whole, parted = (only(tmp_path, f"{folder}/runs/*") for folder in ("whole", "split"))
    assert whole.name == parted.name
    for table, expected in tables(whole).items():
        pd.testing.assert_frame_equal(tables(parted)[table], expected, check_exact=True)
    found = [manifest(run)["provenance"] for run in (whole, parted)]
    assert [one["engine"] for one in found] == ["forked" if engine == "auto" else "reference"] * 2
    assert found[0]["device_map"] is None
    assert set(found[1]["device_map"]) == PLACES[name]


def test_jobs_of_a_sweep_share_a_split_model_and_a_verify_slice_takes_it_too(tinylab: Command, tmp_path: Path) -> None:
    line = ["battery=h2", "battery.granularity=mlp_out", *FEW, *SPLIT, "verify_slice=cpu"]
    assert tinylab("-m", "condition=cond_a,cond_b", *line) == 0
    runs = list(tmp_path.glob("outputs/sweeps/*/h2_*"))
    logs = "".join((run / "run.log").read_text(encoding="utf-8") for run in runs)
    assert len(re.findall(r"loaded tiny.* modules on disk", logs)) == 1
    assert [json.loads((run / "metrics/verify.json").read_text())["verdict"] for run in runs] == ["pass", "pass"]


def test_a_model_may_lie_on_the_disk_as_a_whole() -> None:
    model, plain = split(TINY, cpu="1KB"), load_model(ModelConfig(path=str(TINY)), "cpu").model
    assert set(spread(model) or {}) == {"disk"}
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, plain(torch.tensor([[5, 6, 7]])).logits)


def changed(folder: Path, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Path:
    """The embedded model in a folder of its own, a tensor of its last block changed, or left out."""
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    name, tensors = "transformer.h.3.mlp.c_proj.weight", load_file(TINY / "model.safetensors")
    new = change(tensors.pop(name))
    save_file({**tensors, **({} if new is None else {name: new})}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_numbers_on_the_disk_are_looked_at_too(tmp_path: Path) -> None:
    assert split(TINY).hf_device_map["transformer.h.3"] == "disk"
    with pytest.raises(ModelError, match=r"NaN or infinite numbers as float32 \(transformer\.h\.3\.mlp\.c_proj\.weight\)"):
        split(changed(tmp_path / "nan", lambda tensor: tensor * torch.nan))
    with pytest.raises(ModelError, match=r"they lack transformer\.h\.3\.mlp\.c_proj\.weight;"):
        split(changed(tmp_path / "lacking", lambda tensor: None))


def test_half_a_site_is_noticed_where_its_other_half_lies_on_the_disk(tmp_path: Path) -> None:
    model = strange("GraniteMoeShared")
    places = [(MLP_OUT, layer) for layer in range(model.n_layers)]
    expected = flaws(model, (5, 7, 9), places)
    accelerate.disk_offload(model.model, tmp_path / "offloaded")
    assert len(expected) == model.n_layers and flaws(model, (5, 7, 9), places) == expected
    with torch.inference_mode():  # leaves its own kind of tensors behind
        model.model(torch.tensor([[5, 7, 9]]))
    assert flaws(model, (5, 7, 9), places) == expected
    assert {parameter.device.type for parameter in model.model.parameters()} == {"meta"}
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_the_folder_of_weights_that_were_laid_out_anew_goes_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("qwen3_moe", tmp_path / "experts")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = split(folder, cpu="1KB")
    assert list(tmp_path.glob("tinylab-offload-*/*.safetensors"))
    del model
    gc.collect()
    assert not list(tmp_path.glob("tinylab-offload-*"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        split(folder)
    assert not list(tmp_path.glob("tinylab-offload-*"))


@pytest.mark.parametrize(("asked", "package", "extra"), [
    ("model.device_map=auto", "accelerate", "large"), ("model.quantize=4bit", "bitsandbytes", "bitsandbytes"),
])
def test_a_package_that_is_missing_is_named_with_its_extra(
    asked: str, package: str, extra: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself takes for a package that is not there
    assert tinylab(asked, *FEW) == 2
    told = f"{asked}: needs the package {package}, which is not installed; pip install 'tiny-ablation-lab[{extra}]'."
    assert capsys.readouterr().err.count(told) == 1
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(("values", "told"), [
    ({"device_map": "balanced"}, "model.device_map=balanced: not an option"),
    ({"max_memory": {"cpu": "1GiB"}}, "it has no effect without model.device_map=auto"),
    ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "cpu gets much, expected whole KB"),
    ({"quantize": "2bit"}, "model.quantize=2bit: not an option"),
    ({"quantize": "8bit", "dtype": "float64"}, "compute in 16 or 32 bits"),
])
def test_a_placement_that_cannot_be_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        ModelConfig(path="x", **values)


def test_a_device_that_is_not_used_is_refused(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("model.device_map=auto", "model.max_memory={3:1GiB,cpu:1GiB}", *FEW) == 2
    assert "model.max_memory: no device 3 is used here with device=cpu; available: cpu." in capsys.readouterr().err


def test_where_weights_lie_is_no_part_of_a_runs_identity_and_their_bits_are() -> None:
    plain = run_id(composed("device=cpu"))
    assert run_id(composed("device=cpu", *SPLIT)) == plain
    ids = {run_id(composed("device=cpu", f"model.quantize={bits}")) for bits in ("none", "8bit", "4bit")}
    assert plain in ids and len(ids) == 3


def test_quantised_matrices_count_less_than_those_of_words() -> None:
    sizes = {bits: loaded_bytes(ModelConfig(path=str(TINY), quantize=bits)) for bits in ("none", "8bit", "4bit")}
    tensors = load_file(TINY / "model.safetensors")
    matrices = sum(t.numel() for name, t in tensors.items() if t.dim() == 2 and ".h." in name)
    rest = sum(t.numel() for t in tensors.values()) - matrices
    assert list(sizes.values()) == [4 * (matrices + rest), matrices + 4 * rest, matrices // 2 + 4 * rest]


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `bitsandbytes` is not installed here")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_model_gives_numbers_of_its_own_and_each_prompt_the_same_beside_others(
    bits: str, tinylab: Command, tmp_path: Path
) -> None:
    line = ["battery=h2", "battery.granularity=mlp_out", *FEW, "verify_slice=cpu"]
    assert tinylab(*line, f"model.quantize={bits}", "output_dir=bits") == 0
    assert tinylab(*line, "output_dir=whole") == 0
    found, plain = (only(tmp_path, f"{folder}/runs/*") for folder in ("bits", "whole"))
    assert found.name != plain.name
    assert (manifest(found)["provenance"]["quantize"], manifest(plain)["provenance"]["quantize"]) == (bits, None)
    assert json.loads((found / "metrics/verify.json").read_text())["verdict"] == "pass"
    ours, theirs = (tables(run)["per_example"].query("metric == 'logit_diff'")["baseline"] for run in (found, plain))
    assert 1e-3 < float((ours - theirs).abs().max()) < 3.0  # of logits of order 10: other weights, the same model


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `bitsandbytes` is not installed here")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_half_a_site_is_noticed_among_quantised_weights(bits: str, tmp_path: Path) -> None:
    """Of each layer, also after a run, before which bitsandbytes lays 4 bits out anew on some CPUs."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "shared_intermediate_size"), 64)  # a block of 4 bits
    plain = strange("GraniteMoeShared", vocab_size=len(tokenizer), **sizes)
    plain.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(ModelConfig(path=str(tmp_path), quantize=bits), "cpu")
    places = [(MLP_OUT, layer) for layer in range(model.n_layers)]
    assert any(not parameter.is_floating_point() for parameter in model.blocks[0].shared_mlp.parameters())
    expected = flaws(plain, (5, 7, 9), places)
    assert len(expected) == model.n_layers and flaws(model, (5, 7, 9), places) == expected
    with torch.inference_mode():
        model.model(torch.tensor([[5, 7, 9]]))
    assert flaws(model, (5, 7, 9), places) == expected


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `bitsandbytes` is not installed here")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_later_tokens_change_nothing_in_a_quantised_model(bits: str) -> None:
    """LLM.int8() looks for outliers in all rows: with its threshold of 6 this fails."""
    model = load_model(ModelConfig(path=str(TINY), quantize=bits), "cpu").model
    with torch.no_grad():
        one, other = (model(torch.tensor([[5, 6, 7, 8, last]])).logits[0, :-1] for last in (9, 70))
    assert torch.equal(one, other)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `bitsandbytes` is not installed here")
def test_quantised_weights_that_would_lie_on_the_disk_are_refused(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("model.quantize=4bit", "model.device_map=auto", "model.max_memory={cpu:1KB}", *FEW) == 2
    assert "in 4bit it does not fit where it is computed, and quantised weights cannot be offloaded" in capsys.readouterr().err
