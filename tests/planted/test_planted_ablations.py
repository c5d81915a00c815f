"""What stands in an activation's place, on the planted models: numbers worked out by hand, by both engines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from planted import Typed, evaluate, examples, heads, model, pairs
from tinylab.engine.donors import noise
from tinylab.interventions.operations import Add
from tinylab.interventions.sites import HEAD_OUT
from tinylab.interventions.sources import Noise, Reference
from tinylab.interventions.variants import Intervention, Variant
from tinylab.planted import closed_forms as known
from tinylab.planted import corpora, ledger
from tinylab.results import Run as Finished
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import prepare
from typed import composed

ANSWER = 2
"""Where T stands in ``BOS A T B x A``."""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("ablations"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(expected: object) -> object:
    return pytest.approx(expected, abs=known.TOLERANCE, rel=0)


def changes(run: Finished) -> dict[tuple[int, int], float]:
    rows = examples(run)
    left = rows["scale"].iloc[0]
    return {head: value - float(rows["baseline"].mean()) for head, value in heads(run, scale=left).items()}


def test_the_mean_of_a_head_that_names_every_colour_equally_often_is_as_good_as_nothing(typed: Typed, engine: str) -> None:
    run = typed.run("planted_a", engine, "battery.ablation=mean", "battery.mean_by=position", "battery.positions=last")
    targets = Counter(pair.target for pair in pairs("planted_a"))
    assert set(targets.values()) == {3}  # so the mean adds as much to T's logit as to F's
    found = changes(run)
    assert found[1, 0] == near(-known.INDUCTION) and found[1, 1] == near(known.SUPPRESSION)
    assert found[1, 2] == near(0.0) and found[0, 1] == near(0.0)


def test_an_input_that_is_half_on_costs_half_of_the_and_gate_and_nothing_of_the_or_gate(typed: Typed, engine: str) -> None:
    asked = ("battery.ablation=mean", "battery.mean_by=position", "battery.over=both", "battery.positions=last")
    found = changes(typed.run("planted_b", engine, *asked))
    assert {head: found[head] for head in known.AND_INPUTS} == near(dict.fromkeys(known.AND_INPUTS, -known.AND / 2))
    assert {head: found[head] for head in known.OR_INPUTS} == near(dict.fromkeys(known.OR_INPUTS, 0.0))
    over_clean = changes(typed.run("planted_b", engine, *asked[:2], asked[3]))
    assert list(over_clean.values()) == near([0.0] * 8)  # which are all on


def test_a_mean_counts_every_token_of_every_prompt(typed: Typed, engine: str) -> None:
    """0.0 reads position 1; at BOS, the only token before it, it sees BOS alone: on in n − 1 of n tokens of a clean prompt."""
    found = changes(typed.run("planted_b", engine, "battery.ablation=mean", "battery.positions=last"))
    tokens = len(pairs("planted_b")[0].clean)
    assert found[0, 0] == near(-known.AND / tokens)
    both = changes(typed.run("planted_b", engine, "battery.ablation=mean", "battery.over=both", "battery.positions=last"))
    assert both[0, 0] == near(-known.AND * (1 - (tokens - 1) / (2 * tokens)))


def test_a_donors_head_names_the_donors_answer(typed: Typed, engine: str) -> None:
    seeds, draws = [3, 7], 2
    run = typed.run("planted_a", engine, "battery.ablation=resample", f"battery.donors={draws}", "battery.positions=last",
                    f"seeds={seeds}")
    config = composed("model=planted", "condition=planted_a", "battery.ablation=resample", f"battery.donors={draws}",
                      "battery.positions=last", f"seeds={seeds}")
    prepared = prepare(config, load_condition(config.condition), model("ledger"))
    rows = examples(run).query("layer == 1 and head == 0").set_index(["example", "seed", "draw"])["value"]
    assert len(rows) == 21 * len(seeds) * draws
    for text, pair in zip(prepared.condition.pairs, prepared.tokens, strict=True):
        assert pair.clean not in [donor.tokens for donor in pair.donors]
        for number, donor in enumerate(pair.donors):
            given = donor.tokens[ANSWER]
            expected = known.LEDGER_LEVEL - known.INDUCTION * (1 - (given == pair.target) + (given == pair.foil))
            assert rows[text.row, seeds[number // draws], number % draws] == near(expected)
    impact = run.head_impact
    assert impact is not None
    cell = impact.query("metric == 'logit_diff' and layer == 1 and head == 0").set_index("seed")["value"]
    assert cell.to_dict() == near({seed: float(rows.xs(seed, level="seed").mean()) for seed in seeds})
    assert len(cell) == 2 and cell.nunique() == 2  # seeds matter
    assert run.effects is not None
    effect = run.effects.query("metric == 'logit_diff' and layer == 1 and head == 0")["effect_logits"].iloc[0]
    assert effect == near(float(rows.mean()) - known.LEDGER_LEVEL)  # of all draws and seeds


def test_noise_moves_a_logit_by_what_was_drawn(engine: str) -> None:
    """Coordinate w of 1.0's output adds g to the logit of colour w."""
    own = pairs("planted_a")
    reference = Reference("clean", tuple(pair.clean for pair in own), (0,) * len(own))
    source = Noise(2.0, reference, seed=4)
    variant = Variant((Intervention(HEAD_OUT, 1, Add(), 0),), "clean", source, "last")
    found = evaluate("planted_a", engine, [variant]).values[0, :, 0]
    loaded = model("ledger")
    kept: list[torch.Tensor] = []
    handle = loaded.projection(1).register_forward_pre_hook(lambda _module, args: kept.append(args[0][0].clone()))
    for pair in own:
        loaded.model(input_ids=torch.tensor([pair.clean]))
    handle.remove()
    deviation = float(torch.cat(kept).std(correction=0))
    rows = np.full(len(own), known.LEDGER_TOKENS - 1)  # every example has the number 0
    drawn = 2.0 * deviation * noise(source, "head_out 1", rows, loaded.taken(1))
    expected = [known.LEDGER_LEVEL + known.INDUCTION * (line[pair.target] - line[pair.foil])
                for pair, line in zip(own, drawn, strict=True)]
    assert found.tolist() == near(expected)


