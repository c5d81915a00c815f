"""Is this model measured soundly? The checks of `python -m tinylab.selftest`, each a number beside what it may be.

All of them use a few prompt pairs of the run's own condition and, where a check needs interventions, cells of the run's own
battery. Differences of a metric are allowed what a verify slice allows in the model's dtype (`tinylab.checks.verify.TOLERANCES`),
differences of activations a fraction of the largest number in them (`tinylab.engine.choose.TOLERANCES`).

Letters: V variants, B examples, M metrics, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tinylab.arrays import FloatArray
from tinylab.batteries.base import Cell
from tinylab.checks.verify import TOLERANCES as OF_A_METRIC
from tinylab.config.groups import EngineConfig
from tinylab.engine.base import Engine, Evaluation
from tinylab.engine.choose import TOLERANCES, Choice, self_check
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import Activations, ReferenceEngine, capture, intervene
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import COMMON, HEAD_OUT, Site
from tinylab.interventions.sources import RUNS, Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import Scorer, named
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

CELLS, PAIRS, LAYERS = 24, 4, 3
"""How many of the run's cells, prompt pairs and layers are looked at."""


@dataclass(frozen=True)
class Verdict:
    """One check: what was found, what is allowed, and whether it passes (None: there is nothing to judge)."""

    check: str
    found: str
    allowed: str
    passes: bool | None
    note: str = ""


@dataclass(frozen=True)
class Floor:
    """One metric's noise: the largest difference of any tested cell and example, beside the largest effect."""

    metric: str
    effect: float
    forked: float | None  # from the reference engine; None where the run does not use the forked one
    together: float  # evaluated alone, from together
    tolerance: float

    @property
    def passes(self) -> bool | None:
        """Whether both are within the tolerance; None for what a rounding may tip over (a flip is a jump at a tie)."""
        if not named(self.metric).judged:
            return None
        return all(found <= self.tolerance for found in (self.forked, self.together) if found is not None)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Some of the items, evenly spread from the first to the last."""
    return [items[int(i)] for i in np.unique(np.linspace(0, len(items) - 1, most).round())] if items else []


def some_pairs(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """A few distinct pairs, from the shortest to the longest."""
    return spread(sorted(dict.fromkeys(pairs), key=lambda pair: len(pair.clean)), PAIRS)


def some_variants(cells: Sequence[Cell]) -> list[Variant]:
    """A few of a battery's cells, controls left out."""
    return [cell.variant for cell in spread([cell for cell in cells if cell.control == "none"], CELLS)]


def choose(model: CausalModel, config: EngineConfig, pairs: Sequence[TokenPair]) -> tuple[Choice, Verdict]:
    """The engine that a run would use, and what the self-check said.

    A family that `engine=auto` leaves to the reference engine passes: its numbers are right, and slower. With `engine=forked`
    it fails, and the other checks look at the reference engine.
    """
    if config.name == "reference":
        return Choice(ReferenceEngine(model), None, None), Verdict("self-check", "", "", None, "engine=reference needs none")
    try:
        difference = self_check(model, pairs)
    except EngineUnsupported as error:
        plain = Choice(ReferenceEngine(model), None, str(error))
        return plain, Verdict("self-check", "reference engine", "", config.name == "auto", str(error))
    forked = Choice(ForkedEngine(model, config.max_states), difference, None)
    return forked, Verdict("self-check", f"{difference:.2g}", f"{TOLERANCES[model.dtype]:g} × largest logit", True,
                           "forked against reference, every logit")


