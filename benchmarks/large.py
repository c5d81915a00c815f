"""A whole run on a model of a 3B Llama's shape, in memory: `make bench-large`.

The weights are random, in bfloat16, and lie in a temporary folder (TMPDIR says where; 6 GB) with the tokenizer of a model that
`make real-models` fetches. A run of the lab and `benchmarks/plain_script.py` on a few layers are processes of their own; each
one's largest resident size is what the system tells when it has ended. It needs 8 GiB of free memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.document import LARGE, put
from benchmarks.end_to_end import CONDITION, CORPUS, MODELS, MODELS_VARIABLE, Failed, indexed, machine
from benchmarks.report import Sheet, met
from benchmarks.run import DOCUMENT, RAW, ROOT
from tinylab.machine.threads import cores
from tinylab.models.folder import INDEX, TOKENIZER_FILES

SHAPE = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
         "num_key_value_heads": 8, "head_dim": 128}
QUICK = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16}
SHARD = 10**9
"""Bytes of a file of weights, about."""
PAIRS, COMPARED = 8, 4
"""Prompt pairs, and layers whose numbers are compared."""
ALLOWED_MEMORY = 1024
"""MiB beside the weights."""
ALLOWED = 0.2
"""Logits: the difference that a verify slice in bfloat16 allows an example."""
TITLE = "A 3B model in memory"
NOTE = """Written by `make bench-large`, independently of the rest of this document: {machine}, {memory:.0f} GiB of memory.
Load average over its last 15 minutes, including its own processes: {load:.1f} on average; on an idle machine
it takes fewer seconds.

