"""What the forked engine is compared with: one forward pass per intervention, with module hooks, on padded batches.

This is how interventions are made by hand and in the documentation of the usual libraries. All prompts of a run are
one batch, padded on the left, so that the reading row is the last one. (a) computes the logits of every row, (a')
those of the reading row only.

Letters: B examples, T longest prompt, W words, D width of a site, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tinylab.arrays import FloatArray
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import Site
from tinylab.interventions.sources import RUNS, RunName
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures import readings
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """The prompts of one run, padded on the left."""

    ids: torch.Tensor  # [B, T]
    mask: torch.Tensor  # [B, T]
    places: torch.Tensor  # [B, T]

    @staticmethod
    def of(prompts: Sequence[Sequence[int]], device: torch.device) -> Batch:
        """Pad prompts to the longest."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        return Batch(ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0))


class PlainRuns:
    """A battery by plain hooks: the two unmodified runs first, then a forward pass for each variant."""

    def __init__(self, model: CausalModel, pairs: Sequence[TokenPair], variants: Sequence[Variant], scorer: Scorer) -> None:
        """Lay out the batches; nothing is computed yet."""
        self._model, self._scorer = model, scorer
        self.batches: dict[RunName, Batch] = {run: Batch.of([getattr(pair, run) for pair in pairs], model.device) for run in RUNS}
        answers = ([getattr(pair, name) for pair in pairs] for name in ("target", "foil"))
        self._answers = [torch.tensor(tokens, device=model.device) for tokens in answers]
        self._sites = {(i.site, i.layer) for v in variants if v.source is not None for i in v.interventions}
        self._source: RunName | None = next((v.source.run for v in variants if v.source is not None), None)
        self._cache: dict[tuple[Site, int], torch.Tensor] = {}
        self._clean_run: readings.CleanRun | None = None

    @torch.inference_mode()
    def unmodified(self, reading_rows_only: bool = False) -> dict[RunName, FloatArray]:
        """The baselines, [B, M] each; keeps the clean run and the source run's activations."""
        logits: dict[RunName, torch.Tensor] = {}
        for run in RUNS:
            with ExitStack() as stack:
                for site, layer in self._sites if run == self._source else ():
                    stack.enter_context(hooked(self._model, site, layer, self._keeper(site, layer)))
                logits[run] = self._forward(run, reading_rows_only)
        self._clean_run = readings.clean_run(logits["clean"], *self._answers)
        return {run: self._scorer.score(logits[run], self._clean_run).numpy() for run in RUNS}

    @torch.inference_mode()
    def evaluate(self, variant: Variant, reading_rows_only: bool) -> FloatArray:
        """One variant on all prompts, [B, M].

        Args:
            variant: what to change.
            reading_rows_only: whether only the reading rows get logits: (a') instead of (a).
        """
        assert self._clean_run is not None, "the unmodified runs come first"
        with ExitStack() as stack:
            for intervention in variant.interventions:
                change = self._changer(intervention, variant.positions)
                stack.enter_context(hooked(self._model, intervention.site, intervention.layer, change))
            logits = self._forward(variant.target, reading_rows_only)
        return self._scorer.score(logits, self._clean_run).numpy()

    def _forward(self, run: RunName, reading_rows_only: bool) -> torch.Tensor:
        """Logits at the reading rows, [B, W]."""
        batch = self.batches[run]
        last = torch.tensor([batch.ids.shape[1] - 1], device=batch.ids.device)
        fewer = {"logits_to_keep": last} if reading_rows_only else {}
        logits: torch.Tensor = self._model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.places, use_cache=False, **fewer
        ).logits
        return logits[:, -1]

    def _keeper(self, site: Site, layer: int) -> Change:
        def keep(value: torch.Tensor) -> torch.Tensor:
            self._cache[site, layer] = value.clone()
            return value

        return keep

    def _changer(self, intervention: Intervention, positions: Positions) -> Change:
        columns = places(positions)

        def change(value: torch.Tensor) -> torch.Tensor:
            value = value.clone()
            width = value.shape[-1] // self._model.n_heads
            head = intervention.head
            part = slice(None) if head is None else slice(head * width, (head + 1) * width)
            if isinstance(intervention.operation, Scale):
                value[:, columns, part] *= intervention.operation.factor
            else:
                assert isinstance(intervention.operation, Patch)
                value[:, columns, part] = self._cache[intervention.site, intervention.layer][:, columns, part]
            return value

        return change


def places(positions: Positions) -> slice:
    """The changed columns of a batch that is padded on the left."""
    if positions == "last":
        return slice(-1, None)
    if positions == "all":
        return slice(None)
    raise ValueError(f"positions={positions}: a left-padded batch has only 'last' and 'all'")


@contextmanager
def hooked(model: CausalModel, site: Site, layer: int, change: Change) -> Iterator[None]:
    """While open, a site's activation [B, T, D] is replaced by `change(activation)`."""

    def before(_module: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def after(_module: object, _args: object, output: Any) -> Any:
        return change(output) if isinstance(output, torch.Tensor) else (change(output[0]), *output[1:])

    module = model.point(site.module, layer)
    handle = module.register_forward_pre_hook(before) if site.side == "in" else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
