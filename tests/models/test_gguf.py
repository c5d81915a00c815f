"""GGUF files: the numbers and tokens of the model that was written, what results call it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Command, only, write_jsonl
from gguf_files import OLD, TEXT, bpe, needs_reader, write_gguf
from tinylab.config.groups import ModelConfig
from tinylab.convert import main as convert
from tinylab.errors import ConfigError, ModelError
from tinylab.models.loading import load_model, skeleton
from tinylab.models.weights import loaded_bytes
from typed import type_in_shell

ROWS = [
    {"clean": "the capital of France is", "corrupt": "the capital of Italy is", "target": " Paris", "foil": " Rome"},
    {"clean": "the capital of Italy is", "corrupt": "the capital of France is", "target": " Rome", "foil": " Paris"},
]


def load(file: Path) -> Any:
    return load_model(ModelConfig(path=str(file), add_bos=False), "cpu")


@needs_reader
@pytest.mark.parametrize("quantised", [False, True])
def test_a_file_has_the_numbers_and_the_tokens_that_were_written(quantised: bool, tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "m.gguf", quantised=quantised).state_dict()
    read = load(tmp_path / "m.gguf")
    state = read.model.state_dict()
    assert state.keys() == written.keys()
    assert all(torch.equal(state[name], written[name]) for name in written)
    own = bpe()
    assert [read.encode(text) for text in [*TEXT, "Éa 42\n x"]] == [own.encode(text).ids for text in [*TEXT, "Éa 42\n x"]]


@needs_reader
@pytest.mark.parametrize("quantised", [False, True])
def test_a_run_is_that_of_the_same_weights_as_safetensors_bit_for_bit(
    quantised: bool, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tmp_path / "m.gguf", quantised=quantised)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert convert(["m.gguf", "folder"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "m.gguf", "rows.jsonl"]
    common = ["condition=jsonl", "condition.path=rows.jsonl", "condition.tag=t", "model.add_bos=false", "device=cpu"]
    assert tinylab("model=gguf", "model.path=m.gguf", *common, "run_name=packed") == 0
    assert tinylab("model=local", "model.path=folder", *common, "run_name=plain") == 0
    assert "s/it" not in capsys.readouterr().err and "it/s" not in capsys.readouterr().err
    runs = {name: only(tmp_path, f"outputs/runs/{name}_*") for name in ("packed", "plain")}
    tables = [pd.read_parquet(run / "metrics/per_example.parquet").drop(columns="run_id") for run in runs.values()]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    manifests = {name: json.loads((run / "manifest.json").read_text()) for name, run in runs.items()}
    packed = manifests["packed"]["provenance"]
    assert manifests["packed"]["model"] == "m"
    assert packed["model"]["digest"] == hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest()
    kinds = {"Q8_0": 16, "F32": 9} if quantised else {"F32": 25}
    assert packed["quantisation"] == {"format": "gguf", "kind": "Q8_0" if quantised else "F32", "tensors": kinds}
    assert manifests["plain"]["provenance"]["quantisation"] is None


@needs_reader
def test_what_lies_beside_a_file_is_not_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "config.json").write_text("[]")
    assert load(tmp_path / "m.gguf").encode(TEXT[0]) == bpe().encode(TEXT[0]).ids


@needs_reader
def test_a_shape_and_a_size_need_no_weights(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "m.gguf", quantised=True)
    config = ModelConfig(path=str(tmp_path / "m.gguf"), dtype="float64")
    assert loaded_bytes(config) == 8 * sum(parameter.numel() for parameter in written.parameters())
    shape = skeleton(config)
    assert (shape.n_layers, shape.n_heads, shape.device.type) == (2, 4, "meta")


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-file": (lambda at: None, "no such file"),
    "no-gguf": (lambda at: at.write_text("{}"), "is not a GGUF file that can be read"),
    "cut-header": (lambda at: (write_gguf(at), cut(at, 1000)), "is not a GGUF file that can be read"),
    "cut-tensors": (lambda at: (write_gguf(at), cut(at, at.stat().st_size - 5000)), "is not a GGUF file that can be read"),
    "architecture": (lambda at: write_gguf(at, architecture="rwkv6"),
                     "is a rwkv6, which transformers does not read from GGUF files; expected one of .*gemma3.*llama.*qwen3"),
    "part": (lambda at: write_gguf(at, settings=lambda to: to.add_uint16("split.count", 3)), "one of 3 parts; join them"),
    "rotary": (lambda at: write_gguf(at, settings=lambda to: (to.add_string("qwen3.rope.scaling.type", "linear"),
                                                              to.add_float32("qwen3.rope.scaling.factor", 8.0))),
               "says qwen3.rope.scaling.type=linear, which transformers would ignore"),
    "cap": (lambda at: write_gguf(at, settings=lambda to: to.add_final_logit_softcapping(30.0)),
            "says qwen3.final_logit_softcapping=30.0, which"),
    "window": (lambda at: write_gguf(at, settings=lambda to: to.add_sliding_window(16)),
               "says qwen3.attention.sliding_window=16"),
    "frequencies": (lambda at: write_gguf(at, more={"rope_freqs.weight": np.ones(8, np.float32)}),
                    r"other numbers would be computed \(tensors of no layer: rope_freqs.weight\)"),
    "bias": (lambda at: write_gguf(at, more={"blk.0.attn_q.bias": np.ones(512, np.float32)}), "other numbers would be computed"),
}


@needs_reader
@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_left_out_of_a_file_is_refused(case: str, tmp_path: Path) -> None:
    spoil, told = REFUSED[case]
    spoil(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=told) as caught:
        load(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)


@needs_reader
def test_what_changes_nothing_is_no_reason_to_refuse(tmp_path: Path) -> None:
    def settings(writer: Any) -> None:
        writer.add_string("qwen3.rope.scaling.type", "none")
        writer.add_float32("qwen3.rope.scaling.factor", 1.0)
        writer.add_sliding_window(64)

    write_gguf(tmp_path / "m.gguf", settings=settings)
    assert load(tmp_path / "m.gguf").n_layers == 2


@needs_reader
@pytest.mark.parametrize(("way", "warned"), [("gpt-2", False), ("qwen2", False), ("some-new-way", True)])
def test_words_that_are_cut_in_an_unknown_way_are_told(
    way: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_gguf(tmp_path / "m.gguf", way=way)
    load(tmp_path / "m.gguf")
    assert ("does not know how some-new-way cuts text into words" in caplog.text) == warned


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").touch()
    monkeypatch.setitem(sys.modules, package, None)
    asked = r"pip install 'tiny-ablation-lab\[gguf\]'"
    with pytest.raises(ModelError, match=f"is read with {package}, which cannot be imported; {asked}"):
        load(tmp_path / "m.gguf")


@pytest.mark.parametrize("setting", [{"device_map": "auto"}, {"quantize": "8bit"}])
def test_a_file_is_neither_spread_nor_packed_again(setting: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"m.gguf: a GGUF file is unpacked in memory, .* python -m tinylab.convert makes"):
        ModelConfig(path="m.gguf", **setting)


@needs_reader
def test_a_conversion_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "m.gguf")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    before = sorted(tmp_path.rglob("*"))
    for args, told in {
        ("m.gguf", "used"): "used: is in use; expected a new or empty folder",
        ("used", "new"): "used: expected a .gguf file",
        ("gone.gguf", "new"): "model.path=gone.gguf: no such file",
        ("m.gguf", "new", "--dtype", "int3"): "--dtype=int3",
        ("m.gguf", "m.gguf/new"): "m.gguf/new: cannot be written",
    }.items():
        assert convert(args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    done = type_in_shell(tmp_path, "-m", "tinylab.convert", "m.gguf", "empty", "--dtype", "bfloat16")
    assert done.returncode == 0 and "2 layers × 4 heads in bfloat16" in done.stdout, done.stderr
    assert load(tmp_path / "empty").model.lm_head.weight.equal(load(tmp_path / "m.gguf").model.lm_head.weight.bfloat16().float())


@pytest.mark.skipif(not OLD, reason="this transformers reads GGUF files")
def test_an_old_transformers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    with pytest.raises(ModelError, match="the installed transformers is too old for GGUF files"):
        load(tmp_path / "m.gguf")
