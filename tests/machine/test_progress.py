"""The bar over a sweep's jobs on a real terminal: one line, the time left, and nothing written into it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import tinylab
from terminal import seen, typed_on_a_terminal

BAR = re.compile(r"^mine +(\d+)%\|[^|]*\| (\d)/3 runs, \d\d:\d\d so far, (\?|\d\d:\d\d) left(, \d failed)?$")
JOBS = f"""
import logging, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, {str(Path(tinylab.__file__).parents[1])!r})
from tinylab.machine import progress

progress.POLL_SECONDS = 0.05
if len(sys.argv) > 1:  # a worker: it shares the terminal with the process that draws the bar
    logging.basicConfig(format="%(levelname)s %(message)s")
    progress.one_of_many(verbose=False)
    progress.log_over_bar()
    logging.getLogger().warning("not for the screen")
    logging.getLogger().error("job %s failed: for a reason", sys.argv[1])
    logging.getLogger().error("printed when the sweep ends", extra={{progress.AT_THE_END: True}})
    Path(sys.argv[1]).touch()
else:
    jobs = [Path(name) for name in "012"]
    jobs[0].touch()  # it has ended already
    with progress.jobs_bar("mine", jobs, lambda path: "failed" if path.name == "1" else "complete"):
        for job in jobs[1:]:
            time.sleep(0.2)
            subprocess.run([sys.executable, __file__, str(job)], check=True)
            time.sleep(0.2)
    print("joined")
"""


@pytest.mark.parametrize("columns", [100, 60])
def test_one_bar_counts_the_jobs_and_what_workers_say_stands_on_lines_of_its_own(tmp_path: Path, columns: int) -> None:
    (tmp_path / "jobs.py").write_text(JOBS)
    code, text = typed_on_a_terminal([sys.executable, "jobs.py"], tmp_path, columns)
    assert code == 0, text
    *said, bar, joined, nothing = seen(text)
    assert said == ["ERROR job 1 failed: for a reason", "ERROR job 2 failed: for a reason"]
    assert (joined, nothing) == ("joined", "") and len(bar) < columns
    last = BAR.match(bar)
    assert last is not None and last.groups() == ("100", "3", "00:00", ", 1 failed")
    drawn = [found for one in re.split(r"[\r\n]+", text) if (found := BAR.match(one.strip())) is not None]
    assert [*dict.fromkeys(found[2] for found in drawn)] == ["0", "1", "2", "3"]
    assert [*dict.fromkeys((found[2], found[4]) for found in drawn)] == [
        ("0", None), ("1", None), ("2", ", 1 failed"), ("3", ", 1 failed")]
    assert {found[3] for found in drawn if found[2] == "1"} == {"?"}  # a job that was there says nothing of the others' time
    assert all(found[3] != "?" for found in drawn if found[2] == "2")


def test_where_there_is_no_terminal_there_is_no_bar(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(JOBS)
    code, text = typed_on_a_terminal(["sh", "-c", f"{sys.executable} jobs.py 2>&1 | cat"], tmp_path)
    assert code == 0
    assert [line.strip() for line in text.splitlines()] == [*(f"ERROR job {n} failed: for a reason" for n in (1, 2)), "joined"]


@pytest.mark.faults
def test_a_sweep_in_several_processes_has_one_bar_and_whole_lines(tmp_path: Path) -> None:
    line = ["-m", "condition=cond_a,facts,negation", "battery.heads=[99]", "battery.layers=[0]", "condition.n_examples=4",
            "controls=none", "plots=false", "report=false", "sweep_name=mine", "hydra/launcher=joblib"]
    code, text = typed_on_a_terminal([sys.executable, "-m", "tinylab", *line], tmp_path, 200)
    assert code == 3
    lines = seen(text)
    assert sum(BAR.match(one) is not None for one in lines) == 1
    assert [one.partition(": ConfigError: battery.heads=[99]: ")[0] for one in lines if "out of range" in one] == [
        "FAILED cond_a (h1), facts (h1), negation (h1)"]
    assert "3 failed" in next(one for one in lines if BAR.match(one))
