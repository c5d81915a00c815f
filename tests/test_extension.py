"""Additions outside the package, each in one file: a battery, an operation, a site, a metric, a kind of table.

`tests/extension` is a folder as a user would have it: a module of their own beside a folder of configs. Its battery moves what
attention writes at a position a part of the way to the clean run. On the planted ledger logits are linear in what the last
layer's attention writes at the last position, so a part p of the way from a logit difference of −3 to 3 is −3 + 6 p.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import tinylab
from tinylab.batteries.base import Cell, check_cells
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.errors import ConfigError
from tinylab.interventions.components import TableKind
from tinylab.interventions.sites import Sizes
from tinylab.report.plots import draw
from typed import type_in_shell

FOLDER = Path(__file__).parent / "extension"
METRICS = "metrics=[logit_diff,recovery,my_lab.metrics.margin]"
LEDGER = ("model=planted", "condition=planted_a")
LAST = 5
PARTS = [0.0, 0.25, 1.0]


def type_in(output: Path, *overrides: str, multirun: bool = False) -> str:
    flags = ["-m"] if multirun else []
    done = type_in_shell(FOLDER, "-m", "tinylab", "--config-dir", "conf", *flags, "battery=towards", METRICS,
                         f"output_dir={output}", *overrides)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["forked", "reference"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of the battery on the planted ledger, by either engine: its folder, and what was printed."""
    output = tmp_path_factory.mktemp(request.param)
    printed = type_in(output, *LEDGER, f"battery.positions=[2,{LAST}]", "battery.parts=[0.0,0.25,1.0]", f"engine={request.param}")
    (folder,) = output.glob("runs/towards_planted_a_*")
    return folder, printed


def test_the_tables_have_the_columns_of_the_kind_and_the_closed_form(run: tuple[Path, str]) -> None:
    table = pd.read_parquet(run[0] / "metrics/position_impact.parquet")
    assert list(table.columns) == ["run_id", "seed", "layer", "position", "part", "metric", "value"]
    assert [str(table[name].dtype) for name in ("layer", "position", "part")] == ["int64", "int64", "float64"]
    assert set(table["metric"]) == {"logit_diff", "recovery", "recovery_mean", "margin"}
    last = table.query(f"layer == 1 and position == {LAST}").pivot(index="part", columns="metric", values="value").loc[PARTS]
    np.testing.assert_allclose(last["logit_diff"], [-3 + 6 * part for part in PARTS], atol=1e-6)
    np.testing.assert_allclose(last["recovery"], PARTS, atol=1e-6)
    examples = pd.read_parquet(run[0] / "metrics/per_example.parquet")
    means = examples.groupby(["layer", "position", "part", "metric"])["value"].mean()
    cells = table[table["metric"] == "margin"].set_index(["layer", "position", "part", "metric"])["value"]
    np.testing.assert_allclose(means[cells.index], cells, atol=1e-12)


def test_the_metric_is_what_it_says_in_the_unmodified_runs(run: tuple[Path, str]) -> None:
    """With the target the best word by 3 in the clean run, and behind the foil by 3 in the corrupt one."""
    baselines = json.loads((run[0] / "metrics/summary.json").read_text())["baselines"]
    assert baselines["corrupt"]["margin"]["mean"] <= -3 + 1e-6
    assert baselines["clean"]["margin"]["mean"] == pytest.approx(3, abs=1e-6)


def test_the_report_names_battery_settings_and_the_strongest_position(run: tuple[Path, str]) -> None:
    folder, printed = run
    title = f"towards, positions=[2, {LAST}], parts=[0.0, 0.25, 1.0] on planted_a, planted-ledger: strongest by change of"
    assert title in printed
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    layer, position, part, change = (cell.strip() for cell in rows[0][1:5])
    assert (layer, position, part, float(change)) == ("1", str(LAST), "1.0", 6.0)
    assert f"run: {folder}" in printed


def test_the_heat_map_has_a_panel_for_each_part_and_positions_to_the_right(run: tuple[Path, str]) -> None:
    assert (run[0] / "heatmap.png").stat().st_size > 0
    loaded = tinylab.load_run(str(run[0]))
    kind = TableKind.of_manifest(loaded.manifest)
    figure = draw(loaded.impact, kind, loaded.summary["baselines"]["corrupt"], "title")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels[:3]] == ["part 0.0", "part 0.25", "part 1.0"]
    np.testing.assert_allclose(np.asarray(panels[2].images[0].get_array())[1], [0.0, 6.0], atol=1e-6)


