"""The tables of H1 and H2 are those that TransformerLens's own hooks give on the same weights (make test-peers).

TransformerLens runs its own forward pass, one prompt at a time, with hooks at `hook_z`, `hook_mlp_out`, `hook_resid_post` and, of
each other site, the hook that it has there. What to change is read from a table's key columns and the battery's settings,
and the metrics are computed anew in plain torch, so nothing but the weights and the prompts is shared with tinylab.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

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
from tinylab.interventions.sources import RUNS
from tinylab.measures.metrics import Scorer, available
from tinylab.measures.recovery import RECOVERY_FLOOR
from tinylab.task.corpus import PromptPair
from tinylab.task.tokens import TokenPair

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


def test_the_interventions_of_transformer_lens_show_so_that_agreement_means_something(name: str) -> None:
    for setting in SETTINGS:
        found = theirs(name, setting)
        target = setting.direction.split("->")[1] if setting.direction else "clean"
        changes = [float((logits - found.unmodified[target]).abs().max()) for logits in found.cells.values()]
        assert min(changes) > 100 * TOLERANCE
