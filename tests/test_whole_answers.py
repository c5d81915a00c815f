"""Whole answers and sets of answers from the command line, on the embedded model: against plain transformers, and in a sweep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command, only, write_jsonl
from tinylab.config.groups import ConditionConfig, ModelConfig
from tinylab.models.loading import load_model
from tinylab.records.identity import unlike_default
from tinylab.results import load_run
from tinylab.validate import validate_invariants_json
from typed import type_in_shell

CORPUS = Path(__file__).parents[1] / "tinylab/assets/corpora/ioi.jsonl"
ROWS = [json.loads(line) for line in CORPUS.read_text().splitlines()][:4]


def answers(kind: str) -> list[dict[str, Any]]:
    """A few pairs whose answers go on, or of which several count."""
    if kind == "full":
        return [{**row, "target": f"{row['target']} and{row['foil']}", "foil": f"{row['foil']} and"} for row in ROWS]
    return [{**row, "target": [row["target"], " the"], "foil": [f"{row['foil']} and", " a"]} for row in ROWS]


def probability(model: Any, prompt: str, answer: str) -> float:
    """Of an answer after a prompt, token by token."""
    tokens, logs = model.encode(prompt), 0.0
    for token in model.encode(answer):
        logits = model.model(torch.tensor([[*([] if model.bos is None else [model.bos]), *tokens]])).logits[0, -1].double()
        tokens, logs = [*tokens, token], logs + float(logits.log_softmax(-1)[token])
    return math.exp(logs)


@pytest.mark.parametrize("kind", ["full", "set"])
def test_a_command_gives_what_plain_transformers_give(kind: str, tmp_path: Path) -> None:
    rows = answers(kind)
    write_jsonl(tmp_path / "my.jsonl", rows)
    command = ["-m", "tinylab", "condition=jsonl", "condition.path=my.jsonl", "condition.tag=mine",
               f"condition.answer={kind}", "metrics=[logprob_diff,prob_diff]", "plots=false", "+verify_slice.device=cpu"]
    done = type_in_shell(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    run = load_run(only(tmp_path, "outputs/runs/*"))
    assert run.verify is not None and run.verify["verdict"] == "pass"
    model, expected = load_model(ModelConfig(path="pkg://tinylab/assets/tiny"), "cpu"), []
    for row in rows:
        target, foil = ([one] if isinstance(one, str) else one for one in (row["target"], row["foil"]))
        expected.append([sum(probability(model, row["clean"], one) for one in some) for some in (target, foil)])
    found = run.per_example.drop_duplicates(["example", "metric"]).set_index(["metric", "example"])["baseline"]
    p = np.array(expected)
    assert found["logprob_diff"].to_numpy() == pytest.approx(np.log(p[:, 0] / p[:, 1]), abs=1e-4)
    assert found["prob_diff"].to_numpy() == pytest.approx(p[:, 0] - p[:, 1], abs=1e-5)


def test_kinds_of_answers_are_groups_of_their_own_in_a_sweep(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("-m", "model=planted", "model.variant=ledger", "condition=planted_a", "condition.answer=first,full",
                   "plots=false", "controls=none") == 0
    found = json.loads(only(tmp_path, "outputs/sweeps/*/artifacts/cross_condition/invariants.json").read_text())
    validate_invariants_json(found)
    assert [[*group["per_metric"]] for group in found["groups"]] == [["logit_diff"], ["logprob_diff"]]
    assert [group.get("settings") for group in found["groups"]] == [None, {"condition.answer": "full"}]
    claimed = [[(one["layer"], one["head"]) for one in group["heads"]] for group in found["groups"]]
    assert claimed == [[(0, 0), (1, 0), (1, 1)]] * 2
    assert found["metrics"] == ["logit_diff", "logprob_diff"]


def test_only_what_is_more_than_the_first_token_is_in_a_runs_identity() -> None:
    assert unlike_default(ConditionConfig(tag="t", path="p", answer="first", first_tokens=False)) == {"tag": "t", "path": "p"}
    assert unlike_default(ConditionConfig(tag="t", path="p", answer="set", first_tokens=True)) == {
        "tag": "t", "path": "p", "answer": "set", "first_tokens": True}


def test_the_strongest_of_a_run_of_whole_answers_are_by_their_log_probability(tinylab: Command, tmp_path: Path) -> None:
    asked = ("model=planted", "model.variant=ledger", "condition=planted_a", "plots=false", "condition.answer=full")
    assert tinylab(*asked, "controls.random_sets=true", "controls.draws=5") == 0
    first = only(tmp_path, "outputs/runs/*")
    assert json.loads((first / "metrics/summary.json").read_text())["random_sets"]["damage"] == pytest.approx(2.5, abs=0.5)
    assert tinylab(*asked, "battery=pairs", f"battery.from={first}", "battery.k=2", "controls=none") == 0
    pairs = next(path for path in (tmp_path / "outputs/runs").iterdir() if path != first)
    assert json.loads((pairs / "manifest.json").read_text())["chosen_from"]["metric"] == "logprob_diff"