def test_noise_is_each_examples_own_and_each_seeds(typed: Typed, engine: str) -> None:
    run = typed.run("planted_a", engine, "battery.ablation=noise", "battery.positions=last", "seeds=[0,1]", "battery.layers=[1]")
    rows = examples(run).query("layer == 1 and head == 0")
    assert rows["value"].nunique() == len(rows) == 2 * 21


def test_a_vector_adds_to_the_logit_that_it_names(typed: Typed, tmp_path: Path, engine: str) -> None:
    word = corpora.LEDGER.index("red")
    file = tmp_path / "red.safetensors"
    save_file({"direction": ledger.FEATURES.write(("logit", "red")).float()}, file)
    run = typed.run("planted_a", engine, "battery=mlps", "battery.ablation=vector", f"battery.vector={file}",
                    "battery.alpha=0.25", "battery.positions=last", "battery.layers=[1]")
    named = {row: (pair.target == word) - (pair.foil == word) for row, pair in enumerate(pairs("planted_a"))}
    found = examples(run).set_index("example")["value"].to_dict()
    expected = {row: known.LEDGER_LEVEL + 0.25 * sign for row, sign in named.items()}
    assert found == pytest.approx(expected, abs=1e-7)  # the file is in float32
    assert set(named.values()) == {-1, 0, 1}


def test_the_difference_of_means_turns_the_gates_inputs_on(typed: Typed, engine: str) -> None:
    """Clean inputs are on at all tokens but BOS, corrupt ones never: the difference is (n − 1) / n; −1 of it leaves 1 / n."""
    run = typed.run("planted_b", engine, "battery.ablation=vector", "battery.alpha=-1", "battery.positions=last")
    tokens = len(pairs("planted_b")[0].clean)
    found = changes(run)
    assert found[0, 0] == near(-known.AND * (tokens - 1) / tokens)
    assert found[0, 2] == near(0.0)


def test_tables_say_what_is_left_of_the_head_and_which_draw(typed: Typed) -> None:
    drawn = typed.run("planted_a", "forked", "battery.ablation=resample", "battery.donors=2", "battery.positions=last",
                      "seeds=[3,7]")
    assert set(examples(drawn)["scale"]) == {0.0} and set(examples(drawn)["draw"]) == {0, 1}
    plain = typed.run("planted_a", "forked")
    assert plain.per_example["draw"].isna().all()
    assert pd.api.types.is_integer_dtype(drawn.per_example["draw"].dropna().astype("int64"))
