"""Two heads at once, and sets of them: weights scaled by hand, H1's own numbers, states by the bound, whole runs, mistakes."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import tinylab as package
from benchmarks.bound import lower_bound
from both_engines import LOGITS, PAIRS, ROUNDING, logits_gap, without_head
from conftest import Command, only
from families import HEADS, LAYERS, answered, family
from tinylab.aggregate import main as aggregated
from tinylab.batteries.base import SINGLE
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.batteries.named_heads import heads_of_model
from tinylab.batteries.pairs import HeadsPairZero
from tinylab.batteries.subset import HeadsSubsetZero
from tinylab.contracts import check_run, check_sweep
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import ConfigError, OutputError, SchemaError
from tinylab.models.network import CausalModel
from tinylab.records.identity import resolve
from tinylab.records.tables import MATRIX_COLUMNS
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

NAMES = ["2.3", "0.1", "1.0", "0.2"]
CHOSEN = [(0, 1), (0, 2), (1, 0), (2, 3)]
ENGINES = (ForkedEngine, ReferenceEngine)


def pairs(**settings: Any) -> HeadsPairZero:
    return HeadsPairZero(name="pairs", **{"heads": NAMES, **settings})


def by_hand(model: CausalModel, heads: list[tuple[int, int]], scale: float) -> CausalModel:
    for layer, head in heads:
        model = without_head(model, layer, head, scale)
    return model


# Cells


@pytest.mark.parametrize(("shape", "scale", "dtype"), [
    ("gpt2", 0.0, torch.float32), ("llama", 0.5, torch.float32), ("gpt_neox", 0.0, torch.float32), ("llama", 0.5, torch.float64),
])
def test_both_heads_of_every_pair_are_scaled_as_their_weights_would_be(shape: str, scale: float, dtype: torch.dtype) -> None:
    model = family(shape, dtype)
    prompts = answered(model, PAIRS[dtype])
    cells = pairs(scales=[scale]).cells(LAYERS, HEADS)
    found = [engine(model).evaluate(prompts, [cell.variant for cell in cells], LOGITS).values for engine in ENGINES]
    assert len(cells) == 6 + 4
    for cell, *values in zip(cells, *found, strict=True):
        one, other = (tuple(cell.key[f"{name}{n}"] for name in ("layer", "head")) for n in (1, 2))
        plain = by_hand(model, list(dict.fromkeys([one, other])), scale)  # type: ignore[list-item]
        for mine in values:
            assert logits_gap(mine, plain, [pair.clean for pair in prompts]) <= ROUNDING[dtype]


def test_every_two_heads_are_one_cell_and_each_head_is_a_control() -> None:
    cells = pairs(scales=[0.0, 0.5]).cells(LAYERS, HEADS)
    keys = [tuple(cell.key.values()) for cell in cells if cell.control == "none"]
    assert keys == [(*one, *other, scale) for one, other in combinations(CHOSEN, 2) for scale in (0.0, 0.5)]
    singles = [tuple(cell.key.values()) for cell in cells if cell.control == SINGLE]
    assert singles == [(*head, *head, scale) for head in CHOSEN for scale in (0.0, 0.5)]
    assert Counter(len(cell.variant.interventions) for cell in cells) == {2: 12, 1: 8}


@pytest.mark.parametrize("keep", [False, True])
def test_singles_are_the_very_cells_of_h1(keep: bool) -> None:
    scales = [0.0, 0.5]
    h1 = {(cell.key["layer"], cell.key["head"], cell.key["scale"]): cell.variant
          for cell in HeadsZero(name="h1", scales=scales, keep_value_bias=keep).cells(LAYERS, HEADS)}
    singles = [cell for cell in pairs(scales=scales, keep_value_bias=keep).cells(LAYERS, HEADS) if cell.control == SINGLE]
    assert len(singles) == 8
    assert all(cell.variant == h1[cell.key["layer1"], cell.key["head1"], cell.key["scale"]] for cell in singles)


def test_a_set_is_its_heads_at_once() -> None:
    model = family("llama")
    prompts = answered(model, PAIRS[torch.float32])
    cells = HeadsSubsetZero(name="subset", sets=[["0.1", "1.3", "0.2"], ["2.0"]], scales=[0.0, 0.5]).cells(LAYERS, HEADS)
    assert [cell.key for cell in cells] == [{"set": n, "scale": scale} for n in (1, 2) for scale in (0.0, 0.5)]
    members = [[(0, 1), (0, 2), (1, 3)], [(2, 0)]]
    for engine in ENGINES:
        found = engine(model).evaluate(prompts, [cell.variant for cell in cells], LOGITS).values
        for cell, mine in zip(cells, found, strict=True):
            plain = by_hand(model, members[int(cell.key["set"]) - 1], float(cell.key["scale"]))
            assert logits_gap(mine, plain, [pair.clean for pair in prompts]) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("max_states", [None, 30])
def test_states_are_predicted_and_none_but_the_bounds(name: str, max_states: int | None) -> None:
    model = family(name)
    prompts = answered(model, PAIRS[torch.float32])
    cells = [*pairs(scales=[0.0, 0.5]).cells(LAYERS, HEADS),
             *HeadsSubsetZero(name="subset", sets=[["0.1", "2.2"], ["1.1", "2.0"]]).cells(LAYERS, HEADS)]
    variants = [cell.variant for cell in cells]
    engine = ForkedEngine(model, max_states)
    plan, found = engine.plan(prompts, variants), engine.evaluate(prompts, variants, LOGITS)
    assert (plan.forwards, plan.states) == (found.forwards, found.states)
    if max_states is None:  # one tree
        assert found.states == lower_bound(prompts, variants, LAYERS)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("positions", ["last", [0, 2]])
def test_a_set_is_scaled_at_the_chosen_positions_alone(name: str, positions: Any) -> None:
    model = family(name)
    prompts = answered(model, PAIRS[torch.float64])
    sets = HeadsSubsetZero(name="subset", sets=[["1.1"], ["0.1", "2.2"]], positions=positions).cells(LAYERS, HEADS)
    alone = HeadsZero(name="h1", layers=[1], heads=[1], positions=positions).cells(LAYERS, HEADS)
    everywhere = HeadsSubsetZero(name="subset", sets=[["1.1"], ["0.1", "2.2"]]).cells(LAYERS, HEADS)
    variants = [cell.variant for cell in (*sets, *alone, *everywhere)]
    found, plain = (engine(model).evaluate(prompts, variants, LOGITS) for engine in ENGINES)
    assert abs(found.values - plain.values).max() <= ROUNDING[torch.float32]
    one, two, same, one_everywhere, two_everywhere = plain.values
    assert (one == same).all()
    assert abs(one - one_everywhere).max() > 1e-3 < abs(two - two_everywhere).max()
    assert found.states == lower_bound(prompts, variants, LAYERS)


# Names of heads


def test_heads_are_the_same_in_any_order_and_quoted_or_not() -> None:
    assert pairs().heads == ["0.1", "0.2", "1.0", "2.3"]
    assert pairs(heads=[2.3, 0.1, 1.0, "0.2"]).unlike_default() == pairs().unlike_default()
    assert pairs(heads=["0.10", "10.2", "2.1"]).heads == ["0.10", "2.1", "10.2"]


@pytest.mark.parametrize(("names", "numbers", "heads", "said"), [
    (["0.1", "0.2"], ["0.1"], 12, "0.1 is a number, and the same as 0.10"),
    (["0.1", "0.2"], ["0.1", "0.2"], 10, None),
    (["0.2", "1.0"], ["0.2", "1.0"], 20, None),
    (["0.1", "0.10"], [], 12, None),
    (["0.10", "0.2"], [], 8, "0.10 is out of range, this model has layers 0 to 3 with heads 0 to 7 each"),
    (["4.0", "0.2"], [], 8, "4.0 is out of range"),
])
def test_a_number_is_taken_where_it_can_mean_one_head_only(
    names: list[str], numbers: list[str], heads: int, said: str | None
) -> None:
    if said is None:
        assert len(heads_of_model("battery.heads", names, numbers, 4, heads)) == len(names)
    else:
        with pytest.raises(ConfigError, match=said):
            heads_of_model("battery.heads", names, numbers, 4, heads)


def test_sets_count_by_their_order_and_names() -> None:
    def told(sets: Any) -> Any:
        return HeadsSubsetZero(name="subset", sets=sets).unlike_default()

    assert told([["0.2", "0.1"]]) == told({"set1": ["0.1", "0.2"]}) == {"sets": [["set1", ["0.1", "0.2"]]]}
    assert told({"a": ["0.1"], "b": ["0.2"]}) != told({"b": ["0.2"], "a": ["0.1"]})


# Runs


SMALL = ("condition.n_examples=6", "threads=1")
SOME = "battery.heads=['0.1','1.5','0.4']"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H1, the pairs of three heads, and those of its four strongest, in one output folder."""
    folder = tmp_path_factory.mktemp("pairs")
    assert type_in(folder, *SMALL, "battery.scales=[0.0,0.5]", "battery.layers=[0,1]", "plots=false") == 0
    few = ("metrics=[logit_diff]", "plots=false")
    assert type_in(folder, *SMALL, "battery=pairs", SOME, "battery.scales=[0.5,0.0]", "seeds=[0,1]", *few) == 0
    assert type_in(folder, *SMALL, "battery=pairs", SOME, "battery.scales=[0.5,0.0]", "seeds=[0,1]",
                   "+verify_slice.device=cpu") == 0
    return folder


