"""Printing is part of no job: where words cannot be written, work, statuses and exit codes are what they are."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Command, only
from tinylab import aggregate
from tinylab.errors import OutputError
from tinylab.machine.printing import unfailing
from tinylab.records.manifest import RunFolder
from tinylab.report.screen import console
from typed import SHORT


class Broken(io.RawIOBase):
    """A file that takes nothing."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, _content: object) -> int:
        raise self.error


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    stream.close()
    return stream


def stream(kind: str) -> io.TextIOWrapper | None:
    if kind == "closed":
        return closed()
    if kind == "none":
        return None
    if kind == "ascii":
        return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    error = BrokenPipeError(32, "Broken pipe") if kind == "a pipe without a reader" else OSError(28, "No space left on device")
    return io.TextIOWrapper(io.BufferedWriter(Broken(error), 1), encoding="utf-8", write_through=True)


KINDS = {"closed": ("-m",), "none": (), "ascii": ("-m",), "a pipe without a reader": (), "a full disk": ("-m",)}
"""Where words go, and the flags of the command that is tried there."""


@pytest.mark.parametrize(("kind", "flags"), KINDS.items())
def test_a_run_is_complete_wherever_its_words_go(
    kind: str, flags: tuple[str, ...], tinylab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream(kind))
    for _ in range(2 if kind == "ascii" else 1):
        assert tinylab(*flags, *SHORT, "condition.tag='Füße→'", "sweep_name='größer'") == 0
    manifest = json.loads(only(Path("outputs"), "*/**/h1_*/manifest.json").read_text())
    assert manifest["status"] == "complete" and "attempt_failed" not in manifest
    if kind == "ascii":  # the second time, the log tells what is reused
        assert "Füße→" in only(Path("outputs"), "*/**/h1_*/run.log").read_text(encoding="utf-8")
    if flags:
        assert aggregate.main([str(only(Path("outputs"), "sweeps/*"))]) == 0


def test_letters_that_a_stream_lacks_are_written_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = stream("ascii")
    assert ascii_only is not None
    monkeypatch.setattr(sys, "stdout", ascii_only)
    with unfailing():
        console().print("Füße \ud800")
    assert ascii_only.buffer.getvalue() == rb"F\xfc\xdfe \ud800" + b"\n"  # type: ignore[attr-defined]
    assert sys.stdout is ascii_only


def shell(folder: Path, command: str) -> int:
    program = f"{shlex.quote(sys.executable)} -m tinylab"
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(["bash", "-c", f"set -o pipefail; {program} {command}"], cwd=folder, env=environment, check=False,
                          timeout=120, capture_output=True).returncode


@pytest.mark.parametrize("where", ["2>/dev/full | head -1", ">&- 2>&-"])
def test_a_sweep_goes_on_when_nobody_listens(where: str, tmp_path: Path) -> None:
    words = " ".join(map(shlex.quote, SHORT))
    assert shell(tmp_path, f"-m condition=cond_a,cond_b,facts {words} {where}") == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    assert json.loads((sweep / "manifest.json").read_text())["status"] == "complete"
    assert len(list(sweep.glob("*/metrics/summary.json"))) == 3


def test_square_brackets_are_printed_as_they_are(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[red]a[-b]"
    folder.mkdir()
    assert tinylab("-m", *SHORT, "condition=cond_a", "condition.tag=':smile:'", f"output_dir='{folder}'") == 0
    said = capsys.readouterr().out
    assert f"{folder}/sweeps" in said and ":smile:" in said
    sweep = only(folder, "sweeps/*")
    RunFolder(run := only(sweep, "h1*")).fail(run.name[-12:], OutputError("no [/x] in [bold]here"))
    assert aggregate.main([str(sweep)]) == 3
    said = capsys.readouterr().out
    assert "no [/x] in [bold]here" in said and f"in {sweep}" in said
