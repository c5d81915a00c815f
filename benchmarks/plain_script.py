"""What one would write instead of `battery=h1` and `battery=h2`: transformers, one padded batch, one hook per intervention.

No line of tinylab is in it. `benchmarks/end_to_end.py` times it from start to end beside `python -m tinylab`, and
`benchmarks/large.py` compares its numbers.

Letters: B prompts, T longest prompt, D width of an activation.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Numbers = list[float]
Found = Iterator[tuple[int, int | None, Numbers, Numbers]]
"""Layer, head or none, and for each prompt the logit difference under the intervention and without it."""


class Prompts:
    """All prompts of one kind as one batch, padded on the left, so that the last column is the last token of each."""

    def __init__(self, texts: list[str], tokenizer: Any, bos: bool) -> None:
        """Tokenise verbatim, with the BOS token first if asked for, and pad."""
        begin = [tokenizer.bos_token_id] if bos else []
        prompts = [begin + tokenizer.encode(text, add_special_tokens=False) for text in texts]
        width = max(map(len, prompts))
        self.ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])  # [B, T]
        self.mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self.places = (self.mask.cumsum(dim=1) - 1).clamp(min=0)


class Task:
    """A model, and the rows of a corpus that it is asked."""

    def __init__(self, asked: argparse.Namespace) -> None:
        """Load the model and tokenise the rows that the command line asks for."""
        corpus = asked.corpus.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(corpus[row]) for row in asked.rows]
        tokenizer, dtype = AutoTokenizer.from_pretrained(asked.model), getattr(torch, asked.dtype)
        self.model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype, attn_implementation="sdpa").eval()
        self.layers = self.model.get_decoder().layers
        self.acted_at = asked.layers if asked.layers is not None else range(len(self.layers))
        self.kept = 0 if asked.every_row else 1  # last rows that get logits; 0 is all
        self.states = 0  # tokens × layers that were computed
        self.clean, self.corrupt = (Prompts([row[name] for row in rows], tokenizer, asked.bos) for name in ("clean", "corrupt"))
        self.target, self.foil = (
            torch.tensor([tokenizer.encode(row[name], add_special_tokens=False)[:1] for row in rows])  # [B, 1]
            for name in ("target", "foil")
        )

    def logit_diff(self, prompts: Prompts) -> Numbers:
        """Logit of the target minus that of the foil after each prompt."""
        self.states += prompts.ids.numel() * len(self.layers)
        logits = self.model(
            input_ids=prompts.ids, attention_mask=prompts.mask, position_ids=prompts.places, use_cache=False,
            logits_to_keep=self.kept,
        ).logits[:, -1]
        return (logits.gather(1, self.target) - logits.gather(1, self.foil)).squeeze(1).tolist()


@contextmanager
def hooked(register: Callable[..., Any], hook: Callable[..., None]) -> Iterator[None]:
    """While open, the hook is there."""
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def zero_heads(task: Task) -> Found:
    """H1: each head's output set to zero at every position of the clean prompts, before the output projection."""
    unmodified, heads = task.logit_diff(task.clean), task.model.config.num_attention_heads
    for layer in task.acted_at:
        projection = task.layers[layer].self_attn.o_proj
        width = projection.in_features // heads
        for head in range(heads):

            def zero(_module: object, args: tuple[torch.Tensor], first: int = head * width, width: int = width) -> None:
                args[0][..., first : first + width] = 0

            with hooked(projection.register_forward_pre_hook, zero):
                yield layer, head, task.logit_diff(task.clean), unmodified


def patch_layers(task: Task) -> Found:
    """H2: each block's output at the last token of the corrupt prompts replaced by that of the clean run."""
    unmodified = task.logit_diff(task.corrupt)
    kept: list[torch.Tensor] = []  # [B, D] of each block
    handles = [block.register_forward_hook(lambda _module, _args, output: kept.append(hidden(output)[:, -1].clone()))
               for block in task.layers]
    task.logit_diff(task.clean)
    for handle in handles:
        handle.remove()
    for layer in task.acted_at:

        def patch(_module: object, _args: object, output: Any, source: torch.Tensor = kept[layer]) -> None:
            hidden(output)[:, -1] = source

        with hooked(task.layers[layer].register_forward_hook, patch):
            yield layer, None, task.logit_diff(task.corrupt), unmodified


def hidden(output: Any) -> torch.Tensor:
    """A block's hidden states, [B, T, D], of what it returns."""
    return output if isinstance(output, torch.Tensor) else output[0]


BATTERIES = {"h1": zero_heads, "h2": patch_layers}


@torch.no_grad()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("battery", choices=list(BATTERIES))
    parser.add_argument("--model", type=Path, required=True, help="a folder")
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with clean, corrupt, target, foil")
    parser.add_argument("--rows", type=int, nargs="+", required=True, help="of the corpus; 0 is the first")
    parser.add_argument("--bos", action="store_true", help="put the tokenizer's BOS token before every prompt")
    parser.add_argument("--every-row", action="store_true", help="compute the logits of every row, as a model does when not told")
    parser.add_argument("--dtype", default="float32", help="of the weights and of what is computed; default float32")
    parser.add_argument("--layers", type=int, nargs="*", help="where to intervene, which may be nowhere; default: in all of them")
    parser.add_argument("--out", type=Path, required=True, help="the CSV, a line for each intervention and row")
    asked = parser.parse_args()
    task = Task(asked)
    with asked.out.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["layer", "head", "example", "value", "baseline"])
        for layer, head, values, baselines in BATTERIES[asked.battery](task):
            for told in zip(asked.rows, values, baselines, strict=True):
                lines.writerow([layer, head, *told])
    print(f"{task.states} states")


if __name__ == "__main__":
    main()
