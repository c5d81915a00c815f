"""An evaluation that is cut off goes on from its last finished part, to the same bits."""

from __future__ import annotations

import io
import logging
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import only
from families import family
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.base import Battery
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.engine.base import Engine, Evaluation, EvaluationState
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.measures.metrics import Scorer
from tinylab.models.network import CausalModel
from tinylab.records import checkpoint
from tinylab.records.checkpoint import Checkpoint
from tinylab.task.tokens import TokenPair

SCORER = Scorer(("logit_diff", "kl_div"))
PAIRS = [TokenPair((1, 2, 3 + b), (1, 4, 5 + b), 2, 3) for b in range(6)] * 2
"""Six distinct pairs, each twice."""
WORK: dict[str, Any] = {"run_id": "one"}


class CutOff(Exception):
    """Instead of a kill."""


class Cutting(Checkpoint):
    """Keeps every part, and is cut off behind the n-th."""

    def __init__(self, path: Path, parts: int) -> None:
        super().__init__(path, WORK)
        self.left = parts

    def keep(self, state: EvaluationState) -> None:
        self._kept_at = -1e9
        super().keep(state)
        self.left -= 1
        if self.left == 0:
            raise CutOff


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return family("gpt2")


def engines(model: CausalModel) -> dict[str, Engine]:
    """Made so small that there are several groups of prompts, and several chunks of each."""
    return {"forked": ForkedEngine(model, 8), "reference": ReferenceEngine(model)}


def evaluate(engine: Engine, model: CausalModel, battery: Battery, checkpointer: Checkpoint | None) -> tuple[Evaluation, int]:
    """An evaluation, and the progress that was told."""
    told = [0]
    variants = [cell.variant for cell in battery.cells(model.n_layers, model.n_heads)]
    found = engine.evaluate(PAIRS, variants, SCORER, lambda done: told.__setitem__(0, told[0] + done), checkpointer=checkpointer)
    return found, told[0]


@pytest.mark.parametrize(
    "battery", [HeadsZero(name="h1"), ActivationPatch(name="h2", positions="last"), ActivationPatch(name="h2", positions=[1])]
)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["forked", "reference"])
def test_what_was_cut_off_goes_on_to_the_same_bits(
    name: str, parts: int, battery: Battery, model: CausalModel, tmp_path: Path
) -> None:
    whole, told = evaluate(engines(model)[name], model, battery, None)
    file = tmp_path / "checkpoint.npz"
    with pytest.raises(CutOff):
        evaluate(engines(model)[name], model, battery, Cutting(file, parts))
    resumed = Checkpoint(file, WORK)
    there = resumed.restore(EvaluationState.empty(*shape(whole, name)))
    found, told_again = evaluate(engines(model)[name], model, battery, resumed)
    assert there.done.any()
    assert not there.done.all()
    np.testing.assert_array_equal(found.values, whole.values)
    for run, rows in whole.baselines.items():
        np.testing.assert_array_equal(found.baselines[run], rows)
    assert told_again == told
    computed = found.forwards - there.forwards
    assert 0 < computed < whole.forwards
    assert whole.forwards <= found.forwards <= whole.forwards + 1, "at most the unmodified runs of one group once more"


