"""`battery.reference` names another condition: whose pairs the means are then of, how it is found, and what a run says of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from conftest import Command, only, write_jsonl
from planted import Typed, examples, heads
from tinylab.config.groups import ModelConfig
from tinylab.errors import TinylabError
from tinylab.forecast import forecast
from tinylab.interventions.sources import Difference, Mean, Noise, Reference
from tinylab.models.loading import load_model
from tinylab.models.network import CausalModel
from tinylab.planted import closed_forms as known
from tinylab.planted.corpora import ASK, OFF, ON, OPEN, SHUT
from tinylab.records.identity import run_id
from tinylab.schema import Config, validate
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import Prepared, prepare
from typed import composed

STATES = ("1011", "0111", "0101", "0001")
"""Of the inputs in four clean prompts: one in four has the first on, two the second, two the third, all the fourth."""
SHARES = [np.mean([row[i] == "1" for row in STATES]) for i in range(4)]
PAIR = {"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome"}
OTHER = {**PAIR, "clean": "The capital of Italy is", "corrupt": "The capital of France is", "target": " Rome", "foil": " Paris"}
MEAN = ("battery=heads", "battery.layers=[0]")
FEW = ("condition.n_examples=4", "metrics=[logit_diff]", "plots=false", "controls=none")


def own(folder: Path, name: str, rows: list[dict[str, Any]], *more: str) -> Path:
    """A folder of configs with a condition of one's own."""
    (folder / "conf/condition").mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / f"{name}.jsonl", rows)
    text = ["defaults: [jsonl, _self_]", f"path: {folder / name}.jsonl", f"tag: {name}", *more]
    (folder / f"conf/condition/{name}.yaml").write_text("\n".join(text) + "\n")
    return folder / "conf"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prompts for the gates whose inputs are on in some of them; one row is of another split."""
    dark = " ".join([OFF[0]] * 4)
    rows = [{"clean": f"{' '.join((ON if state == '1' else OFF)[0] for state in row)} {ASK}", "corrupt": f"{dark} {ASK}",
             "target": f" {OPEN}", "foil": f" {SHUT}", "split": "train" if number == 1 else "test"}
            for number, row in enumerate(STATES)]
    return str(own(tmp_path_factory.mktemp("mixed"), "mixed", rows, "split: test", "n_examples: 1"))


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("references"))


def changes(run: Any) -> dict[tuple[int, int], float]:
    return {head: value - float(examples(run)["baseline"].mean()) for head, value in heads(run).items()}


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_a_mean_is_of_the_other_conditions_prompts_of_every_split(mixed: str, typed: Typed, engine: str) -> None:
    """What is put in is the share of the other's inputs that are on; those of planted_b are all on: its mean would do nothing."""
    asked = (f"hydra.searchpath=[file://{mixed}]", "battery=heads", "battery.mean_by=position", "battery.positions=last")
    run = typed.run("planted_b", engine, *asked, "battery.reference=mixed")
    found = changes(run)
    first, second, *_ = SHARES
    assert [found[head] for head in (*known.AND_INPUTS, *known.OR_INPUTS)] == pytest.approx(
        [-known.AND * (1 - first), -known.AND * (1 - second), 0.0, 0.0], abs=known.TOLERANCE)
    off = changes(typed.run("planted_b", engine, *asked, "battery.reference=mixed", "battery.over=corrupt"))
    assert {head: off[head] for head in known.GATES_ZERO} == pytest.approx(dict(known.GATES_ZERO), abs=known.TOLERANCE)
    told = run.manifest["provenance"]["reference"]
    assert (told["of"], told["prompts"], told["groups"], told["corpus"]["kept"]) == ("mixed", 4, 1, 4)
    assert told["tokens"] == 4 * 6 and len(told["digest"]) == 64
    assert run.manifest["described"].startswith("heads, head ← mean of clean prompts of mixed by position")


@cache
def tiny() -> CausalModel:
    return load_model(ModelConfig(path="pkg://tinylab/assets/tiny"), "cpu")


def prepared(*overrides: str, flags: tuple[str, ...] = ()) -> Prepared:
    config = composed(*overrides, flags=flags)
    return prepare(config, load_condition(config.condition), tiny())


def sets(found: Prepared) -> set[Reference]:
    sources = [cell.variant.source for cell in found.cells if cell.control == "none"]
    given = [(source.plus, source.minus) if isinstance(source, Difference) else (source.reference,) for source in sources
             if isinstance(source, Difference | Mean | Noise)]
    return {one for several in given for one in several if one is not None}


def test_the_set_is_what_the_other_condition_has_of_its_own_for_every_ablation_that_takes_one() -> None:
    theirs = sets(prepared(*MEAN, "condition=facts", "condition.split=train", "condition.n_examples=3"))
    ours = prepared(*MEAN, "condition=cond_a", "battery.reference=facts")
    assert sets(ours) == theirs and len(theirs) == 1
    assert sets(prepared(*MEAN, "condition=cond_a")) != theirs
    assert sets(prepared(*MEAN, "battery.ablation=noise", "battery.reference=facts")) == theirs
    steered = sets(prepared(*MEAN, "battery.ablation=vector", "battery.reference=facts"))
    assert theirs < steered and len(steered) == 2
    assert set(ours.elsewhere) <= set(ours.read)  # so that the self-check sees them
    assert len(ours.elsewhere) == 340


