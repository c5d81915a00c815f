"""The tables of H1 and H2 are those that TransformerLens's own hooks give on the same weights (make test-peers).

TransformerLens runs its own forward pass, one prompt at a time, with hooks at `hook_z`, `hook_mlp_out`, `hook_resid_post` and, of
each other site, the hook that it has there. What to change is read from a table's key columns and the battery's settings,
and the metrics are computed anew in plain torch, so nothing but the weights and the prompts is shared with tinylab.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from conftest import Within
from families import ALIGNED, FAMILIES, HEADS, LAYERS, UNALIGNED, VOCABULARY, family, lacking, make, plain_logits
from tinylab.batteries.activation_patch import DIRECTIONS, ActivationPatch
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.effects.impact import assemble
from tinylab.engine.choose import AllLogits
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.interventions.operations import Add, Operation, Patch
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import RUNS, Donor, Mean, Reference, Source, Vector
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import Scorer, available
from tinylab.measures.recovery import RECOVERY_FLOOR
from tinylab.task.corpus import PromptPair
from tinylab.task.positions import at_each_position
from tinylab.task.tokens import Prompt, TokenPair

pytest.importorskip("transformer_lens", reason="TransformerLens is not installed: make test-peers has it")

from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = 1e-4
"""Float32 and two attention kernels: under 3e-6 is measured, in logits and in tables."""
HOOKS = {
    "head_out": "blocks.{}.attn.hook_z", "mlp_out": "blocks.{}.hook_mlp_out", "layer_resid": "blocks.{}.hook_resid_post",
    "resid_pre": "blocks.{}.hook_resid_pre", "resid_mid": "blocks.{}.hook_resid_mid", "v": "blocks.{}.attn.hook_v",
    "mlp_neurons": "blocks.{}.mlp.hook_post",
}
TURNED = {"q": "blocks.{}.attn.hook_rot_q", "k": "blocks.{}.attn.hook_rot_k"}
PLAIN = {"q": "blocks.{}.attn.hook_q", "k": "blocks.{}.attn.hook_k"}
"""Queries and keys behind the rotary embedding, and in families without one."""
ROTARY, WITHOUT_ROTARY = ("llama", "qwen3", "gemma2", "gemma3", "olmo2"), ("gpt2", "opt")
"""Families whose queries and keys TransformerLens shows as attention gets them: of GPT-NeoX and Phi it has those before only."""
NEURONS = [0, 5, 47]
"""No family here has fewer; attention's output it has behind the norm that some families put there, so `attn_out` is hooked at
the projection itself."""
CHOSEN = ("gpt2", "gpt_neox", "gpt_neox_sequential", "llama", "qwen3", "opt", "phi", "gemma2", "gemma3", "olmo2")
"""Families that differ in what matters here: biases, parallel blocks, grouped queries, norms behind the MLP, windows."""
TINY = Path(__file__).parent.parent.parent / "tinylab/assets/tiny"
SCALES = [0.0, 0.5]
SCORER = Scorer(tuple(available(source=False)))
EQUAL = (ALIGNED[0], ALIGNED[3], *ALIGNED[6:10])
UNEQUAL = (*UNALIGNED[:2], UNALIGNED[3])
LOGITS = AllLogits(tuple(str(word) for word in range(VOCABULARY)))

Key = tuple[tuple[str, Any], ...]
Table = dict[tuple[Key, str], float]


@dataclass(frozen=True)
class Setting:
    """A battery, on pairs that it can be run on."""

    granularity: str = "head"
    direction: str = ""
    positions: str = "all"
    per_head: bool = False

    @property
    def battery(self) -> Any:
        if self.granularity == "head":
            return HeadsZero(name="h1", scales=SCALES)
        return ActivationPatch(
            name="h2", granularity=self.granularity, patch_direction=self.direction, positions=self.positions,
            per_head=self.per_head, neurons=NEURONS if self.granularity == "mlp_neurons" else None,
        )

    def units(self, kv_heads: int) -> list[tuple[Key, int | None]]:
        """What is patched alone in a layer, and what the table calls it."""
        if self.granularity == "mlp_neurons":
            return [((("neuron", neuron),), neuron) for neuron in NEURONS]
        heads = range(HEADS if self.granularity in ("head_out", "q") else kv_heads)
        alone: list[tuple[Key, int | None]] = [((("head", head), ("scale", 1.0)), head) for head in heads]
        return alone if self.per_head else [((("granularity", self.granularity),), None)]

    def hook(self, name: str) -> str | None:
        """The hook in a family, None where TransformerLens has none there."""
        if self.granularity in PLAIN:
            return (TURNED if name in ROTARY else PLAIN)[self.granularity] if name in ROTARY + WITHOUT_ROTARY else None
        if self.granularity == "attn_out":
            return "blocks.{}.attn.o.hook_out"
        return None if self.granularity in lacking(name) else HOOKS[self.granularity]

    @property
    def prompts(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """Pairs of unequal length too, unless positions of one run are put into the other's."""
        return EQUAL if self.positions == "all" and self.direction else EQUAL + UNEQUAL