def run_of(folder: Path, battery: str) -> package.results.Run:
    return package.load_run(only(folder, f"outputs/runs/{battery}_*"))


def test_a_run_writes_pairs_alone_and_their_synergy_of_every_metric(folder: Path) -> None:
    """The metrics that it lacked at first were added to it."""
    run = run_of(folder, "pairs")
    assert run.synergy is not None and run.effects is not None and run.verify is not None
    validate_pair_impact_schema(run.impact)
    validate_synergy_schema(run.synergy)
    validate_effects_schema(run.effects)
    assert len(run.impact) == 3 * 2 * 2 * 4
    assert len(run.synergy) == 3 * 2 * 2 * 4
    assert len(run.effects) == 3 * 2 * 4
    assert set(run.synergy["metric"]) == {"logit_diff", "kl_div", "acc_flip_rate", "p_drop"}
    assert {*run.manifest["digests"]} >= {"pair_impact", "synergy"}
    assert run.verify["verdict"] == "pass"
    assert (run.path / "heatmap.png").is_file()


def test_synergy_is_what_per_example_says(folder: Path) -> None:
    run = run_of(folder, "pairs")
    rows = run.per_example.set_index(["seed", "metric", "scale", "layer1", "head1", "layer2", "head2", "example"])
    levels, baseline = (rows[rows["control"] != "sham"][name].sort_index() for name in ("value", "baseline"))
    assert run.synergy is not None
    for row in run.synergy.to_dict("records"):
        cell, one, other = row["seed"], (row["layer1"], row["head1"]), (row["layer2"], row["head2"])
        joint, a, b = (levels.loc[(cell, row["metric"], row["scale"], *first, *second)]
                       for first, second in ((one, other), (one, one), (other, other)))
        unmodified = baseline.loc[(cell, row["metric"], row["scale"], *one, *other)]
        assert row["synergy"] == pytest.approx((joint - a - b + unmodified).mean(), abs=1e-9)
        assert row["n"] == len(joint) == 6


