"""Runs in a tracker's own store, read back with the tracker's own reader; trackers that are not there or fail."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import only
from tinylab.config import trackers
from typed import SHORT

Command = Callable[..., int]
FEW = ("battery.layers=[0]", "condition.n_examples=16", "plots=false")
"""Enough examples for labels."""


def summary_of(folder: Path) -> Any:
    return json.loads((folder / "metrics/summary.json").read_text(encoding="utf-8"))


def test_mlflow_has_what_the_folders_say_and_each_run_once(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{Path.cwd()}/kept.db"
    line = ("tracker=mlflow", f"tracker.uri={uri}", "tracker.project=mine", *FEW)
    assert tinylab("-m", "condition=cond_a,cond_b", *line) == 0
    assert tinylab("-m", "condition=cond_a,cond_b", *line) == 0  # reused
    client = mlflow.MlflowClient(uri)
    kept = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert {run.data.params["condition.tag"] for run in kept} == {"cond_a", "cond_b"} and len(kept) == 2
    for run in kept:
        folder = only(Path("outputs"), f"sweeps/*/{run.info.run_name}")
        summary = summary_of(folder)
        assert run.data.tags["tinylab.run_id"] == summary["run_id"] and run.info.status == "FINISHED"
        found = run.data.metrics
        assert found["logit_diff/mean"] == summary["metrics"]["logit_diff"]["mean"]
        assert found["clean/logit_diff"] == summary["baselines"]["clean"]["logit_diff"]["mean"]
        assert found["corrupt/accuracy"] == summary["ability"]["corrupt"]["accuracy"]
        assert found["effects/undecided"] == summary["effects"]["counts"]["undecided"]
        copies = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert copies >= {"summary.json", "manifest.json", "config.yaml"}
        local = client.download_artifacts(run.info.run_id, "summary.json", str(Path.cwd()))
        assert json.loads(Path(local).read_text(encoding="utf-8")) == summary


def records(file: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file: a LevelDB log of 32 KiB blocks behind seven bytes of W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = file.read_bytes(), 7, b""
    while place < len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole in one part, or its last
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_has_them_offline(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(Path.cwd()))
    assert tinylab("tracker=wandb", "tracker.mode=offline", *FEW) == 0
    wandb.teardown()  # as when a command ends: what is still on its way to the file is written
    summary = summary_of(only(Path("outputs"), "runs/*"))
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for record in records(only(Path(), f"wandb/offline-run-*/run-{summary['run_id']}.wandb")):
        found |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update}
        settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert found["logit_diff/mean"] == summary["metrics"]["logit_diff"]["mean"]
    assert found["effects/matters"] == summary["effects"]["counts"]["matters"]
    assert settings["condition.tag"] == "cond_a" and settings["battery.name"] == "h1"


def test_a_failing_tracker_fails_no_run(tinylab: Command) -> None:
    pytest.importorskip("mlflow")
    assert tinylab("tracker=mlflow", "tracker.uri=sqlite:////proc/none/kept.db", *SHORT) == 0
    folder = only(Path("outputs"), "runs/*")
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["status"] == "complete"
    assert "to mlflow failed (" in (folder / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(("line", "said"), [
    (("tracker=mlflow", "tracker.mode=offline"), "tracker.mode=offline: only tracker=wandb has one; leave it out."),
    (("tracker=wandb", "tracker.uri=x"), "tracker.uri=x: only tracker=mlflow has one; leave it out."),
    (("tracker=wandb", "tracker.mode=never"), "tracker.mode=never: not an option; known: online, offline."),
    (("tracker.project=''",), "tracker.project=: empty; expected the name of a project."),
    (("tracker=mlflow",), "tracker=mlflow: its package is not installed; pip install 'tiny-ablation-lab[mlflow]'."),
])
def test_what_a_tracker_cannot_be_is_one_sentence(
    line: tuple[str, ...], said: str, tinylab: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "installed" in said:
        monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert tinylab(*line, *SHORT) == 2
    assert capsys.readouterr().err.strip().endswith(said)
    assert not Path("outputs").exists()


