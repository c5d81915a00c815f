"""Batteries at every site: which cells they list, how they count units, what they refuse, and what a run writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conftest import Command, only
from tinylab.batteries.ablation import Ablation
from tinylab.batteries.activation_patch import SITE_OF, ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.batteries.pairs import HeadsPairZero
from tinylab.batteries.subset import HeadsSubsetZero
from tinylab.errors import ConfigError
from tinylab.interventions.sites import SITES, Sizes
from tinylab.records.identity import battery_identity

SIZES = Sizes(3, 4, 2, (48, None, 48))
"""As a grouped-query model whose middle layer has experts."""


def h2(**settings: Any) -> ActivationPatch:
    return ActivationPatch(**{"name": "h2", "positions": "last", **settings})


@pytest.mark.parametrize(("granularity", "heads"), [("head_out", 4), ("q", 4), ("k", 2), ("v", 2)])
def test_heads_are_counted_as_the_site_has_them(granularity: str, heads: int) -> None:
    cells = h2(granularity=granularity, per_head=True).cells_of(SIZES)
    every = [(layer, head) for layer in range(3) for head in range(heads)]
    assert [cell.key for cell in cells] == [{"layer": layer, "head": head, "scale": 1.0} for layer, head in every]
    zeroed = HeadsZero(name="h1", site=granularity).cells_of(SIZES)
    assert [cell.key for cell in zeroed] == [{**cell.key, "scale": 0.0} for cell in cells]
    for cell in (*cells, *zeroed):
        (intervention,) = cell.variant.interventions
        assert (intervention.site, intervention.layer, intervention.head) == (
            SITES[granularity], cell.key["layer"], cell.key["head"])


@pytest.mark.parametrize("granularity", [name for name in SITE_OF if name != "mlp_neurons"])
def test_a_granularity_is_the_site_of_its_name_and_one_cell_per_layer(granularity: str) -> None:
    cells = h2(granularity=granularity).cells_of(SIZES)
    assert [cell.key for cell in cells] == [{"layer": layer, "granularity": granularity} for layer in range(3)]
    name = "resid_post" if granularity == "layer_resid" else granularity
    assert {(i.site.name, i.head) for cell in cells for i in cell.variant.interventions} == {(name, None)}


def test_each_chosen_neuron_is_a_cell_of_its_own_table() -> None:
    battery = h2(granularity="mlp_neurons", neurons=[7, 0], layers=[0, 2], sham_control=True)
    cells = battery.cells_of(SIZES)
    keys = [{"layer": layer, "neuron": neuron} for layer in (0, 2) for neuron in (0, 7)]
    assert [cell.key for cell in cells] == [*keys, *keys] and [cell.control for cell in cells] == ["none"] * 4 + ["sham"] * 4
    assert battery.table.keys == ("layer", "neuron") and battery.table.name == "neuron_impact"
    assert str(cells[1].variant.interventions[0].component) == "mlp_neurons of layer 0, neuron 7"
    assert battery.describe() == "h2, mlp_neurons of one neuron clean->corrupt at last, layers [0, 2], neurons [7, 0]"


def test_a_component_says_what_its_unit_is() -> None:
    cells = [h2(granularity=name, per_head=True).cells_of(SIZES)[1] for name in ("q", "k", "head_out")]
    told = [str(cell.variant.interventions[0].component) for cell in cells]
    assert told == ["q of layer 0, head 1", "k of layer 0, kv head 1", "head_out of layer 0, head 1"]
    assert h2(granularity="v", per_head=True).describe() == "h2, v of one kv head clean->corrupt at last"
    assert HeadsZero(name="h1", site="k").describe() == "h1, k of kv head × 0"


@pytest.mark.parametrize(("word", "arrow"), [("denoising", "clean->corrupt"), ("noising", "corrupt->clean")])
def test_a_direction_by_its_other_name_is_the_same_battery(word: str, arrow: str) -> None:
    named, drawn = h2(patch_direction=word), h2(patch_direction=arrow)
    assert named == drawn and battery_identity(named) == battery_identity(drawn)
    assert (named.source.run, named.target) == (("clean", "corrupt") if word == "denoising" else ("corrupt", "clean"))
    assert arrow in named.describe()


def test_the_blocks_output_by_its_other_name_is_the_same_battery() -> None:
    def both(make: Callable[[str], Battery]) -> list[Battery]:
        return [make("resid_post"), make("layer_resid")]

    for also, own in (
        both(lambda name: h2(granularity=name)),
        both(lambda name: Ablation(name="blocks", site=name, ablation="resample", positions="last")),
        both(lambda name: HeadsPairZero(name="pairs", site=name, layers=[0, 1])),
        both(lambda name: HeadsSubsetZero(name="subset", site=name, sets=[[0, 1]])),
    ):
        assert also == own and battery_identity(also) == battery_identity(own)
        assert "layer_resid" in also.describe()
    with pytest.raises(ConfigError, match="granularity=layer_resid turns the target run into the source run"):
        h2(granularity="resid_post", positions="all")


def test_settings_that_came_later_leave_identities_as_they_were() -> None:
    assert battery_identity(h2()) == {"kind": "activation_patch", "name": "h2", "positions": "last"}
    assert battery_identity(HeadsZero(name="h1")) == {"kind": "heads_zero", "name": "h1"}


@pytest.mark.parametrize(("settings", "told"), [
    ({"granularity": "mlp_in"}, "battery.granularity=mlp_in"),
    ({"granularity": "mlp_neurons"}, r"expected the neurons to patch, .*battery.neurons=\[0,7\]"),
    ({"granularity": "mlp_neurons", "neurons": []}, "expected the neurons to patch|battery.neurons"),
    ({"granularity": "mlp_neurons", "neurons": [1, 1]}, "battery.neurons"),
    ({"granularity": "mlp_neurons", "neurons": [-1]}, "battery.neurons"),
    ({"granularity": "q", "neurons": [0]}, r"battery.neurons=\[0\] with battery.granularity=q: only MLPs have neurons"),
    ({"granularity": "attn_out", "per_head": True}, "only attention has heads"),
    ({"granularity": "resid_pre", "positions": "all"}, "granularity=resid_pre turns the target run into the source run"),
    ({"granularity": "resid_mid", "positions": "all"}, "granularity=resid_mid turns the target run into the source run"),
    ({"patch_direction": "denoise"}, "patch_direction=denoise.*denoising, noising"),
])
def test_a_wrong_setting_is_one_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        h2(**settings)
    assert "\n" not in str(caught.value)


def test_units_that_a_model_has_not_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"battery.neurons=\[48\]: 48 is out of range, this model has 0 to 47"):
        h2(granularity="mlp_neurons", neurons=[48]).cells_of(SIZES)
    assert len(h2(granularity="mlp_neurons", neurons=[48], layers=[1]).cells_of(SIZES)) == 1  # the trial refuses that layer
    with pytest.raises(ConfigError, match=r"battery.heads=\[2\]: 2 is out of range, this model has 0 to 1"):
        HeadsZero(name="h1", site="v", heads=[2]).cells_of(SIZES)
    wrong: list[tuple[dict[str, Any], str]] = [({"site": "mlp_out"}, "battery.site=mlp_out"),
                                               ({"site": "q", "keep_value_bias": True}, "battery.site=q: only a head's output")]
    for settings, words in wrong:
        with pytest.raises(ConfigError, match=words):
            HeadsZero(name="h1", **settings)


def test_a_run_over_neurons_has_a_table_of_its_own_and_is_found_by_either_name(tinylab: Command, tmp_path: Path) -> None:
    asked = ("battery=h2", "battery.granularity=mlp_neurons", "battery.neurons=[0,7]", "condition.n_examples=4")
    assert tinylab(*asked, "battery.patch_direction=noising") == 0
    run = only(tmp_path, "outputs/runs/*")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["neuron_impact"] == "metrics/neuron_impact.parquet" and manifest["direction"] == "corrupt->clean"
    table = pd.read_parquet(run / "metrics/neuron_impact.parquet")
    assert list(table.columns) == ["run_id", "seed", "layer", "neuron", "metric", "value"]
    assert set(map(tuple, table[["layer", "neuron"]].to_numpy())) == {(layer, neuron) for layer in range(4) for neuron in (0, 7)}
    assert tinylab(*asked, "battery.patch_direction='corrupt->clean'") == 0
    assert only(tmp_path, "outputs/runs/*") == run


def test_a_neuron_that_is_not_there_is_exit_code_2(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("battery=h2", "battery.granularity=mlp_neurons", "battery.neurons=[512]", "condition.n_examples=2") == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tinylab: ")]
    assert told == "tinylab: battery.neurons=[512]: 512 is out of range, this model has 0 to 511."
