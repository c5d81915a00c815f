"""Model A, the induction ledger: every entry of it is found by the command line and by both engines, to 2e-9."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Command
from planted import ENGINES, Typed, every_logit, examples, heads, layers, levels, model, pairs, patched, recovered, scaled
from tinylab.config.groups import ModelConfig
from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import RESID_POST
from tinylab.interventions.sources import Own, RunName
from tinylab.interventions.variants import Intervention, Variant
from tinylab.measures.metrics import Scorer
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.planted import closed_forms as known
from tinylab.planted import corpora, ledger
from tinylab.planted.__main__ import write_model
from tinylab.results import Run as Finished
from tinylab.task.tokens import TokenPair

NEAR = known.TOLERANCE
HEADS = list(known.LEDGER_ZERO)
DIRECTIONS = ("clean->corrupt", "corrupt->clean")
SCALES = (0.0, 0.5, 2.0, -1.0)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("ledger"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(expected: object) -> object:
    return pytest.approx(expected, abs=NEAR, rel=0)


def h1(typed: Typed, engine: str) -> Finished:
    return typed.run("planted_a", engine, f"battery.scales={list(SCALES)}")


def h2(typed: Typed, engine: str, granularity: str, direction: str) -> Finished:
    asked = (f"battery.granularity={granularity}", f"battery.patch_direction='{direction}'", "battery.sham_control=true")
    return typed.run("planted_a", engine, "battery=h2", *asked)


# H1


def test_clean_and_corrupt_are_plus_and_minus_g_less_h(typed: Typed, engine: str) -> None:
    baselines = h1(typed, engine).summary["baselines"]
    assert baselines["clean"]["logit_diff"]["mean"] == near(known.LEDGER_LEVEL)
    assert baselines["corrupt"]["logit_diff"]["mean"] == near(-known.LEDGER_LEVEL)


def test_zeroing_each_head_changes_the_level_by_its_entry_and_nothing_else(typed: Typed, engine: str) -> None:
    found = heads(h1(typed, engine))
    assert found == near({head: known.LEDGER_LEVEL + change for head, change in known.LEDGER_ZERO.items()})


def test_so_it_does_on_every_single_prompt(typed: Typed, engine: str) -> None:
    rows = examples(h1(typed, engine))
    rows = rows[rows["scale"] == 0]
    expected = [known.LEDGER_LEVEL + known.LEDGER_ZERO[layer, head] for layer, head in rows[["layer", "head"]].to_numpy()]
    assert len(rows) == len(HEADS) * len(corpora.ledger_rows())
    assert rows["value"].to_numpy() == near(np.array(expected))


def test_the_loud_no_op_is_loud_and_has_no_effect_at_any_scale(typed: Typed, engine: str) -> None:
    loaded = model("ledger")
    found: list[torch.Tensor] = []
    hook = loaded.projection(0).register_forward_pre_hook(lambda _module, args: found.append(args[0]))
    loaded.model(torch.tensor([pairs("planted_a")[0].clean]))
    hook.remove()
    size = loaded.head_width
    writes = found[0][0, :, size : 2 * size] @ loaded.model.transformer.h[0].attn.c_proj.weight[size : 2 * size]
    assert writes.norm(dim=-1).numpy() == near(known.LOUD)
    for scale in SCALES:
        assert heads(h1(typed, engine), scale=scale)[0, 1] == near(known.LEDGER_LEVEL)


def test_half_the_induction_head_is_half_its_gain(typed: Typed, engine: str) -> None:
    assert heads(h1(typed, engine), scale=0.5)[1, 0] == near(known.INDUCTION / 2 - known.SUPPRESSION)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_multiplies_the_gain_of_a_head(typed: Typed, engine: str, scale: float) -> None:
    found = heads(h1(typed, engine), scale=scale)
    for head in ((1, 0), (1, 1), (1, 2)):
        assert found[head] == near(known.ledger_scaled(head, scale))


def test_the_companions_of_the_logit_difference_have_their_own_closed_forms(typed: Typed, engine: str) -> None:
    run, clean = h1(typed, engine), known.LEDGER_LEVEL
    drop, kl, flips = (heads(run, metric) for metric in ("p_drop", "kl_div", "acc_flip_rate"))
    for head in ((0, 1), (1, 0), (1, 1), (1, 2)):
        level = clean + known.LEDGER_ZERO[head]
        assert drop[head] == near(known.ledger_probability(clean) - known.ledger_probability(level))
        assert kl[head] == near(known.ledger_kl(clean, level))
    # without the previous-token head A, which stands there twice, is the likeliest word
    assert flips == {head: float(head in ((0, 0), (1, 0))) for head in HEADS}


# H2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_patching_a_layers_heads_recovers_all_at_layer_1_and_nothing_at_layer_0(
    typed: Typed, engine: str, direction: str
) -> None:
    run = h2(typed, engine, "head_out", direction)
    for metric in ("recovery", "recovery_mean"):
        assert layers(run, metric) == near({0: 0.0, 1: 1.0})


@pytest.mark.parametrize(("direction", "positions"), [(DIRECTIONS[0], "last"), (DIRECTIONS[1], "last"), (DIRECTIONS[0], "all")])
def test_patching_single_heads_recovers_their_part_of_g_less_h(typed: Typed, engine: str, direction: str, positions: str) -> None:
    asked = ("battery.granularity=head_out", f"battery.patch_direction='{direction}'", f"battery.positions={positions}")
    run = typed.run("planted_a", engine, "battery=h2", "battery.per_head=true", *asked)
    for metric in ("recovery", "recovery_mean"):
        found = heads(run, metric, scale=1.0)
        assert found == near(known.LEDGER_RECOVERY)
        assert sum(found.values()) == near(1.0)
    assert examples(run, "recovery")["value"].to_numpy() == near(
        np.repeat([known.LEDGER_RECOVERY[head] for head in HEADS], len(pairs("planted_a")))
    )


@pytest.mark.parametrize("source", ["clean", "corrupt"])
def test_patching_both_heads_of_the_answer_recovers_all_of_it(engine: str, source: RunName) -> None:
    assert recovered("planted_a", engine, [patched((1, 0), (1, 1), source=source)]) == near(1.0)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_at_the_last_position_layer_0_has_nothing_yet_and_layer_1_everything(typed: Typed, engine: str, direction: str) -> None:
    assert layers(h2(typed, engine, "layer_resid", direction), "recovery") == near({0: 0.0, 1: 1.0})


@pytest.mark.parametrize("position", range(known.LEDGER_TOKENS))
def test_the_residual_stream_carries_the_answer_at_one_position_of_each_layer(typed: Typed, engine: str, position: int) -> None:
    run = typed.run("planted_a", engine, "battery=h2", f"battery.positions=[{position}]")
    assert layers(run, "recovery") == near({layer: float(at == position) for layer, at in known.LEDGER_POSITIONS.items()})


def test_the_whole_residual_stream_is_a_tautology_and_refused(engine: str, tinylab: Command, tmp_path: Path) -> None:
    variants = [Variant((Intervention(RESID_POST, layer, Patch()),), "corrupt", Own("clean"), "all") for layer in range(2)]
    assert recovered("planted_a", engine, variants) == near(1.0)
    every = list(range(known.LEDGER_TOKENS))
    for positions in ("all", str(every).replace(" ", "")):
        asked = ("battery=h2", f"battery.positions={positions}")
        assert tinylab("model=planted", "condition=planted_a", f"engine={engine}", *asked) == 2
    assert not list(tmp_path.glob("outputs/runs/*/metrics"))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_sham_is_nothing(typed: Typed, engine: str, direction: str) -> None:
    for granularity in ("layer_resid", "mlp_out", "head_out"):
        run = h2(typed, engine, granularity, direction)
        sham = run.summary["controls"]["sham"]
        assert set(sham) == {"logit_diff", "kl_div", "acc_flip_rate", "p_drop", "recovery"}
        assert max(sham.values()) <= (0.0 if engine == "reference" else run.manifest["provenance"]["self_check_max_difference"])


# what no battery says: pairs, single logits


@pytest.mark.parametrize("both", known.LEDGER_PAIRS, ids=str)
def test_two_heads_zeroed_together(engine: str, both: tuple[known.Component, known.Component]) -> None:
    together, *singles = levels("planted_a", engine, [scaled(*both), *(scaled(head) for head in both)]) - known.LEDGER_LEVEL
    assert together == near(known.LEDGER_PAIRS[both])
    assert sum(singles) == near(sum(known.LEDGER_ZERO[head] for head in both))


def test_one_pair_is_additive_and_the_other_redundant() -> None:
    additive, redundant = known.LEDGER_PAIRS
    assert known.LEDGER_PAIRS[additive] == sum(known.LEDGER_ZERO[head] for head in additive)
    assert known.LEDGER_PAIRS[redundant] == pytest.approx(-10 / 3)
    assert sum(known.LEDGER_ZERO[head] for head in redundant) == -7.5


def test_zeroing_a_head_takes_its_value_bias_too(engine: str) -> None:
    found = every_logit("planted_a", engine, [scaled((1, 2))])
    clean, zeroed = found.baselines["clean"], found.values[0]
    rows, targets = np.arange(len(clean)), [pair.target for pair in pairs("planted_a")]
    assert clean[rows, targets] == near(known.LEDGER_LEVEL + known.SHIFT)
    assert zeroed[rows, targets] == near(known.LEDGER_LEVEL)
    assert clean - zeroed == near(known.SHIFT)  # every logit, so that no difference of logits sees it


def test_a_value_bias_that_is_kept_stays_at_every_scale(engine: str) -> None:
    scales = (0.0, 0.5, 2.0)
    variants = [scaled((1, 2), scale=scale, keep_bias=keep) for keep in (True, False) for scale in scales]
    found = every_logit("planted_a", engine, variants)
    moved = found.values - found.baselines["clean"]
    assert moved[:3] == near(0.0)
    for scale, change in zip(scales, moved[3:], strict=True):
        assert change == near((scale - 1) * known.SHIFT)


def test_keeping_value_biases_changes_no_head_that_has_none(typed: Typed, engine: str) -> None:
    run = typed.run("planted_a", engine, "battery.keep_value_bias=true")
    assert run.manifest["provenance"]["value_bias"] == "kept"
    assert heads(run) == near({head: known.LEDGER_LEVEL + change for head, change in known.LEDGER_ZERO.items()})


# absolute positions


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """The ledger with 1.3, which reads absolute position 2."""
    folder = tmp_path_factory.mktemp("placed")
    write_model(folder, ledger.build(place=True), ledger.CONFIG, corpora.LEDGER)
    return load_model(ModelConfig(path=str(folder), dtype="float64"), "cpu")


def difference(loaded: CausalModel, pair: TokenPair, padding: int, places: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Plain transformers on a left-padded prompt; `places` makes position ids of the attention mask."""
    mask = torch.tensor([[0] * padding + [1] * len(pair.clean)])
    ids = torch.tensor([[pair.clean[0]] * padding + list(pair.clean)])
    logits = loaded.model(input_ids=ids, attention_mask=mask, position_ids=places(mask)).logits[0, -1]
    return float(logits[pair.target] - logits[pair.foil])


