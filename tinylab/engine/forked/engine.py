"""The forked engine: a whole battery in few forward passes, each state computed once.

Fact 1, layers: an intervention leaves what lies below it as it was. So the unmodified runs go first, and a variant
starts from their activations at the module where it acts. Fact 2, tokens: prompts that share a prefix share its
states, so they are laid out as a trie (`tinylab.engine.forked.trie`). Fact 3, rows: states before the first changed
position stay as they were, so a variant computes only those behind it, which attend to the unmodified keys and
values. The numbers are those of the reference engine, to rounding.

Prompts are cut into sub-tries and variants into chunks of neighbouring layers, so that no forward pass holds more
than its budget (`tinylab.engine.forked.budget`).

Letters: R states of a region, V variants, B examples.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from tinylab.arrays import FloatArray
from tinylab.engine.base import Evaluation, Keeper, Partial, Prediction, Progress, readable
from tinylab.engine.biases import biases_for
from tinylab.engine.cost import Shape
from tinylab.engine.forked import hooks as taps
from tinylab.engine.forked.batches import Forest, Layout, Setting
from tinylab.engine.forked.budget import LEAST, SAFE, Budget, Limits, free_memory, out_of_memory, predict
from tinylab.engine.forked.passes import Ground, Needs, Pass, Unmodified
from tinylab.engine.forked.trie import NONE, IntArray
from tinylab.interventions.variants import Run, Variant, fork_of
from tinylab.measures import metrics
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel, forget_lengths
from tinylab.task.tokens import TokenPair

T = TypeVar("T")
log = logging.getLogger(__name__)

Connect = Callable[[taps.Tap], AbstractContextManager[None]]
"""Connects one pass to the opened model (see `taps.tapped`)."""


@dataclass(frozen=True)
class Begun:
    """A forest whose unmodified runs are done."""

    forest: Forest
    unmodified: Unmodified
    ref: metrics.Reference


@dataclass(frozen=True)
class Work:
    """What one call of `evaluate` is about."""

    connect: Connect
    pairs: Sequence[TokenPair]
    variants: Sequence[Variant]
    by_setting: dict[Setting, list[int]]  # places in `variants`, sorted by where they fork
    layout: Layout
    needs: Needs
    limits: Limits
    biases: list[torch.Tensor] | None  # of each layer's heads, where a variant keeps one
    scorer: Scorer
    partial: Partial  # filled in as the work goes on
    keeper: Keeper | None
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
        *, keeper: Keeper | None = None,
    ) -> Evaluation:
        """See `tinylab.engine.base.Engine`.

        Raises:
            EngineUnsupported: the model's attention does not go through transformers' interface.
            ModelError: a variant keeps a value bias that cannot be told apart.
        """
        unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        copies = np.bincount([unique[pair] for pair in pairs], minlength=len(unique))
        partial = Partial.empty(len(variants), len(unique), len(scorer.names))
        if keeper is not None:
            partial = keeper.restore(partial)
        by_setting = sorted_by_setting(variants)
        layout = Layout(list(unique), list(by_setting))
        needs = Needs.of(variants, layout.hanging)
        limits = Limits.of(self._budget, self._shape, needs)
        biases = biases_for(self._model, variants)
        forget_lengths(self._model)
        with taps.tapped(self._model) as connect:
            work = Work(
                connect, list(unique), variants, by_setting, layout, needs, limits, biases, scorer, partial, keeper,
                done=lambda examples: progress and progress(int(copies[examples].sum())),
            )
            for examples in layout.groups(limits.nodes, limits.pairs):
                self._forest(work, examples)
        every = [unique[pair] for pair in pairs]
        baselines: dict[Run, FloatArray] = {run: column[every] for run, column in partial.baselines.items()}
        return Evaluation(baselines, partial.values[:, every], partial.forwards, partial.states)

    def _forest(self, work: Work, examples: IntArray) -> None:
        """Everything about one group of examples, in halves if the memory for all is not there."""
        if work.partial.begun[examples].all() and work.partial.done[:, examples].all():
            for _ in work.variants:
                work.done(examples)
            return
        forest = work.layout.forest(examples)
        begun = self._if_it_fits(lambda: self._unmodified(work, forest), len(examples), "prompt pairs")
        if begun is None:
            for half in np.array_split(examples, 2):
                self._forest(work, half)
            return
        for setting, members in work.by_setting.items():
            region = forest.regions[setting]
            if len(region) == 0:  # no patch changes anything: both prompts are equal
                self._finish(work, members, examples, work.partial.baselines[setting.target][examples])
                continue
            size = min(len(members), work.limits.variants(region))
            ground = Ground.of(region, self._model.device, work.limits.keys, size)
            for start in range(0, len(members), size):
                self._chunk(work, begun, ground, members[start : start + size])

    def _chunk(self, work: Work, begun: Begun, ground: Ground, chunk: list[int]) -> None:
        """One forked pass of variants with neighbouring forks, in halves if the memory for all is not there."""
        examples, chosen = begun.forest.examples, [work.variants[v] for v in chunk]
        if work.partial.done[np.ix_(np.array(chunk), examples)].all():
            for _ in chunk:
                work.done(examples)
            return
        scores = self._if_it_fits(lambda: self._variants(work, begun, ground, chosen), len(chunk), "interventions")
        if scores is None:
            half = len(chunk) // 2
            for part in (chunk[:half], chunk[half:]):
                self._chunk(work, begun, ground, part)
            return
        unmodified = work.partial.baselines[chosen[0].target][examples]
        values = np.broadcast_to(unmodified, (len(chunk), *unmodified.shape)).copy()
        values[:, ground.region.ends != NONE] = scores
        self._finish(work, chunk, examples, values)

    def _finish(self, work: Work, chunk: list[int], examples: IntArray, values: FloatArray) -> None:
        """Put values [variants of the chunk, examples, M] where they belong."""
        partial, places = work.partial, np.ix_(np.array(chunk), examples)
        partial.values[places] = values
        partial.done[places] = True
        if work.keeper is not None:
            work.keeper.keep(partial)
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

    def _unmodified(self, work: Work, forest: Forest) -> Begun:
        """Run both prompts of every pair as they are: the reference, the baselines and what variants start from."""
        device = self._model.device
        unmodified = Unmodified(forest.whole, self._model.n_layers, device)
        ground = Ground.of(forest.whole, device, work.limits.keys)
        logits = self._forward(work, self._pass(ground, unmodified, work.needs), ground)
        clean, corrupt = (logits[torch.from_numpy(ends).to(device)] for ends in (forest.clean_ends(), forest.corrupt_ends()))
        answers = ([getattr(work.pairs[b], name) for b in forest.examples] for name in ("target", "foil"))
        ref = metrics.reference(clean, *(torch.tensor(tokens, device=device) for tokens in answers))
        work.partial.baselines["clean"][forest.examples] = work.scorer.score(clean, ref).numpy()
        work.partial.baselines["corrupt"][forest.examples] = work.scorer.score(corrupt, ref).numpy()
        work.partial.begun[forest.examples] = True
        return Begun(forest, unmodified, ref)

    def _variants(self, work: Work, begun: Begun, ground: Ground, chunk: Sequence[Variant]) -> FloatArray:
        """One forked pass; [variants of the chunk, examples of the forest that it changes, M]."""
        this = self._pass(ground, begun.unmodified, None)
        this.plan(chunk, work.biases)
        logits = self._forward(work, this, ground).view(len(chunk), len(ground.region.read), -1)
        ends = ground.region.ends
        changed, ref = ends != NONE, begun.ref
        if not changed.all():
            ref = ref.of(torch.from_numpy(np.flatnonzero(changed)).to(logits.device))
        places = torch.from_numpy(ends[changed]).to(logits.device)
        return np.stack([work.scorer.score(rows[places], ref).numpy() for rows in logits])

    def _pass(self, ground: Ground, unmodified: Unmodified, needs: Needs | None) -> Pass:
        return Pass(ground, self._model, unmodified, needs)

    def _forward(self, work: Work, this: Pass, ground: Ground) -> torch.Tensor:
        """Run one pass; logits [rows that leave the last block, W], variant by variant."""
        device = self._model.device
        ids = torch.from_numpy(ground.region.tokens).to(device)[:, None]
        with work.connect(this):
            logits: torch.Tensor = self._model.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=torch.from_numpy(ground.region.depth).to(device)[:, None],
                use_cache=False,
            ).logits
        this.check(type(self._model.model).__name__)
        work.partial.forwards += 1
        work.partial.states += this.states
        return logits[:, 0]


def sorted_by_setting(variants: Sequence[Variant]) -> dict[Setting, list[int]]:
    """The variants' places by what they share, each list in the order of their forks."""
    by_setting: dict[Setting, list[int]] = {}
    for v in sorted(range(len(variants)), key=lambda v: fork_of(variants[v])):
        by_setting.setdefault(Setting.of(variants[v]), []).append(v)
    return by_setting
