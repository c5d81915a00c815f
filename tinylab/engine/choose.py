"""The load-time self-check: may this model be run by the forked engine?

A family that ignores transformers' attention interface, or a rotary scaling that looks at the length, would make
the forked engine silently wrong. So before a run both engines evaluate a few prompts, and every logit has to agree.

What is tried is chosen, not multiplied out: the reference engine makes a forward pass for each variant, which on a real model
costs more than the run. Prompts of all lengths are read as they are, in one trie; one is acted on, and any two of a layer, a
site, an operation and positions stand together in one intervention. A long prompt is acted on twice, and its begin in all ways.
A verdict is kept (`tinylab.engine.verdicts`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import torch

from tinylab.arrays import FloatArray
from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.trial import check_sites
from tinylab.engine.verdicts import forget_difference, keep_difference, kept_difference, verdict_key
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Operation, Patch, Scale
from tinylab.interventions.sites import COMMON, Site
from tinylab.interventions.sources import RUNS, Own
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures.metrics import Scorer
from tinylab.measures.readings import CleanRun
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest accepted difference of a logit, as a fraction of the largest logit (at least 1)."""
CLEARLY = 0.2
"""Part of the accepted difference up to which a verdict is kept for other prompts too."""
LONG = 64
"""Tokens of a prompt beyond which few interventions are tried on the whole of it."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The engine of a run, and what the self-check found."""

    engine: Engine
    max_difference: float | None
    reason: str | None
    cached: bool = False  # what it found lay in the user's cache

    @property
    def verdict(self) -> dict[str, Any] | None:
        """The self-check for the manifest; None where none was needed."""
        if self.max_difference is None and self.reason is None:
            return None
        return {"verdict": "pass" if self.reason is None else "fail", "cached": self.cached}


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
        config: `auto` falls back to the reference engine with a warning, `forked` does not; whether a kept verdict will do.
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
        difference, cached = _difference(model, config, pairs, variants)
    except EngineUnsupported as error:
        if config.name == "forked":
            raise EngineUnsupported(f"engine=forked cannot be used: {error} Use engine=auto or engine=reference.") from error
        log.warning("%s Using the reference engine: the same numbers, one forward pass per intervention and prompt.", error)
        return Choice(ReferenceEngine(model), None, str(error))
    return Choice(ForkedEngine(model, config.max_states), difference, None, cached)


def _difference(
    model: CausalModel, config: EngineConfig, pairs: Sequence[TokenPair], variants: Sequence[Variant]
) -> tuple[float, bool]:
    """What the self-check finds, or found when it passed before, and whether it is the latter.

    Raises:
        EngineUnsupported: see `self_check`.
    """
    _check_rotary(model, pairs)
    key = verdict_key(model, pairs, check_variants(model, variants))
    if config.self_check == "cached" and (kept := kept_difference(key)) is not None:
        log.info("self-check: passed before on this model and lengths like these (engine.self_check=always checks again)")
        return kept, True
    log.info("self-check: comparing the forked engine with the plain one")
    try:
        difference, allowed = _compared(model, pairs, variants)
    except EngineUnsupported:
        forget_difference(key)
        raise
    if difference <= CLEARLY * allowed:
        keep_difference(key, difference)
    return difference, False


def self_check(model: CausalModel, pairs: Sequence[TokenPair], variants: Sequence[Variant] = ()) -> float:
    """The largest difference of any logit between the two engines.

    Raises:
        EngineUnsupported: it is beyond the dtype's tolerance, or the forked engine cannot run at all.
    """
    return _compared(model, pairs, variants)[0]


