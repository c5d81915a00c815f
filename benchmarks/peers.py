"""TransformerLens and nnsight, where they are installed (`make bench-peers`): what (a) does, by their own hooks.

Each makes one hooked forward pass per intervention on (a)'s padded batch, with the logits of every row, in the way its
documentation shows, on the weights of the benchmark's model. The modules are copies, because both tools change those
that they are given.

Letters: B examples, T longest prompt, W words, D width of a site.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol

import torch

from benchmarks.baselines import Batch, places
from tinylab.arrays import FloatArray
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Intervention, Positions, Variant
from tinylab.measures import readings
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

Kept = dict[tuple[Site, int], torch.Tensor]
"""Activations of the source run, [B, T, D], or as the tool shapes them."""


class Tool(Protocol):
    """A library that can run a model with hooks."""

    name: str
    package: str

    def keep(self, batch: Batch, sites: Sequence[tuple[Site, int]]) -> tuple[torch.Tensor, Kept]:
        """Logits [B, T, W] and some activations of the unmodified run; sites in the order of their layers."""
        ...

    def change(self, batch: Batch, variant: Variant, kept: Kept) -> torch.Tensor:
        """Logits [B, T, W] of a run with interventions."""
        ...


class TransformerLens:
    """TransformerBridge without processing of weights; it sets eager attention itself."""

    name, package = "TransformerLens", "transformer_lens"
    hooks: ClassVar[dict[Site, str]] = {HEAD_OUT: "attn.hook_z", MLP_OUT: "hook_mlp_out", RESID_POST: "hook_resid_post"}

    def __init__(self, model: CausalModel, tokenizer: Any) -> None:
        """Wrap a copy; a tokenizer has to be given, tokens come ready made."""
        from transformer_lens.model_bridge import TransformerBridge

        inner = _copy(model)
        inner.config.architectures = [type(inner).__name__]
        self._bridge = TransformerBridge.boot_transformers(
            "random", hf_model=inner, device=str(model.device), dtype=model.dtype, tokenizer=tokenizer
        )

    def keep(self, batch: Batch, sites: Sequence[tuple[Site, int]]) -> tuple[torch.Tensor, Kept]:
        """See `Tool`."""
        logits, cache = self._bridge.run_with_cache(
            batch.ids, names_filter=[self._hook(*site) for site in sites], **_inputs(batch)
        )
        return logits, {site: cache[self._hook(*site)] for site in sites}

    def change(self, batch: Batch, variant: Variant, kept: Kept) -> torch.Tensor:
        """See `Tool`."""
        logits: torch.Tensor = self._bridge.run_with_hooks(
            batch.ids,
            fwd_hooks=[(self._hook(i.site, i.layer), self._changer(i, variant.positions, kept)) for i in variant.interventions],
            **_inputs(batch),
        )
        return logits

    def _hook(self, site: Site, layer: int) -> str:
        return f"blocks.{layer}.{self.hooks[site]}"

    def _changer(self, intervention: Intervention, positions: Positions, kept: Kept) -> Callable[..., torch.Tensor]:
        at: tuple[Any, ...] = (slice(None), places(positions))
        if intervention.head is not None:
            at += (intervention.head,)  # [B, T, H, d_head]

        def change(value: torch.Tensor, hook: object) -> torch.Tensor:
            del hook
            _put(value, at, intervention, kept)
            return value

        return change


class NNsight:
    """A trace of the model."""

    name, package = "nnsight", "nnsight"

    def __init__(self, model: CausalModel, tokenizer: Any) -> None:
        """Wrap a copy."""
        import nnsight

        del tokenizer
        self._inner = CausalModel(_copy(model), None, model.identity, False)
        self._names = {module: name for name, module in self._inner.model.named_modules()}
        self._net, self._save = nnsight.NNsight(self._inner.model), nnsight.save

    def keep(self, batch: Batch, sites: Sequence[tuple[Site, int]]) -> tuple[torch.Tensor, Kept]:
        """See `Tool`."""
        save, net = self._save, self._net
        with net.trace(input_ids=batch.ids, **_inputs(batch)):
            kept = save({site: self._value(*site).clone() for site in sites})
            logits = save(net.output.logits)
        return logits, kept

    def change(self, batch: Batch, variant: Variant, kept: Kept) -> torch.Tensor:
        """See `Tool`."""
        save, net = self._save, self._net
        with net.trace(input_ids=batch.ids, **_inputs(batch)):
            for intervention in variant.interventions:
                value = self._value(intervention.site, intervention.layer)
                _put(value, (slice(None), places(variant.positions), self._part(intervention)), intervention, kept)
            logits = save(net.output.logits)
        return logits

    def _value(self, site: Site, layer: int) -> torch.Tensor:
        """A site's activation [B, T, D] in a trace; changing it in place changes the run."""
        module = self._net.get(self._names[self._inner.point(site.module, layer)])
        if site.side == "in":
            taken: torch.Tensor = module.input
            return taken
        output = module.output
        value: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
        return value

    def _part(self, intervention: Intervention) -> slice:
        width, head = self._inner.head_width, intervention.head
        return slice(None) if head is None else slice(head * width, (head + 1) * width)