def identities(*overrides: str, flags: tuple[str, ...] = ()) -> str:
    return run_id(composed(*overrides, flags=flags))


def test_the_other_pairs_are_a_part_of_what_a_run_is(tmp_path: Path) -> None:
    folder = own(tmp_path, "mine", [PAIR, OTHER])
    flags, asked = ("--config-dir", str(folder)), ("battery=heads", "battery.reference=mine")
    before = identities(*asked, flags=flags)
    assert before == identities(*asked, flags=flags)
    everything = [before, identities("battery=heads"), identities("battery=heads", "battery.reference=facts"),
                  identities("battery=heads", "battery.reference=template")]
    assert len(set(everything)) == len(everything)
    own(tmp_path, "mine", [PAIR, OTHER], "split: test", "n_examples: 1")
    assert identities(*asked, flags=flags) == before  # all of its pairs count in any case
    own(tmp_path, "mine", [PAIR, OTHER, PAIR])
    assert identities(*asked, flags=flags) != before


def test_a_sweep_takes_the_users_own_beside_ours_and_says_where_they_disagree(tinylab: Command, tmp_path: Path) -> None:
    folder = own(tmp_path, "mine", [PAIR, OTHER])
    assert tinylab("--config-dir", str(folder), "-m", *MEAN, "battery.reference=condition,mine", *FEW) == 0
    joined = only(tmp_path, "outputs/sweeps/*/artifacts/cross_condition")
    table = pd.read_parquet(joined / "head_matrix.parquet")
    assert set(table["battery.reference"]) == {"condition", "mine"}
    told = json.loads((joined / "baselines.json").read_text())["groups"]
    assert [one for group in told for one in group["runs"]] == [
        f"mean (reference={name}, over=clean, mean_by=all)" for name in ("condition", "mine")]
    for file in tmp_path.glob("outputs/sweeps/*/heads_*/manifest.json"):
        manifest = json.loads(file.read_text())
        config = OmegaConf.load(file.parent / manifest["config"])
        assert isinstance(config, DictConfig)
        reread: Config = validate(config)  # as trying conditions with each other's components reads it: without the user's folder
        assert run_id(reread) == manifest["run_id"]
        assert (reread.reference is None) == ("reference" not in config) == (reread.battery.reference == "condition")


@pytest.mark.parametrize("engine", ["forked", "reference"])
def test_a_dry_run_counts_the_pass_over_the_other_pairs(engine: str, tinylab: Command, tmp_path: Path) -> None:
    folder = str(own(tmp_path, "mine", [PAIR, OTHER]))
    asked = (*MEAN, "battery.reference=mine", f"engine={engine}", *FEW)
    _, _, cost, *_ = forecast(composed(*asked, flags=("--config-dir", folder)))
    plain = forecast(composed("battery=heads", "battery.layers=[0]", "battery.ablation=zero", f"engine={engine}", *FEW))[2]
    assert tinylab("--config-dir", folder, *asked) == 0
    provenance = json.loads(only(tmp_path, "outputs/runs/*/manifest.json").read_text())["provenance"]
    assert (cost.forwards, cost.states) == (provenance["forwards"], provenance["states"])
    assert cost.forwards - plain.forwards == (1 if engine == "forked" else 2)


MISTAKES = {
    "a name that there is not": (["battery.reference=fcts"], "battery.reference=fcts: no such condition; did you mean 'facts'? "
                                 "known: condition, template, cond_a,"),
    "a list": (["battery.reference=[facts]"], "or the name of another condition"),
    "a condition without a corpus": (["battery.reference=jsonl"], "leaves condition.path to be given"),
    "another baseline's": (["battery.ablation=resample", "battery.reference=facts"], "choose battery.ablation=mean or noise"),
    "prompts of other lengths": (["battery.reference=facts", "battery.mean_by=position"], "align; use battery.mean_by=all."),
    "pairs that this model cannot use": (["battery.reference=planted_b"], "battery.reference=planted_b: "),
    "a vector's": (["battery.ablation=vector", "battery.vector=x.safetensors", "battery.reference=facts"], "not use a reference"),
    "a corpus that is not there": (["battery.reference=gone"], "battery.reference=gone: condition.path=nowhere.jsonl"),
    "settings that no condition has": (["battery.reference=odd"], "battery.reference=odd: condition.colour: unknown key"),
    "told by hand": (["+reference.tag=facts"], "reference: nothing uses it here"),
}


@pytest.mark.parametrize(("mistake", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(mistake: list[str], said: str, tmp_path: Path) -> None:
    folder = own(tmp_path, "odd", [PAIR, OTHER], "colour: red")
    (folder / "condition/gone.yaml").write_text("defaults: [jsonl, _self_]\npath: nowhere.jsonl\ntag: gone\n")
    with pytest.raises(TinylabError) as caught:
        prepared(*MEAN, *mistake, *FEW, flags=("--config-dir", str(folder)))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("line", [(), ("-m",)])
def test_a_mistake_leaves_nothing(line: tuple[str, ...], tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*line, *MEAN, "battery.reference=fcts", *FEW) == 2
    assert not list(tmp_path.rglob("*.*"))
