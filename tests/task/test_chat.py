"""Prompts as a user's turns: what the model reads is what the tokenizer's own template writes, and answers begin a turn."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from conftest import Command, only, write_jsonl
from tinylab.config.groups import ConditionConfig
from tinylab.errors import ConfigError, ModelError
from tinylab.task.chat import DATE, Turns
from tinylab.task.corpus import PromptPair
from tinylab.task.tokens import _in_turn

TINY = Path(__file__).parents[2] / "tinylab/assets/tiny"
PLAIN = ("{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
         "{% if add_generation_prompt %}me:\n{% endif %}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + PLAIN
IGNORED = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}\n{% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }}\n" + PLAIN
ROWS = [{"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"},
        {"clean": "The capital of Spain is", "corrupt": "The capital of Egypt is", "target": " Madrid", "foil": " Cairo"}]

TOLD = "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}\n" + PLAIN


def turns(template: str | None, system: str | None = None) -> Turns:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = template
    return Turns(tokenizer, "toy", system)


def test_a_prompt_is_the_users_turn_and_the_systems_stands_before_it() -> None:
    assert turns(PLAIN)("Hello") == "<|endoftext|>user: Hello\nme:\n"
    assert turns(PLAIN, "Be brief.")("Hello") == "<|endoftext|>system: Be brief.\nuser: Hello\nme:\n"


@pytest.mark.parametrize(("template", "system", "told"), [
    (None, None, "the tokenizer of toy has no chat template; use condition.chat=false"),
    (NO_SYSTEM, "Be brief.", r"condition.system: the chat template of toy refuses it \(no system here\); leave condition"),
    (IGNORED, "Be brief.", "condition.system: the chat template of toy leaves out the system's turn"),
    ("{{ messages[0]['role'] }}", None, "leaves out or changes the user's turn"),
    (DATED, None, "the chat template of toy writes today's date into prompts, so that numbers would change daily"),
    ("{{ nothing.of.it }}", None, "condition.chat=true: the chat template of toy refuses it"),
    ("{% for", None, "condition.chat=true: the chat template of toy refuses it"),
], ids=["none", "refused", "ignored", "no user", "today", "undefined", "broken"])
def test_a_template_that_cannot_is_one_sentence(template: str | None, system: str | None, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        turns(template, system)


def test_a_template_that_writes_the_date_writes_the_same_one_every_day() -> None:
    """As Llama 3's take one and else look for themselves."""
    assert turns(TOLD)("Hello").startswith(f"{DATE}\n")
    assert turns(TOLD).describe()["date"] == DATE
    assert turns(PLAIN).describe()["date"] is None


def test_a_system_without_a_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="condition.system with condition.chat=false"):
        ConditionConfig(tag="t", path="t.jsonl", system="Be brief.")
    with pytest.raises(ConfigError, match="condition.system is empty"):
        ConditionConfig(tag="t", path="t.jsonl", chat=True, system=" ")


def test_a_run_reads_turns_and_keeps_them_in_its_manifest(tinylab: Command, tmp_path: Path) -> None:
    """One BOS although the template and model.add_bos put one; the answers without their space; nothing to warn of."""
    shutil.copytree(TINY, tmp_path / "own")
    (tmp_path / "own/chat_template.jinja").write_text(PLAIN)
    write_jsonl(tmp_path / "mine.jsonl", ROWS)
    command = ("model=local", "model.path=own", "model.add_bos=true", "condition=jsonl", "condition.path=mine.jsonl",
               "battery.layers=[0]", "battery.heads=[0]", "plots=false")
    assert tinylab(*command, "condition.chat=true", "condition.system=Be brief.", "metrics=[logit_diff]") == 0
    run = only(tmp_path, "outputs/runs/*")
    provenance = json.loads((run / "manifest.json").read_text())["provenance"]
    tokens = provenance["chat"]["tokens"]
    assert tokens.count("<|endoftext|>") == 1
    text = "".join(tokens).replace("␣", " ").replace("⏎", "\n")
    assert text == "<|endoftext|>system: Be brief.\nuser: The capital of France is\nme:\n"
    assert provenance["corpus"]["noted"] == {}
    assert (provenance["identity"]["condition"]["chat"], provenance["identity"]["condition"]["system"]) == (True, "Be brief.")
    digest = provenance["model"]["digest"]
    (tmp_path / "own/chat_template.jinja").write_text(PLAIN + " ")
    assert tinylab(*command, "condition.chat=true", "output_dir=other") == 0
    other = json.loads((only(tmp_path, "other/runs/*") / "manifest.json").read_text())["provenance"]
    assert other["model"]["digest"] != digest, "a template is a part of the model"


@pytest.mark.parametrize(("opened", "answer"), [("me:\n", "Paris"), ("<|endoftext|>", "Paris"), ("me:", " Paris")])
def test_an_answer_behind_words_keeps_its_space(opened: str, answer: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = "{{ messages[0]['content'] }}\n{{ " + repr(opened) + " }}"
    encode = partial(tokenizer.encode, add_special_tokens=False)
    pair = PromptPair(0, "The capital of France is", "The capital of Italy is", " Paris", " Rome")
    told = _in_turn(pair, Turns(tokenizer, "toy"), encode, {tokenizer.bos_token_id})
    assert (told.clean, told.target) == (f"The capital of France is\n{opened}", answer)


def test_the_manifest_says_what_begins_turns(tinylab: Command, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "own")
    write_jsonl(tmp_path / "mine.jsonl", ROWS)
    told = []
    for template in (PLAIN, PLAIN.replace("{{ bos_token }}", "")):
        (tmp_path / "own/chat_template.jinja").write_text(template)
        assert tinylab("model=local", "model.path=own", "condition=jsonl", "condition.path=mine.jsonl", "condition.chat=true",
                       "battery.layers=[0]", "battery.heads=[0]", "plots=false", f"output_dir={len(told)}") == 0
        told.append(json.loads((only(tmp_path, f"{len(told)}/runs/*") / "manifest.json").read_text())["provenance"]["bos"])
    assert told == [{"add_bos": True, "token_id": 0, "token": "<|endoftext|>", "policy": "chat template"},
                    {"add_bos": False, "token_id": None, "token": None, "policy": "chat template"}]


def test_a_model_without_a_template_ends_with_2_and_leaves_nothing(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("condition.chat=true", "model=local", f"model.path={TINY}") == 2
    assert "has no chat template" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
