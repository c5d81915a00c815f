"""How much a forked evaluation may hold at once, and what it will cost: told before it starts.

Peak memory does not grow with the number of interventions or prompts: rows per forward, activations kept of the
unmodified runs, gathered keys and logits are each bounded by a constant of the device type. They are constants, so
that passes are cut alike, and numbers are bit-identical, on all machines of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from tinylab.engine.forests import Layout, Region, Setting
from tinylab.engine.interventions import Prediction, Variant
from tinylab.engine.passes import SITES, Needs, fork_of, mlp_rows
from tinylab.models import CausalModel
from tinylab.prompts import TokenPair

MIB = 2**20
SAFE = 0.9
"""The part of the free memory that a prediction may fill."""
LEAST = 64
"""Rows below which a pass is not made smaller: it would save no memory worth the time."""
HEAP = {"cpu": 2.75}
"""How many times the numbers in use a heap grows to, by device type, as passes of different sizes come and go. On GPT-2-XL's
shape glibc's was measured at 2.6; CUDA's allocator gives back whole blocks, and counts what is in use."""
FIXED = 32 * MIB
"""Index arrays, masks and what the allocator rounds up."""


@dataclass(frozen=True)
class Budget:
    """What one forward pass may hold."""

    states: int  # rows
    store: int  # bytes of activations kept of the unmodified runs
    gather: int  # numbers in the keys of one attention call
    logits: int  # numbers in the logits, reading rows × vocabulary

    @staticmethod
    def of(device: str, max_states: int | None = None) -> Budget:
        """The constants of a device type; `max_states` replaces the rows alone."""
        budget = BUDGETS[device]
        return budget if max_states is None else replace(budget, states=max_states)

    def halved(self) -> Budget:
        """Half of everything."""
        return Budget(*(max(1, getattr(self, name) // 2) for name in ("states", "store", "gather", "logits")))


BUDGETS = {
    "cpu": Budget(2048, 512 * MIB, 2**24, 2**25),
    "mps": Budget(8192, 2048 * MIB, 2**26, 2**27),
    "cuda": Budget(65536, 8192 * MIB, 2**28, 2**29),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide about memory, in numbers per row."""

    layers: int
    n_heads: int
    hidden: int
    heads: int  # all heads' outputs together
    keys: int  # all keys of a row together, as many as its values
    widest: int  # the widest activation in a block
    vocabulary: int
    itemsize: int
    weights: int  # bytes

    @staticmethod
    def of(model: CausalModel) -> Shape:
        """Read a model's sizes off its weights (a model on the meta device will do)."""
        heads = model.head_width * model.n_heads
        per_key = int(getattr(model.config, "num_key_value_heads", None) or model.n_heads)
        unembedding = model.model.get_output_embeddings().weight
        stored = {p.data_ptr() if p.device.type != "meta" else id(p): p.numel() * p.element_size()
                  for p in model.model.parameters()}
        return Shape(
            layers=model.n_layers, n_heads=model.n_heads, hidden=int(model.config.hidden_size), heads=heads,
            keys=heads // model.n_heads * per_key,
            widest=model.widest, vocabulary=int(unembedding.shape[0]), itemsize=unembedding.element_size(),
            weights=sum(stored.values()),
        )

    def kept_per_node(self, needs: Needs) -> int:
        """Bytes that the store holds of one node of the unmodified runs."""
        sites = sum(self.heads if site == "head_out" else self.hidden for site, _ in needs.sites)
        keys = 2 * self.layers * self.keys if needs.keys else 0
        return self.itemsize * (len(needs.entries) * self.hidden + sites + keys)


