"""Where prompt and answer meet, and where a prompt begins, with trained models: numbers of plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command, only, write_jsonl
from tinylab.config.groups import ModelConfig
from tinylab.models.loading import skeleton
from tinylab.task.notes import MERGED, UNSPACED

pytestmark = pytest.mark.real
CITIES = (("France", "Italy", "Paris", "Rome"), ("Spain", "Japan", "Madrid", "Tokyo"))
QUESTION = "What is the capital of {}? One word."
SMOL = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
GEMMA = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"


def rows(form: str, space: str = "") -> list[dict[str, str]]:
    return [{"clean": form.format(clean), "corrupt": form.format(corrupt), "target": space + target, "foil": space + foil}
            for clean, corrupt, target, foil in CITIES]


def run(
    tinylab: Command, folder: Path, model: Path, corpus: list[dict[str, str]], *more: str
) -> tuple[float, dict[str, Any], Path]:
    """The clean runs' logit_diff, the manifest's provenance, and the folder."""
    write_jsonl(folder / "mine.jsonl", corpus)
    assert tinylab("model=local", f"model.path={model}", "condition=jsonl", "condition.path=mine.jsonl", "battery.layers=[5]",
                   "battery.heads=[0,1]", "metrics=[logit_diff]", "plots=false", "engine=reference", *more) == 0
    made = only(folder, "outputs/runs/*")
    level = json.loads((made / "metrics/summary.json").read_text())["baselines"]["clean"]["logit_diff"]["mean"]
    return level, json.loads((made / "manifest.json").read_text())["provenance"], made


def test_an_answer_with_its_space_is_what_a_joined_text_has(
    smollm2: Path, tinylab: Command, tmp_path: Path
) -> None:
    """The rows whose prompts end in a space give 1.730."""
    level, provenance, _ = run(tinylab, tmp_path, smollm2, rows("The capital of {} is", " "))
    assert level == pytest.approx(7.361, abs=5e-4)
    assert provenance["bos"] == {"add_bos": False, "token_id": None, "token": None, "policy": "auto"}
    assert provenance["corpus"]["noted"] == {}


def test_a_prompt_that_ends_in_a_space_is_told(smollm2: Path, tinylab: Command, tmp_path: Path) -> None:
    _, provenance, _ = run(tinylab, tmp_path, smollm2, rows("The capital of {} is "))
    assert provenance["corpus"]["noted"] == {MERGED: 2}


def test_gemma_gets_one_bos(gemma3: Path, tinylab: Command, tmp_path: Path) -> None:
    level, provenance, made = run(tinylab, tmp_path, gemma3, rows(GEMMA.format(QUESTION)))
    assert level == pytest.approx(4.492, abs=5e-4)
    table = pd.read_parquet(made / "metrics/head_impact.parquet")
    assert float(table.query("head == 1")["value"].iloc[0]) - level == pytest.approx(-1.908, abs=1e-3)
    assert (provenance["bos"]["token"], provenance["bos"]["policy"]) == ("<bos>", "auto")


def test_smollm2_as_a_conversation_is_what_plain_transformers_say(smollm2: Path, tinylab: Command, tmp_path: Path) -> None:
    """The template puts a system's turn of its own first, and the answers begin the assistant's turn."""
    level, provenance, _ = run(tinylab, tmp_path, smollm2, rows(QUESTION, " "), "condition.chat=true")
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    expected = []
    for row in rows(QUESTION):
        turns = [{"role": "user", "content": row["clean"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        first = [tokenizer.encode(text + row[key], add_special_tokens=False)[len(ids)] for key in ("target", "foil")]
        expected.append(float(logits[first[0]] - logits[first[1]]))
    assert level == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert provenance["chat"]["tokens"][:2] == ["<|im_start|>", "system"]
    assert provenance["corpus"]["noted"] == {}


def test_turns_that_stand_in_the_prompts_are_read_as_they_stand(smollm2: Path, tinylab: Command, tmp_path: Path) -> None:
    level, _, _ = run(tinylab, tmp_path, smollm2, rows(SMOL.format(QUESTION)))
    assert level == pytest.approx(1.791, abs=5e-4)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_auto_begins_a_text_as_the_tokenizer_does(name: str, request: pytest.FixtureRequest) -> None:
    model = skeleton(ModelConfig(path=str(request.getfixturevalue(name)), add_bos="auto"))
    text = "The capital of France is"
    assert [*([] if model.bos is None else [model.bos]), *model.encode(text)] == model.tokenizer.encode(text)
    assert model.spelt(model.encode(text))[-1] == "␣is"


def test_gemma_misses_the_space_of_its_answers(gemma3: Path, tinylab: Command, tmp_path: Path) -> None:
    _, provenance, made = run(tinylab, tmp_path, gemma3, rows("The capital of {} is"))
    assert provenance["corpus"]["noted"][UNSPACED] == 2
    assert "with ' Paris' in …␣France|␣is|␣Paris" in (made / "run.log").read_text()
