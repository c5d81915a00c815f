"""Two MLPs at once, and sets of them, or of other parts of whole layers: plain hooks, states, whole runs, mistakes."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tinylab as package
from benchmarks.bound import lower_bound
from both_engines import LOGITS, PAIRS, ROUNDING
from conftest import Command, only
from families import HEADS, LAYERS, answered, family
from tinylab.batteries.ablation import Ablation
from tinylab.batteries.base import SINGLE
from tinylab.batteries.named_layers import WHOLE
from tinylab.batteries.pairs import HeadsPairZero
from tinylab.batteries.subset import HeadsSubsetZero
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import ConfigError, SchemaError
from tinylab.report.__main__ import main as reported
from tinylab.validate import (
    validate_cross_condition_matrix,
    validate_effects_schema,
    validate_invariants_json,
    validate_pair_impact_schema,
    validate_subset_impact_schema,
    validate_synergy_matrix,
    validate_synergy_schema,
)
from typed import composed, snapshot, type_in

MLP = "battery.site=mlp_out"


def pairs(site: str = "mlp_out", **settings: Any) -> HeadsPairZero:
    return HeadsPairZero(name="pairs", site=site, **{"layers": [2, 0, 1], **settings})


def sets(site: str = "mlp_out", **settings: Any) -> HeadsSubsetZero:
    return HeadsSubsetZero(name="subset", site=site, **{"sets": [[2, 0], [1], [1, 0, 2]], **settings})


def scaled_by_hooks(model: Any, layers: list[int], scale: float, prompt: tuple[int, ...], at: slice) -> np.ndarray:
    """Logits of plain transformers whose MLPs' outputs are multiplied at some positions of a prompt."""
    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, at] *= scale
        return changed

    hooks = [model.transformer.h[layer].mlp.register_forward_hook(hook) if hasattr(model, "transformer")
             else model.model.layers[layer].mlp.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([prompt])).logits[0, -1].double().numpy()
    for one in hooks:
        one.remove()
    return logits


# Cells


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("shape", "positions", "at"), [
    ("gpt2", "all", slice(None)), ("llama", "last", slice(-1, None)), ("llama", [1], slice(1, 2)),
])
def test_the_mlps_of_a_pair_or_set_are_scaled_together_as_by_hooks(
    shape: str, positions: Any, at: slice, dtype: torch.dtype
) -> None:
    model = family(shape, dtype)
    prompts = answered(model, PAIRS[dtype])
    cells = [*pairs(scales=[0.0, 0.5], positions=positions).cells(LAYERS, HEADS), *sets(positions=positions).cells(LAYERS, HEADS)]
    members = [[0, 2], [1], [0, 1, 2]]
    for engine in (ForkedEngine, ReferenceEngine):
        found = engine(model).evaluate(prompts, [cell.variant for cell in cells], LOGITS).values
        for cell, mine in zip(cells, found, strict=True):
            layers = members[int(cell.key["set"]) - 1] if "set" in cell.key else [
                int(layer) for layer in dict.fromkeys((cell.key["layer1"], cell.key["layer2"]))]
            plain = [scaled_by_hooks(model.model, layers, float(cell.key["scale"]), pair.clean, at) for pair in prompts]
            assert abs(mine - np.stack(plain)).max() <= ROUNDING[dtype]


@pytest.mark.parametrize("make", [pairs, partial(sets, sets=[[2, 0], [1]])], ids=["pairs", "sets"])
def test_engines_agree_on_parts_of_layers_and_compute_no_state_but_the_bounds(name: str, make: Any) -> None:
    """Of MLPs, of the stream before them and of blocks, at all positions and at the last."""
    model = family(name)
    prompts = answered(model, PAIRS[torch.float64])
    variants = [cell.variant for site in ("mlp_out", "resid_pre", "layer_resid") for positions in ("all", "last")
                for cell in make(site, scales=[0.5], positions=positions).cells(LAYERS, HEADS)]
    engine = ForkedEngine(model)
    plan, found = engine.plan(prompts, variants), engine.evaluate(prompts, variants, LOGITS)
    plain = ReferenceEngine(model).evaluate(prompts, variants, LOGITS)
    assert abs(found.values - plain.values).max() <= ROUNDING[torch.float32]
    assert (plan.forwards, plan.states) == (found.forwards, found.states)
    assert found.states == lower_bound(prompts, variants, LAYERS)


