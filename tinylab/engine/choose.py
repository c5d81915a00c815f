"""The load-time self-check: may this model be run by the forked engine?

A family that ignores transformers' attention interface, or a rotary scaling that looks at the length, would make
the forked engine silently wrong. So before a run both engines evaluate a few prompts, and every logit has to agree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.trial import check_sites
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Operation, Patch, Scale
from tinylab.interventions.sites import SITES
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures.metrics import Scorer
from tinylab.measures.readings import CleanRun
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

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

    def score(self, logits: torch.Tensor, clean_run: CleanRun) -> torch.Tensor:
        """Every logit, [B, W] in float64 on the CPU."""
        del clean_run
        return logits.double().cpu()


def choose_engine(
    model: CausalModel, config: EngineConfig, pairs: Sequence[TokenPair], variants: Sequence[Variant] = ()
) -> Choice:
    """The engine that the config asks for.

    Args:
        model: the loaded model.
        config: `auto` falls back to the reference engine with a warning, `forked` does not.
        pairs: the run's prompts; the self-check uses the longest and the shortest.
        variants: the run's; their sites and kinds of operation are checked beside the shipped ones.

    Raises:
        ModelError: a site of the variants is not in this model what it is taken to be (see `tinylab.engine.trial`).
        EngineUnsupported: `forked` was asked for and the self-check failed.
    """
    check_sites(model, pairs, variants)
    if config.name == "reference":
        return Choice(ReferenceEngine(model), None, None)
    try:
        difference = self_check(model, pairs, variants)
    except EngineUnsupported as error:
        if config.name == "forked":
            raise EngineUnsupported(f"engine=forked cannot be used: {error} Use engine=auto or engine=reference.") from error
        log.warning("%s Using the reference engine: the same numbers, one forward pass per intervention and prompt.", error)
        return Choice(ReferenceEngine(model), None, str(error))
    return Choice(ForkedEngine(model, config.max_states), difference, None)


def self_check(model: CausalModel, pairs: Sequence[TokenPair], variants: Sequence[Variant] = ()) -> float:
    """The largest difference of any logit between the two engines.

    Raises:
        EngineUnsupported: it is beyond the dtype's tolerance, or the forked engine cannot run at all.
    """
    _check_rotary(model, pairs)
    every = AllLogits(tuple(str(word) for word in range(model.model.get_output_embeddings().weight.shape[0])))
    prompts, checked = check_prompts(pairs), check_variants(model, variants)
    together = 16 * sum(len(pair.clean) + len(pair.corrupt) for pair in prompts)  # one trie for all of them
    try:
        both = [
            ForkedEngine(model, together).evaluate(prompts, checked, every),
            ReferenceEngine(model).evaluate(prompts[:-1], checked, every),  # the last is the first once more
        ]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise EngineUnsupported(f"The forked engine cannot run {type(model.model).__name__} ({what}).") from error
    found, expected = (np.stack([*e.baselines.values(), *e.values]) for e in both)
    expected = np.concatenate([expected, expected[:, :1]], axis=1)
    with np.errstate(invalid="ignore"):  # of logits that overflow: the difference is no number, and nothing is allowed
        difference = float(np.abs(found - expected).max())
    allowed = TOLERANCES[model.dtype] * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise EngineUnsupported(f"On {model.identity.name} the forked engine's logits differ from the reference engine's by "
                                f"{difference:.2g}, more than {allowed:.2g}.")
    return difference


def _check_rotary(model: CausalModel, pairs: Sequence[TokenPair]) -> None:
    """Refuse rotary embeddings whose frequencies depend on the longest prompt in sight, where the prompts pass their limit.

    One forward over a trie would pick one set of frequencies for all its prompts.
    """
    parameters = getattr(model.config, "rope_parameters", None) or {}
    layers = [entry for entry in parameters.values() if isinstance(entry, dict)] or [parameters]
    for rope in layers:
        kind = rope.get("rope_type", "default")
        limit = rope.get("original_max_position_embeddings") or model.context
        longest = max(len(prompt) for pair in pairs for prompt in (pair.clean, pair.corrupt))
        if kind in ("dynamic", "longrope") and limit is not None and longest > limit:
            raise EngineUnsupported(f"The rotary embedding of {model.identity.name} ({kind}) changes beyond {limit} tokens, and "
                                    f"the longest prompt has {longest}.")


def check_prompts(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The longest prompt, its first half, the shortest, and the longest again, each with a partner of its own length."""
    prompts = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupt)]
    longest, shortest = max(prompts, key=len), min(prompts, key=len)
    half = (len(longest) + 1) // 2
    whole = _with_partner(longest)
    part = TokenPair(whole.clean[:half], whole.corrupt[:half], whole.target, whole.foil)
    return [whole, part, _with_partner(shortest), whole]


def _with_partner(prompt: tuple[int, ...]) -> TokenPair:
    """A prompt and the same tokens in another order, the first kept: positions align whatever the corpus."""
    return TokenPair(prompt, (*prompt[:1], *reversed(prompt[1:])), prompt[0], prompt[-1])


def check_variants(model: CausalModel, variants: Sequence[Variant] = ()) -> list[Variant]:
    """Each site at the last and at all positions, in one layer of each distinct type and in the last.

    Args:
        model: the model.
        variants: whose sites and kinds of operation are checked beside the shipped ones.
    """
    types = getattr(model.config, "layer_types", None) or [""] * model.n_layers
    kinds = {(types[layer], type(model.mlp(layer))): layer for layer in reversed(range(model.n_layers))}
    own = [intervention for variant in variants for intervention in variant.interventions]
    sites = dict.fromkeys([*SITES.values(), *(intervention.site for intervention in own)])
    operations: dict[type[Operation], Operation] = {Scale: Scale(0.5), Patch: Patch()}
    for intervention in own:
        if not intervention.operation.needs_bias:
            operations.setdefault(type(intervention.operation), intervention.operation)
    everywhere: tuple[Positions, ...] = ("last", "all")
    return [
        Variant(
            (Intervention(site, layer, operation, model.n_heads - 1 if site.units == "heads" else None),),
            "corrupt",
            Own("clean") if operation.needs_source else None,
            positions,
        )
        for layer in sorted({*kinds.values(), model.n_layers - 1})
        for site in sites
        for positions in everywhere
        for operation in operations.values()
    ]