def _compared(model: CausalModel, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> tuple[float, float]:
    """The largest difference of any logit between the two engines, and the largest that would be accepted."""
    _check_rotary(model, pairs)
    every = AllLogits(tuple(str(word) for word in range(model.model.get_output_embeddings().weight.shape[0])))
    prompts, checked = check_prompts(pairs), check_variants(model, variants)
    try:
        found, expected = _both(model, prompts, checked, every)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise EngineUnsupported(f"The forked engine cannot run {type(model.model).__name__} ({what}).") from error
    with np.errstate(invalid="ignore"):  # of logits that overflow: the difference is no number, and nothing is allowed
        difference = float(np.abs(found - expected).max())
    allowed = TOLERANCES[model.dtype] * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise EngineUnsupported(f"On {model.identity.name} the forked engine's logits differ from the reference engine's by "
                                f"{difference:.2g}, more than {allowed:.2g}.")
    return difference, allowed


def _both(
    model: CausalModel, prompts: Sequence[TokenPair], checked: Sequence[Variant], every: AllLogits
) -> tuple[FloatArray, FloatArray]:
    """All prompts as they are, and the first (or its begin) acted on: the forked engine's logits and the reference's, [R, W]."""
    together = 16 * sum(len(pair.clean) + len(pair.corrupt) for pair in prompts)  # one trie for all of them
    forked, plain = ForkedEngine(model, together), ReferenceEngine(model)
    acts = _acts(prompts[0], checked)
    acted = [(forked.evaluate([pair, _beside(pair)], variants, every), plain.evaluate([pair], variants, every))
             for pair, variants in acts]
    unmodified = forked.evaluate(prompts, [], every)
    known = {pair: {run: one.baselines[run][0] for run in RUNS} for (pair, _), (_, one) in zip(acts, acted, strict=True)}
    others = [pair for pair in dict.fromkeys(prompts) if pair not in known]
    read = plain.evaluate(others, [], every)
    known |= {pair: {run: read.baselines[run][place] for run in RUNS} for place, pair in enumerate(others)}
    found = [rows for one, _ in acted for rows in one.values[:, 0]]
    expected = [rows for _, one in acted for rows in one.values[:, 0]]
    for run in RUNS:
        found += [*unmodified.baselines[run]]
        expected += [known[pair][run] for pair in prompts]
    return np.stack(found), np.stack(expected)


def _beside(pair: TokenPair) -> TokenPair:
    """A pair whose corrupt prompt begins as this one's, patched from the begin of another clean prompt: not the same states."""
    half = (len(pair.clean) + 1) // 2
    return TokenPair(pair.corrupt[:half], pair.corrupt[:half], pair.target, pair.foil)


def _acts(whole: TokenPair, checked: Sequence[Variant]) -> list[tuple[TokenPair, Sequence[Variant]]]:
    """What is done to which prompts: of a long one, everything to its begin, and to the whole of it little."""
    if len(whole.clean) <= LONG:
        return [(whole, checked)]
    begin = TokenPair(whole.clean[:LONG], whole.corrupt[:LONG], whole.target, whole.foil)
    few = list({variant.positions: variant for variant in reversed(checked)}.values())
    return [(whole, few), (begin, checked)]


def _check_rotary(model: CausalModel, pairs: Sequence[TokenPair]) -> None:
    """Refuse rotary embeddings whose frequencies depend on the longest prompt in sight, where the prompts pass their limit.

    One forward over a trie would pick one set of frequencies for all its prompts.
    """
    parameters = getattr(model.config, "rope_parameters", None) or {}
    layers = [entry for entry in parameters.values() if isinstance(entry, dict)] or [parameters]
    for rope in layers:
        kind = rope.get("rope_type", "default")
        limit = rope.get("original_max_position_embeddings") or model.context
        longest = max(len(sequence) for pair in pairs for sequence in pair.sequences)
        if kind in ("dynamic", "longrope") and limit is not None and longest > limit:
            raise EngineUnsupported(f"The rotary embedding of {model.identity.name} ({kind}) changes beyond {limit} tokens, and "
                                    f"the longest prompt has {longest}.")


def check_prompts(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The longest prompt with a partner of its own length; its first half beside the shortest; and the former again."""
    prompts = [sequence for pair in pairs for sequence in pair.sequences]  # with what is read of answers behind them
    longest, shortest = max(prompts, key=len), min(prompts, key=len)
    whole = _with_partner(longest)
    return [whole, TokenPair(longest[: (len(longest) + 1) // 2], shortest, whole.target, whole.foil), whole]


def _with_partner(prompt: tuple[int, ...]) -> TokenPair:
    """A prompt and the same tokens in another order, the first kept: positions align whatever the corpus."""
    return TokenPair(prompt, (*prompt[:1], *reversed(prompt[1:])), prompt[0], prompt[-1])


def check_variants(model: CausalModel, variants: Sequence[Variant] = ()) -> list[Variant]:
    """Interventions at the last and at all positions, in the first layer, the last, and one of each other type.

    Any two of layer, site, operation and positions stand together in at least one of them; in float64, where rounding inside a
    model shows here and there only, they are all with all. Two begin in one pass, at the first
    layer and all positions: neither may see the other.

    Args:
        model: the model.
        variants: whose sites and kinds of operation are checked beside the shipped ones.
    """
    types = getattr(model.config, "layer_types", None) or [""] * model.n_layers
    kinds = {(types[layer], type(model.mlp(layer))): layer for layer in [*range(model.n_layers), 0]}  # the first stays
    own = [intervention for variant in variants for intervention in variant.interventions]
    sites = dict.fromkeys([*COMMON, *(intervention.site for intervention in own)])
    operations: dict[type[Operation], Operation] = {Scale: Scale(0.5), Patch: Patch()}
    for intervention in own:
        if not intervention.operation.needs_bias:
            operations.setdefault(type(intervention.operation), intervention.operation)
    everywhere: tuple[Positions, ...] = ("last", "all")
    choices = [sorted({0, model.n_layers - 1, *kinds.values()}), list(sites), list(operations.values()), everywhere]
    beside = [(0, site, operations[Scale], "all") for site in choices[1][:2]]
    found = [
        Variant((_last_unit(model, site, _at(site, layer, own), operation),), "corrupt",
                Own("clean") if operation.needs_source else None, positions)
        for layer, site, operation, positions in (
            product(*choices) if model.dtype == torch.float64 else each_two(choices, beside)  # which nobody takes to be quick
        )
    ]
    return list(dict.fromkeys(found))


def _at(site: Site, layer: int, own: Sequence[Intervention]) -> int:
    """The layer to try a site in: this one, or of those that the run acts in the nearest, where not every model has the site."""
    if site in COMMON:
        return layer
    return min((i.layer for i in own if i.site == site), key=lambda at: (abs(at - layer), at))


def _last_unit(model: CausalModel, site: Site, layer: int, operation: Operation) -> Intervention:
    """An intervention at the last head of a site, or at the whole of one that is not cut into heads."""
    return Intervention(site, layer, operation, model.sizes.heads(site) - 1 if site.units.endswith("heads") else None)


def each_two(choices: Sequence[Sequence[Any]], begin: Sequence[tuple[Any, ...]] = ()) -> list[tuple[Any, ...]]:
    """Few combinations, one of each choice, such that any options of two choices stand together in one of them.

    Greedy: the combination with most pairs that are not there yet, until none is left.

    Args:
        choices: the options of each.
        begin: combinations that are among them in any case.
    """
    every = list(product(*(range(len(options)) for options in choices)))
    pairs = {places: set(combinations(enumerate(places), 2)) for places in every}
    chosen = [tuple(options.index(option) for options, option in zip(choices, row, strict=True)) for row in begin]
    left = set().union(*pairs.values()).difference(*(pairs[places] for places in chosen))
    while left:
        chosen.append(max(every, key=lambda places: len(pairs[places] & left)))  # the first of equals
        left -= pairs[chosen[-1]]
    return [tuple(options[place] for options, place in zip(choices, places, strict=True)) for places in chosen]