def test_every_two_layers_are_one_cell_and_each_layer_is_a_control() -> None:
    cells = pairs(scales=[0.0, 0.5]).cells(LAYERS, HEADS)
    keys = [tuple(cell.key.values()) for cell in cells if cell.control == "none"]
    assert keys == [(*two, "mlp_out", scale) for two in combinations(range(3), 2) for scale in (0.0, 0.5)]
    single = {cell.key["layer1"]: cell for cell in cells if cell.control == SINGLE and cell.key["scale"] == 0.5}
    assert all(cell.key == {"layer1": n, "layer2": n, "granularity": "mlp_out", "scale": 0.5} for n, cell in single.items())
    alone = Ablation(name="mlps", site="mlp_out", scales=[0.5]).cells(LAYERS, HEADS)
    assert [single[n].variant for n in range(3)] == [cell.variant for cell in alone]


@pytest.mark.parametrize("site", WHOLE)
def test_any_part_of_whole_layers_is_named_in_key_and_title(site: str) -> None:
    for battery, chosen in ((pairs(site), "layers 0 1 2"), (sets(site), "set1 = 0 + 2, set2 = 1, set3 = 0 + 1 + 2")):
        assert {cell.key["granularity"] for cell in battery.cells(LAYERS, HEADS)} == {site}
        assert battery.describe() == f"{battery.name}, {site} × 0, {chosen}"
    assert pairs(site, positions="last").describe() == f"pairs, {site} × 0, at last, layers 0 1 2"


def test_heads_keep_their_identity_and_layers_have_one_whatever_their_order() -> None:
    assert HeadsPairZero(name="pairs", heads=["0.1", "0.2"]).unlike_default() == {"heads": ["0.1", "0.2"]}
    assert HeadsSubsetZero(name="subset", sets=[["0.1"]]).unlike_default() == {"sets": [["set1", ["0.1"]]]}
    assert pairs().unlike_default() == {"site": "mlp_out", "layers": [0, 1, 2]} == pairs(layers=[1, 2, 0]).unlike_default()
    assert sets(sets=[[2, 0]]).unlike_default() == sets(sets={"set1": [0, 2]}).unlike_default() == {
        "site": "mlp_out", "sets": [["set1", [0, 2]]]}
    assert sets("attn_out").unlike_default() != sets().unlike_default()


# Runs


