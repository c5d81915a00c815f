"""The sizes of a model that decide about memory, and what plain forward passes cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinylab.engine.base import Prediction
from tinylab.engine.donors import Place, counted, needs, runs
from tinylab.interventions.sites import POINTS, Module, Side
from tinylab.interventions.sources import RUNS, Donor, Reference
from tinylab.interventions.variants import Variant
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

MIB = 2**20

FIXED = 32 * MIB
"""Index arrays, masks and what the allocator rounds up."""


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
    all_rows: bool  # get logits, whichever are asked for

    @staticmethod
    def of(model: CausalModel) -> Shape:
        """Read a model's sizes off its weights (a model on the meta device will do)."""
        heads = model.head_width * model.n_heads
        unembedding = model.model.get_output_embeddings().weight
        tied = getattr(model.model, "all_tied_weights_keys", {})  # accelerate takes them apart
        stored = {p.data_ptr() if p.device.type != "meta" else id(p): p.numel() * p.element_size()
                  for name, p in model.model.named_parameters() if p.device.type != "meta" or name not in tied}
        return Shape(
            layers=model.n_layers, n_heads=model.n_heads, hidden=int(model.config.hidden_size), heads=heads,
            keys=heads // model.n_heads * model.n_kv_heads,
            widest=model.widest, vocabulary=int(unembedding.shape[0]), itemsize=unembedding.element_size(),
            weights=sum(stored.values()), all_rows=not model.last_logits(1),
        )

    @property
    def widths(self) -> dict[tuple[Module, Side], int]:
        """Numbers of a row at each canonical point; what goes into an MLP is its hidden states, or as wide as it gets (OPT)."""
        others: dict[tuple[Module, Side], int] = {
            ("attention", "query"): self.heads, ("attention", "key"): self.keys, ("attention", "value"): self.keys,
            ("projection", "in"): self.heads, ("mlp", "in"): self.widest, ("down", "in"): self.widest,
        }
        return {point: others.get(point, self.hidden) for point in POINTS}


def plain_cost(shape: Shape, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> Prediction:
    """What the reference engine will need: a forward pass of the whole prompt for each variant, and its last row's logits.

    Of whole answers, one for each of their stems behind the prompt, and the logits from the prompt's last row on.
    """
    lengths = {run: [len(pair.prompt(run).tokens) + len(stem) for pair in pairs for stem in pair.stems] for run in RUNS}
    tokens = {run: sum(found) for run, found in lengths.items()}
    reading = max((1 + len(stem) for pair in pairs for stem in pair.stems), default=1)
    runs_of = max((len(pair.stems) for pair in pairs), default=1)
    states = shape.layers * (sum(tokens.values()) + sum(tokens[variant.target] for variant in variants))
    donors = [source for source in runs(variants) if isinstance(source, Donor)]
    longest = max((*lengths["clean"], *lengths["corrupt"]), default=1)
    sources = {(i.site, i.layer) for variant in variants for i in variant.interventions if i.operation.needs_source}
    kept = runs_of * (2 + len(donors)) * longest * shape.itemsize * sum(
        max(shape.hidden, shape.heads, shape.widths[site.module, site.side]) for site, _ in sources)
    block = shape.itemsize * (block_numbers(shape, longest, longest) + 2 * longest * longest * shape.n_heads)
    rows = max((sum(1 + len(stem) for stem in pair.stems) for pair in pairs), default=1)
    activations = kept + block + logits_bytes(shape, longest if shape.all_rows else reading, rows) + FIXED
    forwards = len(lengths["clean"]) * (len(variants) + 2 + len(donors))
    states += shape.layers * sum(len(pair.prompt(donor).tokens) + len(stem)
                                 for donor in donors for pair in pairs for stem in pair.stems)
    for reference, (places, by_position) in needs(variants).items():
        prompts = counted(reference)
        forwards, states = forwards + len(prompts), states + shape.layers * sum(map(len, prompts))
        activations += table_bytes(shape, reference, places, by_position)
    return Prediction(forwards, states, shape.weights, activations)


def table_bytes(shape: Shape, reference: Reference, places: frozenset[Place], by_position: bool) -> int:
    """Bytes of the sums over a reference set, in float64."""
    numbers = sum(shape.widths[site.module, site.side] for site, _ in places)
    return 8 * reference.count * (reference.longest if by_position else 1) * numbers


def block_numbers(shape: Shape, rows: int, wide: int) -> int:
    """Numbers that a block holds at once, beside gathered keys."""
    return rows * (8 * shape.hidden + 6 * shape.heads + 4 * shape.keys) + 4 * min(rows, wide) * shape.widest


def logits_bytes(shape: Shape, reading: int, pairs: int) -> int:
    """Bytes of the logits of some reading rows, and of what the metrics make of some pairs at a time."""
    return reading * shape.vocabulary * (shape.itemsize + 4) + 6 * pairs * shape.vocabulary * 4
