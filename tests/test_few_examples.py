"""Too few examples or templates, or none named: one sentence, nulls with a note, and no NaN in any file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from conftest import Command, only, write_jsonl
from tinylab.paths import locate
from typed import type_in_shell

FEW = ("battery.layers=[1]", "battery.heads=[0,1]", "plots=false")


def rows(count: int, templates: int) -> list[dict[str, Any]]:
    """So many rows of each of the first templates of the shipped corpus."""
    lines = locate("pkg://tinylab/assets/corpora/ioi.jsonl").read_text(encoding="utf-8").splitlines()
    shipped = pd.DataFrame([row for row in map(json.loads, lines) if row["split"] == "test"])
    kept = shipped[shipped["template"].isin(shipped["template"].unique()[:templates])]
    found: list[dict[str, Any]] = kept.groupby("template", sort=False).head(count).to_dict("records")
    return found


def no_nan(constant: str) -> float:
    raise AssertionError(f"{constant} in a JSON")


def concluded(run: Path) -> tuple[dict[str, Any], pa.Table]:
    """What a run's summary says of effects, and their table; no document has a NaN, and no number of the table is one."""
    for document in run.rglob("*.json"):
        json.loads(document.read_text(), parse_constant=no_nan)
    table = pq.read_table(run / "metrics/effects.parquet")
    for name in table.column_names:
        if pa.types.is_floating(table.schema.field(name).type):
            assert not pc.any(pc.is_nan(table[name])).as_py(), name
            assert not pc.any(pc.is_inf(table[name])).as_py(), name
    told = json.loads((run / "metrics/summary.json").read_text())["effects"]
    return told, table.filter(pc.equal(table["metric"], "logit_diff"))


CASES: dict[str, tuple[list[dict[str, Any]], str, str, set[str]]] = {
    "one example": (rows(1, 1), "one example: no labels; the corpus has no second usable row",
                    "one example: no interval, no label",
                    {"ci_low", "p", "label", "new_templates_low", "simultaneous_low", "p_top_k"}),
    "one of each template": (rows(1, 4), "4 of 4 templates have one example: no labels; the corpus has no second usable row of 4",
                             "4 of 4 templates have one example", {"ci_low", "p", "label", "p_top_k"}),
    "one template": (rows(5, 1), "5 examples of 1 template can decide effects",
                     "one template: no conclusions about new ones",
                     {"new_templates_effect", "new_templates_low", "heterogeneity_p", "between_template_sd"}),
    "a template missing in some rows": ([*rows(3, 2), {**rows(4, 2)[-1], "template": None}], "1 of 7 examples name no template",
                                        "1 of 7 examples name no template", {"new_templates_low", "heterogeneity_p"}),
}
"""A corpus, what is said before the run, what its summary notes, and columns that are null."""


@pytest.mark.parametrize("what", CASES)
def test_what_cannot_be_told_is_null_and_noted(
    what: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, before, note, unknown = CASES[what]
    write_jsonl(tmp_path / "few.jsonl", corpus)
    line = ("condition=jsonl", "condition.path=few.jsonl", *FEW)
    assert tinylab(*line, "dry_run=true") == 0
    assert before in " ".join(capsys.readouterr().out.split())
    assert tinylab(*line) == 0
    run = only(tmp_path, "outputs/runs/*")
    assert before in (run / "run.log").read_text()
    summary, effects = concluded(run)
    assert any(note in one for one in summary["notes"]), summary["notes"]
    assert (summary["n"], effects.num_rows) == (len(corpus), 2)
    for name in unknown:
        assert effects[name].null_count == 2, name
    assert (summary["counts"] is None) == ("label" in unknown)
    for name in ("effect", "effect_logits", "n"):
        assert effects[name].null_count == 0, name
    if "label" not in unknown:
        assert effects["label"].null_count == effects["ci_low"].null_count == 0


def test_a_smaller_draw_is_told_what_it_takes_and_that_gives_labels(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("condition.n_examples=8", *FEW) == 0
    first = only(tmp_path, "outputs/runs/*")
    told = "8 of 8 templates have one example: no labels; condition.n_examples=16 or more gives each template two"
    assert told in (first / "run.log").read_text()
    assert concluded(first)[0]["counts"] is None
    assert tinylab("condition.n_examples=16", *FEW) == 0
    second, = set(tmp_path.glob("outputs/runs/*")) - {first}
    summary, effects = concluded(second)
    assert sum(summary["counts"].values()) == 2
    assert set(effects["smallest_template"].to_pylist()) == {2}


def test_a_dry_run_of_a_sweep_says_once_what_several_runs_can_decide(
    tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab("-m", "condition=ioi,cond_a", "condition.n_examples=32", *FEW, "dry_run=true") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("32 examples of 8 templates can decide effects") == 1
    assert "2 runs: 32 examples of 8 templates can decide" in said
    assert tinylab("metrics=[kl_div]", *FEW, "dry_run=true") == 0
    assert "decide" not in capsys.readouterr().out.replace("a self-check decides", "")


def test_the_items_of_the_shipped_facts_widen_intervals_and_stand_in_the_table(tinylab: Command, tmp_path: Path) -> None:
    line = ("condition=facts", "metrics=[logit_diff]", *FEW)
    assert tinylab(*line) == 0
    first = only(tmp_path, "outputs/runs/*")
    assert tinylab(*line, "condition.item_field=null") == 0
    second, = set(tmp_path.glob("outputs/runs/*")) - {first}
    with_items, without = (concluded(run)[1].to_pandas() for run in (first, second))
    examples = pq.read_table(first / "metrics/per_example.parquet").to_pandas().drop_duplicates("example")
    lines = locate("pkg://tinylab/assets/corpora/facts.jsonl").read_text(encoding="utf-8").splitlines()
    assert examples["item"].tolist() == [json.loads(lines[row])["target"] for row in examples["example"]]
    (df,) = set(with_items["df"])  # Bell & McCaffrey's: less than items, of which some stand in many examples
    assert 10 < df < examples["item"].nunique() - 1
    assert with_items["effect"].tolist() == without["effect"].tolist()
    assert (with_items["se"] > without["se"]).all()
    log = (first / "run.log").read_text()
    assert f"120 examples of {examples['item'].nunique()} items (each counts once) can decide" in log


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("effects.alpha=1.5",), "effects.alpha=1.5: expected a number between 0 and 1"),
        (("condition=facts", "condition.item_field=wrod"), "condition.item_field=wrod: no used row of"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(line: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, "-m", "tinylab", *line)
    assert done.returncode == 2
    assert done.stderr.startswith("tinylab: ") and words in done.stderr
    assert done.stderr.count("\n") == 1
