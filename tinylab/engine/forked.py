"""The forked engine: a whole battery in few forward passes, each state computed once.

Fact 1, layers: an intervention at layer l leaves the layers below as they were. So the clean row runs once and
each variant forks off it, as a copy appended to the batch, where it first differs. Fact 2, tokens: prompts that
share a prefix share its states, so they are laid out as a trie (`tinylab.engine.trie`). The numbers are those
of the reference engine, to rounding. Prompts are cut into sub-tries and variants into chunks of neighbouring
layers, so that no forward pass holds more than `max_states` states.

Letters: N states of the trie, V variants, B examples, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from tinylab import metrics
from tinylab.engine import taps
from tinylab.engine.forests import Forest, Setting, edited_nodes, forests
from tinylab.engine.interventions import Evaluation, Intervention, Progress, Run, Scale, Site, Variant
from tinylab.engine.trie import IntArray, Trie
from tinylab.errors import EngineUnsupported
from tinylab.metrics import Scorer
from tinylab.models import CausalModel
from tinylab.prompts import TokenPair

MAX_STATES = {"cpu": 4096, "mps": 16384, "cuda": 65536}
"""States per forward pass by device type: constants, so that results stay bit-identical between machines."""
ROWS_PER_PASS = 16
"""A sub-trie takes at most this fraction of the budget, so that a pass serves several variants."""

READ_BUDGET = 2**26
"""Logits per forward pass: rows × reading nodes × vocabulary. They are reduced to metrics before the next pass."""

Activations = dict[tuple[Site, int], torch.Tensor]
Fork = tuple[int, bool]
"""Where a variant leaves the clean row: (layer, False) before a block, (layer, True) behind it."""


Connect = Callable[[taps.Tap], AbstractContextManager[None]]
"""Connects one pass to the opened model (see `taps.tapped`)."""


@dataclass(frozen=True)
class Work:
    """What one call of `evaluate` is about."""

    connect: Connect
    pairs: Sequence[TokenPair]
    scorer: Scorer
    sites: set[tuple[Site, int]]  # whose activations patches need


@dataclass(frozen=True)
class Unmodified:
    """What a forest's unmodified runs give to its variants."""

    ref: metrics.Reference
    activations: Activations  # by site and layer, [N, …] over the nodes of `both`