class Soundness:
    """A model, the engine that its runs use, and the numbers that several checks share."""

    def __init__(self, model: CausalModel, choice: Choice, pairs: Sequence[TokenPair], variants: Sequence[Variant],
                 metrics: Sequence[str], *, unsound: Collection[Site] = ()) -> None:
        """Evaluate what the checks compare.

        Args:
            model: the model.
            choice: the engine that its runs use.
            pairs: B of them.
            variants: V of them.
            metrics: M names.
            unsound: sites to leave alone.
        """
        self._model, self._engine = model, choice.engine
        self._pairs, self._metrics, self._unsound = list(pairs), tuple(metrics), unsound
        self._shams = [
            Variant((Intervention(site, layer, Patch(), head),), target, Own(target), "all")
            for layer in spread(range(model.n_layers), LAYERS)
            for site, head in self._sites()
            for target in RUNS
        ]
        self._variants = [*variants, *self._shams]
        self._tolerance = OF_A_METRIC[str(model.dtype).removeprefix("torch.")]
        self._together = self._all(choice.engine)
        self._plain = self._together if choice.engine.name == ReferenceEngine.name else self._all(ReferenceEngine(model))

    def _sites(self) -> list[tuple[Site, int | None]]:
        return [(site, self._model.n_heads - 1 if site.units == "heads" else None) for site in COMMON
                if site not in self._unsound]

    def _evaluate(self, engine: Engine, pairs: Sequence[TokenPair]) -> Evaluation:
        return engine.evaluate(pairs, self._variants, Scorer(self._metrics))

    def _all(self, engine: Engine) -> FloatArray:
        return numbers(self._evaluate(engine, self._pairs))

    def _judged(self, differences: FloatArray) -> float:
        """The largest difference of any metric that a rounding cannot tip over."""
        judged = [m for m, name in enumerate(self._metrics) if named(name).judged]
        return float(np.abs(differences[..., judged]).max())

    def _of_metrics(self, check: str, difference: float, note: str) -> Verdict:
        return Verdict(check, f"{difference:.2g}", f"{self._tolerance:g}", difference <= self._tolerance, note)

    def determinism(self) -> Verdict:
        """The same evaluation twice is the same, bit for bit."""
        unequal = int(np.count_nonzero(self._all(self._engine) != self._together))
        return Verdict("determinism", f"{unequal} of {self._together.size} numbers differ", "0", unequal == 0,
                       "the same twice, bit for bit")

    def batch_invariance(self) -> Verdict:
        """A prompt pair alone gives what it gives together with the others."""
        return self._of_metrics("batch invariance", self._judged(self._alone - self._together), "alone against together")

    @cached_property
    def _alone(self) -> FloatArray:
        return np.concatenate([numbers(self._evaluate(self._engine, [pair])) for pair in self._pairs], axis=1)

    def shams(self) -> Iterator[Verdict]:
        """A run patched with its own activations stays what it is: exactly by the reference engine, else to rounding."""
        plain = self._sham(self._plain)
        yield Verdict("sham, reference", f"{plain:.2g}", "0", plain == 0, "patched with its own activations")
        if self._engine.name != ReferenceEngine.name:
            yield self._of_metrics(f"sham, {self._engine.name}", self._sham(self._together), "patched with its own activations")

    def _sham(self, found: FloatArray) -> float:
        unmodified = {"clean": found[-2], "corrupt": found[-1]}
        shams = found[-2 - len(self._shams) : -2]
        return self._judged(np.stack([rows - unmodified[sham.target] for rows, sham in zip(shams, self._shams, strict=True)]))

    def floors(self) -> list[Floor]:
        """The noise of every metric."""
        forked = np.abs(self._together - self._plain) if self._engine.name != ReferenceEngine.name else None
        together = np.abs(self._alone - self._together)
        unmodified = {"clean": self._plain[-2], "corrupt": self._plain[-1]}
        real = self._variants[: -len(self._shams)]
        effects = np.abs(np.stack([self._plain[v] - unmodified[variant.target] for v, variant in enumerate(real)]))
        return [
            Floor(name, float(effects[..., m].max()), None if forked is None else float(forked[..., m].max()),
                  float(together[..., m].max()), self._tolerance)
            for m, name in enumerate(self._metrics)
        ]


def numbers(evaluation: Evaluation) -> FloatArray:
    """Every number of an evaluation, [V + 2, B, M]: the variants, then the unmodified clean and corrupt runs."""
    baselines = [evaluation.baselines[run][None] for run in ("clean", "corrupt")]
    return np.concatenate([evaluation.values, *baselines])


# Sum over heads


