"""Both engines on the same work: the cells of H1 and H2 in small random families, and how far two results lie apart."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from families import ALIGNED, HEADS, LAYERS, VOCABULARY, WIDTH, answered, family, plain_logits
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Cell
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.base import Engine, Evaluation
from tinylab.engine.choose import AllLogits
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions.variants import Variant
from tinylab.measures.metrics import Scorer, available
from tinylab.models.network import CausalModel

SCORER = Scorer(tuple(available(source=False)))
LOGITS = AllLogits(tuple(str(word) for word in range(VOCABULARY)))
GRANULARITIES = ("layer_resid", "mlp_out", "head_out")
DIRECTIONS = ("clean->corrupt", "corrupt->clean")
POSITIONS: tuple[Any, ...] = ("last", "all", [0, 2])
DTYPES = (torch.float32, torch.float64)
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Two orders of matmul, over a few layers and logits of order 1: about 1e-6 and 1e-15 are measured.

RMSNorm computes in float32 whatever the model's dtype. A float64 difference of 1e-16 could tip one of its roundings
(6e-8) about once in a thousand million numbers, which has not been seen.
"""
PAIRS = {torch.float32: (*ALIGNED[:2], ALIGNED[3], *ALIGNED[6:10]), torch.float64: (ALIGNED[2], ALIGNED[3], ALIGNED[7])}


def h1_cells() -> list[Cell]:
    return HeadsZero(name="h1", scales=[0.0, 0.5]).cells(LAYERS, HEADS)


def h2_cells() -> list[Cell]:
    return [
        cell
        for granularity in GRANULARITIES
        for direction in DIRECTIONS
        for positions in POSITIONS
        if (granularity, positions) != ("layer_resid", "all")
        for cell in ActivationPatch(
            name="h2", granularity=granularity, patch_direction=direction, positions=positions, sham_control=True
        ).cells(LAYERS, HEADS)
    ]


CELLS = [*h1_cells(), *h2_cells()]


def variants_of(cells: list[Cell]) -> list[Variant]:
    return [cell.variant for cell in cells]


@dataclass(frozen=True)
class Both:
    """The same work by both engines."""

    forked: Evaluation
    plain: Evaluation


@cache
def everything(name: str, dtype: torch.dtype) -> Both:
    """All cells of H1 and H2; in float64 on fewer pairs, to save time."""
    model = family(name, dtype)
    pairs = answered(model, PAIRS[dtype])
    engines: tuple[Engine, Engine] = (ForkedEngine(model), ReferenceEngine(model))
    return Both(*(engine.evaluate(pairs, variants_of(CELLS), SCORER) for engine in engines))


def gap(found: Evaluation, expected: Evaluation) -> float:
    parts = [(found.values, expected.values), *((found.baselines[r], expected.baselines[r]) for r in ("clean", "corrupt"))]
    return max(float(np.abs(a - b).max()) for a, b in parts)


def logits_gap(found: np.ndarray, model: CausalModel, prompts: list[tuple[int, ...]]) -> float:
    """Largest difference of [B, W] from plain transformers on each prompt."""
    return float(np.abs(found - np.stack([plain_logits(model, prompt).double().numpy() for prompt in prompts])).max())


def without_head(model: CausalModel, layer: int, head: int, factor: float) -> CausalModel:
    """A copy whose output projection has a head's input weights times `factor`: arithmetic on weights, no hook."""
    other = copy.deepcopy(model.model)
    changed = CausalModel(other, None, model.identity, False)
    projection: Any = changed.projection(layer)
    width = model.projection(layer).weight.numel() // WIDTH // HEADS
    mine = slice(head * width, (head + 1) * width)
    if type(projection).__name__ == "Conv1D":  # GPT-2 keeps [in, out]
        projection.weight[mine] *= factor
    else:
        projection.weight[:, mine] *= factor
    return changed