class ForkedEngine:
    """Forked forward passes over prefix tries."""

    name = "forked"

    def __init__(self, model: CausalModel, max_states: int | None = None) -> None:
        """Hold the model; it is touched only while `evaluate` runs.

        Args:
            model: the model.
            max_states: budget of states per forward pass, None for the device's constant.
        """
        self._model = model
        self._max_states = max_states or MAX_STATES[model.device.type]
        self._forwards = 0
        self._states = 0

    @torch.inference_mode()
    def evaluate(
        self, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer, progress: Progress | None = None
    ) -> Evaluation:
        """See `tinylab.engine.interventions.Engine`.

        Raises:
            EngineUnsupported: the model's attention does not go through transformers' interface.
        """
        unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        copies = np.bincount([unique[pair] for pair in pairs], minlength=len(unique))
        found = self._evaluate(list(unique), variants, scorer, lambda done: progress and progress(int(copies[done].sum())))
        every = [unique[pair] for pair in pairs]
        baselines: dict[Run, metrics.FloatArray] = {run: column[every] for run, column in found.baselines.items()}
        return Evaluation(baselines, found.values[:, every], found.forwards, found.states)

    def _evaluate(
        self, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer, done: Callable[[list[int]], object]
    ) -> Evaluation:
        """`evaluate` on distinct pairs; `done` is called with the examples of each finished variant."""
        self._forwards = self._states = 0
        by_setting: dict[Setting, list[int]] = {}
        for v in sorted(range(len(variants)), key=lambda v: fork_of(variants[v])):
            by_setting.setdefault(Setting(variants[v].target, variants[v].source, variants[v].positions), []).append(v)
        sites = {(i.site, i.layer) for variant in variants if variant.source is not None for i in variant.interventions}
        shape = (len(pairs), len(scorer.names))
        baselines: dict[Run, metrics.FloatArray] = {"clean": np.empty(shape), "corrupt": np.empty(shape)}
        values = np.empty((len(variants), *shape))
        with taps.tapped(self._model) as connect:
            work = Work(connect, pairs, scorer, sites)
            for forest in forests(pairs, list(by_setting), max(1, self._max_states // ROWS_PER_PASS)):
                unmodified = self._unmodified(work, forest, baselines)
                for setting, members in by_setting.items():
                    for chunk in self._chunks(members, forest.targets[setting]):
                        scores = self._variants(work, forest, setting, [variants[v] for v in chunk], unmodified)
                        values[np.ix_(chunk, forest.examples)] = scores
                        for _ in chunk:
                            done(forest.examples)
        return Evaluation(baselines, values, self._forwards, self._states)

    def _chunks(self, members: list[int], tree: Trie) -> Iterator[list[int]]:
        """Variants that fit one pass beside the clean row; they are sorted by fork, so neighbours go together."""
        read = len(set(tree.ends().tolist())) * self._model.vocabulary
        size = max(1, min(self._max_states // len(tree), READ_BUDGET // read) - 1)
        for start in range(0, len(members), size):
            yield members[start : start + size]

    def _unmodified(self, work: Work, forest: Forest, baselines: dict[Run, metrics.FloatArray]) -> Unmodified:
        """Run both prompts of every pair as they are: the reference, the baselines and the source activations."""
        this = Pass(forest.both, capture=work.sites)
        logits = self._forward(work.connect, this, forest.both.ends())[0]
        count = len(forest.examples)
        clean, corrupt = logits[:count], logits[count:]
        answers = ([getattr(work.pairs[b], name) for b in forest.examples] for name in ("target", "foil"))
        ref = metrics.reference(clean, *(torch.tensor(tokens, device=logits.device) for tokens in answers))
        baselines["clean"][forest.examples] = work.scorer.score(clean, ref).numpy()
        baselines["corrupt"][forest.examples] = work.scorer.score(corrupt, ref).numpy()
        return Unmodified(ref, this.captured)

    def _variants(
        self, work: Work, forest: Forest, setting: Setting, chunk: Sequence[Variant], unmodified: Unmodified
    ) -> metrics.FloatArray:
        """One forked pass; [variants of the chunk, examples of the forest, M]."""
        tree = forest.targets[setting]
        here, there = edited_nodes(forest, setting)
        device = self._model.device
        this = Pass(tree)
        this.here = torch.tensor(here, device=device)
        for variant in chunk:
            row = this.fork(fork_of(variant))
            for intervention in variant.interventions:
                source = None
                if not isinstance(intervention.operation, Scale):
                    source = unmodified.activations[intervention.site, intervention.layer][torch.tensor(there, device=device)]
                this.plan(row, intervention, source)
        logits = self._forward(work.connect, this, tree.ends())
        return np.stack([work.scorer.score(logits[1 + v], unmodified.ref).numpy() for v in range(len(chunk))])

    def _forward(self, connect: Connect, this: Pass, read: IntArray) -> torch.Tensor:
        """Run one pass; logits [rows, len(read), W] at the nodes in `read`."""
        device = self._model.device
        nodes, places = np.unique(read, return_inverse=True)
        ids = torch.tensor(this.tree.tokens, device=device)[None]
        with connect(this):
            logits: torch.Tensor = self._model.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=torch.tensor(this.tree.depth, device=device)[None],
                use_cache=False,
                logits_to_keep=torch.tensor(nodes, device=device),
            ).logits
        this.check(self._model)
        self._forwards += 1
        self._states += this.rows * len(this.tree)
        return logits if len(nodes) == len(read) and (places == np.arange(len(read))).all() else logits[:, places]


class Pass:
    """One forward pass: row 0 is the unmodified trie, every further row a variant that forked off it."""

    def __init__(self, tree: Trie, capture: set[tuple[Site, int]] | None = None) -> None:
        """Prepare a pass over a trie that stores the activations of the sites in `capture`."""
        self.tree = tree
        self.rows = 1
        self.captured: Activations = {}
        self.here: torch.Tensor | None = None  # the nodes at which interventions act
        self._capture = capture or set()
        self._forks: dict[Fork, int] = {}
        self._edits: dict[tuple[Site, int], list[tuple[int, Intervention, torch.Tensor | None]]] = {}
        self._made = 0
        self._attended: set[int] = set()
        self._masks: dict[int | None, torch.Tensor] = {}

    def fork(self, fork: Fork) -> int:
        """Plan a new row; rows have to be planned in the order of their forks. Returns its index."""
        self._forks[fork] = self._forks.get(fork, 0) + 1
        self.rows += 1
        return self.rows - 1

    def plan(self, row: int, intervention: Intervention, source: torch.Tensor | None) -> None:
        """Plan an intervention on a row, with the source activations at the edited nodes if it is a patch."""
        self._edits.setdefault((intervention.site, intervention.layer), []).append((row, intervention, source))

    def enter_block(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """See `taps.Tap`: the variants that differ inside this block are born."""
        return _grown(hidden, self._forks.get((layer, False), 0))

    def leave_site(self, site: Site, layer: int, value: torch.Tensor) -> torch.Tensor:
        """See `taps.Tap`: variants that differ from here on are born, sites are stored, interventions made."""
        if site == "head_out":
            self._attended.add(layer)
        elif site == "resid_post":
            value = _grown(value, self._forks.get((layer, True), 0))
        if (site, layer) in self._capture:
            self.captured[site, layer] = self._by_row(value)[0].clone()
        if (site, layer) in self._edits:
            rows = self._by_row(value)
            for row, intervention, source in self._edits[site, layer]:
                self._edit(rows[row], intervention, source)
            value = rows.reshape(value.shape)
        return value

    def _by_row(self, value: torch.Tensor) -> torch.Tensor:
        """An activation as [rows, N, …]; some families flatten rows and nodes inside a block."""
        return value if value.dim() > 2 else value.reshape(-1, len(self.tree), value.shape[-1])

    def _edit(self, row: torch.Tensor, intervention: Intervention, source: torch.Tensor | None) -> None:
        """Change one row [N, …] in place at the edited nodes."""
        assert self.here is not None
        part = row if intervention.head is None else row[:, intervention.head]
        if isinstance(intervention.operation, Scale) and len(self.here) == len(self.tree):
            part *= intervention.operation.factor
        elif isinstance(intervention.operation, Scale):
            part[self.here] *= intervention.operation.factor
        else:
            assert source is not None
            part[self.here] = source if intervention.head is None else source[:, intervention.head]
        self._made += 1

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """See `taps.Tap`; a sliding window counts depth, not place in the row."""
        if window not in self._masks:
            allowed = self.tree.ancestors
            if window is not None:
                allowed = allowed & (self.tree.depth[:, None] - self.tree.depth[None, :] < window)
            blocked = torch.from_numpy(~allowed).to(like.device)
            mask = torch.zeros(blocked.shape, dtype=like.dtype, device=like.device)
            self._masks[window] = mask.masked_fill_(blocked, torch.finfo(like.dtype).min)[None, None]
        return self._masks[window]

    def check(self, model: CausalModel) -> None:
        """Assert that the pass went through every tap it planned.

        Raises:
            EngineUnsupported: a layer's attention never came by, or an intervention was not made.
        """
        missed = sorted(set(range(model.n_layers)) - self._attended)
        if missed:
            raise EngineUnsupported(f"the attention of {type(model.model).__name__} does not go through transformers' "
                                    f"AttentionInterface (layers {missed}).")
        planned = sum(len(edits) for edits in self._edits.values())
        if self._made != planned:
            raise EngineUnsupported(f"{planned - self._made} of {planned} interventions met no activation in "
                                    f"{type(model.model).__name__}.")


def _grown(hidden: torch.Tensor, count: int) -> torch.Tensor:
    """The rows [rows, N, D] with `count` copies of row 0 appended."""
    return torch.cat([hidden, hidden[:1].expand(count, *hidden.shape[1:])]) if count else hidden


def fork_of(variant: Variant) -> Fork:
    """Where a variant first differs from the unmodified run."""
    return min((i.layer, i.site == "resid_post") for i in variant.interventions)
