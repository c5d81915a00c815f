"""Numbers on trained models, against a recomputation that shares nothing with the lab but the model's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command, only
from tinylab.task.reading import read_rows

pytestmark = pytest.mark.real
N = 3
LAYERS = {"smollm2": (0, 17), "gemma3": (2, 11)}
TOLERANCE = 5e-5
"""Of a logit difference: logits are of the order of 20 in float32, and the batches of the two computations differ."""


class Plain:
    """A model of transformers, and a row's prompt and answers in its tokens."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.heads = self.model.config.num_attention_heads

    def ids(self, text: str) -> torch.Tensor:
        """As the tokenizer itself begins a text: Gemma's with BOS, SmolLM2's with nothing."""
        return torch.tensor([self.tokenizer.encode(text)])

    def difference(self, text: str, row: dict[str, Any]) -> float:
        target, foil = (self.tokenizer.encode(row[key], add_special_tokens=False)[0] for key in ("target", "foil"))
        with torch.no_grad():
            logits = self.model(self.ids(text), use_cache=False).logits[0, -1].double()
        return float(logits[target] - logits[foil])


def hooked(plain: Plain, layer: int, hook: Any, row: dict[str, Any], text: str, *, output: bool = False) -> float:
    block = plain.model.model.layers[layer]
    handle = block.register_forward_hook(hook) if output else block.self_attn.o_proj.register_forward_pre_hook(hook)
    try:
        return plain.difference(text, row)
    finally:
        handle.remove()


@pytest.fixture(params=("smollm2", "gemma3"))
def model(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(request.param)


def test_heads_zeroed_and_layers_patched_are_those_of_plain_hooks(
    model: tuple[str, Path], tinylab: Command, tmp_path: Path
) -> None:
    name, folder = model
    layers = list(LAYERS[name])
    bos = f"model.add_bos={'true' if name == 'gemma3' else 'false'}"
    for battery in ("h1", "h2"):
        assert tinylab(f"battery={battery}", f"battery.layers={layers}", "condition=ioi", f"condition.n_examples={N}", bos,
                       "model=local", f"model.path={folder}", "device=cpu", "plots=false", "metrics=[logit_diff]") == 0
    files = (only(tmp_path, f"outputs/runs/{battery}_*") / "metrics/per_example.parquet" for battery in ("h1", "h2"))
    heads, patched = (pd.read_parquet(file).query("control == 'none'") for file in files)
    plain = Plain(folder)
    width = plain.model.model.layers[0].self_attn.o_proj.in_features // plain.heads
    rows = [row.values for row in read_rows("pkg://tinylab/assets/corpora/ioi.jsonl", [])]
    for number in heads["example"].unique():
        row = rows[number]
        base = heads.query("example == @number")["baseline"].iloc[0]
        assert plain.difference(row["clean"], row) == pytest.approx(base, abs=TOLERANCE)
        for layer in layers:
            for head in (0, plain.heads - 1):
                def zero(_module: object, args: Any, head: int = head) -> Any:
                    z = args[0].clone()
                    z[..., head * width:(head + 1) * width] = 0
                    return (z,)

                found = heads.query("example == @number and layer == @layer and head == @head")["value"].item()
                assert hooked(plain, layer, zero, row, row["clean"]) == pytest.approx(found, abs=TOLERANCE)
            kept: list[torch.Tensor] = []

            def keep(_module: object, _args: Any, output: Any, kept: list[torch.Tensor] = kept) -> None:
                kept.append((output[0] if isinstance(output, tuple) else output)[:, -1].clone())

            def put(_module: object, _args: Any, output: Any, kept: list[torch.Tensor] = kept) -> Any:
                changed = (output[0] if isinstance(output, tuple) else output).clone()
                changed[:, -1] = kept[0]
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            hooked(plain, layer, keep, row, row["clean"], output=True)
            found = patched.query("example == @number and layer == @layer")["value"].item()
            assert hooked(plain, layer, put, row, row["corrupt"], output=True) == pytest.approx(found, abs=TOLERANCE)
