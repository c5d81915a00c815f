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
from tinylab.engine.interventions import Variant
from tinylab.engine.passes import MLP_ROWS, SITES, Needs, fork_of
from tinylab.models import CausalModel
from tinylab.prompts import TokenPair

MIB = 2**20
SAFE = 0.9
"""The part of the free memory that a prediction may fill."""


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
        widest = max(max(p.shape[-2:]) for p in model.blocks[0].parameters() if p.dim() > 1)
        stored = {p.data_ptr() if p.device.type != "meta" else id(p): p.numel() * p.element_size()
                  for p in model.model.parameters()}
        return Shape(
            layers=model.n_layers, hidden=int(model.config.hidden_size), heads=heads, keys=heads // model.n_heads * per_key,
            widest=int(widest), vocabulary=int(unembedding.shape[0]), itemsize=unembedding.element_size(),
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


@dataclass(frozen=True)
class Prediction:
    """What an evaluation will cost."""

    forwards: int
    states: int
    weights: int  # bytes
    activations: int  # bytes at most, beside the weights

    def sentence(self) -> str:
        """For people."""
        return (f"{self.forwards:,} forward passes, {self.states:,} states, at most {readable(self.activations)} beside "
                f"{readable(self.weights)} of weights")


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / MIB:.0f} MiB"


def predict(
    shape: Shape, device: str, pairs: Sequence[TokenPair], by_setting: dict[Setting, list[Variant]], budget: Budget
) -> Prediction:
    """What the forked engine will need for some variants on some pairs, without running anything."""
    variants = [variant for members in by_setting.values() for variant in members]
    layout = Layout(list(dict.fromkeys(pairs)), list(by_setting))
    needs = Needs.of(variants, layout.hanging)
    limits = Limits.of(budget, shape, needs)
    forwards = states = nodes = rows = reading = 0
    for examples in layout.groups(limits.nodes, limits.pairs):
        forest = layout.forest(examples)
        forwards += 1
        states += len(forest.whole) * (shape.layers - 1) + len(forest.whole.read)
        nodes, rows = max(nodes, len(forest.whole)), max(rows, len(forest.whole))
        reading = max(reading, len(forest.whole.read))
        for setting, region in forest.regions.items():
            together = min(limits.variants(region), len(by_setting[setting]))
            forwards += -(-len(by_setting[setting]) // limits.variants(region))
            states += sum(computed_by(variant, region, shape.layers) for variant in by_setting[setting])
            rows, reading = max(rows, together * len(region)), max(reading, together * len(region.read))
    wide = min(rows, MLP_ROWS.get(device, rows))
    gathered = min(max(budget.gather, shape.heads), 4 * rows * shape.heads)
    scored_pairs = min(limits.pairs, max(1, len(pairs)))
    block = rows * (8 * shape.hidden + 6 * shape.heads + 4 * shape.keys) + 5 * wide * shape.widest + 4 * gathered
    scored = reading * shape.vocabulary * (shape.itemsize + 4) + 6 * scored_pairs * shape.vocabulary * 4
    store = nodes * shape.kept_per_node(needs)
    return Prediction(forwards, states, shape.weights, store + max(block * shape.itemsize, scored) + 32 * MIB)


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
