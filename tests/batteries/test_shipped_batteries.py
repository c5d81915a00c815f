"""The shipped batteries: each is a question in its YAML's comment, listed in the docs, and a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinylab.batteries.ablation import SAME as SAME_ABLATION
from tinylab.batteries.ablation import USES
from tinylab.config.composing import config_folder
from typed import SHORT, composed, type_in

ROOT = Path(__file__).parents[2]
ACT: dict[str, dict[str, object]] = {
    "attention": {"site": "attn_out", "ablation": "mean", "positions": "all", "table": "layer_impact"},
    "grid": {"granularity": "resid_pre", "positions": "each", "table": "position_impact"},
    "keys": {"granularity": "k", "per_head": True, "positions": "all", "table": "head_impact"},
    "neurons": {"site": "mlp_neurons", "ablation": "mean", "top_neurons": 10, "positions": "last", "table": "neuron_impact"},
    "queries": {"granularity": "q", "per_head": True, "positions": "last", "table": "head_impact"},
    "residual": {"granularity": "resid_mid", "positions": "last", "table": "layer_impact"},
    "values": {"granularity": "v", "per_head": True, "positions": "all", "table": "head_impact"},
}
"""What each of those that only choose settings is."""
SAME = ("activation_patch", "heads_zero")
"""Names of kinds, which mean h2 and h1."""
EVERY = sorted({file.stem for file in (config_folder() / "battery").glob("*.yaml")} - {*SAME})


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """All of them run in one sweep, by name."""
    folder = tmp_path_factory.mktemp("shipped")
    asked = [f"battery={','.join(ACT)}", *SHORT, "controls=none", "metrics=[logit_diff]"]
    assert type_in(folder, "-m", *asked) == 0
    found = [json.loads(file.read_text()) for file in folder.glob("outputs/sweeps/*/*/manifest.json")]
    return {manifest["battery"]["name"]: manifest for manifest in found}


@pytest.mark.parametrize("name", ACT)
def test_a_shipped_battery_asks_its_question_at_its_place(name: str, manifests: dict[str, dict[str, object]]) -> None:
    manifest = manifests[name]
    assert manifest["status"] == "complete"
    told = {**manifest["battery"], "table": manifest["table"]}  # type: ignore[dict-item]
    assert {key: told[key] for key in ACT[name]} == ACT[name]


@pytest.mark.parametrize("ablation", [*USES, *SAME_ABLATION])
@pytest.mark.parametrize("name", ["h1", "heads", "mlps", "attention", "neurons", "blocks"])
def test_a_shipped_ablation_takes_any_other_baseline_in_place_of_its_own(name: str, ablation: str) -> None:
    battery = composed(f"battery={name}", f"battery.ablation={ablation}").battery
    assert battery.ablation == SAME_ABLATION.get(ablation, ablation)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", EVERY)
def test_it_begins_with_what_it_asks_and_docs_list_it(name: str) -> None:
    text = (config_folder() / f"battery/{name}.yaml").read_text()
    assert text.startswith("# ") and f"name: {name}\n" in text
    if name in ACT:
        assert "?" in text.partition("\nname:")[0]
        assert composed(f"battery={name}").battery.name == name
    assert f"| `{name}` |" in (ROOT / "docs/reference.md").read_text()