@dataclass(frozen=True)
class Gap:
    """How far a sum is from the whole, and how far it may be."""

    found: float
    allowed: float

    @staticmethod
    def of(total: torch.Tensor, whole: torch.Tensor, parts: torch.Tensor) -> Gap:
        """A sum of parts [H, …] and the whole that it should be; rounding grows with the largest number in either."""
        largest = max(float(parts.abs().max()), float(whole.abs().max()))
        return Gap(float((total - whole).abs().max()), TOLERANCES[whole.dtype] * largest)


def worst(gaps: Sequence[Gap], check: str, what: str) -> Verdict:
    """The verdict on several sums: all have to be the whole; told is the one nearest to its limit, or beyond it."""
    told = max(gaps, key=lambda gap: np.inf if not gap.found <= gap.allowed else gap.found / max(gap.allowed, 1e-300))
    return Verdict(check, f"{told.found:.2g}", f"{told.allowed:.2g}", told.found <= told.allowed, what)


@torch.no_grad()
def sum_over_heads(model: CausalModel, pairs: Sequence[TokenPair]) -> Verdict:
    """What single heads write adds up to what attention writes.

    At every layer and token of the clean prompts, with z the input of the output projection and z_h the same with all heads
    but h at 0: Σ_h (projection(z_h) − projection(0)) + projection(0) = projection(z), the output as it was in the forward pass.
    """
    gaps = []
    for pair in pairs:
        inputs: Activations = {}
        with capture(model, {(HEAD_OUT, layer) for layer in range(model.n_layers)}, inputs), _outputs(model) as outputs:
            _read(model, pair.clean)
        for layer in range(model.n_layers):
            z = inputs[HEAD_OUT, layer][0]  # [T, H, d]
            one_each = (z * torch.eye(model.n_heads, dtype=z.dtype, device=z.device)[:, None, :, None]).flatten(2)  # [H, T, H·d]
            projection = model.projection(layer)
            bias = projection(torch.zeros_like(one_each[0]))
            writes = torch.stack([projection(head) for head in one_each]) - bias
            gaps.append(Gap.of(writes.sum(dim=0) + bias, outputs[layer], writes))
    return worst(gaps, "sum over heads", "what heads write, and the bias, is what attention writes")


@torch.no_grad()
def sum_of_patches(model: CausalModel, pair: TokenPair) -> Verdict:
    """Heads patched one at a time add up to all of them patched together.

    It holds where the network is linear, at the output projection of the patched layer: the changes that patching each head of
    a layer makes to the projection's output at the last token (clean->corrupt) add up to the change that patching all makes.
    """
    sources: Activations = {}
    layers = spread(range(model.n_layers), LAYERS)
    with capture(model, {(HEAD_OUT, layer) for layer in layers}, sources):
        _read(model, pair.clean)

    def written(layer: int, *heads: int | None) -> torch.Tensor:
        """The projection's output at the last token with some heads patched (None: all of them)."""
        patches = tuple(Intervention(HEAD_OUT, layer, Patch(), head) for head in heads)
        with _outputs(model) as outputs:
            if patches:
                variant = Variant(patches, "corrupt", Own("clean"), "last")
                with intervene(model, variant, [-1], lambda site, layer: sources[site, layer][:, -1:]):
                    _read(model, pair.corrupt)
            else:
                _read(model, pair.corrupt)
        return outputs[layer][-1]

    gaps = []
    for layer in layers:
        before, together = written(layer), written(layer, None)
        each = torch.stack([written(layer, head) - before for head in range(model.n_heads)])
        gaps.append(Gap.of(before + each.sum(dim=0), together, each))
    return worst(gaps, "sum of patches", "heads of a layer patched one at a time, and together")


def _read(model: CausalModel, prompt: Sequence[int]) -> None:
    model.model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False)


@contextmanager
def _outputs(model: CausalModel) -> Iterator[dict[int, torch.Tensor]]:
    """While open, a forward pass leaves each layer's output of the projection, [T, D]."""
    found: dict[int, torch.Tensor] = {}
    handles = []
    for layer in range(model.n_layers):

        def keep(_module: object, _args: object, output: torch.Tensor, layer: int = layer) -> None:
            found[layer] = output.reshape(-1, output.shape[-1])

        handles.append(model.projection(layer).register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