@dataclass(frozen=True)
class Limits:
    """A budget spelled out for one model and one set of variants."""

    nodes: int  # of a trie
    pairs: int  # of a forest
    rows: int  # of a pass of variants
    reading: int  # rows that leave its last block
    keys: int  # gathered by one attention call

    @staticmethod
    def of(budget: Budget, shape: Shape, needs: Needs) -> Limits:
        """How far a model may go with a budget."""
        return Limits(
            nodes=max(1, min(budget.states, budget.store // max(1, shape.kept_per_node(needs)))),
            pairs=max(1, budget.logits // (2 * shape.vocabulary)),
            rows=budget.states,
            reading=max(1, budget.logits // shape.vocabulary),
            keys=max(1, budget.gather // shape.heads),
        )

    def variants(self, region: Region) -> int:
        """How many variants of a region go into one pass."""
        return max(1, min(self.rows // len(region), self.reading // len(region.read)))


def predict(
    shape: Shape, device: str, pairs: Sequence[TokenPair], variants: Sequence[Variant], budget: Budget
) -> Prediction:
    """What the forked engine will need for some variants on some pairs, without running anything.

    Args:
        shape: the model's sizes.
        device: its type.
        pairs: the prompts.
        variants: the interventions.
        budget: what a pass may hold.
    """
    by_setting: dict[Setting, list[Variant]] = {}
    for variant in variants:
        by_setting.setdefault(Setting.of(variant), []).append(variant)
    layout = Layout(list(dict.fromkeys(pairs)), list(by_setting))
    needs = Needs.of(variants, layout.hanging)
    limits = Limits.of(budget, shape, needs)
    forwards = states = nodes = rows = reading = together = 0
    for examples in layout.groups(limits.nodes, limits.pairs):
        forest = layout.forest(examples)
        forwards, together = forwards + 1, max(together, len(examples))
        states += len(forest.whole) * (shape.layers - 1) + len(forest.whole.read)
        nodes, rows = max(nodes, len(forest.whole)), max(rows, len(forest.whole))
        reading = max(reading, len(forest.whole.read))
        for setting, region in ((setting, region) for setting, region in forest.regions.items() if len(region)):
            chunk = min(limits.variants(region), len(by_setting[setting]))
            forwards += -(-len(by_setting[setting]) // limits.variants(region))
            states += sum(computed_by(variant, region, shape.layers) for variant in by_setting[setting])
            rows, reading = max(rows, chunk * len(region)), max(reading, chunk * len(region.read))
    gathered = min(max(budget.gather, shape.heads), 4 * rows * shape.heads)
    block = _block(shape, rows, mlp_rows(device, shape.widest) or rows)
    passing = (  # their sum: an allocator keeps what a block has freed while logits are made
        shape.itemsize * (block + 4 * gathered) + _logits(shape, reading, together)
    )
    activations = nodes * shape.kept_per_node(needs) + int(HEAP.get(device, 1) * passing) + FIXED
    return Prediction(forwards, states, shape.weights, activations)


def plain_cost(shape: Shape, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> Prediction:
    """What the reference engine will need: a forward pass of the whole prompt for each variant, and all its logits."""
    lengths = {"clean": [len(pair.clean) for pair in pairs], "corrupt": [len(pair.corrupt) for pair in pairs]}
    tokens = {run: sum(found) for run, found in lengths.items()}
    states = shape.layers * (sum(tokens.values()) + sum(tokens[variant.target] for variant in variants))
    longest = max((*lengths["clean"], *lengths["corrupt"]), default=1)
    sources = {(i.site, i.layer) for variant in variants if variant.source is not None for i in variant.interventions}
    kept = 2 * longest * len(sources) * max(shape.hidden, shape.heads) * shape.itemsize
    block = shape.itemsize * (_block(shape, longest, longest) + 2 * longest * longest * shape.n_heads)
    activations = kept + block + _logits(shape, longest, 1) + FIXED
    return Prediction(len(pairs) * (len(variants) + 2), states, shape.weights, activations)


def _block(shape: Shape, rows: int, wide: int) -> int:
    """Numbers that a block holds at once, beside gathered keys."""
    return rows * (8 * shape.hidden + 6 * shape.heads + 4 * shape.keys) + 4 * min(rows, wide) * shape.widest


def _logits(shape: Shape, reading: int, pairs: int) -> int:
    """Bytes of the logits of some reading rows, and of what the metrics make of some pairs at a time."""
    return reading * shape.vocabulary * (shape.itemsize + 4) + 6 * pairs * shape.vocabulary * 4


def computed_by(variant: Variant, region: Region, layers: int) -> int:
    """States that a variant computes: rows of a region through each block from its fork on, in the last the reading rows."""
    layer, at = fork_of(variant)
    start = layer + (SITES[at] == "resid_post")
    return len(region) * max(0, layers - 1 - start) + (len(region.read) if start < layers else 0)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, or on the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
