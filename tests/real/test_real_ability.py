"""What a run says first of a trained model is what transformers alone say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command, only, write_jsonl

pytestmark = pytest.mark.real
FACTS = Path(__file__).parents[2] / "tinylab/assets/corpora/facts.jsonl"


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_ability_is_what_plain_transformers_say(
    name: str, request: pytest.FixtureRequest, tinylab: Command, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(name)
    rows = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()[:6]]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    bos = str(name == "gemma3").lower()
    assert tinylab("model=local", f"model.path={folder}", f"model.add_bos={bos}", "condition=jsonl", "condition.path=mine.jsonl",
                   "battery.layers=[0]", "battery.heads=[0]", "engine=reference", "plots=false") == 0
    found = json.loads(only(tmp_path, "outputs/runs/*/metrics/summary.json").read_text())["ability"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for side, answer in (("clean", "target"), ("corrupt", "foil")):
        right, probability = 0.0, 0.0
        for row in rows:
            with torch.no_grad():
                logits = model(torch.tensor([tokenizer.encode(row[side])])).logits[0, -1].double()
            token = tokenizer.encode(row[answer], add_special_tokens=False)[0]
            right += float(logits.argmax() == token)
            probability += float(logits.softmax(-1)[token])
        assert found[side]["n"] == len(rows)
        assert found[side]["accuracy"] == right / len(rows)
        assert found[side]["answer_probability"] == pytest.approx(probability / len(rows), abs=1e-4)  # sums in another order