DIRECTION = next(iter(DIRECTIONS))
H2 = [
    Setting(granularity, direction, positions)
    for granularity, direction, positions in product(("head_out", "mlp_out", "layer_resid"), DIRECTIONS, ("last", "all"))
    if (granularity, positions) != ("layer_resid", "all")
]
SETTINGS = [Setting(), *H2]
MORE = [
    *(Setting(site, DIRECTION, positions, per_head) for site, per_head in
      (("attn_out", False), ("q", False), ("q", True), ("k", True), ("v", False), ("v", True), ("mlp_neurons", False))
      for positions in ("last", "all")),
    Setting("resid_pre", DIRECTION, "last"), Setting("resid_mid", DIRECTION, "last"),
]


class Lens:
    """A model of a family in TransformerLens, its weights as they are."""

    def __init__(self, name: str) -> None:
        model = make(FAMILIES[name]).model
        model.config.architectures = [type(model).__name__]  # it is how TransformerLens knows a model
        tokenizer = AutoTokenizer.from_pretrained(TINY)  # it wants one; tokens come ready made
        self.bridge = TransformerBridge.boot_transformers("random", hf_model=model, device="cpu", tokenizer=tokenizer)
        self.kept: dict[tuple[int, ...], Any] = {}

    def activations(self, prompt: tuple[int, ...]) -> Any:
        """Those of the unmodified run, by the hook's name."""
        if prompt not in self.kept:
            with torch.no_grad():
                self.kept[prompt] = self.bridge.run_with_cache(torch.tensor([prompt]))[1]
        return self.kept[prompt]

    def logits(self, prompt: tuple[int, ...], *hooks: tuple[str, Any]) -> torch.Tensor:
        """At the last token, [W]."""
        with torch.no_grad():
            logits: torch.Tensor = self.bridge.run_with_hooks(torch.tensor([prompt]), fwd_hooks=list(hooks))
        return logits[0, -1].double()

    def scaled(self, pair: TokenPair, layer: int, head: int, scale: float) -> torch.Tensor:
        """H1's cell: a head's z [1, T, H, d_head] multiplied, at every position."""

        def change(z: torch.Tensor, hook: object) -> torch.Tensor:
            z = z.clone()
            z[:, :, head] *= scale
            return z

        return self.logits(pair.clean, (HOOKS["head_out"].format(layer), change))

    def patched(self, pair: TokenPair, layer: int, setting: Setting, hook_name: str, unit: int | None) -> torch.Tensor:
        """H2's cell: an activation [1, T, …] of the source run put into the target run, all of it or one unit."""
        source, target = (getattr(pair, run) for run in setting.direction.split("->"))
        kept = self.activations(source)[hook_name]

        def change(value: torch.Tensor, hook: object) -> torch.Tensor:
            if setting.granularity != "resid_mid":  # its hook gives what the norm gets; the stream past it is the same tensor
                value = value.clone()
            places = slice(-1, None) if setting.positions == "last" else slice(None)
            chosen = (slice(None), places) if unit is None else (slice(None), places, unit)
            value[chosen] = kept[chosen]
            return value

        return self.logits(target, (hook_name, change))


@dataclass(frozen=True)
class Theirs:
    """Logits [B, W] of the unmodified runs and of each cell, by TransformerLens."""

    pairs: list[TokenPair]
    unmodified: dict[str, torch.Tensor]
    cells: dict[Key, torch.Tensor]


@cache
def lens(name: str) -> Lens:
    return Lens(name)