class PeerRuns:
    """A battery by a tool's hooks, as `baselines.PlainRuns` makes it by plain ones."""

    def __init__(self, tool: Tool, batches: dict[RunName, Batch], pairs: Sequence[TokenPair], variants: Sequence[Variant],
                 scorer: Scorer) -> None:
        """Nothing is computed yet."""
        self.tool, self._batches, self._scorer = tool, batches, scorer
        device = batches["clean"].ids.device
        self._answers = [torch.tensor([getattr(pair, name) for pair in pairs], device=device) for name in ("target", "foil")]
        self._source: RunName | None = next((v.source.run for v in variants if v.source is not None), None)
        patched = {(i.site, i.layer) for v in variants if v.source is not None for i in v.interventions}
        self._sites = sorted(patched, key=lambda site: site[1])
        self._kept: Kept = {}
        self._clean_run: readings.CleanRun | None = None

    @torch.inference_mode()
    def unmodified(self) -> None:
        """The clean run and the source run's activations; also warms up."""
        for run in dict.fromkeys([*([self._source] if self._source else []), "clean"]):
            logits, kept = self.tool.keep(self._batches[run], self._sites if run == self._source else [])
            self._kept.update(kept)
            if run == "clean":
                self._clean_run = readings.clean_run(logits[:, -1], *self._answers)

    @torch.inference_mode()
    def evaluate(self, variant: Variant) -> FloatArray:
        """One variant on all prompts, [B, M]."""
        assert self._clean_run is not None, "the unmodified runs come first"
        logits = self.tool.change(self._batches[variant.target], variant, self._kept)
        return self._scorer.score(logits[:, -1], self._clean_run).numpy()


KINDS: tuple[type[TransformerLens] | type[NNsight], ...] = (TransformerLens, NNsight)


def installed() -> dict[str, str]:
    """The tools that can be measured here, with their versions."""
    return {kind.name: version(kind.package) for kind in KINDS if find_spec(kind.package) is not None}


def tools(model: CausalModel, tokenizer: Any) -> list[Tool]:
    """The installed ones, around the model's weights."""
    return [kind(model, tokenizer) for kind in KINDS if kind.name in installed()]


def _copy(model: CausalModel) -> Any:
    """New modules around the same weights."""
    return copy.deepcopy(model.model, {id(weight): weight for weight in model.model.parameters()})


def _inputs(batch: Batch) -> dict[str, Any]:
    return {"attention_mask": batch.mask, "position_ids": batch.places, "use_cache": False}


def _put(value: torch.Tensor, at: tuple[Any, ...], intervention: Intervention, kept: Kept) -> None:
    """Change an activation in place."""
    if isinstance(intervention.operation, Scale):
        value[at] *= intervention.operation.factor
    else:
        assert isinstance(intervention.operation, Patch)
        value[at] = kept[intervention.site, intervention.layer][at]
