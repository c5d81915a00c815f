"""What prints or draws when a run or a sweep has ended never fails it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tinylab.report import console, observers
from tinylab.report.views import title_of
from typed import SHORT

Command = Callable[..., int]


def broken(*_args: object, **_kwargs: object) -> None:
    raise ZeroDivisionError("nobody expected this")


@pytest.mark.parametrize(("module", "name", "flags"), [
    (console, "print_run", ()), (observers, "heatmap", ()), (observers, "heatmap", ("-m", "condition=cond_a,cond_b")),
], ids=["report", "picture", "picture of a sweep's run"])
def test_a_report_or_a_picture_that_breaks_is_logged_and_fails_no_run(
    module: object, name: str, flags: tuple[str, ...], tinylab: Command, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, name, broken)
    assert tinylab(*flags, *SHORT[:2]) == 0
    manifests = [json.loads(file.read_text()) for file in Path("outputs").glob("*/**/h1_*/manifest.json")]
    assert [manifest["status"] for manifest in manifests] == ["complete"] * (2 if flags else 1)
    logs = "".join(file.read_text() for file in Path("outputs").glob("*/**/run.log"))
    assert "ZeroDivisionError: nobody expected this" in logs
    assert "the results themselves are complete" in logs


def test_a_sweeps_report_that_breaks_is_logged_and_fails_no_sweep(
    tinylab: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "print_sweep", broken)
    assert tinylab("-m", "condition=cond_a,cond_b", *SHORT) == 0
    (sweep,) = Path("outputs/sweeps").glob("*/manifest.json")
    assert json.loads(sweep.read_text())["status"] == "complete"


def test_a_run_of_before_that_does_not_describe_its_battery_has_a_title() -> None:
    assert title_of({"battery": {"name": "h1"}, "condition": "facts", "model": "tiny"}) == "h1 on facts, tiny"
