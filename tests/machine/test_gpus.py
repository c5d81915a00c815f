"""GPUs are dealt out: real processes draw, hold, die; no GPU is needed for that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DRAW = """
import sys
from pathlib import Path
from tinylab.machine.gpus import draw
print(draw(sys.argv[2:], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
Worker = subprocess.Popen[str]
Start = Callable[[list[str]], Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that draws one of some names and then waits."""
    started: list[Worker] = []

    def begin(names: list[str]) -> Worker:
        command = [sys.executable, "-c", DRAW, str(tmp_path / "lots"), *names]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.communicate()


def drawn(worker: Worker) -> int:
    assert worker.stdout is not None
    return int(worker.stdout.readline())


def test_as_many_workers_as_gpus_at_the_same_time_have_one_each(start: Start) -> None:
    workers = [start(["a", "b", "c", "d"]) for _ in range(4)]
    assert sorted(drawn(worker) for worker in workers) == [0, 1, 2, 3]


def test_more_workers_than_gpus_share_them_evenly(start: Start) -> None:
    workers = [start(["a", "b"]) for _ in range(5)]
    assert sorted(drawn(worker) for worker in workers) == [0, 0, 0, 1, 1]


def test_the_lot_of_a_killed_worker_is_free_again(start: Start) -> None:
    workers = {drawn(worker): worker for worker in [start(["a", "b", "c"]) for _ in range(3)]}
    workers[1].kill()
    workers[1].wait()
    assert drawn(start(["a", "b", "c"])) == 1


def test_workers_that_see_other_gpus_of_the_same_machine_avoid_each_other(start: Start) -> None:
    assert drawn(start(["b"])) == 0
    assert drawn(start(["a", "b"])) == 0
    assert drawn(start(["a", "b", "c"])) == 2


TAKE = """
import sys
from types import SimpleNamespace
taken = []
cuda = SimpleNamespace(device_count=lambda: int(sys.argv[1]), set_device=taken.append,
                       get_device_properties=lambda index: SimpleNamespace(uuid=f"gpu-{index}"))
sys.modules["torch"] = SimpleNamespace(cuda=cuda)
from tinylab.machine.gpus import take_gpu
take_gpu()
take_gpu()
print(taken, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("visible", "taken"), [(2, ["[0]", "[1]"]), (1, ["[]", "[]"])])
def test_cuda_means_another_gpu_in_each_process_where_there_are_several(
    visible: int, taken: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-c", TAKE, str(visible)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in taken]
    try:
        assert sorted(worker.stdout.readline().strip() for worker in workers if worker.stdout) == taken
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
