"""A finished run's files are what was written, byte for byte, or the run does not count: on loading, on joining, on reuse."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from conftest import Command, only
from tinylab import aggregate
from tinylab.errors import OutputError
from tinylab.records.reading import read_table
from tinylab.results import load_run, load_sweep
from typed import SHORT, type_in

FILES = ("config.yaml", "metrics/head_impact.parquet", "metrics/per_example.parquet", "metrics/effects.parquet",
         "metrics/summary.json", "metrics/verify.json", "metrics/examples.parquet")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def edited(file: Path) -> None:
    """Other numbers in a file that is whole."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        names = ("value", "effect", "clean_difference")
        name = next(name for name in names if name in table.column_names)
        changed = pc.add(table[name], 1.0)
        pq.write_table(table.set_column(table.column_names.index(name), name, changed), file)
    else:
        file.write_text(file.read_text().replace("0", "1", 1))


DAMAGES = (truncated, flipped, emptied, edited)


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def without_digests(folder: Path) -> None:
    """As an earlier version wrote it."""
    content = manifest(folder)
    del content["digests"]
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep that two conditions make, verified."""
    folder = tmp_path_factory.mktemp("digests")
    assert type_in(folder, "-m", "condition=cond_a,cond_b", *SHORT, "verify_slice.n_examples=1") == 0
    return only(folder, "outputs/sweeps/*")


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "sweep"))


def run_of(sweep: Path, condition: str = "cond_a") -> Path:
    return only(sweep, f"h1_{condition}_*")


def test_manifests_tell_the_sha256_of_every_result_file_and_the_rows_of_tables(made: Path) -> None:
    cross = made / "artifacts/cross_condition"
    files = {"config": "config.yaml", **{Path(path).stem: path for path in FILES[1:]}}
    for folder, named in ((run_of(made), files), (made, {path.stem: str(path.relative_to(made)) for path in cross.iterdir()})):
        told = manifest(folder)["digests"]
        assert set(told) == set(named)
        for name, path in named.items():
            content = (folder / path).read_bytes()
            rows = {"rows": len(pq.read_table(folder / path))} if path.endswith(".parquet") else {}
            assert told[name] == {"sha256": hashlib.sha256(content).hexdigest(), **rows}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_run_with_a_changed_file_is_not_loaded(sweep: Path, file: str, damage: Callable[[Path], None]) -> None:
    run = run_of(sweep)
    damage(run / file)
    with pytest.raises(OutputError, match=rf"{file} is not what was written.*\.$"):
        load_run(run)
    with pytest.raises(OutputError, match=f"{file} is not what was written"):
        load_sweep(sweep)


@pytest.mark.parametrize("file", ["head_matrix.parquet", "summary.json", "invariants.json"])
def test_a_sweep_with_a_changed_file_is_not_loaded_until_it_is_joined_again(sweep: Path, file: str) -> None:
    before = load_sweep(sweep)
    edited(sweep / "artifacts/cross_condition" / file)
    with pytest.raises(OutputError, match=rf"{file} is not what was written.*python -m tinylab\.aggregate"):
        load_sweep(sweep)
    assert aggregate.main([str(sweep)]) == 0
    assert load_sweep(sweep).matrices["head_matrix"].equals(before.matrices["head_matrix"])


def test_what_an_earlier_version_wrote_without_digests_is_loaded(sweep: Path) -> None:
    expected = load_sweep(sweep)
    for folder in (sweep, run_of(sweep), run_of(sweep, "cond_b")):
        without_digests(folder)
    found = load_sweep(sweep)
    pd.testing.assert_frame_equal(found.matrices["head_matrix"], expected.matrices["head_matrix"], check_exact=True)
    assert len(found.runs) == 2


DAMAGED_JOBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a table with other bits": (lambda run: flipped(run / FILES[1]), "head_impact.parquet is not what was written"),
    "no table": (lambda run: (run / FILES[1]).unlink(), "head_impact.parquet is missing"),
    "half a summary": (lambda run: truncated(run / FILES[4]), "summary.json is not what was written"),
    "half a manifest": (lambda run: truncated(run / "manifest.json"), "manifest.json: cannot be read"),
    "a manifest that is no text": (lambda run: (run / "manifest.json").write_bytes(b"\xff{"), "manifest.json: cannot be read"),
    "a manifest that is a list": (lambda run: (run / "manifest.json").write_text("[]"), "manifest.json: holds a list"),
    "no manifest": (lambda run: (run / "manifest.json").unlink(), "no manifest.json: it was removed"),
    "half a table of an earlier version": (lambda run: (without_digests(run), truncated(run / FILES[1]))[0],
                                           "head_impact.parquet: cannot be read"),
    "no numbers in a summary of an earlier version": (
        lambda run: (without_digests(run), (run / FILES[4]).write_text('{"metrics": 1}'))[0], "summary.json: run_id is missing"),
}


@pytest.mark.parametrize("damage", DAMAGED_JOBS)
def test_a_damaged_run_is_named_for_what_it_is_and_the_others_are_joined(sweep: Path, damage: str) -> None:
    change, words = DAMAGED_JOBS[damage]
    change(run_of(sweep))
    assert aggregate.main([str(sweep)]) == 3
    told = manifest(sweep)
    assert told["status"] == "partial"
    (failure,) = told["failures"]
    assert (failure["condition"], failure["error"]["type"]) == ("cond_a", "OutputError")
    assert words in failure["error"]["message"] and "killed" not in failure["error"]["message"]
    found = load_sweep(sweep)
    assert set(found.matrices["head_matrix"]["condition"]) == {"cond_b"}


def test_two_run_folders_that_were_swapped_are_named_and_neither_manifest_is_touched(sweep: Path) -> None:
    one, two = run_of(sweep), run_of(sweep, "cond_b")
    one.rename(sweep / "aside")
    two.rename(one)
    (sweep / "aside").rename(two)
    before = [manifest(one), manifest(two)]
    assert aggregate.main([str(sweep)]) == 3
    errors = [failure["error"] for failure in manifest(sweep)["failures"]]
    ids = [folder.name[-12:] for folder in (one, two)]
    assert [f"holds run {ids[1]} and not {ids[0]}" in errors[0]["message"],
            f"holds run {ids[0]} and not {ids[1]}" in errors[1]["message"]] == [True, True]
    assert [manifest(one), manifest(two)] == before


def test_a_changed_table_is_computed_again_to_the_same_numbers_and_that_is_said(
    tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*SHORT) == 0
    run = only(Path("outputs"), "runs/*")
    table = pq.read_table(run / FILES[1])
    edited(run / FILES[1])
    capsys.readouterr()
    assert tinylab(*SHORT, "dry_run=true") == 0
    assert "to compute: 1 of 1 runs" in capsys.readouterr().out
    assert tinylab(*SHORT) == 0
    assert "head_impact.parquet is not what was written" in (said := capsys.readouterr().out) and "computing it again" in said
    assert pq.read_table(run / FILES[1]).equals(table)
    assert tinylab(*SHORT) == 0
    assert "is already complete, reusing" in capsys.readouterr().out


def test_digests_follow_a_verify_slice_and_metrics_that_come_later(tinylab: Command) -> None:
    few = (*SHORT, "engine=reference")
    assert tinylab(*few, "metrics=[logit_diff]") == 0
    run = only(Path("outputs"), "runs/*")
    first = manifest(run)["digests"]
    assert tinylab(*few, "metrics=[logit_diff,kl_div]", "verify_slice.n_examples=1") == 0
    second = manifest(run)["digests"]
    assert second["head_impact"]["rows"] == 2 * first["head_impact"]["rows"]
    assert second["config"] == first["config"] and "verify" not in first
    assert load_run(run).verify is not None
    edited(run / FILES[5])
    with pytest.raises(OutputError, match="verify"):
        load_run(run)
    assert tinylab(*few, "metrics=[logit_diff,kl_div]", "verify_slice.n_examples=1") == 0
    assert load_run(run).verify is not None
    assert manifest(run)["digests"]["verify"] == second["verify"]


def test_a_folder_in_place_of_a_table_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet/part.parquet")
    with pytest.raises(OutputError, match="it is no file"):
        read_table(tmp_path / "t.parquet")
