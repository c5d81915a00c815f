"""A screen: of each layer the k units whose activation differs most between the two prompts of a pair, at their last tokens.

It goes the plain way, one prompt at a time, whichever engine then evaluates the cells: what is chosen does not depend on that.
A large difference is no effect: it says which units are tried, and what is tried is intervened on exactly.

Letters: B examples, W units of a layer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from tinylab.batteries.base import Battery
from tinylab.batteries.neurons import with_units
from tinylab.engine.donors import Place
from tinylab.engine.reference import Activations, capture
from tinylab.models.network import CausalModel
from tinylab.models.rotary import forget_lengths
from tinylab.task.preparation import Prepared
from tinylab.task.tokens import TokenPair

BY = "mean |clean − corrupt| at the last token of each prompt"
"""What a screen goes by, as manifests tell it."""
log = logging.getLogger(__name__)


def screened(prepared: Prepared, battery: Battery, model: CausalModel, before: Mapping[str, Any] | None = None) -> Prepared:
    """The same with the units that the battery's screen finds in its cells; itself where the battery has none.

    Args:
        prepared: the run's pairs, and its cells as they are listed.
        battery: whose cells they are.
        model: loaded.
        before: what the screen of the same run found before, which stays; None where there is none yet.
    """
    screen = battery.screen
    if screen is None:
        return prepared
    told = dict(before) if before is not None else _told(prepared, screen.k, model)
    found: dict[int, list[int]] = {}
    for one in told["chosen"]:
        found.setdefault(one["layer"], []).append(one["unit"])
    cells = with_units(prepared.cells, screen, {layer: sorted(units) for layer, units in found.items()})
    return replace(prepared, cells=cells, screen=told)


def screen_cost(pairs: Sequence[TokenPair], n_layers: int) -> tuple[int, int]:
    """Forward passes and states of a screen: both prompts of each distinct pair."""
    prompts = [prompt for pair in _distinct(pairs) for prompt in pair]
    return len(prompts), n_layers * sum(map(len, prompts))


def _told(prepared: Prepared, k: int, model: CausalModel) -> dict[str, Any]:
    """Screen, and what the manifest says of it: of each layer the k units, the most different first."""
    places = list(dict.fromkeys((i.site, i.layer) for cell in prepared.cells for i in cell.variant.interventions))
    forwards, states = screen_cost(prepared.tokens, model.n_layers)
    log.info("screen: %d forward passes, %d states, to choose %d units of each of %d layers", forwards, states, k, len(places))
    found = differences(model, prepared.tokens, places)
    chosen = [{"layer": layer, "unit": unit, "difference": float(found[site, layer][unit])}
              for site, layer in places for unit in strongest(found[site, layer], k)]
    return {"site": places[0][0].name, "k": k, "by": BY, "pairs": len(prepared.tokens), "forwards": forwards, "states": states,
            "chosen": chosen}


def strongest(differences: Float64[np.ndarray, " W"], k: int) -> list[int]:
    """The k units with the largest numbers, the largest first; of equals those of lower index."""
    return [int(unit) for unit in np.argsort(-differences, kind="stable")[:k]]


@torch.no_grad()
def differences(
    model: CausalModel, pairs: Sequence[TokenPair], places: Sequence[Place]
) -> dict[Place, Float64[np.ndarray, " W"]]:
    """The mean over all pairs of |clean − corrupt| of each unit's activation, each run's at its own last token.

    Args:
        model: the model.
        pairs: of prompts; duplicates count as often as they are there.
        places: sites of layers.
    """
    sums: dict[Place, Float64[np.ndarray, " W"]] = {}
    for (clean, corrupt), times in _distinct(pairs).items():
        one, other = _last(model, clean, places), _last(model, corrupt, places)
        for place in places:
            sums[place] = sums.get(place, 0.0) + times * np.abs(one[place] - other[place])
    return {place: total / len(pairs) for place, total in sums.items()}


def _distinct(pairs: Sequence[TokenPair]) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The distinct pairs of prompts, and how often each is there."""
    return Counter((pair.clean, pair.corrupt) for pair in pairs)


def _last(model: CausalModel, prompt: Sequence[int], places: Sequence[Place]) -> dict[Place, Float64[np.ndarray, " W"]]:
    """Each place's activation at the last token of a prompt, from one plain forward pass."""
    seen: Activations = {}
    forget_lengths(model)
    with capture(model, set(places), seen):
        model.model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=False, **model.last_logits(1))
    return {place: seen[place][0, -1].flatten().double().cpu().numpy() for place in places}
