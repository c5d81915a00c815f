"""Are a model's sites what they are called? Checks of `python -m tinylab.selftest` at whole layers, beside `soundness`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from tinylab.checks.soundness import LAYERS, Gap, Verdict, spread, worst
from tinylab.engine.base import Engine
from tinylab.engine.choose import TOLERANCES, AllLogits, check_prompts
from tinylab.engine.reference import ReferenceEngine, intervene
from tinylab.engine.trial import flaws
from tinylab.errors import EngineUnsupported
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import COMMON, HEAD_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair


def sites(model: CausalModel, pair: TokenPair) -> tuple[Verdict, Collection[Site]]:
    """The sites that are tried in any model, in every layer, tried as before a run; also the sites that are not sound somewhere.

    Raises:
        ModelError: a layer has no attention or no MLP at all.
    """
    places = [(site, layer) for site in COMMON for layer in range(model.n_layers)]
    found = flaws(model, pair.clean, places)
    note = next((f"{site}: {flaw}" for (site, _), flaw in found.items()), "heads, MLPs and blocks are what they are called")
    return Verdict("sites", f"{len(found)} of {len(places)} unsound", "0", not found, note), {site for site, _ in found}


def last_block(model: CausalModel, engine: Engine, pairs: Sequence[TokenPair]) -> Verdict:
    """What the last block returns, patched at all positions, gives the source run: exactly by the reference engine."""
    check, note = "last block", "its output patched everywhere gives the source run"
    patch = Intervention(RESID_POST, model.n_layers - 1, Patch())
    every = AllLogits(tuple(str(word) for word in range(model.model.get_output_embeddings().weight.shape[0])))
    try:
        found = engine.evaluate(check_prompts(pairs)[:1], [Variant((patch,), "corrupt", Own("clean"))], every)
    except EngineUnsupported as error:
        return Verdict(check, "not made", "", False, str(error))
    source = found.baselines["clean"][0]
    difference = float(np.abs(found.values[0, 0] - source).max())
    exact = engine.name == ReferenceEngine.name
    allowed = 0.0 if exact else TOLERANCES[model.dtype] * max(1.0, float(np.abs(source).max()))
    return Verdict(check, f"{difference:.2g}", f"{allowed:.2g}", difference <= allowed, note)


@torch.no_grad()
def all_heads(model: CausalModel, pair: TokenPair) -> Verdict:
    """A layer with each of its heads at 0 is a layer whose attention writes its output bias and nothing else."""
    check = "all heads"
    gaps = []
    for layer in spread(range(model.n_layers), LAYERS):
        heads = tuple(Intervention(HEAD_OUT, layer, Scale(0.0), head) for head in range(model.n_heads))
        projection = model.projection(layer)
        bias = projection(torch.zeros(1, model.taken(layer), dtype=model.dtype, device=model.device))
        try:
            with intervene(model, Variant(heads, "clean"), range(len(pair.clean))):
                found = _logits(model, pair.clean)
        except EngineUnsupported as error:
            return Verdict(check, "not made", "", False, str(error))
        handle = projection.register_forward_hook(lambda _module, _args, output, bias=bias: bias[0].expand_as(output).clone())
        try:
            expected = _logits(model, pair.clean)
        finally:
            handle.remove()
        gaps.append(Gap.of(found, expected, expected))
    return worst(gaps, check, "all heads of a layer at 0, and its attention's output at its bias")


def _logits(model: CausalModel, prompt: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model.model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False).logits[0]
    return logits