def arange(mask: torch.Tensor) -> torch.Tensor:
    return torch.arange(mask.shape[1])[None]


def by_mask(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


@pytest.mark.parametrize(("padding", "plain"), known.LEDGER_PADDED.items())
def test_left_padding_with_plain_positions_is_wrong_by_construction(placed: CausalModel, padding: int, plain: float) -> None:
    for pair in pairs("planted_a"):
        assert difference(placed, pair, padding, arange) == near(plain)
        assert difference(placed, pair, padding, by_mask) == near(known.LEDGER_LEVEL + known.PLACE)


def test_both_engines_have_no_padding_to_get_wrong(placed: CausalModel, engine: str) -> None:
    short = pairs("planted_a")[0]
    a, t, f, b, x, _ = short.clean[1], short.clean[2], short.corrupt[2], *short.clean[3:]
    long = TokenPair((0, a, t, b, x, x, b, b, x, a), (0, a, f, b, x, x, b, b, x, a), t, f)
    found = ENGINES[engine](placed).evaluate([short, long, short], [scaled((1, 3))], Scorer(("logit_diff",)))
    assert found.baselines["clean"][:, 0] == near(known.LEDGER_LEVEL + known.PLACE)
    assert found.baselines["corrupt"][:, 0] == near(-known.LEDGER_LEVEL - known.PLACE)
    assert found.values[0, :, 0] == near(known.LEDGER_LEVEL)


def test_the_closed_forms_are_those_of_the_table() -> None:
    assert (known.LEDGER_ZERO[1, 0], known.LEDGER_ZERO[1, 1], known.LEDGER_ZERO[0, 0]) == (-5, 2, -2.5)
    assert [known.LEDGER_RECOVERY[head] for head in ((1, 0), (1, 1))] == pytest.approx([1.6667, -0.6667], abs=1e-4)
    assert known.ledger_scaled((1, 0), 0.5) == 0.5
    assert sum(known.LEDGER_RECOVERY.values()) == pytest.approx(1)
    assert (known.LEDGER_LEVEL + known.PLACE, known.LEDGER_PADDED[1]) == (4, 3)
