"""The reference engine: what each intervention means, in the plainest way.

One full forward pass per intervention and prompt, module hooks, one prompt at a time, no batching, no caching
of intervened states. It is the oracle of the tests, the fall-back, and what the verify slice runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from tinylab.engine.base import Checkpointer, Evaluation, EvaluationState, Prediction, Progress
from tinylab.engine.biases import biases_for
from tinylab.engine.calls import Arguments, first, with_first
from tinylab.engine.cost import Shape, plain_cost
from tinylab.engine.donors import Place, Supply, Visit, counted, runs
from tinylab.engine.interface import asking
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Given
from tinylab.interventions.sites import Site
from tinylab.interventions.sources import RUNS, Donor, Noise, Reference, Run, RunName
from tinylab.interventions.variants import Variant, indices
from tinylab.measures.answers import Asked
from tinylab.measures.metrics import Scorer
from tinylab.measures.readings import READOUT, CleanRun, clean_run
from tinylab.models.network import CausalModel
from tinylab.models.rotary import forget_lengths
from tinylab.task.tokens import TokenPair

Activations = dict[tuple[Site, int], torch.Tensor]
Edit = Callable[[torch.Tensor], torch.Tensor]
Give = Callable[[Site, int], torch.Tensor]
"""What a source gives at a site of a layer for the tokens that are acted on, [1, P, …]."""
Output = torch.Tensor | tuple[torch.Tensor, ...]


class ReferenceEngine:
    """One forward pass per intervention and prompt."""

    name = "reference"

    def __init__(self, model: CausalModel) -> None:
        """Hold the model; nothing is changed in it."""
        self._model = model
        self._forwards = 0
        self._states = 0

    def plan(self, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> Prediction:
        """See `tinylab.engine.base.Engine`."""
        return plain_cost(Shape.of(self._model), pairs, variants)

    @torch.no_grad()
    def evaluate(
        self, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer, progress: Progress | None = None,
        *, checkpointer: Checkpointer | None = None,
    ) -> Evaluation:
        """See `tinylab.engine.base.Engine`."""
        found = EvaluationState.empty(len(variants), len(pairs), len(scorer.names))
        if checkpointer is not None:
            found = checkpointer.restore(found)
        self._forwards, self._states = found.forwards, found.states
        biases = biases_for(self._model, variants)
        supply = Supply(self._model, variants, self._mean_pass)
        mean_pass = self._forwards - found.forwards, self._states - found.states
        self._forwards, self._states = found.forwards, found.states
        sites = {(i.site, i.layer) for v in variants for i in v.interventions if i.operation.needs_source}
        donors = [source for source in runs(variants) if isinstance(source, Donor)]
        for b, pair in enumerate(pairs):
            if found.begun[b]:  # by an earlier attempt
                if progress is not None:
                    progress(len(variants))
                continue
            sources: list[dict[RunName | Donor, Activations]] = [{} for _ in pair.stems]
            logits: dict[RunName | Donor, list[torch.Tensor]] = {run: [] for run in (*RUNS, *donors)}
            for stem, seen in zip(pair.stems, sources, strict=True):
                for run, read in logits.items():
                    with capture(self._model, sites, seen.setdefault(run, {})):
                        read.append(self._read(pair.prompt(run).tokens, stem))
            clean = self._clean(pair, logits["clean"])
            for which, run in enumerate(RUNS):
                rows = looked_at(pair, logits[run])
                found.baselines[run][b] = scorer.score(rows, clean)[0].numpy()
                found.ability[run][b] = scorer.ability(rows, clean, which)[0].numpy()
            for v, variant in enumerate(variants):
                prompt, read = pair.prompt(variant.target), []
                for stem, seen in zip(pair.stems, sources, strict=True):
                    here = acted_on(variant, pair, len(stem))
                    give = giver(variant, pair, here, seen, supply, following=len(stem))
                    with intervene(self._model, variant, here, give, biases):
                        read.append(self._read(prompt.tokens, stem))
                found.values[v, b] = scorer.score(looked_at(pair, read), clean)[0].numpy()
                if progress is not None:
                    progress(1)
            found.begun[b] = found.done[:, b] = True
            found.forwards, found.states = self._forwards, self._states
            if checkpointer is not None:
                checkpointer.keep(found)
        forwards, states = (total + once for total, once in zip((self._forwards, self._states), mean_pass, strict=True))
        return Evaluation(found.baselines, found.values, forwards, states, found.ability)

    def _mean_pass(self, reference: Reference, places: frozenset[Place], visit: Visit) -> None:
        """See `tinylab.engine.donors.Pass`: one prompt at a time."""
        for prompt, weights in counted(reference).items():
            seen: Activations = {}
            with capture(self._model, set(places), seen):
                self._read(prompt)
            activations = {place: value[0] for place, value in seen.items()}
            visit(activations, np.repeat(weights[:, None], len(prompt), axis=1), np.arange(len(prompt)))

    def _clean(self, pair: TokenPair, logits: Sequence[torch.Tensor]) -> CleanRun:
        """What the metrics need of the clean run."""
        device = self._model.device
        asked = None if pair.answers is None else Asked.of([pair.answers], device)
        target, foil = (torch.tensor([one], device=device) for one in (pair.target, pair.foil))
        return clean_run(looked_at(pair, logits), target, foil, asked)

    def _read(self, prompt: Sequence[int], stem: Sequence[int] = ()) -> torch.Tensor:
        """Logits of a prompt with tokens of an answer behind it: at its reading row and at each of these, [1 + stem, W]."""
        self._forwards += 1
        self._states += len((*prompt, *stem)) * self._model.n_layers
        forget_lengths(self._model)
        ids = torch.tensor([[*prompt, *stem]], device=self._model.device)
        row = READOUT.row(len(prompt)) - len(ids[0])  # from the end
        found = self._model.model(input_ids=ids, use_cache=False, **self._model.last_logits(-row))
        logits: torch.Tensor = found.logits[0, row:]
        return logits


def looked_at(pair: TokenPair, logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """The rows in which the pair's answers are looked for, [Q, W], of its runs' logits, one run for each stem."""
    rows = ((0, 0),) if pair.answers is None else pair.answers.rows
    return torch.stack([logits[stem][behind] for stem, behind in rows])


@contextmanager
def capture(model: CausalModel, sites: set[tuple[Site, int]], into: Activations) -> Iterator[None]:
    """While open, one forward pass stores a copy of each site's activation, [1, T, …] ([1, T, H, d_head] for heads).

    Raises:
        EngineUnsupported: when it closes, a forward pass did not reach an activation exactly once.
    """
    seen = dict.fromkeys(sites, 0)

    def keep(site: Site, layer: int, value: torch.Tensor) -> torch.Tensor:
        into[site, layer] = value.clone()
        seen[site, layer] += 1
        return value

    with ExitStack() as stack:
        for site, layer in sites:
            stack.enter_context(edit(model, site, layer, partial(keep, site, layer)))
        yield
    for (site, layer), times in seen.items():
        _once(model, times, f"{site} of layer {layer} was seen")


def acted_on(variant: Variant, pair: TokenPair, following: int = 0) -> list[int]:
    """The tokens of a pair's target run that a variant acts on, some of an answer `following` among them.

    There are none where its source has nothing for the pair.
    """
    prompt, source = pair.prompt(variant.target), variant.source
    here = indices(variant.positions, len(prompt.tokens), prompt.spans, following)
    if not isinstance(source, Noise) or source.examples is None or pair.number in source.examples:
        return here
    return []


def giver(
    variant: Variant, pair: TokenPair, here: Sequence[int], sources: Mapping[RunName | Donor, Activations], supply: Supply,
    *, following: int = 0,
) -> Give | None:
    """What gives a variant's source at the tokens of a pair that it acts on.

    Args:
        variant: the variant.
        pair: the pair.
        here: the tokens of the target run.
        sources: activations of the unmodified runs.
        supply: what other sources give.
        following: tokens of an answer behind its prompts.
    """
    source = variant.source
    if source is None:
        return None
    if isinstance(source, Run):
        run: RunName | Donor = source if isinstance(source, Donor) else source.run
        prompt = pair.prompt(run)
        there = indices(variant.positions, len(prompt.tokens), prompt.spans, following)
        return lambda site, layer: sources[run][site, layer][:, there]
    positions = np.array(here, dtype=np.int64)
    rows = source.rows(np.full_like(positions, pair.group), np.full_like(positions, pair.number), positions)
    return lambda site, layer: supply.take(source, site, layer, rows)[None]


@contextmanager
def intervene(
    model: CausalModel, variant: Variant, here: Sequence[int], give: Give | None = None,
    biases: Sequence[torch.Tensor] | None = None,
) -> Iterator[None]:
    """While open, one forward pass makes the variant's interventions at some tokens of a prompt.

    `biases`: of each layer's heads, [H, d_head], where one is kept.

    Raises:
        EngineUnsupported: when it closes, an intervention was not made exactly once.
    """
    made = [0] * len(variant.interventions)

    def change(number: int, value: torch.Tensor) -> torch.Tensor:
        made[number] += 1
        intervention, value = variant.interventions[number], value.clone(memory_format=torch.contiguous_format)
        bias = other = None
        if intervention.operation.needs_bias:
            assert biases is not None
            unit = slice(None) if intervention.head is None else intervention.head
            bias = biases[intervention.layer][unit].flatten()
        if intervention.operation.needs_source:
            assert give is not None
            shape = (1, -1, *value.shape[2:])
            other = _part(give(intervention.site, intervention.layer).reshape(shape), intervention.head)
        part = _part(value, intervention.head)
        part[:, here] = intervention.operation.apply(part[:, here], Given(other, bias))
        return value

    with ExitStack() as stack:
        for number, intervention in enumerate(variant.interventions):
            stack.enter_context(edit(model, intervention.site, intervention.layer, partial(change, number)))
        yield
    for intervention, times in zip(variant.interventions, made, strict=True):
        _once(model, times, f"{intervention.operation} at {intervention.component} was made")


def _once(model: CausalModel, times: int, what: str) -> None:
    if times != 1:
        raise EngineUnsupported(f"{what} {times} times in a forward pass of {type(model.model).__name__}, expected once: this "
                                "architecture does not call its modules as others do.")


def _part(value: torch.Tensor, head: int | None) -> torch.Tensor:
    """One head of an activation [1, T, H, d_head], or the whole of it with all heads side by side; a view, [1, T, d]."""
    return value.flatten(2) if head is None else value[:, :, head]


@contextmanager
def edit(model: CausalModel, site: Site, layer: int, change: Edit) -> Iterator[None]:
    """While open, a site's activation is replaced by `change(activation)`; units are seen as [1, T, H, d_head].

    What goes into a norm is changed in place: the residual stream that goes past it is the same tensor.
    """

    def changed(value: torch.Tensor) -> torch.Tensor:
        units = model.units(site.units, value.shape[-1])
        shape = (1, -1, value.shape[-1]) if site.units == "whole" else (1, -1, units, value.shape[-1] // units)
        return change(value.reshape(shape)).reshape(value.shape)

    def before(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> Arguments:
        given = first((args, kwargs))
        return with_first((args, kwargs), given.copy_(changed(given)) if site.module == "norm" else changed(given))

    def after(_module: object, _args: object, output: Output) -> Output:
        return changed(output) if isinstance(output, torch.Tensor) else (changed(output[0]), *output[1:])

    if site.module == "attention":
        with asking(model, layer, site.side, lambda heads: changed(heads.flatten(2)).view(heads.shape)):
            yield
        return
    module = model.point(site.module, layer)
    if site.side == "in":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
