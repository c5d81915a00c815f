"""The embedded model really does the tasks of the corpora, in wordings that it was not trained on."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerBase

from tinylab.embedded import corpora
from tinylab.embedded.wordings import WORDINGS

ASSETS: Final = Path(corpora.__file__).parent.parent / "assets"
MEGABYTE: Final = 1_000_000


@dataclass(frozen=True)
class Embedded:
    """The embedded model and its tokenizer."""

    model: GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerBase

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self.tokenizer(text)["input_ids"])


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    """Load them as anybody would."""
    folder = ASSETS / "tiny"
    return Embedded(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def rows_of_test(name: str) -> list[dict[str, str]]:
    """Return the rows of the test split."""
    lines = (ASSETS / "corpora" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == "test"]


@torch.no_grad()
def last_logits(embedded: Embedded, prompts: list[str]) -> torch.Tensor:
    """Return the logits after each prompt, (prompts, vocabulary), batched by length."""
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        ids = [embedded.model.config.bos_token_id, *embedded.ids(prompt)]
        by_length[len(ids)].append((number, ids))
    logits = torch.empty(len(prompts), embedded.model.config.vocab_size)
    for batch in by_length.values():
        tokens = torch.tensor([ids for _, ids in batch])
        logits[[number for number, _ in batch]] = embedded.model(tokens).logits[:, -1]
    return logits


@pytest.mark.parametrize("name", sorted(WORDINGS))
@pytest.mark.parametrize(("side", "right", "wrong"), [("clean", "target", "foil"), ("corrupt", "foil", "target")])
def test_the_model_answers_held_out_wordings(embedded: Embedded, name: str, side: str, right: str, wrong: str) -> None:
    rows = rows_of_test(name)
    logits = last_logits(embedded, [row[side] for row in rows])
    answers, others = (torch.tensor([embedded.ids(row[key]) for row in rows]) for key in (right, wrong))
    accuracy = (logits.argmax(dim=1, keepdim=True) == answers).float().mean().item()
    difference = (logits.gather(1, answers) - logits.gather(1, others)).mean().item()
    assert accuracy >= 0.9
    assert difference >= 2


def test_the_shipped_folder_is_under_8_megabytes() -> None:
    assert sum(path.stat().st_size for path in (ASSETS / "tiny").iterdir()) < 8 * MEGABYTE


def test_the_model_has_24_heads_or_more_and_no_dropout(embedded: Embedded) -> None:
    config = embedded.model.config
    assert config.n_layer * config.n_head >= 24
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0
    assert not embedded.model.training
    assert {parameter.dtype for parameter in embedded.model.parameters()} == {torch.float32}


def test_the_tokenizer_leaves_the_beginning_token_to_the_caller(embedded: Embedded) -> None:
    tokenizer = embedded.tokenizer
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == "<|endoftext|>"
    assert embedded.model.config.bos_token_id == tokenizer.bos_token_id == embedded.ids("<|endoftext|>")[0]
    assert tokenizer.bos_token_id not in embedded.ids("The capital of France is")
    assert tokenizer.decode(embedded.ids("Any text: naïve, 3 cats…")) == "Any text: naïve, 3 cats…"
