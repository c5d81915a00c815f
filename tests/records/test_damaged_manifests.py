"""A manifest that cannot be read is named and set aside, and its run computed: it stops nobody, and nobody else's is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import only
from tinylab.errors import OutputError
from tinylab.records.manifest import RunFolder
from tinylab.results import load_run
from typed import SHORT, type_in

SWEEP = ("-m", "condition=facts,cond_b", *SHORT)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no text": lambda text: b"\xff\xfe" + text,
    "half": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "a list": lambda text: b"[]",
    "not a number": lambda text: text.replace(b'"wall_seconds": ', b'"wall_seconds": NaN, "wall_": '),
    "a key twice": lambda text: text.replace(b'"run_id"', b'"run_id": "other", "run_id"', 1),
    "deep": lambda text: b'{"a":' + b"[" * 100_000,
    "of another program": lambda text: b'{"name": "my web app", "version": 3}',
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run and a sweep were typed."""
    folder = tmp_path_factory.mktemp("damaged")
    assert type_in(folder, *SHORT) == 0
    assert type_in(folder, *SWEEP) == 0
    return folder


@pytest.fixture
def copy(desk: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(desk, tmp_path / "copy"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_one_sentence_and_set_aside_as_it_is(copy: Path, damage: str) -> None:
    run = only(copy, "outputs/runs/*")
    content = DAMAGES[damage]((run / "manifest.json").read_bytes())
    (run / "manifest.json").write_bytes(content)
    with pytest.raises(OutputError) as refused:
        load_run(run)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    assert RunFolder(run).complete(run.name[-12:]) is None
    assert isinstance(RunFolder(run).set_aside(), OutputError)
    assert (run / "manifest.json.damaged").read_bytes() == content
    assert RunFolder(run).read() is None and RunFolder(run).set_aside() is None


@pytest.mark.parametrize(("damage", "more"), [("no text", ()), ("half", ("overwrite=true",))])
def test_a_run_with_a_damaged_manifest_is_computed_and_that_is_said(
    damage: str, more: tuple[str, ...], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = only(copy, "outputs/runs/*")
    before = load_run(run)
    (run / "manifest.json").write_bytes(DAMAGES[damage]((run / "manifest.json").read_bytes()))
    assert type_in(copy, *SHORT, *more) == 0
    said = capsys.readouterr().out
    assert "manifest.json: cannot be read" in said and "set aside as manifest.json.damaged" in said
    assert load_run(run).impact.equals(before.impact)


def test_another_run_of_the_name_is_not_stopped_by_a_damaged_manifest_beside_it(copy: Path) -> None:
    run = only(copy, "outputs/runs/*")
    (run / "manifest.json").write_bytes(b"\xff")
    assert type_in(copy, *SHORT, "battery.scales=[0.5]") == 0
    assert (run / "manifest.json").read_bytes() == b"\xff"


def test_a_run_of_before_identities_with_a_damaged_config_is_no_earlier_run(copy: Path) -> None:
    run = only(copy, "outputs/runs/*")
    content = json.loads((run / "manifest.json").read_text())
    del content["provenance"]["identity"], content["digests"]
    (run / "manifest.json").write_text(json.dumps(content))
    (run / "config.yaml").write_text("battery: 3\n")
    assert type_in(copy, *SHORT, "battery.scales=[0.5]") == 0


def test_typing_a_sweep_again_whose_run_folders_were_swapped_writes_in_neither(copy: Path) -> None:
    sweep = only(copy, "outputs/sweeps/*")
    one, two = (only(sweep, f"h1_{condition}_*") for condition in ("facts", "cond_b"))
    one.rename(sweep / "aside")
    two.rename(one)
    (sweep / "aside").rename(two)
    before = [(folder / "manifest.json").read_bytes() for folder in (one, two)]
    assert type_in(copy, *SWEEP) == 3
    assert [(folder / "manifest.json").read_bytes() for folder in (one, two)] == before
    failures = json.loads((sweep / "manifest.json").read_text())["failures"]
    assert ["moved or renamed" in failure["error"]["message"] for failure in failures] == [True, True]
    assert f"holds the finished run {two.name[-12:]}" in (one / "run.log").read_text()


def test_a_run_that_fails_takes_nothing_over_from_another_runs_manifest(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.fail("a", OutputError("first"))
    folder.write({**(folder.read() or {}), "note": "of a"})
    folder.fail("a", OutputError("again"))
    assert (folder.read() or {})["note"] == "of a"
    folder.fail("b", OutputError("second"))
    assert folder.read() == {"status": "failed", "run_id": "b", "error": {"type": "OutputError", "message": "second"}}
