"""What is measured: shapes with random weights, prompt pairs, and batteries with their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import transformers

from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import ConditionConfig, ModelConfig
from tinylab.interventions.variants import Variant
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity
from tinylab.task.corpus import load_condition
from tinylab.task.tokens import TokenPair, tokenise

SEED = 0
CORPORA = ("facts", "negation", "logic", "ioi", "induction")
DISTINCT_LENGTH = 16
TINY = "pkg://tinylab/assets/tiny"

Kind = Literal["distinct", "templated"]


@dataclass(frozen=True)
class Task:
    """A battery and how many times faster than (a) it should be."""

    label: str
    battery: Battery
    targets: dict[Kind, float]

    def variants(self, model: CausalModel) -> list[Variant]:
        """Every intervention of the battery."""
        return [cell.variant for cell in self.battery.cells(model.n_layers, model.n_heads)]


TASKS = (
    Task("H1 all heads", HeadsZero(name="h1"), {"distinct": 3, "templated": 8}),
    Task("H2 layer_resid last", ActivationPatch(name="h2", positions="last"), {"distinct": 6, "templated": 15}),
    Task(
        "H2 mlp_out all positions", ActivationPatch(name="h2", granularity="mlp_out", positions="all"),
        {"distinct": 2, "templated": 5},
    ),
)


@dataclass(frozen=True)
class Workload:
    """Prompt pairs with a name."""

    name: str
    kind: Kind
    pairs: list[TokenPair]


def gpt2(**changes: Any) -> Any:
    """A config of GPT-2's family; without changes that of GPT-2 small."""
    return transformers.GPT2Config(**changes)


SHAPES: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "gpt2-xl": lambda: gpt2(n_embd=1600, n_layer=48, n_head=25),
    "llama-7b": lambda: transformers.LlamaConfig(pad_token_id=None),
    "quick": lambda: gpt2(n_embd=64, n_layer=2, n_head=4),
}
"""Shapes by name; transformers' defaults for LlamaConfig are the 7B model."""


def random_model(config: Any, device: str, dtype: str) -> CausalModel:
    """A model of a shape with seeded random weights."""
    torch.manual_seed(SEED)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return CausalModel(model.eval().requires_grad_(False), None, ModelIdentity("random", None, None), False)


def embedded_model() -> CausalModel:
    """The model that is shipped with tinylab, on the CPU."""
    return load_model(ModelConfig(path=TINY), "cpu")


def distinct(count: int, length: int, vocabulary: int) -> list[TokenPair]:
    """Pairs of random prompts, all independent, no two of which begin with the same token."""
    rng = np.random.default_rng(SEED)
    tokens = rng.integers(vocabulary, size=(2 * count, length))
    tokens[:, 0] = rng.choice(vocabulary, size=2 * count, replace=False)
    prompts = [tuple(int(token) for token in row) for row in tokens]
    answers = [rng.choice(vocabulary, size=2, replace=False) for _ in range(count)]
    return [TokenPair(prompts[2 * b], prompts[2 * b + 1], int(answers[b][0]), int(answers[b][1])) for b in range(count)]


def corpus(name: str, aligned: bool, count: int | None, tokeniser: CausalModel) -> list[TokenPair]:
    """The first pairs of a shipped corpus's test split (None: all), in the embedded model's tokens."""
    config = ConditionConfig(tag=name, path=f"pkg://tinylab/assets/corpora/{name}.jsonl", split="test")
    _, pairs = tokenise(
        load_condition(config), tokeniser.encode, bos=tokeniser.bos, context=tokeniser.context, single_token=True,
        aligned=aligned, strict=False,
    )
    return pairs[:count]


def workloads(task: Task, model: CausalModel, tokeniser: CausalModel, count: int, corpora: Sequence[str]) -> list[Workload]:
    """The prompts that a battery is measured on."""
    found = [Workload("distinct", "distinct", distinct(count, DISTINCT_LENGTH, model.vocabulary))]
    return found + [Workload(name, "templated", corpus(name, task.battery.aligned, count, tokeniser)) for name in corpora]
