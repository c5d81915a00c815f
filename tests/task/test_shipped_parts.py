"""`battery.positions=subject.last` acts in every row of every shipped condition; a run at one is what plain hooks give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command, only
from planted import HOMES
from planted import model as planted_model
from tinylab.config.groups import ModelConfig
from tinylab.interventions.variants import Named
from tinylab.models.loading import skeleton
from tinylab.paths import locate
from tinylab.results import load_run
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import prepare
from typed import composed

ROOT = Path(__file__).parents[2]
CONDITIONS = sorted(path.stem for path in (ROOT / "conf/condition").glob("*.yaml") if path.stem != "jsonl")
TINY = locate("pkg://tinylab/assets/tiny")


def rows(corpus: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in locate(corpus).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_has_a_subject_in_all_its_rows_and_the_yaml_names_its_other_parts(condition: str) -> None:
    model = (f"model.variant={HOMES[condition]}", "model=planted") if condition in HOMES else ("model=tiny",)
    config = composed(f"condition={condition}", "battery=h2", "battery.positions=subject.last", "controls=none", *model)
    loaded = planted_model(HOMES[condition]) if condition in HOMES else skeleton(ModelConfig(path=str(TINY)))
    ready = prepare(config, load_condition(config.condition), loaded)
    assert ready.condition.dropped == {}
    assert ready.kept == len(load_condition(config.condition).pairs)
    assert all(cell.variant.positions == Named("subject", "last") for cell in ready.cells)
    for pair in ready.tokens:
        for prompt in (pair.prompt("clean"), pair.prompt("corrupt")):
            (name, places), = prompt.spans
            assert name == "subject" and 0 < places[-1] < len(prompt.tokens)
    named = rows(config.condition.path)[0]["spans"]
    written = (ROOT / f"conf/condition/{condition}.yaml").read_text(encoding="utf-8")
    assert f"# Parts of its prompts: {', '.join(named)}\n" in written


def test_a_run_at_a_part_of_the_shipped_prompts_is_what_a_plain_script_computes(tinylab: Command, tmp_path: Path) -> None:
    """Where the one who acts is named again: the place is found here by the tokens, which stand in the prompt exactly twice."""
    assert tinylab("battery=h2", "condition=ioi", "battery.positions=s2.all", "condition.n_examples=4", "plots=false",
                   "controls=none", "battery.layers=[1]", "metrics=[logit_diff]") == 0
    table = load_run(only(tmp_path, "outputs/runs/*")).per_example.query("metric == 'logit_diff' and control == 'none'")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    corpus = rows("pkg://tinylab/assets/corpora/ioi.jsonl")
    assert len(table) == 4
    for found in table.itertuples():
        row = corpus[int(found.example)]
        kept: list[torch.Tensor] = []
        for side, gives in (("clean", row["foil"]), ("corrupt", row["target"])):
            ids = [tokenizer.bos_token_id, *tokenizer.encode(row[side], add_special_tokens=False)]
            (word,) = tokenizer.encode(gives, add_special_tokens=False)
            _, place = (number for number, token in enumerate(ids) if token == word)

            def at_s2(_module: object, _args: object, output: Any, place: int = place, kept: list[torch.Tensor] = kept) -> Any:
                hidden = (output[0] if isinstance(output, tuple) else output).clone()
                kept.append(hidden[0, place].clone())
                hidden[0, place] = kept[0]
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            handle = model.transformer.h[1].register_forward_hook(at_s2)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            handle.remove()
        target, foil = (tokenizer.encode(row[side], add_special_tokens=False)[0] for side in ("target", "foil"))
        assert found.value == pytest.approx(float(logits[target] - logits[foil]), abs=1e-4)
        assert abs(found.value - found.baseline) > 1e-3
