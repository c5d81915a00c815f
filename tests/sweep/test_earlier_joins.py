"""What an earlier join made is never replaced by nothing: runs may be gone by now, and then nobody can make it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.aggregate import Shape, make_sweep
from tinylab import aggregate
from tinylab.results import load_sweep

RUNS = 3
CROSS = "artifacts/cross_condition"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A joined sweep that reuses the runs of an earlier one."""
    first, folder = tmp_path / "outputs/sweeps/first_0", tmp_path / "outputs/sweeps/second_0"
    make_sweep(first, RUNS, Shape(2, 3))
    folder.mkdir()
    shutil.copy(first / "manifest.json", folder)
    assert aggregate.main([str(folder)]) == 0
    assert all(job["folder"].startswith("../first_0/") for job in jobs(folder))
    return folder


def jobs(folder: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((folder / "manifest.json").read_text())["jobs"]
    return found


def conditions(matrix: Path) -> set[str]:
    return set(pq.read_table(matrix)["condition"].to_pylist())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_join_of_nothing_leaves_the_earlier_one_and_says_so(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(sweep / CROSS)
    (sweep.parent / "first_0").rename(sweep.parent.parent / "elsewhere")
    assert aggregate.main([str(sweep)]) == 3
    assert "no run can be joined; what an earlier join made stays" in caplog.text
    assert contents(sweep / CROSS) == before
    found = load_sweep(sweep)
    assert (found.manifest["status"], len(found.manifest["failures"]), found.runs) == ("failed", RUNS, [])
    assert len(found.matrices["head_matrix"]) == RUNS * Shape(2, 3).rows


def test_a_join_of_fewer_runs_keeps_the_earlier_one_beside_it_while_its_runs_are_gone(
    sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(sweep / CROSS)
    lost = sweep / jobs(sweep)[1]["folder"]
    lost.rename(sweep.parent.parent / "elsewhere")
    for _ in range(2):
        assert aggregate.main([str(sweep)]) == 3
    assert f"({lost.name[-12:]})" in caplog.text
    assert conditions(sweep / CROSS / "head_matrix.parquet") == {"cond_0000", "cond_0002"}
    assert contents(sweep / "artifacts/earlier_1") == before
    assert not (sweep / "artifacts/earlier_2").exists()
    (sweep.parent.parent / "elsewhere").rename(lost)
    assert aggregate.main([str(sweep)]) == 0
    assert (sweep / CROSS / "head_matrix.parquet").read_bytes() == before["head_matrix.parquet"]


def test_a_join_without_a_run_that_can_be_joined_again_keeps_no_copy(sweep: Path) -> None:
    manifest = json.loads((sweep / "manifest.json").read_text())
    (sweep / "manifest.json").write_text(json.dumps({**manifest, "jobs": manifest["jobs"][1:]}))
    assert aggregate.main([str(sweep)]) == 0
    assert [path.name for path in (sweep / "artifacts").iterdir()] == ["cross_condition"]


def test_a_table_that_is_not_of_the_join_stays_in_its_folder(sweep: Path) -> None:
    own = sweep / CROSS / "mine.parquet"
    pq.write_table(pq.read_table(sweep / CROSS / "head_matrix.parquet"), own)
    assert aggregate.main([str(sweep)]) == 0
    assert own.is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jobs": 5}, "jobs is 5, expected a list"),
        ({"jobs": [{"folder": "a"}]}, "jobs.0.overrides is missing"),
        ({"invariants": {"k": "x"}}, "invariants: k is 'x', expected"),
        ({"invariants": 3}, "invariants: the document is 3"),
        ({"artifacts": True}, "artifacts is True, expected an object"),
        ({"digests": {"summary": "x"}}, "digests.summary is 'x', expected an object"),
    ],
)
def test_a_sweeps_manifest_of_another_kind_is_one_sentence(
    change: dict[str, object], words: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((sweep / "manifest.json").read_text())
    (sweep / "manifest.json").write_text(json.dumps({**manifest, **change}))
    assert aggregate.main([str(sweep)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_settings_of_a_later_version_are_let_pass(sweep: Path) -> None:
    manifest = json.loads((sweep / "manifest.json").read_text())
    manifest["invariants"]["from_tomorrow"] = True
    (sweep / "manifest.json").write_text(json.dumps({**manifest, "from_tomorrow": [1]}))
    assert aggregate.main([str(sweep)]) == 0
    assert json.loads((sweep / "manifest.json").read_text())["from_tomorrow"] == [1]


def test_a_job_whose_name_no_disk_can_hold_does_not_stop_the_others(sweep: Path) -> None:
    manifest = json.loads((sweep / "manifest.json").read_text())
    manifest["jobs"].append({**manifest["jobs"][0], "run_id": "f" * 12, "folder": "x" * 300, "condition": "x" * 300})
    (sweep / "manifest.json").write_text(json.dumps(manifest))
    assert aggregate.main([str(sweep)]) == 3
    assert conditions(sweep / CROSS / "head_matrix.parquet") == {"cond_0000", "cond_0001", "cond_0002"}
