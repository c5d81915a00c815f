"""Whether the model can do the task is told first, and is what plain transformers say of the unmodified prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command, only, write_jsonl
from tinylab.effects.ability import ENOUGH, Telling, ability, by_template, sentence, unable
from tinylab.engine.base import EvaluationState
from tinylab.measures.ability import answered
from tinylab.task.corpus import PromptPair

ASSETS = Path(__file__).parents[2] / "tinylab/assets"
ROW = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}


def pairs(*templates: str | None) -> list[PromptPair]:
    return [PromptPair(b, "clean", "corrupt", "yes", "no", template) for b, template in enumerate(templates)]


def told(clean: float, corrupt: float) -> dict[str, Any]:
    return {run: {"accuracy": accuracy, "answer_probability": 0.25, "n": 8, "by_template": {}}
            for run, accuracy in (("clean", clean), ("corrupt", corrupt))}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_right_is_the_likeliest_word_of_all_and_its_probability_is_that_of_a_softmax(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [4.0, -1.0, 0.0]], dtype=dtype)
    found = answered(logits, torch.tensor([1, 2, 0]))
    assert found[:, 0].tolist() == [1, 0, 1]
    expected = [row[place] for row, place in zip(logits.double().softmax(-1), (1, 2, 0), strict=True)]
    assert found[:, 1].tolist() == pytest.approx([float(p) for p in expected], rel=1e-6)


def test_means_over_all_and_over_those_of_each_template() -> None:
    columns = {"clean": np.array([[1, 0.5], [0, 0.25], [1, 1.0]]), "corrupt": np.array([[0, 0.0], [0, 0.5], [1, 0.25]])}
    found = ability(columns, pairs("a", None, "a"))
    assert found == {
        "clean": {"accuracy": 2 / 3, "answer_probability": 1.75 / 3, "n": 3,
                  "by_template": {"a": {"accuracy": 1.0, "answer_probability": 0.75, "n": 2}}},
        "corrupt": {"accuracy": 1 / 3, "answer_probability": 0.25, "n": 3,
                    "by_template": {"a": {"accuracy": 0.5, "answer_probability": 0.125, "n": 2}}},
    }
    assert by_template(found) is None
    assert by_template(ability(columns, pairs("a", "b", "a"))) == "by template, clean/corrupt: a 1.00/0.50, b 0.00/0.00"
    alike = {"clean": columns["clean"][[0, 2]], "corrupt": columns["corrupt"][[0, 1]]}
    assert by_template(ability(alike, pairs("a", "b"))) == "by template, clean/corrupt: 1.00/0.00 in each of 2"


@pytest.mark.parametrize(("clean", "corrupt", "poor"), [(0.5, 0.5, False), (0.49, 1.0, True), (1.0, 0.49, True)])
def test_under_half_right_of_either_prompts_is_a_task_that_the_model_cannot_do(clean: float, corrupt: float, poor: bool) -> None:
    found = told(clean, corrupt)
    assert unable(found) is poor
    assert sentence(found).startswith(f"unmodified, the model answers {clean:.2f} of the clean and {corrupt:.2f} of the corrupt")
    assert sentence(found).endswith("cannot do mean little") is poor


class Kept:
    """Counts what it is given to keep."""

    count = 0

    def restore(self, empty: EvaluationState) -> EvaluationState:
        return empty

    def keep(self, state: EvaluationState) -> None:
        del state
        self.count += 1


def test_it_is_told_once_as_soon_as_enough_prompts_have_run(caplog: pytest.LogCaptureFixture) -> None:
    inner, state = Kept(), EvaluationState.empty(1, ENOUGH + 5, 1)
    telling = Telling(inner, ENOUGH + 5)
    state.ability["clean"][:, 0] = state.ability["corrupt"][:, 0] = 1
    with caplog.at_level(logging.INFO):
        for begun in (1, ENOUGH - 1, ENOUGH, ENOUGH + 5):
            state.begun[:begun] = True
            telling.keep(state)
            assert len(caplog.records) == (begun >= ENOUGH)
    assert telling.said is not None
    assert "1.00 of the clean and 1.00 of the corrupt prompts correctly" in telling.said
    assert f"{ENOUGH} of {ENOUGH + 5} distinct pairs, in the order of their tokens)" in telling.said
    assert inner.count == 4


@pytest.mark.parametrize("pairs", [ENOUGH + 5, ENOUGH + 6])
def test_a_part_of_the_pairs_or_pairs_that_stand_for_several_give_no_verdict(
    pairs: int, caplog: pytest.LogCaptureFixture
) -> None:
    state = EvaluationState.empty(1, ENOUGH + 5, 1)  # nothing is right
    for begun in (ENOUGH, ENOUGH + 5):
        telling = Telling(Kept(), pairs)
        state.begun[:begun] = True
        caplog.clear()
        with caplog.at_level(logging.INFO):
            telling.keep(state)
        (record,) = caplog.records
        whole = begun == pairs
        assert (record.levelno == logging.WARNING) is whole is ("cannot do mean little" in record.getMessage())


def plainly(rows: Sequence[dict[str, str]], side: str, answer: str) -> tuple[list[float], list[float]]:
    """Whether the likeliest word is the right one, and its probability, by transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(ASSETS / "tiny"), AutoModelForCausalLM.from_pretrained(ASSETS / "tiny")
    right, probability = [], []
    for row in rows:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(row[side], add_special_tokens=False)]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        token = tokenizer.encode(row[answer], add_special_tokens=False)[0]
        right.append(float(logits.argmax() == token))
        probability.append(float(logits.softmax(-1)[token]))
    return right, probability


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_a_run_stores_what_plain_transformers_say(engine: str, tinylab: Command, tmp_path: Path) -> None:
    """Of rows of which one stands twice."""
    lines = (ASSETS / "corpora/facts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[::17]]
    write_jsonl(tmp_path / "mine.jsonl", [*rows, rows[0]])
    assert tinylab("condition=jsonl", "condition.path=mine.jsonl", "battery.layers=[0]", "battery.heads=[0]", f"engine={engine}",
                   "plots=false") == 0
    found = json.loads(only(tmp_path, "outputs/runs/*/metrics/summary.json").read_text())["ability"]
    rows.append(rows[0])
    for side, answer in (("clean", "target"), ("corrupt", "foil")):
        right, probability = map(np.array, plainly(rows, side, answer))
        templates = dict.fromkeys(row["template"] for row in rows)
        groups = {name: np.array([row["template"] == name for row in rows]) for name in templates}
        assert set(found[side]["by_template"]) == set(templates)
        parts = [(found[side]["by_template"][name], members) for name, members in groups.items()]
        for part, members in [(found[side], np.ones(len(rows), bool)), *parts]:
            assert part["n"] == members.sum()
            assert part["accuracy"] == right[members].mean()
            assert part["answer_probability"] == pytest.approx(probability[members].mean(), abs=1e-5)  # float32 and float64


def test_a_report_says_it_first_and_a_log_before_the_effects(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [ROW, {**ROW, "target": " Rome", "foil": " Paris"}])
    command = ("condition=jsonl", "condition.path=mine.jsonl", "battery.layers=[0]", "plots=false")
    assert tinylab(*command) == 0
    printed = capsys.readouterr().out
    said = "unmodified, the model answers 0.50 of the clean and 0.50 of the corrupt prompts correctly"
    assert printed.index(said) < printed.index("strongest by change")
    capsys.readouterr()
    assert tinylab(*command) == 0, "it is reused"
    assert said in capsys.readouterr().out


def test_a_task_that_the_model_cannot_do_is_one_warning(tinylab: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [{**ROW, "target": " Tokyo", "foil": " Athens"}, {**ROW, "target": " Tokyo"}])
    assert tinylab("condition=jsonl", "condition.path=mine.jsonl", "battery.layers=[0]", "plots=false") == 0
    log = only(tmp_path, "outputs/runs/*/run.log").read_text()
    (warning,) = [line for line in log.splitlines() if line.startswith("WARNING") and "mean little" in line]
    assert "0.00 of the clean and 0.50 of the corrupt prompts correctly" in warning


def test_a_run_of_before_gets_its_ability_with_the_metrics_that_it_lacks(tinylab: Command, tmp_path: Path) -> None:
    command = ("condition=facts", "condition.n_examples=4", "battery.layers=[0]", "plots=false")
    assert tinylab(*command, "metrics=[logit_diff]") == 0
    folder = only(tmp_path, "outputs/runs/*")
    summary, manifest = folder / "metrics/summary.json", folder / "manifest.json"
    written = json.loads(summary.read_text())
    before = written.pop("ability")
    summary.write_text(json.dumps(written))
    manifest.write_text(json.dumps({key: value for key, value in json.loads(manifest.read_text()).items() if key != "digests"}))
    assert tinylab(*command, "metrics=[logit_diff]") == 0, "it is reused as it is"
    assert "ability" not in json.loads(summary.read_text())
    assert tinylab(*command, "metrics=[kl_div]") == 0
    assert json.loads(summary.read_text())["ability"] == before
