"""The forked engine: a whole battery in few forward passes, each state computed once.

Fact 1, layers: an intervention leaves what lies below it as it was. So the unmodified runs go first, and a variant
starts from their cached activations at the module where it acts. Fact 2, tokens: prompts that share a prefix share its
states, so they are laid out as a prefix tree (`tinylab.engine.forked.trie`). Fact 3, rows: states before the first changed
position stay as they were, so a variant computes only those behind it, which attend to the cached keys and values.
The numbers are those of the reference engine, to rounding.

Prompts are cut into batches of smaller trees and variants into chunks of neighbouring layers, so that no forward pass holds
more than its budget (`tinylab.engine.forked.budget`).

Letters: R affected states, V variants, B examples, M metrics.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from tinylab.arrays import FloatArray
from tinylab.engine.base import Checkpointer, Evaluation, EvaluationState, Prediction, Progress, readable
from tinylab.engine.biases import biases_for
from tinylab.engine.cost import Shape
from tinylab.engine.donors import Supply
from tinylab.engine.forked import hooks
from tinylab.engine.forked.batches import Batch, Layout, taking_late
from tinylab.engine.forked.budget import LEAST, SAFE, Budget, Limits, free_memory, out_of_memory, predict
from tinylab.engine.forked.cache import ALONE, ActivationCache, CachePlan, Keeper, Link
from tinylab.engine.forked.layouts import PassLayout
from tinylab.engine.forked.means import Connect, MeanPass, forward
from tinylab.engine.forked.passes import Pass
from tinylab.engine.forked.trie import NONE, IntArray
from tinylab.engine.forked.trunks import Families, Family, largest
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Variant
from tinylab.measures.answers import Asked
from tinylab.measures.metrics import Scorer
from tinylab.measures.readings import CleanRun, clean_run
from tinylab.models.network import CausalModel
from tinylab.models.rotary import forget_lengths
from tinylab.task.tokens import TokenPair

T = TypeVar("T")
log = logging.getLogger(__name__)

@dataclass(frozen=True)
class WithBaselines:
    """A batch whose unmodified runs are done: what variants start from and are compared with."""

    batch: Batch
    cache: ActivationCache
    clean_run: CleanRun


@dataclass(frozen=True)
class Work:
    """What one call of `evaluate` is about."""

    connect: Connect
    pairs: Sequence[TokenPair]
    variants: Sequence[Variant]
    families: Families
    layout: Layout
    cache_plan: CachePlan
    limits: Limits
    supply: Supply
    biases: list[torch.Tensor] | None  # of each layer's heads, where a variant keeps one
    scorer: Scorer
    state: EvaluationState  # filled in as the work goes on
    checkpointer: Checkpointer | None
    done: Callable[[IntArray], object]  # called with the examples of each finished variant


class ForkedEngine:
    """Forked forward passes over prefix tries."""

    name = "forked"

    def __init__(self, model: CausalModel, max_states: int | None = None, budget: Budget | None = None) -> None:
        """Hold the model; it is touched only while `evaluate` runs.

        Args:
            model: the model.
            max_states: rows per forward pass, None for the device's constant.
            budget: everything that a pass may hold, None for the device's constants.
        """
        self._model = model
        self._budget = budget or Budget.of(model.device.type, max_states)
        self._shape = Shape.of(model)

    def plan(self, pairs: Sequence[TokenPair], variants: Sequence[Variant]) -> Prediction:
        """See `tinylab.engine.base.Engine`."""
        device = self._model.device
        asked, free = self._budget, free_memory(device)
        prediction = predict(self._shape, device.type, pairs, variants, self._budget)
        while prediction.activations > SAFE * free and self._budget.states > LEAST:
            self._budget = self._budget.halved()
            prediction = predict(self._shape, device.type, pairs, variants, self._budget)
        if self._budget != asked:
            log.warning("memory is short (%s free): engine.max_states=%d instead of %d; the last digits may differ from machines "
                        "with more", readable(free), self._budget.states, asked.states)
        return prediction

    @torch.inference_mode()
    def evaluate(
        self, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer, progress: Progress | None = None,
        *, checkpointer: Checkpointer | None = None,
    ) -> Evaluation:
        """See `tinylab.engine.base.Engine`.

        Raises:
            EngineUnsupported: the model's attention does not go through transformers' interface.
            ModelError: a variant keeps a value bias that cannot be told apart.
        """
        unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        copies = np.bincount([unique[pair] for pair in pairs], minlength=len(unique))
        state = EvaluationState.empty(len(variants), len(unique), len(scorer.names))
        if checkpointer is not None:
            state = checkpointer.restore(state)
        families = Families.of(variants)
        layout = Layout(list(unique), list(families.by_setting), taking_late(variants, self._model.n_layers))
        cache_plan = CachePlan.of(variants, layout.has_cached_prefix)
        limits = Limits.of(self._budget, self._shape, cache_plan, families.cache_plan)
        biases = biases_for(self._model, variants)
        forget_lengths(self._model)
        with hooks.hooked(self._model, {(i.site.module, i.layer) for v in variants for i in v.interventions}) as connect:
            means = MeanPass(self._model, connect, limits.prompts, limits.keys)
            supply = Supply(self._model, variants, means.run)
            work = Work(
                connect, list(unique), variants, families, layout, cache_plan, limits, supply, biases, scorer, state,
                checkpointer, done=lambda examples: progress and progress(int(copies[examples].sum())),
            )
            for examples in layout.groups(limits.nodes, limits.pairs):
                self._batch(work, examples)
        every = [unique[pair] for pair in pairs]
        baselines: dict[RunName, FloatArray] = {run: column[every] for run, column in state.baselines.items()}
        ability: dict[RunName, FloatArray] = {run: column[every] for run, column in state.ability.items()}
        forwards, states = state.forwards + means.forwards, state.states + means.states
        return Evaluation(baselines, state.values[:, every], forwards, states, ability)

    def _batch(self, work: Work, examples: IntArray) -> None:
        """Everything about one group of examples, in halves if the memory for all is not there."""
        if work.state.begun[examples].all() and work.state.done[:, examples].all():
            for _ in work.variants:
                work.done(examples)
            return
        batch = work.layout.batch(examples)
        ready = self._if_it_fits(lambda: self._unmodified(work, batch), len(examples), "prompt pairs")
        if ready is None:
            for half in np.array_split(examples, 2):
                self._batch(work, half)
            return
        for setting, families in work.families.by_setting.items():
            affected = batch.affected[setting]
            if len(affected) == 0:  # no patch changes anything: both prompts are equal
                members = [place for family in families for place in family.places]
                self._finish(work, members, examples, work.state.baselines[setting.target][examples])
                continue
            size = min(largest(families), work.limits.variants(affected))
            pass_layout = PassLayout.of(affected, self._model.device, work.limits.keys, size)
            for family in families:
                self._family(work, ready, pass_layout, family, size)

    def _family(self, work: Work, ready: WithBaselines, pass_layout: PassLayout, family: Family, size: int) -> None:
        """All passes of variants that start from the same run: that run first, if it is a variant."""
        link = ALONE
        if family.trunk is not None:
            due = not work.state.done[np.ix_(np.array(family.members), ready.batch.examples)].all()
            trunk = ActivationCache(pass_layout.affected, self._model.n_layers, self._model.device)
            assert work.families.cache_plan is not None
            keeps = Link(keeps=Keeper(trunk, work.families.cache_plan)) if due else ALONE
            self._chunk(work, ready, pass_layout, [family.trunk], keeps)
            link = Link(trunk)
        for start in range(0, len(family.members), size):
            self._chunk(work, ready, pass_layout, family.members[start : start + size], link)

    def _chunk(
        self, work: Work, ready: WithBaselines, pass_layout: PassLayout, chunk: list[int], link: Link
    ) -> None:
        """One forked pass of variants with neighbouring forks, in halves if the memory for all is not there.

        A variant that others go on from is computed even where its numbers are there, from an attempt that was cut off.
        """
        examples, chosen = ready.batch.examples, [work.families.remaining[v] for v in chunk]
        if link.keeps.cache is None and work.state.done[np.ix_(np.array(chunk), examples)].all():
            for _ in chunk:
                work.done(examples)
            return
        scores = self._if_it_fits(lambda: self._variants(work, ready, pass_layout, chosen, link), len(chunk), "interventions")
        if scores is None:
            half = len(chunk) // 2
            for part in (chunk[:half], chunk[half:]):
                self._chunk(work, ready, pass_layout, part, link)
            return
        unmodified = work.state.baselines[chosen[0].target][examples]
        values = np.broadcast_to(unmodified, (len(chunk), *unmodified.shape)).copy()
        values[:, pass_layout.affected.ends[ready.batch.first] != NONE] = scores
        self._finish(work, chunk, examples, values)

    def _finish(self, work: Work, chunk: list[int], examples: IntArray, values: FloatArray) -> None:
        """Put values [variants of the chunk, examples, M] where they belong."""
        state, places = work.state, np.ix_(np.array(chunk), examples)
        state.values[places] = values
        state.done[places] = True
        if work.checkpointer is not None:
            work.checkpointer.keep(state)
        for _ in chunk:
            work.done(examples)

    def _if_it_fits(self, compute: Callable[[], T], count: int, what: str) -> T | None:
        """The result, or None where memory ran out and half as many may fit."""
        try:
            return compute()
        except RuntimeError as error:
            if not out_of_memory(error) or count == 1:
                raise
            log.warning("out of memory with %d %s in one forward pass: going on with half as many (a smaller engine.max_states "
                        "avoids this; the last digits may differ from other machines)", count, what)
        gc.collect()  # frames of the failed pass
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _unmodified(self, work: Work, batch: Batch) -> WithBaselines:
        """Run both prompts of every pair as they are: the clean run, the baselines and what variants start from."""
        device = self._model.device
        cache = ActivationCache(batch.whole, self._model.n_layers, device)
        pass_layout = PassLayout.of(batch.whole, device, work.limits.keys)
        logits = self._forward(work, self._pass(pass_layout, cache, work.cache_plan), pass_layout)
        clean, corrupt = (logits[torch.from_numpy(ends).to(device)] for ends in (batch.clean_ends(), batch.corrupt_ends()))
        pairs = [work.pairs[b] for b in batch.examples]
        target, foil = (torch.tensor([getattr(pair, name) for pair in pairs], device=device) for name in ("target", "foil"))
        whole = [pair.answers for pair in pairs if pair.answers is not None]
        reading = clean_run(clean, target, foil, Asked.of(whole, device) if whole else None)
        work.state.baselines["clean"][batch.examples] = work.scorer.score(clean, reading).numpy()
        work.state.baselines["corrupt"][batch.examples] = work.scorer.score(corrupt, reading).numpy()
        work.state.ability["clean"][batch.examples] = work.scorer.ability(clean, reading, 0).numpy()
        work.state.ability["corrupt"][batch.examples] = work.scorer.ability(corrupt, reading, 1).numpy()
        work.state.begun[batch.examples] = True
        return WithBaselines(batch, cache, reading)

    def _variants(
        self, work: Work, ready: WithBaselines, pass_layout: PassLayout, chunk: Sequence[Variant], link: Link
    ) -> FloatArray:
        """One forked pass; [variants of the chunk, examples of the batch that it changes, M]."""
        this = self._pass(pass_layout, ready.cache, None, link)
        this.plan(chunk, work.supply, work.biases)
        logits = self._forward(work, this, pass_layout).view(len(chunk), len(pass_layout.affected.read), -1)
        ends = pass_layout.affected.ends
        changed, reading = ends[ready.batch.first] != NONE, ready.clean_run
        if not changed.all():
            reading = reading.of(torch.from_numpy(np.flatnonzero(changed)).to(logits.device))
        places = torch.from_numpy(ends[ends != NONE]).to(logits.device)
        return np.stack([work.scorer.score(rows[places], reading).numpy() for rows in logits])

    def _pass(
        self, pass_layout: PassLayout, cache: ActivationCache, cache_plan: CachePlan | None, link: Link = ALONE
    ) -> Pass:
        return Pass(pass_layout, self._model, cache, cache_plan, link)

    def _forward(self, work: Work, this: Pass, pass_layout: PassLayout) -> torch.Tensor:
        """Run one pass; logits [rows that leave the last block, W], variant by variant."""
        logits = forward(self._model, work.connect, this, pass_layout.affected)
        work.state.forwards += 1
        work.state.states += this.states
        return logits[:, 0]
