"""What the fuzz tier shares: seeded examples, a limit on how long one may take, and the properties that hold for all."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from typed import type_in

LONGEST = 30.0
"""Seconds that any input may take."""
EXIT_CODES = {0, 2, 3}
"""Of a command whose input is broken: it can be used after all, it is the user's to mend, or a job of a sweep failed of it."""


def seeded(examples: int) -> settings:
    """The same examples each time, on every machine; none is made smaller, so that a failure takes no longer."""
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None,
                    phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


@contextmanager
def in_time() -> Iterator[None]:
    """Fail where the block hangs."""

    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still at it after {LONGEST:g} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answered(capsys: pytest.CaptureFixture[str], folder: Path, *args: str) -> int:
    """Type a command line; whatever it is, it ends in time, with an exit code of the table and no traceback."""
    with in_time():
        try:
            code = type_in(folder, *args)
        except SystemExit as end:  # argparse, for a flag that there is not
            code = int(end.code or 0)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said, said
    assert code in EXIT_CODES, f"exit code {code}: {said}"
    if code == 2 and "usage:" not in said:
        sentences = [line for line in said.splitlines() if line.startswith("tinylab")]
        assert len(sentences) == 1, said
    return code


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@st.composite
def broken(draw: st.DrawFn, content: bytes) -> bytes:
    """A file as disks, editors and people break it: bits flipped, cut off, a part doubled, removed or replaced."""
    kind = draw(st.sampled_from(["flip", "cut", "double", "remove", "replace", "anything"]))
    if kind == "anything":
        return draw(st.binary(max_size=200))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    length = draw(st.integers(1, 40))
    before, part, after = content[:place], content[place : place + length], content[place + length :]
    if kind == "flip":
        flipped = bytes([part[0] ^ (1 << draw(st.integers(0, 7)))]) + part[1:] if part else b""
        return before + flipped + after
    return {"cut": before, "double": before + part + part + after, "remove": before + after,
            "replace": before + draw(st.binary(max_size=40)) + after}[kind]


HOSTILE: list[Any] = [None, True, -1, 0, 10**30, 1e308, float("nan"), "", " ", "x" * 300, "\x00", "\ud800", "[bold]", "../..", [],
                      {}, [[]], {"a": {"b": []}}]
"""Values that stand where others are expected."""


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with one value, at any depth, replaced, removed or added."""
    if isinstance(document, dict) and document and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(document)))
        return {**document, key: draw(changed(document[key]))}
    if isinstance(document, list) and document and draw(st.booleans()):
        place = draw(st.integers(0, len(document) - 1))
        return [*document[:place], draw(changed(document[place])), *document[place + 1 :]]
    if isinstance(document, dict) and document and draw(st.booleans()):
        gone = draw(st.sampled_from(sorted(document)))
        return {key: value for key, value in document.items() if key != gone}
    if isinstance(document, dict) and draw(st.booleans()):
        return {**document, draw(st.sampled_from(["later", "", "status", "0"])): draw(st.sampled_from(HOSTILE))}
    return draw(st.sampled_from(HOSTILE))
