"""GGUF files of trained models, as people have them: the converted folder has their numbers and tokens, and so has a run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from conftest import REAL, Command, only
from real_models import MODELS
from tinylab.config.groups import ModelConfig
from tinylab.models.loading import load_model
from tinylab.task.reading import read_rows

pytestmark = pytest.mark.real
CORPORA = ("facts", "ioi", "induction")


def texts() -> list[str]:
    rows = [row.values for name in CORPORA for row in read_rows(f"pkg://tinylab/assets/corpora/{name}.jsonl", [])]
    return [row[field] for row in rows[::10] for field in ("clean", "target")] + ["Straße 2026\n\tx  y", "東京は", "naïve 🙂"]


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_folder_has_the_files_numbers_and_tokens(name: str) -> None:
    paths = REAL / MODELS[name].file, REAL / name
    file, folder = (load_model(ModelConfig(path=str(path), add_bos=False), "cpu") for path in paths)
    state = folder.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in file.model.state_dict().items())
    assert [file.encode(text) for text in texts()] == [folder.encode(text) for text in texts()]
    assert file.model.config.to_dict().keys() == folder.model.config.to_dict().keys()


def test_a_run_on_a_file_is_that_on_its_folder_bit_for_bit(tinylab: Command, tmp_path: Path, smollm2: Path) -> None:
    common = ["battery=h2", "battery.layers=[3,20]", "condition=ioi", "condition.n_examples=3", "device=cpu", "plots=false"]
    assert tinylab("model=gguf", f"model.path={REAL / MODELS['smollm2'].file}", "run_name=file", *common) == 0
    assert tinylab("model=local", f"model.path={smollm2}", "run_name=folder", *common) == 0
    runs = [only(tmp_path, f"outputs/runs/{name}_*") for name in ("file", "folder")]
    tables = [pd.read_parquet(run / "metrics/per_example.parquet").drop(columns="run_id") for run in runs]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    told = json.loads((runs[0] / "manifest.json").read_text())["provenance"]
    assert told["quantisation"] == {"format": "gguf", "kind": "Q4_1", "tensors": {"Q4_1": 210, "F32": 61, "Q8_0": 1}}
    assert told["model"] == {"name": "SmolLM2-135M-Instruct.Q4_1", "revision": None, "digest": MODELS["smollm2"].sha256}