def shape(whole: Evaluation, name: str) -> tuple[int, int, int]:
    """Of the arrays that an engine keeps: the forked engine evaluates distinct pairs only."""
    variants, examples, metrics = whole.values.shape
    return variants, (examples // 2 if name == "forked" else examples), metrics


def test_work_that_differs_starts_anew(model: CausalModel, tmp_path: Path) -> None:
    file, battery = tmp_path / "checkpoint.npz", HeadsZero(name="h1")
    whole, _ = evaluate(ForkedEngine(model, 16), model, battery, None)
    with pytest.raises(CutOff):
        evaluate(ForkedEngine(model, 16), model, battery, Cutting(file, 2))
    for other in (Checkpoint(file, {"run_id": "other"}), Checkpoint(tmp_path / "nothing.npz", WORK)):
        assert not other.restore(EvaluationState.empty(*shape(whole, "forked"))).begun.any()
    assert not Checkpoint(file, WORK).restore(EvaluationState.empty(1, 1, 1)).begun.any()
    assert Checkpoint(file, WORK).restore(EvaluationState.empty(*shape(whole, "forked"))).begun.any()


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 half a zip file"])
def test_a_spoilt_file_is_said_and_does_not_count(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "checkpoint.npz"
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert not Checkpoint(file, WORK).restore(EvaluationState.empty(2, 2, 1)).begun.any()
    assert "starting from the beginning" in caplog.text


def kept(folder: Path) -> Path:
    """A whole file of an evaluation of 2 variants, 3 examples and 1 metric."""
    file = folder / "checkpoint.npz"
    checkpointer = Checkpoint(file, WORK)
    checkpointer._kept_at = -1e9
    state = EvaluationState.empty(2, 3, 1)
    state.begun[:] = True
    checkpointer.keep(state)
    return file


def again(file: Path, **changed: Any) -> None:
    """The same file with other arrays."""
    with np.load(file) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez(file, **{**content, **changed})


def compressed(file: Path) -> None:
    with np.load(file) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez_compressed(file, **{**content, "values": np.zeros((2000, 300, 10))})


def promising(file: Path) -> None:
    """An array whose header tells of 8 TB that are not there."""
    with zipfile.ZipFile(file) as stored:
        content = {name: stored.read(name) for name in stored.namelist()}
    huge = content["values.npy"].replace(b"(2, 3, 1)", b"(2, 3, 1" + b"0" * 12 + b")").replace(b" " * 12, b"", 1)
    with zipfile.ZipFile(file, "w") as stored:
        for name, data in {**content, "values.npy": huge}.items():
            stored.writestr(name, data)


def encrypted(file: Path) -> None:
    content = file.read_bytes()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content = b"".join([content.split(mark)[0], *(mark + part[: at - 4] + b"\x01" + part[at - 3:]
                                                      for part in content.split(mark)[1:])])
    file.write_bytes(content)


class Boom:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was read",))


SPOILT: dict[str, Callable[[Path], object]] = {
    "a bare array": lambda file: file.write_bytes(npy(np.zeros((2, 3, 1)))),
    "a bare pickle": lambda file: file.write_bytes(pickle.dumps(Boom())),
    "another shape": lambda file: again(file, values=np.zeros((2, 4, 1))),
    "another number of baselines": lambda file: again(file, clean=np.zeros((7, 1))),
    "whole numbers": lambda file: again(file, values=np.zeros((2, 3, 1), dtype=int)),
    "text": lambda file: again(file, values=np.full((2, 3, 1), "x")),
    "objects": lambda file: again(file, values=np.full((2, 3, 1), Boom(), dtype=object)),
    "its work as objects": lambda file: again(file, work=np.array(Boom(), dtype=object)),
    "no counts": lambda file: again(file, counts=np.zeros(0, dtype=int)),
    "compressed": compressed,
    "a promise of terabytes": promising,
    "encrypted": encrypted,
    "other bits": lambda file: file.write_bytes(file.read_bytes().replace(b"\x01\x01\x01", b"\x01\x00\x01")),
}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_that_is_not_as_it_was_kept_does_not_count(spoil: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, empty = kept(tmp_path), EvaluationState.empty(2, 3, 1)
    assert Checkpoint(file, WORK).restore(empty).begun.all()
    SPOILT[spoil](file)
    assert Checkpoint(file, WORK).restore(empty) is empty
    assert caplog.text.count("starting from the beginning") == 1


def test_what_cannot_be_kept_is_said_once_and_fails_nothing(
    model: CausalModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "WAIT", 0.0)
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path, tmp_path / "file/checkpoint.npz"):
        caplog.clear()
        checkpointer = Checkpoint(path, WORK)
        found, _ = evaluate(ReferenceEngine(model), model, HeadsZero(name="h1", layers=[0]), checkpointer)
        whole, _ = evaluate(ReferenceEngine(model), model, HeadsZero(name="h1", layers=[0]), None)
        assert np.array_equal(found.values, whole.values)
        assert caplog.text.count("cannot be written") == 1
        checkpointer.discard()


def test_keeping_waits_until_it_is_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    checkpointer, file = Checkpoint(tmp_path / "checkpoint.npz", WORK), tmp_path / "checkpoint.npz"
    checkpointer.keep(EvaluationState.empty(2, 2, 1))
    assert not file.exists()
    clock[0] += checkpoint.WAIT
    checkpointer.keep(EvaluationState.empty(2, 2, 1))
    assert file.exists()
    checkpointer.discard()
    assert not file.exists()


LONG = ("condition=facts", "engine=reference", "battery.scales=[0.0,0.5]", "plots=false", "threads=1", "condition.n_examples=60")


@pytest.mark.faults
def test_a_run_that_is_killed_goes_on_when_it_is_typed_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinylab", *LONG]
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = subprocess.run(command, cwd=tmp_path / "whole", capture_output=True, text=True, check=True)
    assert "going on" not in whole.stderr + whole.stdout
    with subprocess.Popen(command, cwd=tmp_path / "cut", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "cut").glob("outputs/runs/*/checkpoint.npz")) and time.monotonic() < until:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    again = subprocess.run(command, cwd=tmp_path / "cut", capture_output=True, text=True, check=True)
    assert "resuming where an earlier attempt was interrupted" in again.stderr + again.stdout
    runs = [only(tmp_path / folder, "outputs/runs/*") for folder in ("whole", "cut")]
    for table in ("head_impact", "per_example"):
        first, second = (pq.read_table(run / f"metrics/{table}.parquet") for run in runs)
        assert first.equals(second)
    assert not (runs[1] / "checkpoint.npz").exists()
