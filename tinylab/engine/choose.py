"""The load-time self-check: may this model be run by the forked engine?

A family that ignores transformers' attention interface, or a rotary scaling that looks at the length, would make
the forked engine silently wrong. So before a run both engines evaluate a few prompts, and every logit has to agree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from tinylab.engine.forked import ForkedEngine
from tinylab.engine.interventions import Engine, Intervention, Operation, Patch, Positions, Scale, Site, Variant
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import EngineUnsupported
from tinylab.metrics import Reference, Scorer
from tinylab.models import CausalModel
from tinylab.prompts import TokenPair
from tinylab.schema import EngineConfig

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest accepted difference of a logit, as a fraction of the largest logit (at least 1)."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The engine of a run, and what the self-check found."""

    engine: Engine
    max_difference: float | None
    reason: str | None


class AllLogits(Scorer):
    """A scorer whose numbers are the logits themselves."""

    def score(self, logits: torch.Tensor, ref: Reference) -> torch.Tensor:
        """Every logit, [B, W] in float64 on the CPU."""
        del ref
        return logits.double().cpu()


def choose_engine(model: CausalModel, config: EngineConfig, pairs: Sequence[TokenPair]) -> Choice:
    """The engine that the config asks for.

    Args:
        model: the loaded model.
        config: `auto` falls back to the reference engine with a warning, `forked` does not.
        pairs: the run's prompts; the self-check uses the longest and the shortest.

    Raises:
        EngineUnsupported: `forked` was asked for and the self-check failed.
    """
    if config.name == "reference":
        return Choice(ReferenceEngine(model), None, None)
    try:
        difference = self_check(model, pairs, config.max_states)
    except EngineUnsupported as error:
        if config.name == "forked":
            raise EngineUnsupported(f"engine=forked cannot be used: {error} Use engine=auto or engine=reference.") from error
        log.warning("%s Using the reference engine: the same numbers, one forward pass per intervention and prompt.", error)
        return Choice(ReferenceEngine(model), None, str(error))
    return Choice(ForkedEngine(model, config.max_states), difference, None)


def self_check(model: CausalModel, pairs: Sequence[TokenPair], max_states: int | None = None) -> float:
    """The largest difference of any logit between the two engines.

    Raises:
        EngineUnsupported: it is beyond the dtype's tolerance, or the forked engine cannot run at all.
    """
    prompts, variants = check_prompts(pairs), check_variants(model)
    every = AllLogits(tuple(str(word) for word in range(model.model.get_output_embeddings().weight.shape[0])))
    forked = ForkedEngine(model, max_states).evaluate(prompts, variants, every)
    plain = ReferenceEngine(model).evaluate(prompts, variants, every)
    found, expected = (np.concatenate([e.baselines["clean"], e.baselines["corrupt"], *e.values]) for e in (forked, plain))
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCES[model.dtype] * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise EngineUnsupported(f"On {model.identity.name} the forked engine's logits differ from the reference engine's by "
                                f"{difference:.2g}, more than {allowed:.2g}.")
    return difference


def check_prompts(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The longest pair, a prefix of it, the shortest pair, and the longest again; both prompts of equal length."""
    longest = max(pairs, key=lambda pair: min(len(pair.clean), len(pair.corrupt)))
    shortest = min(pairs, key=lambda pair: min(len(pair.clean), len(pair.corrupt)))
    full = min(len(longest.clean), len(longest.corrupt))
    return [
        _cut(longest, full),
        _cut(longest, (full + 1) // 2),
        _cut(shortest, min(len(shortest.clean), len(shortest.corrupt))),
        _cut(longest, full),
    ]


def _cut(pair: TokenPair, length: int) -> TokenPair:
    return TokenPair(pair.clean[:length], pair.corrupt[:length], pair.target, pair.foil)


def check_variants(model: CausalModel) -> list[Variant]:
    """Each site at the last and at all positions, in one layer of each distinct type and in the last."""
    types = getattr(model.config, "layer_types", None) or [""] * model.n_layers
    kinds = {(types[layer], type(model.mlp(layer))): layer for layer in reversed(range(model.n_layers))}
    sites: tuple[Site, ...] = ("head_out", "mlp_out", "resid_post")
    everywhere: tuple[Positions, ...] = ("last", "all")
    operations: tuple[tuple[Operation, Literal["clean"] | None], ...] = ((Scale(0.5), None), (Patch(), "clean"))
    return [
        Variant(
            (Intervention(site, layer, operation, model.n_heads - 1 if site == "head_out" else None),),
            "corrupt",
            source,
            positions,
        )
        for layer in sorted({*kinds.values(), model.n_layers - 1})
        for site in sites
        for positions in everywhere
        for operation, source in operations
    ]
