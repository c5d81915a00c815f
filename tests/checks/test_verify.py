"""The verify slice: the reference engine repeats the last examples, and says so when the numbers are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conftest import Command, only
from tinylab.checks.verify import slice_of
from tinylab.paths import locate
from tinylab.records.digests import measured
from typed import snapshot, type_in

RUN: Final = ("condition=facts", "battery.layers=[0]", "battery.heads=[0,3]", "plots=false")
METRICS: Final = {"logit_diff", "kl_div", "acc_flip_rate", "p_drop"}


def manifest(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return content


def verify(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics/verify.json").read_text())
    return content


def per_example(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "metrics/per_example.parquet")


def rows_of_the_split() -> list[int]:
    lines = locate("pkg://tinylab/assets/corpora/facts.jsonl").read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines) if json.loads(line)["split"] == "test"]


def tamper(run: Path, *, row: int, by: float, metric: str = "logit_diff") -> None:
    """Make one example's numbers wrong in a finished run, as if it had computed them so."""
    table = per_example(run)
    table.loc[(table["example"] == row) & (table["metric"] == metric), "value"] += by
    computed(run, table)


def computed(run: Path, table: pd.DataFrame) -> None:
    """A finished run whose per_example was this from the first."""
    file = run / "metrics/per_example.parquet"
    pq.write_table(pa.Table.from_pandas(table, schema=pq.read_schema(file), preserve_index=False), file)
    content = manifest(run)
    content["digests"]["per_example"] = measured(file)
    (run / "manifest.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run without a slice."""
    folder = tmp_path_factory.mktemp("plain")
    assert type_in(folder, *RUN) == 0
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """per_example of the same battery by the reference engine, in a run of its own."""
    folder = tmp_path_factory.mktemp("reference")
    assert type_in(folder, *RUN, "engine=reference") == 0
    return per_example(only(folder, "outputs/runs/*"))


@pytest.fixture
def run(plain: Path, tmp_path: Path) -> Path:
    """A copy of the finished run in this test's own folder, where it will be found again."""
    shutil.copytree(plain / "outputs", tmp_path / "outputs")
    return only(tmp_path, "outputs/runs/*")


def test_a_slice_is_added_to_a_finished_run_without_computing_it_again(
    run: Path, reference: pd.DataFrame, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    before, provenance = snapshot(run), manifest(run)["provenance"]
    assert tinylab(*RUN, "+verify_slice.device=cpu") == 0
    assert "is already complete, reusing" in capsys.readouterr().out
    after = snapshot(run)
    judged = {"metrics/summary.json", "metrics/effects.parquet"}  # again, as the slice tells how much noise there is
    for path in before.keys() - {"manifest.json", "run.log", "metrics", *judged}:
        assert after[path] == before[path], path
    assert manifest(run)["provenance"] == provenance
    assert manifest(run)["verify"] == "metrics/verify.json"
    found = verify(run)
    assert set(found) >= {
        "device_main",
        "device_verify",
        "n_examples",
        "n_seeds",
        "metrics",
        "top_k_agreement",
        "tolerance",
        "verdict",
    }
    assert (found["device_main"], found["device_verify"], found["n_examples"], found["n_seeds"]) == ("cpu", "cpu", 20, 1)
    assert (found["verdict"], found["top_k_agreement"]) == ("pass", 1.0)
    assert set(found["metrics"]) == METRICS
    last = rows_of_the_split()[-20:]
    sides = {"main": per_example(run), "verify": reference}
    for metric, entry in found["metrics"].items():
        own = {side: table[(table["metric"] == metric) & table["example"].isin(last) & (table["control"] == "none")]
               for side, table in sides.items()}
        assert {len(rows) for rows in own.values()} == {2 * 20}
        for side, rows in own.items():
            assert entry[side] == pytest.approx(rows["value"].mean(), abs=1e-6)
        assert entry["abs_diff"] == pytest.approx(abs(entry["main"] - entry["verify"]))
        both = own["main"].merge(own["verify"], on=["example", "layer", "head", "scale"])
        assert len(both) == 40
        assert entry["max_abs_diff"] == pytest.approx((both["value_x"] - both["value_y"]).abs().max(), abs=1e-6)
        assert entry["max_abs_diff"] >= entry["abs_diff"] - 1e-12
        assert entry["sign_flips"] == 0


def test_the_same_slice_asked_again_is_reused_and_another_one_replaces_it(run: Path, tinylab: Command) -> None:
    assert tinylab(*RUN, "verify_slice.n_examples=2") == 0
    before = snapshot(run)
    assert tinylab(*RUN, "verify_slice.n_examples=2") == 0
    assert snapshot(run)["metrics/verify.json"] == before["metrics/verify.json"]
    assert tinylab(*RUN, "verify_slice.n_examples=3") == 0
    assert verify(run)["n_examples"] == 3


@pytest.mark.parametrize(("place", "verdict"), [(-1, "fail"), (-3, "fail"), (-4, "pass"), (0, "pass")])
def test_it_is_the_last_n_examples_that_are_checked(place: int, verdict: str, run: Path, tinylab: Command) -> None:
    tamper(run, row=rows_of_the_split()[place], by=0.5)
    assert tinylab(*RUN, "verify_slice=cpu", "verify_slice.n_examples=3") == 0
    assert verify(run)["verdict"] == verdict


def test_a_slice_of_every_template_takes_the_last_examples_of_each_in_proportion() -> None:
    names = [*"aaaabbcccccc"]
    assert slice_of(names, 6, "stratified") == [2, 3, 4, 5, 10, 11]  # quotas 2, 1, 3, two of each at least
    assert slice_of(names, 6, "last") == [6, 7, 8, 9, 10, 11]
    assert slice_of(names, 2, "stratified") == [3, 11]
    assert slice_of(names, 99, "stratified") == slice_of(names, 99, "last") == list(range(12))
    assert slice_of([*names[:-1], None], 6, "stratified") == [6, 7, 8, 9, 10, 11]


WARNING: Final = "the verify slice sees 1 of 6 templates; verify_slice.sample=stratified takes some of each"


@pytest.mark.parametrize(("place", "verdict"), [(19, "fail"), (18, "fail"), (17, "pass"), (-1, "fail")])
def test_a_stratified_slice_finds_what_is_wrong_in_any_template(
    place: int, verdict: str, run: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(run, row=rows_of_the_split()[place], by=0.5)  # rows 0 to 19 are of the first template
    assert tinylab(*RUN, "verify_slice.sample=stratified", "verify_slice.n_examples=12") == 0
    found = verify(run)
    assert (found["verdict"], found["sample"], found["templates"], found["n_examples"]) == (verdict, "stratified", 6, 12)
    assert manifest(run)["verify_slice"]["settings"]["sample"] == "stratified"
    assert WARNING not in capsys.readouterr().out


def test_the_last_examples_warn_of_templates_that_they_do_not_see(
    run: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*RUN, "verify_slice.n_examples=8") == 0
    assert WARNING in capsys.readouterr().out
    assert (verify(run)["sample"], verify(run)["templates"], verify(run)["n_examples"]) == ("last", 1, 8)
    assert tinylab(*RUN, "verify_slice.n_examples=4") == 0
    assert "sees 1 of 6 templates; verify_slice.sample=stratified takes some of 4 of them" in capsys.readouterr().out


def test_a_slice_of_before_samples_were_said_is_reused(run: Path, tinylab: Command) -> None:
    assert tinylab(*RUN, "verify_slice.n_examples=2") == 0
    content = manifest(run)
    del content["verify_slice"]["settings"]["sample"]
    (run / "manifest.json").write_text(json.dumps(content))
    before = snapshot(run)
    assert tinylab(*RUN, "verify_slice.n_examples=2") == 0
    assert snapshot(run)["metrics/verify.json"] == before["metrics/verify.json"]
    assert tinylab(*RUN, "verify_slice.n_examples=2", "verify_slice.sample=stratified") == 0
    assert verify(run)["sample"] == "stratified"


def test_wrong_numbers_fail_loudly_but_the_run_ends_well(run: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(run, row=rows_of_the_split()[-1], by=2.0)
    assert tinylab(*RUN, "+verify_slice.device=cpu", "+verify_slice.n_examples=4") == 0
    said = capsys.readouterr()
    assert "VERIFY FAILED" in said.out + said.err and "logit_diff" in said.out + said.err
    found = verify(run)
    assert found["verdict"] == "fail"
    entry = found["metrics"]["logit_diff"]
    assert entry["max_abs_diff"] == pytest.approx(2.0, abs=1e-3)
    assert entry["abs_diff"] == pytest.approx(2.0 / 4, abs=1e-3)
    assert found["metrics"]["kl_div"]["max_abs_diff"] < 1e-3
    content = manifest(run)
    assert (content["status"], content["verify"], content["verify_slice"]["verdict"]) == (
        "complete",
        "metrics/verify.json",
        "fail",
    )


def test_a_reversed_effect_is_a_sign_flip(run: Path, tinylab: Command) -> None:
    table = per_example(run)
    chosen = (table["metric"] == "logit_diff") & (table["head"] == 3)
    table.loc[chosen, "value"] = 2 * table["baseline"] - table["value"]
    computed(run, table)
    assert tinylab(*RUN, "verify_slice.n_examples=5") == 0
    flips = {metric: entry["sign_flips"] for metric, entry in verify(run)["metrics"].items()}
    assert flips == {"logit_diff": 1, "kl_div": 0, "acc_flip_rate": 0, "p_drop": 0}


def test_strict_makes_a_failed_verdict_exit_code_4(run: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(run, row=rows_of_the_split()[-1], by=2.0)
    line = [*RUN, "verify_slice=cpu", "verify_slice.n_examples=2", "verify_slice.strict=true"]
    assert tinylab(*line) == 4
    assert "verify_slice.strict=true" in capsys.readouterr().err
    assert manifest(run)["status"] == "complete"
    assert tinylab(*line) == 4  # reused, and still wrong
    assert tinylab(*RUN, "verify_slice=cpu", "verify_slice.n_examples=2", "verify_slice.strict=true", "overwrite=true") == 0


def test_overwriting_a_run_takes_its_old_slice_away(run: Path, tinylab: Command) -> None:
    tamper(run, row=rows_of_the_split()[-1], by=2.0)
    assert tinylab(*RUN, "verify_slice.n_examples=2") == 0
    assert verify(run)["verdict"] == "fail"
    assert tinylab(*RUN, "overwrite=true") == 0
    assert "verify" not in manifest(run)  # that verdict was about other numbers
    assert not (run / "metrics/verify.json").exists()


def test_strict_in_a_sweep_is_exit_code_4_and_the_runs_are_joined(plain: Path, tinylab: Command, tmp_path: Path) -> None:
    line = ["-m", *RUN[1:], "condition=facts", "condition.n_examples=3", "sweep_name=s"]
    assert tinylab(*line) == 0
    sweep = only(tmp_path, "outputs/sweeps/s_*")
    child = only(sweep, "h1_facts_*")
    tamper(child, row=int(per_example(child)["example"].max()), by=2.0)
    assert tinylab(*line, "verify_slice.strict=true", "verify_slice.n_examples=1", f"hydra.sweep.dir={sweep}") == 4
    content = manifest(sweep)
    assert (content["status"], content["failures"], content["verify_failed"]) == ("complete", [], ["facts"])


def test_more_examples_than_there_are_means_all(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab(*RUN, "condition.n_examples=3", "seeds=[0,1]", "verify_slice.n_examples=500") == 0
    child = only(tmp_path, "outputs/runs/*")
    found = verify(child)
    assert (found["n_examples"], found["n_seeds"], found["verdict"]) == (per_example(child)["example"].nunique(), 2, "pass")


def test_the_slice_may_have_a_dtype_of_its_own(run: Path, tinylab: Command) -> None:
    assert tinylab(*RUN, "verify_slice.dtype=float64", "verify_slice.n_examples=2") == 0
    found = verify(run)
    assert (found["dtype_main"], found["dtype_verify"], found["verdict"]) == ("float32", "float64", "pass")
    assert 0 < found["metrics"]["logit_diff"]["max_abs_diff"] < 1e-3


def test_a_zero_tolerance_accepts_no_rounding(run: Path, tinylab: Command) -> None:
    assert tinylab(*RUN, "verify_slice.dtype=float64", "verify_slice.tolerance=0", "verify_slice.n_examples=2") == 0
    assert (verify(run)["tolerance"], verify(run)["verdict"]) == (0.0, "fail")


def test_a_patching_run_is_verified_without_its_sham(tinylab: Command, tmp_path: Path) -> None:
    line = ["battery=h2", "condition=facts", "condition.n_examples=4", "battery.sham_control=true", "plots=false"]
    assert tinylab(*line, "+verify_slice.device=cpu") == 0
    child = only(tmp_path, "outputs/runs/*")
    found = verify(child)
    examples = per_example(child)
    rows = examples[(examples["control"] == "none") & (examples["metric"] == "logit_diff")]
    assert found["verdict"] == "pass"
    assert found["metrics"]["logit_diff"]["main"] == pytest.approx(rows["value"].mean())


@pytest.fixture
def no_such_device() -> str:
    """A device that this machine does not have."""
    return "cuda" if not torch.cuda.is_available() else "mps"


def test_a_missing_verify_device_stops_the_slice_and_keeps_the_finished_run(
    run: Path, no_such_device: str, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(run)
    assert tinylab(*RUN, f"verify_slice.device={no_such_device}") == 2
    assert f"device={no_such_device}" in capsys.readouterr().err
    after = snapshot(run)
    assert {path for path in before if after[path] != before[path]} <= {"manifest.json", "run.log"}
    assert manifest(run)["status"] == "complete"


def test_a_missing_verify_device_is_found_before_anything_is_computed(
    no_such_device: str, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*RUN, "condition.n_examples=2", f"verify_slice.device={no_such_device}") == 2
    said = capsys.readouterr()
    assert "loaded tiny" not in said.out  # else a long run would be computed, and thrown away with its folder
    assert list(tmp_path.iterdir()) == []
