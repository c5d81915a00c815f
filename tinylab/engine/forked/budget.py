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

from tinylab.engine.base import Prediction
from tinylab.engine.cost import FIXED, MIB, Shape, block_numbers, logits_bytes, table_bytes
from tinylab.engine.donors import needs
from tinylab.engine.forked.batches import AffectedStates, Layout, taking_late
from tinylab.engine.forked.cache import CachePlan
from tinylab.engine.forked.layouts import mlp_rows
from tinylab.engine.forked.means import parts, read
from tinylab.engine.forked.trunks import Families, largest
from tinylab.interventions.sites import RESID_POST
from tinylab.interventions.variants import Variant
from tinylab.task.tokens import TokenPair

SAFE = 0.9
"""The part of the free memory that a prediction may fill."""
LEAST = 64
"""Rows below which a pass is not made smaller: it would save no memory worth the time."""
HEAP = {"cpu": 2.75}
"""How many times the numbers in use a heap grows to, by device type, as passes of different sizes come and go. On GPT-2-XL's
shape glibc's was measured at 2.6; CUDA's allocator gives back whole blocks, and counts what is in use."""


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
class Limits:
    """A budget spelled out for one model and one set of variants."""

    nodes: int  # of a prefix tree
    pairs: int  # of a batch: rows that are read of their clean prompts, one for each or more
    rows: int  # of a pass of variants
    reading: int  # rows that leave its last block
    keys: int  # gathered by one attention call
    prompts: int  # nodes of a tree of reference prompts

    @staticmethod
    def of(budget: Budget, shape: Shape, cache_plan: CachePlan, trunks: CachePlan | None = None) -> Limits:
        """How far a model may go with a budget, where the unmodified runs, and a variant that others go on from, keep this."""
        reading = max(1, budget.logits // shape.vocabulary)
        return Limits(
            nodes=max(1, min(budget.states, budget.store // max(1, kept_per_node(shape, cache_plan, trunks)))),
            pairs=max(1, budget.logits // (2 * shape.vocabulary)),
            rows=budget.states,
            reading=reading,
            prompts=min(budget.states, reading) if shape.all_rows else budget.states,
            keys=max(1, budget.gather // shape.heads),
        )

    def variants(self, affected: AffectedStates) -> int:
        """How many variants of some affected states go into one pass."""
        return max(1, min(self.rows // len(affected), self.reading // len(affected.read)))


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
    families = Families.of(variants)
    layout = Layout(list(dict.fromkeys(pairs)), list(families.by_setting), taking_late(variants, shape.layers))
    cache_plan = CachePlan.of(variants, layout.has_cached_prefix)
    limits = Limits.of(budget, shape, cache_plan, families.cache_plan)
    forwards = states = nodes = rows = reading = together = 0
    for examples in layout.groups(limits.nodes, limits.pairs):
        batch = layout.batch(examples)
        forwards, together = forwards + 1, max(together, len(batch.whole.ends) // 2)
        states += len(batch.whole) * (shape.layers - 1) + len(batch.whole.read)
        nodes, rows = max(nodes, len(batch.whole)), max(rows, len(batch.whole))
        reading = max(reading, len(batch.whole.read))
        for setting, affected in ((setting, affected) for setting, affected in batch.affected.items() if len(affected)):
            together_at_most, own = limits.variants(affected), families.by_setting[setting]
            chunk = min(together_at_most, largest(own))
            forwards += sum(-(-len(family.members) // together_at_most) + (family.trunk is not None) for family in own)
            states += sum(computed_by(families.remaining[v], affected, shape.layers) for family in own for v in family.places)
            rows, reading = max(rows, chunk * len(affected)), max(reading, chunk * len(affected.read))
    gathered = min(max(budget.gather, shape.heads), 4 * rows * shape.heads)
    block = block_numbers(shape, rows, mlp_rows(device, shape.widest) or rows)
    passing = (  # their sum: an allocator keeps what a block has freed while logits are made
        shape.itemsize * (block + 4 * gathered) + logits_bytes(shape, reading, together)
    )
    activations = nodes * kept_per_node(shape, cache_plan, families.cache_plan) + int(HEAP.get(device, 1) * passing) + FIXED
    for reference, (places, by_position) in needs(variants).items():
        for tree, _ in parts(reference, limits.prompts):
            forwards += 1
            states += len(tree) * (shape.layers - 1) + len(read(tree, places, shape.layers).read)
        activations += table_bytes(shape, reference, places, by_position)
    return Prediction(forwards, states, shape.weights, activations)


def computed_by(variant: Variant, affected: AffectedStates, layers: int) -> int:
    """States that a variant computes: affected rows through each block from its fork on, in the last the reading rows."""
    layer, order = variant.fork
    start = layer + (order == RESID_POST.order)
    return len(affected) * max(0, layers - 1 - start) + (len(affected.read) if start < layers else 0)


def cached_per_node(shape: Shape, cache_plan: CachePlan) -> int:
    """Bytes that the cache holds of one node of the unmodified runs."""
    sites = sum(shape.widths[site.module, site.side] for site, _ in cache_plan.sites)
    keys = 2 * shape.layers * shape.keys if cache_plan.keys else 0
    return shape.itemsize * (len(cache_plan.entries) * shape.hidden + sites + keys)


def kept_per_node(shape: Shape, cache_plan: CachePlan, trunks: CachePlan | None) -> int:
    """Bytes that caches hold of one node: the unmodified runs' and, where variants go on from another, that one's."""
    return cached_per_node(shape, cache_plan) + (0 if trunks is None else cached_per_node(shape, trunks))


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