def test_a_sweep_joins_the_tables_and_finds_invariants(tmp_path: Path) -> None:
    """The matrix by its own name, components by theirs, for a sweep over conditions and over a setting of the battery."""
    printed = type_in(tmp_path, "condition=cond_a,cond_b", "condition.n_examples=3", "battery.positions=[1,2]", "invariants.k=2",
                      "invariants.metrics=[my_lab.metrics.margin]", "battery.parts=[0.5],[1.0]", multirun=True)
    (folder,) = tmp_path.glob("sweeps/*")
    sweep = tinylab.load_sweep(str(folder))
    assert list(sweep.matrices) == ["position_matrix"]
    assert list(sweep.matrices["position_matrix"].columns[-2:]) == ["positions", "battery.parts"]
    assert len(sweep.invariants["groups"]) == 2
    for group in sweep.invariants["groups"]:
        assert group["kind"] == "positions"
        assert all(set(component) == {"layer", "position"} for component in group["intersection"]["positions"])
        rows = sweep.matrices["position_matrix"].query("metric == 'margin'")
        rows = rows[rows["battery.parts"] == group["settings"]["battery.parts"]]
        for condition in ("cond_a", "cond_b"):
            here = rows[rows["condition"] == condition]
            summary = sweep.summary["conditions"][condition]["runs"][Path(next(
                job["folder"] for job in sweep.manifest["jobs"] if job["run_id"] == here["run_id"].iloc[0])).name]
            change = (here["value"] - summary["baselines"]["corrupt"]["margin"]["mean"]).abs()
            best = here.assign(change=change).sort_values(["change"], ascending=False, kind="stable").head(2)
            top = group["per_metric"]["margin"]["top_k"][condition]
            best = best[best["change"] > 1e-12]  # prompts that begin alike are the same run there
            assert top == [{"layer": int(row.layer), "position": int(row.position)} for row in best.itertuples()]
    assert "positions that matter with one sign in every condition (cond_a, cond_b): 0" in printed
    assert "positions are among the 2 strongest of both by margin" in printed


def test_a_battery_with_a_source_and_a_shipped_kind_of_table_ends_well(tmp_path: Path) -> None:
    """One dataclass, one YAML, a source run, table layer_impact: alone and in a sweep."""
    (tmp_path / "third.py").write_text('''
from dataclasses import dataclass
from typing import ClassVar

from tinylab.batteries.base import Battery, Cell
from tinylab.interventions.components import LAYER_IMPACT
from tinylab.interventions.operations import Patch
from tinylab.interventions.sites import MLP_OUT
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant


@dataclass(kw_only=True)
class Third(Battery):
    kind: ClassVar = "third"
    table: ClassVar = LAYER_IMPACT
    target: ClassVar = "corrupt"
    source: ClassVar = Own("clean")
    acts_at: ClassVar = "last"

    def cells(self, n_layers, n_heads):
        return [Cell(Variant((Intervention(MLP_OUT, layer, Patch()),), "corrupt", self.source, "last"),
                     {"layer": layer, "granularity": "mlp_out"}) for layer in range(n_layers)]
''')
    folder = tmp_path / "conf/battery"
    folder.mkdir(parents=True)
    (folder / "third.yaml").write_text("name: third\n_target_: third.Third\n")
    few = ("battery=third", "condition.n_examples=4")
    done = type_in_shell(tmp_path, "-m", "tinylab", "--config-dir", "conf", *few)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "third on cond_a, tiny: strongest by change of logit_diff" in done.stdout
    done = type_in_shell(tmp_path, "-m", "tinylab", "--config-dir", "conf", "-m", "condition=cond_a,cond_b", *few)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "sweep complete: 2 of 2 runs" in done.stdout


MISTAKES = {
    "no cells": (lambda cells: [], "lists no cells for this model"),
    "another key": (lambda cells: [replace(cells[0], key={"lyer": 0, "head": 0, "scale": 0.0})],
                    "a cell's key is lyer, head, scale, without layer; expected the columns of head_impact: layer, head, scale"),
    "a cell twice": (lambda cells: [*cells, cells[1]], "lists the cell layer=0, head=1, scale=0.0 twice"),
    "a layer too many": (lambda cells: HeadsZero(name="more").cells(9, 1),
                         "a cell acts in layer 4; expected layers of this model, 0 to 3"),
}
"""What a battery of one's own may list by mistake, and what it is told."""


@pytest.mark.parametrize("what", MISTAKES)
def test_a_battery_that_lists_something_else_than_cells_of_its_table_is_refused(what: str) -> None:
    spoil, said = MISTAKES[what]
    battery = HeadsZero(name="mine")
    cells = battery.cells(4, 8)
    check_cells(battery, cells, 4)
    with pytest.raises(ConfigError, match="battery=mine: ") as refused:
        check_cells(battery, spoil(cells), 4)
    assert said in str(refused.value)


def test_a_battery_whose_module_breaks_is_one_sentence_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_package_not_there\n")
    folder = tmp_path / "conf/battery"
    folder.mkdir(parents=True)
    answers = {
        "name: mine\n_target_: broken.Mine\n": "_target_=broken.Mine: ModuleNotFoundError: No module named 'a_package_not_there'",
        "name: mine\n_target_: gone.Mine\n": "_target_=gone.Mine: ModuleNotFoundError: No module named 'gone'; expected the path",
        "name: mine\n_target_: pathlib.Path\n": "_target_=pathlib.Path: not a battery; expected the path of",
        "name: mine\n": "_target_: is missing; expected the path of",
        "_target_: broken.Mine\n": "name: is missing",
    }
    for content, said in answers.items():
        (folder / "mine.yaml").write_text(content)
        done = type_in_shell(tmp_path, "-m", "tinylab", "--config-dir", "conf", "battery=mine")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith(f"tinylab: battery.{said}"), done.stderr


def test_a_battery_that_extends_one_of_ours_is_asked_for_its_own_cells() -> None:
    @dataclass(kw_only=True)
    class Some(HeadsZero):
        kind: ClassVar[str] = "some"

        def cells(self, n_layers: int, n_heads: int) -> list[Cell]:
            """The first head of every layer."""
            return [cell for cell in super().cells(n_layers, n_heads) if cell.key["head"] == 0]

    sizes = Sizes(3, 4)
    assert [cell.key["layer"] for cell in Some(name="some").cells_of(sizes)] == [0, 1, 2]
    assert len(HeadsZero(name="all").cells_of(sizes)) == 12