def answered(name: str, prompts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]) -> list[TokenPair]:
    """Pairs with answers: half are right in the clean run, and clean and corrupt runs differ, so that recovery is defined."""
    pairs = []
    for number, (clean, corrupt) in enumerate(prompts):
        logits, other = (plain_logits(family(name), prompt) for prompt in (clean, corrupt))
        target = int((logits if number % 2 == 0 else logits - other).argmax())
        foil = int((other - logits).argmax())
        pairs.append(TokenPair(clean, corrupt, target, foil))
    return pairs


@cache
def theirs(name: str, setting: Setting) -> Theirs:
    pairs, peer = answered(name, setting.prompts), lens(name)
    cells: dict[Key, torch.Tensor] = {}
    if setting.granularity == "head":
        for layer, head, scale in product(range(LAYERS), range(HEADS), SCALES):
            key = (("layer", layer), ("head", head), ("scale", scale))
            cells[key] = torch.stack([peer.scaled(pair, layer, head, scale) for pair in pairs])
    else:
        hook = setting.hook(name)
        assert hook is not None
        for layer, (called, unit) in product(range(LAYERS), setting.units(family(name).n_kv_heads)):
            key = (("layer", layer), *called)
            cells[key] = torch.stack([peer.patched(pair, layer, setting, hook.format(layer), unit) for pair in pairs])
    unmodified = {run: torch.stack([peer.logits(getattr(pair, run)) for pair in pairs]) for run in RUNS}
    return Theirs(pairs, unmodified, cells)


def their_table(found: Theirs, setting: Setting) -> Table:
    """Every metric of every cell, by the definitions of docs/reference.md."""
    clean, rows = found.unmodified["clean"], torch.arange(len(found.pairs))
    target, foil = (torch.tensor([getattr(pair, name) for pair in found.pairs]) for name in ("target", "foil"))
    p, right = clean.softmax(-1), clean.argmax(-1) == target

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[rows, target] - logits[rows, foil]

    table: Table = {}
    for key, logits in found.cells.items():
        q = logits.softmax(-1)
        table[key, "logit_diff"] = difference(logits).mean().item()
        table[key, "kl_div"] = (p * (p / q).log()).sum(-1).mean().item()
        table[key, "acc_flip_rate"] = (right & (logits.argmax(-1) != target)).double().mean().item()
        table[key, "p_drop"] = (p - q)[rows, target].mean().item()
        if setting.direction:
            source, patched = (difference(found.unmodified[run]) for run in setting.direction.split("->"))
            gained, whole = difference(logits) - patched, source - patched
            assert abs(whole.mean().item()) >= RECOVERY_FLOOR
            table[key, "recovery"] = (gained.mean() / whole.mean()).item()
            table[key, "recovery_mean"] = (gained / whole)[whole.abs() >= RECOVERY_FLOOR].mean().item()
    return table