A Llama of {layers} blocks × {heads} heads, {parameters:.2f} billion random weights in bfloat16, files: {files}.
`python -m tinylab model.dtype=bfloat16 battery=h2 condition={condition} condition.n_examples={pairs}` with its defaults
(layer_resid at the last token, all metrics) and an empty cache folder, from start to end: the weights' digest, loading, the
self-check, the battery. `plain` is `benchmarks/plain_script.py` in bfloat16 on the same pairs, one hook on {compared} of the
layers, all prompts as one batch. Memory is the largest resident size of the process as reported by the system, including pages
of the weights' files. At most {allowed_memory:,} MiB in addition to the weights are the target. The difference is the largest
of any logit_diff of any pair in those layers, or without an intervention; more than {allowed:g} is an error. For scale: the
largest change that an intervention makes."""


@dataclass(frozen=True)
class Ended:
    """A process: its seconds from start to end, and the most memory it held, in bytes."""

    seconds: float
    peak: int


@dataclass(frozen=True)
class Measured:
    """The run, the plain script beside it, and how far their numbers are apart, in logits."""

    parameters: int
    files: int
    weights: int  # bytes
    lab: Ended
    plain: Ended
    provenance: dict[str, Any]  # of the run
    difference: float
    effect: float

    @property
    def beside(self) -> float:
        """MiB that the run held beside the weights."""
        return (self.lab.peak - self.weights) / 2**20

    def rows(self) -> list[tuple[str, str]]:
        """Of the table."""
        checked = self.provenance["self_check"]
        found = "none" if checked is None else f"{checked['verdict']} ({self.provenance['self_check_max_difference']:.1e} logits)"
        return [
            ("weights, MiB", mebibytes(self.weights)),
            ("memory of the run, MiB", mebibytes(self.lab.peak)),
            ("beside the weights, MiB", f"{self.beside:,.0f} (≤ {ALLOWED_MEMORY:,}: {met(self.beside <= ALLOWED_MEMORY)})"),
            ("memory of plain, MiB", mebibytes(self.plain.peak)),
            ("the run, s", f"{self.lab.seconds:.0f}"),
            ("of it: the engine, s", f"{self.provenance['engine_seconds']:.0f}"),
            ("plain, s", f"{self.plain.seconds:.0f}"),
            ("forward passes", f"{self.provenance['forwards']:,}"),
            ("states", f"{self.provenance['states']:,}"),
            ("engine", self.provenance["engine"]),
            ("self-check", found),
            ("largest difference", f"{self.difference:.1e}"),
            ("largest effect", f"{self.effect:.1e}"),
        ]


def mebibytes(count: int) -> str:
    """Bytes as MiB."""
    return f"{count / 2**20:,.0f}"


def make_model(shape: dict[str, int], words: Path, folder: Path) -> int:
    """A Llama with random weights (seed 0), a file after the other, so that memory holds one of them.

    Args:
        shape: of its config.
        words: a folder with a tokenizer.
        folder: where it goes.

    Returns:
        The number of weights.
    """
    tokenizer = AutoTokenizer.from_pretrained(words)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    config = LlamaConfig(**shape, **special, vocab_size=len(tokenizer), tie_word_embeddings=True, dtype="bfloat16",
                         architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, "tokenizer_config.json"):
        if (words / name).is_file():
            shutil.copy(words / name, folder / name)
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).named_parameters()}
    places: dict[str, str] = {}
    for number, tensors in enumerate(_shards(shapes, config.initializer_range)):
        file = f"model-{number + 1:05}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _shards(shapes: dict[str, tuple[int, ...]], scale: float) -> Iterator[dict[str, torch.Tensor]]:
    """Weights of these shapes, as many at once as a file holds: matrices are normal, norms are 1."""
    random, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        weight = torch.ones(shape, dtype=torch.bfloat16)
        tensors[name] = weight if weight.dim() == 1 else weight.normal_(0, scale, generator=random)
        if sum(tensor.nbytes for tensor in tensors.values()) >= SHARD:
            yield tensors
            tensors = {}
    if tensors:
        yield tensors


def ended(command: Sequence[str], **variables: str) -> Ended:
    """Run `python -m …` from start to end.

    Raises:
        Failed: it ended badly.
    """
    with tempfile.TemporaryFile() as told:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, **variables}, stdout=told,
                                   stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise Failed(f"{' '.join(command)}: exit code {process.returncode}\n{told.read().decode()[-2000:]}")
    return Ended(seconds, used.ru_maxrss * 1024)


def measure(shape: dict[str, int], words: Path, work: Path, threads: int) -> Measured:
    """Make the model in a folder, and measure the run and the plain script.

    Raises:
        Failed: a process ended badly, or their numbers are apart.
    """
    model, out, csv = work / "model", work / "out", work / "plain.csv"
    model.mkdir()
    parameters = make_model(shape, words, model)
    lab = ended(["tinylab", "model=local", f"model.path='{model}'", "model.dtype=bfloat16", "battery=h2",
                 f"condition={CONDITION}", f"condition.n_examples={PAIRS}", "device=cpu", f"threads={threads}",
                 f"output_dir='{out}'"], TINYLAB_CACHE=str(work / "cache"))
    (run,) = out.glob("runs/*")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    table = pd.read_parquet(run / manifest["per_example"])
    layers = np.linspace(0, shape["num_hidden_layers"] - 1, COMPARED).round().astype(int).tolist()
    found = indexed(table.query("metric == 'logit_diff' and control == 'none' and layer in @layers"))
    bos = ["--bos"] if manifest["provenance"]["bos"]["token_id"] is not None else []
    rows = sorted(set(found.index.get_level_values("example")))
    plain = ended(["benchmarks.plain_script", "h2", "--model", str(model), "--corpus", str(CORPUS), *bos, "--dtype", "bfloat16",
                   "--layers", *map(str, layers), "--out", str(csv), "--rows", *map(str, rows)], OMP_NUM_THREADS=str(threads))
    expected = indexed(pd.read_csv(csv))
    files = list(model.glob("*.safetensors"))
    return Measured(parameters, len(files), sum(file.stat().st_size for file in files), lab, plain, manifest["provenance"],
                    apart(found, expected), float((expected["value"] - expected["baseline"]).abs().max()))


def apart(found: pd.DataFrame, expected: pd.DataFrame) -> float:
    """The largest difference of any value or baseline, in logits.

    Raises:
        Failed: it is too large, or they are not of the same layers and rows.
    """
    if not found.index.equals(expected.index):
        raise Failed(f"The run has {len(found)} logit differences, the plain script {len(expected)}, of other layers or rows.")
    difference = float(np.abs(found.to_numpy() - expected.to_numpy()).max())
    if not difference <= ALLOWED:
        raise Failed(f"The run and the plain script differ by {difference:.2g} logits, more than {ALLOWED:g}.")
    return difference


def sheet(measured: Measured) -> Sheet:
    """The table."""
    import psutil

    note = NOTE.format(
        machine=", ".join(machine().values()), memory=psutil.virtual_memory().total / 2**30, files=measured.files,
        layers=measured.provenance["n_layers"], heads=measured.provenance["n_heads"], parameters=measured.parameters / 1e9,
        condition=CONDITION, pairs=PAIRS, compared=COMPARED, load=os.getloadavg()[2],
        allowed_memory=ALLOWED_MEMORY, allowed=ALLOWED,
    )
    return Sheet(TITLE, note, ("", "found"), measured.rows())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = Path(os.environ.get(MODELS_VARIABLE, ROOT / ".real-models"))
    parser.add_argument("--quick", action="store_true", help="a tiny shape, in seconds: whether the benchmark works")
    parser.add_argument("--words", type=Path, default=place / MODELS[0], help="a folder with a tokenizer; default: smollm2's")
    parser.add_argument("--threads", type=int, default=cores(), help="of every process; default: the cores")
    parser.add_argument("--out", type=Path, help="the document whose section is written; default docs/benchmarks.md")
    parser.add_argument("--raw", type=Path, default=RAW / "large.json", help="the raw numbers")
    asked = parser.parse_args(arguments)
    if not (asked.words / "tokenizer.json").is_file():
        print(f"{asked.words}: no tokenizer.json; `make real-models` fetches {MODELS[0]}, or name another folder by --words.",
              file=sys.stderr)
        raise SystemExit(2)
    console, out = Console(width=150), asked.out or (RAW / "large.md" if asked.quick else DOCUMENT)
    try:
        with tempfile.TemporaryDirectory() as work:
            measured = measure(QUICK if asked.quick else SHAPE, asked.words.resolve(), Path(work), asked.threads)
    except Failed as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    table = sheet(measured)
    table.show(console)
    asked.raw.parent.mkdir(parents=True, exist_ok=True)
    asked.raw.write_text(json.dumps({"machine": machine(), **asdict(measured)}, indent=1) + "\n", encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    before = out.read_text(encoding="utf-8") if out.is_file() else ""
    out.write_text(put(before, table.markdown(), LARGE), encoding="utf-8")
    console.print(f"wrote {out} and {asked.raw}")


if __name__ == "__main__":
    main()