def test_singles_are_h1s_numbers_and_are_counted_nowhere(folder: Path) -> None:
    run, h1 = run_of(folder, "pairs"), run_of(folder, "h1").per_example
    single = run.per_example.query("control == 'single' and seed == 0").rename(columns={"layer1": "layer", "head1": "head"})
    keys = ["layer", "head", "scale", "example", "metric"]
    both = single.merge(h1[h1["control"] == "none"], on=keys, suffixes=("", "_h1"))
    assert len(both) == 3 * 2 * 6 * 4
    assert (both["value"] - both["value_h1"]).abs().max() <= 1e-4  # the embedded model's logits are of order 10
    assert {*run.summary["controls"]} == {"sham"}
    assert run.summary["effects"]["cells"] == 3 * 2
    assert "random_sets" not in run.summary
    mean = run.impact.query("metric == 'logit_diff'")["value"].mean()
    assert run.summary["metrics"]["logit_diff"]["mean"] == pytest.approx(mean)


def test_the_screen_tells_the_strongest_synergies_with_singles(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert type_in(folder, *SMALL, "battery=pairs", SOME, "battery.scales=[0.5,0.0]", "seeds=[0,1]") == 0
    out = capsys.readouterr().out
    synergy = run_of(folder, "pairs").synergy
    assert synergy is not None
    keys = ["layer1", "head1", "layer2", "head2", "scale"]
    rows = synergy[synergy["metric"] == "logit_diff"].drop(columns=["run_id", "metric"]).groupby(keys, as_index=False).mean()
    strongest = rows.loc[rows["synergy"].abs().idxmax()]
    line = next(line for line in out.split("strongest synergies by logit_diff")[1].splitlines() if line.startswith("│"))
    assert f"{strongest['layer1']:g}.{strongest['head1']:g}" in line and f"{strongest['layer2']:g}.{strongest['head2']:g}" in line
    assert all(f"{strongest[name]:+z.3f}" in line for name in ("synergy", "joint", "single1", "single2"))


def test_the_strongest_of_a_run_are_the_same_run_as_the_same_heads_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    h1 = run_of(folder, "h1")
    change = h1.impact.query("metric == 'logit_diff'").groupby(["layer", "head", "scale"])["value"].mean()
    level = h1.summary["baselines"]["clean"]["logit_diff"]["mean"]
    strongest = (change - level).abs().groupby(["layer", "head"]).max().sort_values(ascending=False, kind="stable").index[:3]
    line = (*SMALL, "battery=pairs", "run_name=strongest", "plots=false")
    assert type_in(folder, *line, f"battery.from={h1.manifest['run_id']}", "battery.k=3") == 0
    run = run_of(folder, "strongest")
    assert run.manifest["battery"]["heads"] == [f"{layer}.{head}" for layer, head in sorted(strongest)]
    assert run.manifest["chosen_from"]["run_id"] == h1.manifest["run_id"]
    assert json.dumps(run.manifest["provenance"]["identity"]["battery"]).count("from") == 0
    capsys.readouterr()
    named = ",".join(f"'{layer}.{head}'" for layer, head in strongest)
    for chosen in ((f"battery.heads=[{named}]",), (f"battery.from={h1.path}", "battery.k=3")):
        assert type_in(folder, *line, *chosen) == 0
        said = capsys.readouterr()
        assert f"run {run.manifest['run_id']} is already complete" in said.out + said.err
    assert type_in(folder, *line, f"battery.from={h1.manifest['run_id']}", "battery.k=3", "dry_run=true") == 0
    assert " yes " in capsys.readouterr().out


def test_fewer_heads_than_k_are_all_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    config = composed("battery=pairs", f"battery.from={run_of(folder, 'h1').path}", "battery.k=100")
    assert len(resolve(config).config.battery.heads) == 16  # type: ignore[attr-defined]


def test_sweeps_join_pairs_and_sets_and_find_what_conditions_share(tmp_path: Path) -> None:
    both = ("-m", "condition=cond_a,cond_b", *SMALL, "controls.cross=true")
    assert type_in(tmp_path, *both, "sweep_name=pairs", "battery=pairs", SOME) == 0
    sets = ("battery=subset", "battery.sets=[['0.1','1.5'],['0.4']]")
    assert type_in(tmp_path, *both, "sweep_name=sets", *sets, "plots=false") == 0
    for name, kind, plural in (("pairs", "pair", "pairs"), ("sets", "subset", "sets")):
        sweep = package.load_sweep(only(tmp_path, f"outputs/sweeps/{name}_*"))
        matrix = sweep.matrices[f"{kind}_matrix"]
        validate_cross_condition_matrix(matrix, ["cond_a", "cond_b"])
        validate_invariants_json(sweep.invariants)
        (group,) = sweep.invariants["groups"]
        assert group["kind"] == plural and group["components"] == (3 if kind == "pair" else 2)
        tops = group["per_metric"]["logit_diff"]["top_k"]
        assert {*tops} == {"cond_a", "cond_b"} and all(len(top) == group["components"] for top in tops.values())
        assert len(sweep.pivot()) == group["components"]
    assert (only(tmp_path, "outputs/sweeps/pairs_*") / "artifacts/cross_condition/heatmap.png").is_file()
    assert sweep.synergies == {}  # of sets
    subset = package.load_sweep(only(tmp_path, "outputs/sweeps/sets_*")).runs[0]
    validate_subset_impact_schema(subset.impact)
    assert subset.effects is not None
    validate_effects_schema(subset.effects)
    assert subset.manifest["battery"]["sets"] == {"set1": ["0.1", "1.5"], "set2": ["0.4"]}


def joined_lines(said: str) -> str:
    return " ".join(said.split())


def test_a_sweep_joins_the_synergies_of_its_runs_and_tells_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("-m", "condition=cond_a,cond_b", "condition.n_examples=4", "threads=1", "sweep_name=s", "battery=pairs", SOME,
           "seeds=[0,1]", "plots=false", "metrics=[logit_diff]")
    assert type_in(tmp_path, *few) == 0
    said = capsys.readouterr().out
    folder = only(tmp_path, "outputs/sweeps/s_*")
    file = folder / "artifacts/cross_condition/synergy_matrix.parquet"
    sweep = package.load_sweep(folder)
    joined = sweep.synergies["synergy_matrix"]
    assert list(sweep.matrices) == ["pair_matrix"] and len(sweep.pivot()) == 3
    assert sweep.manifest["artifacts"]["synergy_matrix"] == "artifacts/cross_condition/synergy_matrix.parquet"
    parts = [run.synergy for run in sweep.runs]
    assert len(parts) == 2
    pd.testing.assert_frame_equal(joined[list(parts[0].columns)], pd.concat(parts, ignore_index=True))  # type: ignore[union-attr, arg-type]
    validate_synergy_matrix(joined, ["cond_a", "cond_b"])
    assert list(joined["condition"]) == [run.manifest["condition"] for run in sweep.runs for _ in range(3 * 2)]
    means = joined.groupby(["condition", "layer1", "head1", "layer2", "head2", "scale"])["synergy"].mean()
    condition, *four, _ = means.abs().idxmax()
    furthest = f"{four[0]}.{four[1]} + {four[2]}.{four[3]} on {condition}, {means.loc[means.abs().idxmax()]:+.3f}"
    assert (f"synergies of 3 pairs in 2 runs are joined in artifacts/cross_condition/{file.name}; the furthest from 0 by "
            f"logit_diff: {furthest}") in joined_lines(said)
    before = file.read_bytes()
    assert check_sweep(sweep) == 1 + 1 + sum(map(check_run, sweep.runs))
    file.unlink()
    with pytest.raises(OutputError, match="synergy_matrix"):
        package.load_sweep(folder)
    assert aggregated([str(folder)]) == 0
    assert file.read_bytes() == before


WRONG = {
    "another condition": (lambda df: df.assign(condition="facts"), "got conditions"),
    "a sum that is none": (lambda df: df.assign(joint=df["joint"] + 1), "joint − "),
    "a label less": (lambda df: df.drop(columns="model"), "missing"),
    "a row twice": (lambda df: pd.concat([df, df[:1]], ignore_index=True), "twice"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_joins_no_synergies_is_refused(what: str) -> None:
    pair = {"layer1": 0, "head1": 1, "layer2": 1, "head2": 0, "scale": 0.0}
    row = {"run_id": "a", "seed": 0, **pair, "metric": "logit_diff", "joint": 3.0, "single1": 1.0, "single2": 1.0, "synergy": 1.0,
           "ci_low": 0.5, "ci_high": 1.5, "n": 4, **dict.fromkeys(MATRIX_COLUMNS, "x")}
    table = pd.DataFrame([row])
    validate_synergy_matrix(table, ["x"])
    validate_synergy_matrix(table.assign(**{"battery.scales": "[0]"}), ["x"])
    change, said = WRONG[what]
    with pytest.raises(SchemaError, match=said):
        validate_synergy_matrix(change(table), ["x"])


# Mistakes


MISTAKES = {
    "nothing chosen": (["battery=pairs"], ["battery.heads=…", "battery.from=…", "neither"]),
    "both chosen": (["battery=pairs", SOME, "battery.from=x"], ["battery.heads", "battery.from=x"]),
    "one head": (["battery=pairs", "battery.heads=['0.1']"], ["battery.heads", "2 or more"]),
    "no head": (["battery=pairs", "battery.heads=[]"], ["battery.heads=[]", "2 or more"]),
    "a head twice": (["battery=pairs", "battery.heads=['0.1','0.2','0.1']"], ["each of them once"]),
    "a head twice, once a number": (["battery=pairs", "battery.heads=['0.2',0.2]"], ["each of them once"]),
    "a layer": (["battery=pairs", "battery.heads=[1,2]"], ["battery.heads=[1, 2]", "layer.head"]),
    "a word": (["battery=pairs", "battery.heads=['a.b','0.1']"], ["layer.head"]),
    "a negative head": (["battery=pairs", "battery.heads=['0.-1','0.1']"], ["layer.head"]),
    "no list": (["battery=pairs", "battery.heads='0.1'"], ["layer.head"]),
    "one of a run": (["battery=pairs", "battery.from=x", "battery.k=1"], ["battery.k=1", "at least 2"]),
    "a number beside names": (["battery=pairs", SOME, "battery.k=3"], ["battery.k=3", "battery.from"]),
    "a scale twice": (["battery=pairs", SOME, "battery.scales=[0,0]"], ["battery.scales", "distinct"]),
    "an unknown key": (["battery=pairs", SOME, "battery.layers=[0]"], ["battery.layers", "heads"]),
    "an added key": (["battery=pairs", SOME, "+battery.pairs=1"], ["battery.pairs", "unknown key", "heads"]),
    "no sets": (["battery=subset"], ["battery.sets=…"]),
    "an empty list of sets": (["battery=subset", "battery.sets=[]"], ["battery.sets=[]", "expected sets, such as"]),
    "an empty set": (["battery=subset", "battery.sets={a: []}"], ["battery.sets.a=[]", "1 or more"]),
    "heads that are no set": (["battery=subset", "battery.sets=['0.1','0.2']"], ["battery.sets.set1=0.1", "layer.head"]),
    "a set with a head twice": (["battery=subset", "battery.sets=[['0.1','0.1']]"], ["battery.sets.set1", "each of them once"]),
    "sets at each position": (["battery=subset", "battery.sets=[['0.1']]", "battery.positions=each"], ["positions=each", "-m"]),
    "a set nowhere": (["battery=subset", "battery.sets=[['0.1']]", "battery.positions=end"], ["battery.positions=end", "last"]),
    "a metric that needs a source": (["battery=pairs", SOME, "metrics=[recovery]"], ["recovery"]),
}
OF_A_MODEL = {
    "a head out of range": (["battery=pairs", "battery.heads=['0.1','0.8']"], ["0.8 is out of range", "heads 0 to 7"]),
    "a layer out of range": (["battery=pairs", "battery.heads=['0.1','4.0']"], ["4.0 is out of range", "layers 0 to 3"]),
    "a set out of range": (["battery=subset", "battery.sets={a: ['9.0']}"], ["battery.sets.a: 9.0 is out of range"]),
    "nothing chosen": MISTAKES["nothing chosen"],
}
"""Those that only a model tells, and one that is told before."""


def files() -> dict[str, tuple[int, str]]:
    return {path: told for path, told in snapshot(Path()).items() if told[1] != "folder" and ".locks" not in path}


def refused(tinylab: Command, capsys: pytest.CaptureFixture[str], *line: str) -> str:
    before = files()
    assert tinylab(*line) == 2
    said = [part for part in capsys.readouterr().err.splitlines() if part.startswith("tinylab: ")]
    assert len(said) == 1
    assert files() == before
    return said[0]


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_sentence(what: str) -> None:
    line, words = MISTAKES[what]
    with pytest.raises(ConfigError) as refused:
        composed(*line)
    said = str(refused.value)
    assert all(word in said for word in words) and said.count("\n") == 0, said


@pytest.mark.parametrize("what", OF_A_MODEL)
def test_such_a_command_ends_with_it_and_leaves_nothing(
    what: str, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    line, words = OF_A_MODEL[what]
    said = refused(tinylab, capsys, *line)
    assert all(word in said for word in words), said


def edited(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    told = {**manifest, **changes}
    (path / "manifest.json").write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def test_a_run_that_has_no_heads_of_this_model_to_give_is_refused(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("condition.n_examples=2", "battery.layers=[0]", "plots=false")
    assert tinylab(*few) == 0
    assert tinylab(*few, "metrics=[kl_div]", "run_name=silent", "battery.heads=[1]") == 0
    assert tinylab(*few, "battery=h2") == 0
    assert tinylab(*few, "battery.site=v", "run_name=ablated") == 0
    assert tinylab("battery=keys", *few, "run_name=patched") == 0
    h1, silent, h2, ablated, patched = (
        only(tmp_path, f"outputs/runs/{name}_*") for name in ("h1", "silent", "h2", "ablated", "patched"))
    capsys.readouterr()

    def said(run: object, *more: str) -> str:
        return refused(tinylab, capsys, "battery=pairs", f"battery.from={run}", *more)

    assert "no such run" in said("0123456789ab") and "outputs/runs" in said("nowhere")
    assert "not the folder of a finished run" in said(tmp_path)
    assert "a run of layers (h2), expected one whose components are layer, head" in said(h2)
    assert "it has no logit_diff" in said(silent)
    for run, site in ((ablated, "v"), (patched, "k")):
        assert f"a run of {site} by key-value head" in said(run, "battery.k=2", "condition.n_examples=2", "controls=none")
    assert "another model, tiny" in said(h1, "model=planted", "condition=planted_a")
    (h1 / "metrics/effects.parquet").rename(tmp_path / "kept")
    assert "effects.parquet is missing" in said(h1)
    (h1 / "metrics/effects.parquet").write_bytes(b"another")
    assert "not what was written" in said(h1)
    (tmp_path / "kept").replace(h1 / "metrics/effects.parquet")
    edited(h1, status="failed", error={"type": "X", "message": "broke"})
    assert "not a finished run (status failed)" in said(h1)