def our_table(name: str, pairs: list[TokenPair], setting: Setting) -> Table:
    battery = setting.battery
    cells = battery.cells_of(family(name).sizes)
    texts = [PromptPair(b, "", "", "", "", None) for b in range(len(pairs))]
    found = ForkedEngine(family(name)).evaluate(pairs, [cell.variant for cell in cells], SCORER)
    impact = assemble(
        battery, cells, texts, {0: list(range(len(pairs)))}, found, computed=SCORER.names,
        wanted=available(source=battery.source is not None),
    )
    return {(tuple(key.items()), metric): value for _, key, metric, value in impact.rows()}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """TransformerLens logs through the root logger."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(params=CHOSEN)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("setting", MORE, ids=str)
def test_all_logits_at_the_other_sites_are_those_of_transformer_lens(name: str, setting: Setting, within: Within) -> None:
    if setting.hook(name) is None:
        pytest.skip(f"TransformerLens has no hook at {setting.granularity} of {name}")
    test_all_logits_of_every_prompt_are_those_of_transformer_lens(name, setting, within)
    found = theirs(name, setting)
    target = found.unmodified[setting.direction.split("->")[1]]
    assert max(float((logits - target).abs().max()) for logits in found.cells.values()) > 100 * TOLERANCE


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_cell_of_a_table_is_what_transformer_lens_gives(name: str, setting: Setting, within: Within) -> None:
    expected = theirs(name, setting)
    table, our = their_table(expected, setting), our_table(name, expected.pairs, setting)
    assert our.keys() == table.keys()
    within("peers, tables", max(abs(our[cell] - table[cell]) for cell in table), TOLERANCE)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_all_logits_of_every_prompt_are_those_of_transformer_lens(name: str, setting: Setting, within: Within) -> None:
    expected = theirs(name, setting)
    cells = setting.battery.cells_of(family(name).sizes)
    found = ForkedEngine(family(name)).evaluate(expected.pairs, [cell.variant for cell in cells], LOGITS)
    gaps = [(torch.tensor(found.baselines[run]) - expected.unmodified[run]).abs().max() for run in RUNS]
    for cell, values in zip(cells, found.values, strict=True):
        gaps.append((torch.tensor(values) - expected.cells[tuple(cell.key.items())]).abs().max())
    within("peers, logits", float(max(gaps)), TOLERANCE)


# Ablations and grids


ABLATED = ("gpt2", "llama")
"""Without and with grouped queries."""
OTHERS = tuple((prompt, prompt[::-1]) for prompt in ((5, 7, 9, 11), (4, 8, 9, 3), (5, 7, 9, 12, 13, 14), (6, 7, 2, 12, 1, 3)))
"""Pairs whose clean prompts have another of their length each."""
FEW = (ALIGNED[0], ALIGNED[3], ALIGNED[9])
"""Pairs of 3, 6 and 5 tokens."""
ALPHA = 0.7
ACTS: dict[Site, tuple[str, int | None]] = {
    HEAD_OUT: (HOOKS["head_out"], 1), MLP_OUT: (HOOKS["mlp_out"], None), RESID_POST: (HOOKS["layer_resid"], None),
}
"""The hook of each site, and the head that is ablated there."""
Given = Callable[[Lens, str, TokenPair], torch.Tensor]
"""What stands in a hook's activation for an example, or is added to it, [T or 1, …]."""