SMALL = ("condition.n_examples=6", "threads=1")
FEW = ("metrics=[logit_diff,kl_div]", "controls.sham=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLPs alone, every two of three and sets of them; the screen's words of the pairs are in `said`."""
    folder = tmp_path_factory.mktemp("layer_pairs")
    assert type_in(folder, *SMALL, *FEW, "battery=mlps", "battery.ablation=zero", "plots=false") == 0
    both = ("-m", "condition=cond_a,cond_b", *SMALL, *FEW, MLP)
    assert type_in(folder, *both, "sweep_name=pairs", "battery=pairs", "battery.layers=[3,0,1]") == 0
    sets = ("battery=subset", "battery.sets={early: [0,1], late: [3]}")
    assert type_in(folder, *both, "sweep_name=sets", *sets, "plots=false") == 0
    return folder


def test_runs_of_pairs_of_mlps_have_their_tables_synergies_and_pictures(folder: Path) -> None:
    sweep = package.load_sweep(only(folder, "outputs/sweeps/pairs_*"))
    alone = package.load_run(only(folder, "outputs/runs/mlps_*"))
    run = sweep.runs[0]
    assert run.synergy is not None and run.effects is not None and alone.layer_impact is not None
    validate_pair_impact_schema(run.impact)
    validate_synergy_schema(run.synergy)
    validate_effects_schema(run.effects)
    assert set(run.impact["granularity"]) == {"mlp_out"} and len(run.impact) == 3 * 2
    assert [name for name in run.impact if name not in ("run_id", "seed", "metric", "value")] == [
        "layer1", "layer2", "granularity", "scale"]
    level = run.summary["baselines"]["clean"]["logit_diff"]["mean"]
    single = alone.layer_impact.query("metric == 'logit_diff'").set_index("layer")["value"] - level
    joint = run.impact.query("metric == 'logit_diff'").set_index(["layer1", "layer2"])["value"] - level
    for row in run.synergy.query("metric == 'logit_diff'").to_dict("records"):
        one, other = row["layer1"], row["layer2"]
        assert row["synergy"] == pytest.approx(joint[one, other] - single[one] - single[other], abs=4e-4)  # logits of order 10
    for picture in (run.path / "heatmap.png", sweep.path / "artifacts/cross_condition/heatmap.png"):
        assert picture.is_file()


def test_a_sweep_joins_pairs_and_sets_of_mlps_and_finds_what_conditions_share(folder: Path) -> None:
    for name, kind, plural, count in (("pairs", "pair", "layer_pairs", 3), ("sets", "subset", "layer_sets", 2)):
        sweep = package.load_sweep(only(folder, f"outputs/sweeps/{name}_*"))
        validate_cross_condition_matrix(sweep.matrices[f"layer_{kind}_matrix"], ["cond_a", "cond_b"])
        validate_invariants_json(sweep.invariants)
        (group,) = sweep.invariants["groups"]
        assert group["kind"] == plural and group["components"] == count == len(sweep.pivot())
        assert set(sweep.synergies) == ({"layer_synergy_matrix"} if kind == "pair" else set())
        if kind == "pair":
            validate_synergy_matrix(sweep.synergies["layer_synergy_matrix"], ["cond_a", "cond_b"])
        else:
            validate_subset_impact_schema(sweep.runs[0].impact)
            assert sweep.runs[0].manifest["battery"]["sets"] == {"early": [0, 1], "late": [3]}


@pytest.mark.usefixtures("pages")
def test_the_screen_and_the_report_name_pairs_by_their_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = package.load_sweep(only(folder, "outputs/sweeps/pairs_*"))
    capsys.readouterr()
    line = (*SMALL, *FEW, MLP, "battery=pairs", "battery.layers=[3,0,1]", "condition=cond_a")
    assert type_in(folder, *line) == 0
    said = capsys.readouterr().out
    assert sweep.runs[0].synergy is not None
    row = max(sweep.runs[0].synergy.query("metric == 'logit_diff'").to_dict("records"), key=lambda row: abs(row["synergy"]))
    shown = next(line for line in said.split("strongest synergies by logit_diff")[1].splitlines() if line.startswith("│"))
    assert [part.strip() for part in shown.split("│")[1:3]] == [str(row["layer1"]), str(row["layer2"])]
    assert reported([str(sweep.runs[0].path)]) == 0
    assert f"{row['layer1']} + {row['layer2']}" in (sweep.runs[0].path / "report.html").read_text()


def test_the_strongest_layers_of_a_run_are_the_same_run_as_the_same_layers_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = package.load_run(only(folder, "outputs/runs/mlps_*"))
    level = alone.summary["baselines"]["clean"]["logit_diff"]["mean"]
    rows = alone.impact.query("metric == 'logit_diff'").set_index("layer")["value"]
    strongest = (rows - level).abs().sort_values(ascending=False).index[:2]
    line = (*SMALL, *FEW, MLP, "battery=pairs", "run_name=strongest", "plots=false")
    assert type_in(folder, *line, f"battery.from={alone.manifest['run_id']}", "battery.k=2") == 0
    run = package.load_run(only(folder, "outputs/runs/strongest_*"))
    assert run.manifest["battery"]["layers"] == sorted(strongest)
    capsys.readouterr()
    assert type_in(folder, *line, f"battery.layers=[{','.join(map(str, strongest))}]") == 0
    said = capsys.readouterr()
    assert f"run {run.manifest['run_id']} is already complete" in said.out + said.err
    for words, expected in (
        (("battery.site=attn_out",), "a run of mlp_out of layers, expected one of attn_out"),
        (("battery.site=head_out",), "a run of layers (mlps), expected one whose components are layer, head"),
    ):
        assert type_in(folder, *line, f"battery.from={alone.path}", *words) == 2
        assert expected in capsys.readouterr().err
    assert type_in(folder, *line, f"battery.from={run.path}") == 2
    assert "a run of layer_pairs (pairs), expected one whose components are layer each, such as of battery=mlps" in (
        capsys.readouterr().err)


BROKEN = {
    "a pair in the wrong order": (lambda df: df.assign(layer1=df["layer2"], layer2=df["layer1"]), "come before"),
    "an unknown part": (lambda df: df.assign(granularity="mlp"), "granularity"),
    "a column less": (lambda df: df.drop(columns="layer2"), "missing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_table_of_pairs_of_layers_that_is_none_is_refused(what: str) -> None:
    table = pd.DataFrame([{"run_id": "a", "seed": 0, "layer1": 0, "layer2": 2, "granularity": "mlp_out", "scale": 0.0,
                           "metric": "logit_diff", "value": 1.0}])
    validate_pair_impact_schema(table)
    change, said = BROKEN[what]
    with pytest.raises(SchemaError, match=said):
        validate_pair_impact_schema(change(table))


# Mistakes


TWO, KEPT = "battery.layers=[0,1]", "battery.keep_value_bias=true"
MISTAKES = {
    "heads of MLPs": (["battery=pairs", MLP, "battery.heads=['0.1','0.2']"], ["battery.heads", MLP, "battery.layers"]),
    "layers of heads": (["battery=pairs", "battery.layers=[0,1]"], ["battery.layers=[0, 1]", "battery.heads", "mlp_out"]),
    "nothing chosen": (["battery=pairs", MLP], ["battery.layers=…", "battery.from=…", "neither"]),
    "both chosen": (["battery=pairs", MLP, "battery.layers=[0,1]", "battery.from=x"], ["battery.layers", "battery.from=x"]),
    "one layer": (["battery=pairs", MLP, "battery.layers=[0]"], ["battery.layers=[0]", "2 or more"]),
    "a layer twice": (["battery=pairs", MLP, "battery.layers=[0,0]"], ["each of them once"]),
    "a layer that is a head": (["battery=pairs", MLP, "battery.layers=['0.1','0.2']"], ["a list of layers"]),
    "a negative layer": (["battery=subset", MLP, "battery.sets=[[-1]]"], ["battery.sets.set1=[-1]", "a list of layers"]),
    "a set of heads": (["battery=subset", MLP, "battery.sets=[['0.1']]"], ["battery.sets.set1=['0.1']", "a list of layers"]),
    "a set that is none": (["battery=subset", MLP, "battery.sets=[]"], ["battery.sets=[]", "battery.sets=[[13,14],[20]]"]),
    "an empty set": (["battery=subset", MLP, "battery.sets=[[]]"], ["battery.sets.set1=[]", "1 or more layers"]),
    "a huge layer": (["battery=subset", MLP, f"battery.sets=[[{10**20}]]"], ["battery.sets.set1"]),
    "no such site": (["battery=subset", "battery.site=mlp", "battery.sets=[[1]]"], ["battery.site=mlp", "mlp_out"]),
    "neurons": (["battery=subset", "battery.site=mlp_neurons", "battery.sets=[[1]]"], ["battery.site=mlp_neurons", "mlp_out"]),
    "a value bias of MLPs": (["battery=subset", MLP, "battery.sets=[[1]]", KEPT], ["keep_value_bias", "mlp_out"]),
    "a value bias of pairs": (["battery=pairs", MLP, TWO, KEPT], ["keep_value_bias"]),
    "pairs at each position": (["battery=pairs", MLP, TWO, "battery.positions=each"], ["positions=each", "-m"]),
    "pairs nowhere": (["battery=pairs", MLP, TWO, "battery.positions=end"], ["battery.positions=end", "last"]),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_sentence(what: str) -> None:
    line, words = MISTAKES[what]
    with pytest.raises(ConfigError) as refused:
        composed(*line)
    said = str(refused.value)
    assert [word for word in words if word not in said] == [] and said.count("\n") == 0, said


@pytest.mark.parametrize("line", [
    ("battery=pairs", MLP, "battery.layers=[0,4]"), ("battery=subset", MLP, "battery.sets={late: [4]}"),
])
def test_a_layer_that_the_model_lacks_is_one_sentence_and_leaves_nothing(
    line: tuple[str, ...], tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*line) == 2
    said = [part for part in capsys.readouterr().err.splitlines() if part.startswith("tinylab: ")]
    assert len(said) == 1 and "layer 4 is out of range, this model has layers 0 to 3" in said[0]
    assert not [path for path, told in snapshot(Path()).items() if told[1] != "folder" and ".locks" not in path]
