"""Patching each head alone: the numbers of hooks written here, in a table of heads with everything that goes with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tinylab as package
from conftest import Command, only
from families import ALIGNED, HEADS, LAYERS, WIDTH, answered, family, plain_logits
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.engine.base import Engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import ConfigError
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.paths import locate
from tinylab.validate import validate_cross_condition_matrix, validate_head_impact_schema, validate_invariants_json
from typed import type_in

PER_HEAD = ("battery=h2", "battery.granularity=head_out", "battery.per_head=true")
SMALL = ("condition.n_examples=3", "battery.layers=[0,1]", "plots=false")
ROUNDING = 1e-5
"""Logits of order 1 (random models) in float32, sums in another order."""


def battery(**settings: Any) -> ActivationPatch:
    return ActivationPatch(name="h2", **{"granularity": "head_out", "positions": "last", "per_head": True, **settings})


Tokens = tuple[int, ...]


def patched(projection: torch.nn.Module, source: Tokens, target: Tokens, run: Any, *, part: slice, at: Any) -> Any:
    """What `run(target)` gives with a part of the projection's input, at some positions, taken from the source prompt."""
    kept: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _module, args: kept.append(args[0].clone()))
    run(source)
    handle.remove()

    def overwrite(_module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        changed = args[0].clone()
        changed[0, at, part] = kept[0][0, at, part]
        return (changed,)

    handle = projection.register_forward_pre_hook(overwrite)
    try:
        return run(target)
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
@pytest.mark.parametrize(("positions", "at"), [("last", -1), ("all", slice(None)), ([0, 9], [0, 9])], ids=["last", "all", "list"])
@pytest.mark.parametrize("direction", ["clean->corrupt", "corrupt->clean"])
def test_every_head_is_patched_alone_as_by_two_hooks(
    direction: str, positions: Any, at: Any, kind: Callable[[CausalModel], Engine]
) -> None:
    model = family("llama")
    pair = answered(model, ALIGNED)[8]
    source, target = (getattr(pair, run) for run in direction.split("->"))
    cells = battery(positions=positions, patch_direction=direction).cells(LAYERS, HEADS)
    found = kind(model).evaluate([pair], [cell.variant for cell in cells], Scorer(("logit_diff",)))
    values: np.ndarray = found.values[:, 0, 0]
    assert [(cell.key["layer"], cell.key["head"], cell.key["scale"]) for cell in cells] == [
        (layer, head, 1.0) for layer in range(LAYERS) for head in range(HEADS)
    ]
    for cell, value in zip(cells, values, strict=True):
        head, width = int(cell.key["head"]), WIDTH // HEADS
        logits = patched(
            model.projection(int(cell.key["layer"])), source, target, lambda prompt: plain_logits(model, prompt),
            part=slice(head * width, (head + 1) * width), at=at,
        )
        assert value == pytest.approx(float(logits[pair.target] - logits[pair.foil]), abs=ROUNDING)
    baseline = found.baselines["clean" if target == pair.clean else "corrupt"]
    assert np.abs(values - baseline[0, 0]).min() > 1e-6  # no head is idle
    assert len(np.unique(np.round(values, 6))) == len(values)  # and none is another's twin


@pytest.mark.parametrize("granularity", ["layer_resid", "mlp_out"])
def test_what_has_no_heads_is_refused(granularity: str) -> None:
    with pytest.raises(ConfigError, match=f"per_head=true with battery.granularity={granularity}.*head_out"):
        battery(granularity=granularity)


def test_it_is_a_mistake_with_one_sentence_on_the_command_line(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("battery=h2", "battery.per_head=true") == 2
    assert "battery.granularity=layer_resid: only attention has heads" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a sham, two seeds, a picture and a verify slice."""
    folder = tmp_path_factory.mktemp("run")
    asked = [*PER_HEAD, *SMALL[:2], "battery.sham_control=true", "seeds=[0,1]", "+verify_slice.device=cpu"]
    assert type_in(folder, *asked) == 0
    return only(folder, "outputs/runs/*")


def test_the_table_of_a_run_is_that_of_plain_transformers_with_two_hooks(run: Path) -> None:
    """Tokens, model, hooks and means are made here; the prompts are the rows that per_example names."""
    folder = locate("pkg://tinylab/assets/tiny")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    corpus = pd.read_json(locate("pkg://tinylab/assets/corpora/ioi.jsonl"), lines=True)
    table = pd.read_parquet(run / "metrics/head_impact.parquet").query("metric == 'logit_diff' and seed == 0")
    rows = pd.read_parquet(run / "metrics/per_example.parquet").query("seed == 0")["example"].unique()
    width = model.config.n_embd // model.config.n_head

    def logits(prompt: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([prompt])).logits[0, -1]

    for layer, head in ((0, 1), (1, 0), (1, 5)):
        expected = []
        for row in rows:
            clean, corrupt = ((tokenizer.bos_token_id, *tokenizer.encode(corpus[run][row])) for run in ("clean", "corrupt"))
            target, foil = (tokenizer.encode(corpus[answer][row])[0] for answer in ("target", "foil"))
            after = patched(model.transformer.h[layer].attn.c_proj, clean, corrupt, logits,
                            part=slice(head * width, (head + 1) * width), at=-1)
            expected.append(float(after[target] - after[foil]))
        value = table.query("layer == @layer and head == @head")["value"].item()
        assert value == pytest.approx(np.mean(expected), abs=1e-4)  # logits of 10 to 20 in float32


def test_its_files_are_those_of_a_table_of_heads(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["table"], manifest["direction"], manifest["target_run"]) == ("head_impact", "clean->corrupt", "corrupt")
    assert manifest["head_impact"] == "metrics/head_impact.parquet" and "layer_impact" not in manifest
    assert manifest["battery"]["per_head"] is True
    assert (run / "heatmap.png").stat().st_size > 10_000
    loaded = package.load_run(run)
    assert loaded.layer_impact is None and loaded.head_impact is not None
    validate_head_impact_schema(loaded.head_impact)
    assert len(loaded.head_impact) == 2 * 2 * 8 * len(loaded.summary["metrics"])  # seeds, layers, heads
    assert set(loaded.head_impact["scale"]) == {1.0}
    assert set(loaded.head_impact["metric"]) >= {"logit_diff", "recovery", "recovery_mean"}


def test_examples_summary_and_verify_slice_tell_the_same_heads(run: Path) -> None:
    loaded = package.load_run(run)
    own = ["layer", "head", "scale", "seed"]
    examples = loaded.per_example.query("metric == 'logit_diff'")
    assert loaded.head_impact is not None and loaded.verify is not None
    means = examples.query("control == 'none'").groupby(own)["value"].mean()
    table = loaded.head_impact.query("metric == 'logit_diff'").set_index(own)["value"]
    pd.testing.assert_series_equal(means.sort_index(), table.sort_index(), rtol=1e-12)
    unmodified = examples.query("seed == 0").groupby("example")["baseline"].first().mean()
    assert loaded.summary["baselines"]["corrupt"]["logit_diff"]["per_seed"]["0"] == pytest.approx(unmodified, rel=1e-12)
    assert loaded.verify["verdict"] == "pass" and loaded.verify["top_k_agreement"] == 1.0


def test_a_sham_of_each_head_changes_nothing(run: Path) -> None:
    loaded = package.load_run(run)
    sham = loaded.per_example.query("control == 'sham' and metric == 'logit_diff' and seed == 0")
    assert len(sham) == 2 * 8 * 3
    assert (sham["value"] - sham["baseline"]).abs().max() <= 1e-4
    assert loaded.summary["controls"]["sham"]["logit_diff"] <= 1e-4


def test_the_report_names_the_direction_and_shows_no_scale(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tinylab.records.manifest import RunFolder
    from tinylab.report.console import print_run

    print_run(RunFolder(run))
    shown = capsys.readouterr().out
    assert "head_out of one head clean->corrupt at last" in shown and "unmodified corrupt run" in shown
    assert "head" in shown and "scale" not in shown


# Beside zeroed heads in a sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two conditions whose heads are zeroed, and patched in both directions."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "conf/battery").mkdir(parents=True)
    (folder / "conf/battery/heads.yaml").write_text("defaults: [h2, _self_]\ngranularity: head_out\nper_head: true\n")
    (folder / "conf/battery/back.yaml").write_text("defaults: [heads, _self_]\npatch_direction: corrupt->clean\n")
    asked = ["condition=cond_a,cond_b", "battery=h1,heads,back", "invariants.k=4", *SMALL]
    assert type_in(folder, "--config-dir", "conf", "-m", *asked) == 0
    return only(folder, "outputs/sweeps/*")


def test_zeroed_and_patched_heads_are_never_compared(sweep: Path) -> None:
    loaded = package.load_sweep(sweep)
    groups = [(group["kind"], group["battery"], group["direction"], group["conditions"]) for group in loaded.invariants["groups"]]
    both = ["cond_a", "cond_b"]
    assert groups == [
        ("heads", "h1", "none", both), ("heads", "h2", "clean->corrupt", both), ("heads", "h2", "corrupt->clean", both),
    ]
    assert [group.get("granularity") for group in loaded.invariants["groups"]] == [None, "head_out", "head_out"]
    assert loaded.invariants["heads"] == [] and "3 groups of heads" in loaded.invariants["note"]
    validate_invariants_json(loaded.invariants)


def test_one_matrix_holds_them_with_their_direction(sweep: Path) -> None:
    loaded = package.load_sweep(sweep)
    assert loaded.layer_matrix is None and loaded.head_matrix is not None
    validate_cross_condition_matrix(loaded.head_matrix, ["cond_a", "cond_b"])
    told = loaded.head_matrix.groupby("run_id")[["battery", "direction", "positions", "scale"]].agg(["first", "nunique"])
    assert (told.xs("nunique", axis=1, level=1) == 1).all(axis=None)
    assert sorted(told.xs("first", axis=1, level=1).itertuples(index=False, name=None)) == sorted(
        2 * [("h1", "none", "all", 0.0), ("h2", "clean->corrupt", "last", 1.0), ("h2", "corrupt->clean", "last", 1.0)]
    )


@pytest.mark.parametrize(("group", "target"), [(0, "clean"), (1, "corrupt"), (2, "clean")])
def test_a_heads_score_is_its_change_from_the_unmodified_target_run(group: int, target: str, sweep: Path) -> None:
    """The four strongest heads of each condition, found here from per_example's own baselines."""
    loaded = package.load_sweep(sweep)
    entry = loaded.invariants["groups"][group]
    for condition in ("cond_a", "cond_b"):
        which = (condition, entry["direction"])
        (own,) = [run for run in loaded.runs if (run.manifest["condition"], run.manifest["direction"]) == which]
        assert own.manifest["target_run"] == target
        examples = own.per_example.query("metric == 'logit_diff' and control == 'none'")
        change = (examples["value"] - examples["baseline"]).groupby([examples["layer"], examples["head"]]).mean().abs()
        strongest = change.sort_values(ascending=False, kind="stable").index[:4]
        top = [(head["layer"], head["head"]) for head in entry["per_metric"]["logit_diff"]["top_k"][condition]]
        assert top == list(strongest)
        clean, corrupt = (own.summary["baselines"][run]["logit_diff"]["mean"] for run in ("clean", "corrupt"))
        assert abs(clean - corrupt) > 1.0  # so that the wrong run's baseline would give another order