def rows_of(peer: Lens, hook_name: str, prompts: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """A hook's activation [T, …] in the unmodified run of each prompt."""
    return [peer.activations(prompt)[hook_name][0] for prompt in prompts]


def by_kind(pairs: list[TokenPair]) -> dict[str, tuple[Source, Operation, Given]]:
    """The same ablations as tinylab and as TransformerLens are told them; the reference set has prompts of several lengths."""
    clean = [pair.clean for pair in pairs]
    reference = Reference("clean", tuple(clean), (0,) * len(clean))

    def mean(peer: Lens, hook_name: str, pair: TokenPair) -> torch.Tensor:
        return torch.cat(rows_of(peer, hook_name, clean)).mean(dim=0, keepdim=True)

    def mean_by_position(peer: Lens, hook_name: str, pair: TokenPair) -> torch.Tensor:
        kept = rows_of(peer, hook_name, clean)
        return torch.stack([torch.stack([rows[t] for rows in kept if len(rows) > t]).mean(dim=0) for t in range(len(pair.clean))])

    def donor(peer: Lens, hook_name: str, pair: TokenPair) -> torch.Tensor:
        (rows,) = rows_of(peer, hook_name, [pair.donors[0].tokens])
        return rows

    return {
        "mean": (Mean(reference), Patch(), mean),
        "mean by position": (Mean(reference, by_position=True), Patch(), mean_by_position),
        "resample": (Donor(0), Patch(), donor),
    }


def with_donors(pairs: list[TokenPair]) -> list[TokenPair]:
    """Each with the other clean prompt of its length as its donor."""
    found = []
    for pair in pairs:
        (other,) = (one.clean for one in pairs if len(one.clean) == len(pair.clean) and one != pair)
        found.append(replace(pair, donors=(Prompt(other),)))
    return found


def ablated(peer: Lens, pair: TokenPair, hook_name: str, head: int | None, positions: str, given: torch.Tensor, add: bool) -> Any:
    """Logits with an activation [1, T, …] of the clean run ablated at the last token or at all of them."""
    own = given if head is None or given.dim() < 3 else given[:, head]

    def change(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        places = slice(-1, None) if positions == "last" else slice(None)
        chosen = (0, places) if head is None else (0, places, head)
        put = own if len(own) == 1 else own[places]
        value[chosen] = value[chosen] + ALPHA * put if add else put
        return value

    return peer.logits(pair.clean, (hook_name, change))


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("kind", ["mean", "mean by position", "resample", "vector"])
@pytest.mark.parametrize("family_name", ABLATED)
def test_all_logits_of_an_ablation_are_those_of_transformer_lens(
    family_name: str, kind: str, positions: str, within: Within
) -> None:
    peer, pairs = lens(family_name), with_donors(answered(family_name, OTHERS))
    model, variants, expected = family(family_name), [], []
    for (site, (hook, head)), layer in product(ACTS.items(), range(LAYERS)):
        if kind == "vector":
            width = model.taken(layer) if site == HEAD_OUT else int(model.config.hidden_size)
            values = np.random.default_rng(layer).normal(size=(1, width))
            source, operation = Vector(f"{site} {layer}", values), Add(ALPHA)
            own = torch.tensor(values, dtype=torch.float32)
            own = own if head is None else own.reshape(1, HEADS, -1)
            wanted = [own] * len(pairs)
        else:
            source, operation, given = by_kind(pairs)[kind]
            wanted = [given(peer, hook.format(layer), pair) for pair in pairs]
        variants.append(Variant((Intervention(site, layer, operation, head),), "clean", source, positions))
        expected.append(torch.stack([
            ablated(peer, pair, hook.format(layer), head, positions, one, add=kind == "vector")
            for pair, one in zip(pairs, wanted, strict=True)
        ]))
    found = torch.tensor(ForkedEngine(model).evaluate(pairs, variants, LOGITS).values)
    plain = torch.stack([peer.logits(pair.clean) for pair in pairs])
    within("peers, logits", float((found - torch.stack(expected)).abs().max()), TOLERANCE)
    assert min(float((logits - plain).abs().max()) for logits in expected) > 100 * TOLERANCE


@pytest.mark.parametrize("granularity", ["resid_pre", "mlp_out", "v", "zeroed heads"])
@pytest.mark.parametrize("family_name", ABLATED)
def test_all_logits_of_a_grid_are_those_of_transformer_lens(family_name: str, granularity: str, within: Within) -> None:
    """Every layer, or head, at every position by itself; prompts that end before a position stay what they are."""
    model, peer = family(family_name), lens(family_name)
    pairs = answered(family_name, FEW)
    zeroed, heads = granularity == "zeroed heads", granularity in ("v", "zeroed heads")
    battery: Any = HeadsZero(name="h1", heads=[0, 3], positions="each") if zeroed else ActivationPatch(
        name="h2", granularity=granularity, positions="each", per_head=heads)
    longest = max(len(pair.corrupt) for pair in pairs)
    cells = at_each_position(battery.cells_of(model.sizes), longest)
    units = {"v": model.n_kv_heads, "zeroed heads": 2}.get(granularity, 1)
    assert len(cells) == LAYERS * units * longest
    found = torch.tensor(ForkedEngine(model).evaluate(pairs, [cell.variant for cell in cells], LOGITS).values)
    hook, gaps, shown = HOOKS["head_out" if zeroed else granularity], [], 0.0
    unmodified = {prompt: peer.logits(prompt) for pair in pairs for prompt in (pair.clean, pair.corrupt)}
    for number, cell in enumerate(cells):
        layer, position, head = int(cell.key["layer"]), int(cell.key["position"]), cell.key.get("head")
        name = hook.format(layer)
        for b, pair in enumerate(pairs):
            prompt, own = pair.clean if zeroed else pair.corrupt, peer.activations(pair.clean)[name]

            def change(value: torch.Tensor, hook: object, kept: Any = own, at: int = position, head: Any = head) -> torch.Tensor:
                value = value.clone()
                if at < value.shape[1]:
                    chosen = (0, at) if head is None else (0, at, head)
                    value[chosen] = 0.0 if zeroed else kept[chosen]
                return value

            expected = peer.logits(prompt, (name, change))
            gaps.append(float((found[number, b] - expected).abs().max()))
            shown = max(shown, float((expected - unmodified[prompt]).abs().max()))
            assert position < len(prompt) or torch.equal(expected, unmodified[prompt])
    within("peers, logits", max(gaps), TOLERANCE)
    assert shown > 100 * TOLERANCE


def test_the_interventions_of_transformer_lens_show_so_that_agreement_means_something(name: str) -> None:
    for setting in SETTINGS:
        found = theirs(name, setting)
        target = setting.direction.split("->")[1] if setting.direction else "clean"
        changes = [float((logits - found.unmodified[target]).abs().max()) for logits in found.cells.values()]
        assert min(changes) > 100 * TOLERANCE
