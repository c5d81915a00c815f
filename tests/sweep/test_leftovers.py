"""What killed processes leave behind is tidied by the next command, and what somebody writes right now is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.aggregate import Shape, make_sweep
from conftest import Command, only
from tinylab import aggregate
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import half_written, replacing
from typed import SHORT

DIE = """
import os, signal, sys
from pathlib import Path
from tinylab.records.storage import replacing
with replacing(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
HIDDEN = ("runs/.tinylab-probe-4711", "runs/{run}/..attempts.x7_fa2b1", "runs/{run}/.manifest.json.q8_fa2b1.json",
          "runs/{run}/.new/metrics/head_impact.parquet")


def test_what_a_killed_process_was_writing_can_be_told_from_what_another_writes(tmp_path: Path) -> None:
    path = tmp_path / "[a].json"
    assert subprocess.run([sys.executable, "-c", DIE, str(path)], check=False).returncode == -signal.SIGKILL
    left = only(tmp_path, ".*")
    with replacing(path) as mine:
        assert half_written(path) == [left]
        assert mine.is_file()
        mine.write_text("{}")
    assert path.read_text() == "{}"


def test_the_next_command_tidies_a_runs_folder(tinylab: Command) -> None:
    assert tinylab(*SHORT) == 0
    run = only(Path("outputs"), "runs/*")
    left = [Path("outputs") / name.format(run=run.name) for name in HIDDEN]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    assert tinylab(*SHORT) == 0
    assert [file for file in left if file.exists()] == []
    assert RunFolder(run).half_written() == []


def test_the_next_join_tidies_the_sweeps_folder(tmp_path: Path) -> None:
    make_sweep(tmp_path, 2, Shape(1, 2))
    cross = tmp_path / "artifacts/cross_condition"
    left = [tmp_path / ".manifest.json.q8_fa2b1.json", cross / ".head_matrix.parquet.aaaaaaaa.parquet",
            cross / ".summary.json.bbbbbbbb.json"]
    cross.mkdir(parents=True)
    for file in left:
        file.write_text("half")
    with replacing(cross / "invariants.json") as mine:
        mine.write_text("{}")
        assert aggregate.main([str(tmp_path)]) == 0
        assert mine.is_file()
    assert [file for file in left if file.exists()] == []
    assert sorted(os.listdir(cross)) == ["head_matrix.parquet", "invariants.json", "summary.json"]
