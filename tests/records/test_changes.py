"""A changed corpus, changed weights or a tinylab of other numbers is noticed, named, and never taken for what was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from conftest import Command, write_jsonl
from tinylab import computing
from tinylab.paths import locate
from tinylab.records import identity
from typed import SHORT, snapshot

ROWS = [json.loads(line) for line in locate("pkg://tinylab/assets/corpora/facts.jsonl").read_text().splitlines()[:6]]
MINE = ("condition=jsonl", "condition.path=mine.jsonl", "condition.tag=mine", "condition.split=null", "model=local",
        "model.path=model", *SHORT[1:])


def other_corpus() -> None:
    write_jsonl(Path("mine.jsonl"), ROWS[:5])


def other_weights() -> None:
    file = Path("model/model.safetensors")
    weights = load_file(file)
    weights["transformer.h.0.mlp.c_fc.bias"] = weights["transformer.h.0.mlp.c_fc.bias"] + 1
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture
def desk(tmp_path: Path) -> None:
    """A corpus and a model, made in the folder where the command line is typed."""
    write_jsonl(tmp_path / "mine.jsonl", ROWS)
    shutil.copytree(Path(__file__).parent.parent.parent / "tinylab/assets/tiny", tmp_path / "model")


@pytest.fixture
def other_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def change() -> None:
        for module in (identity, computing):
            monkeypatch.setattr(module, "RESULTS_VERSION", 99)

    return change


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["corpus"], "another corpus (corpus "),
        (["weights"], "another weights (weights "),
        (["results version"], "another results version (results version "),
        (["corpus", "weights"], "another corpus and another weights (corpus "),
    ],
    ids=["corpus", "weights", "version", "both"],
)
def test_what_changed_since_the_last_time_is_named_and_nothing_is_reused(
    changed: list[str], words: str, flags: tuple[str, ...], desk: None, tinylab: Command, other_version: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    change = {"corpus": other_corpus, "weights": other_weights, "results version": other_version}
    assert tinylab(*flags, *MINE) == 0
    assert "earlier run" not in capsys.readouterr().out
    before = {path: state for path, state in snapshot(Path("outputs")).items() if "h1_mine_" in path and state != (0, "folder")}
    (first,) = Path("outputs").glob("*/**/h1_mine_*")
    for what in changed:
        change[what]()
    assert tinylab(*flags, *MINE, "dry_run=true") == 0
    told = f"{first} is an earlier run with the same settings, but {words}"
    assert told in capsys.readouterr().out
    assert tinylab(*flags, *MINE) == 0
    assert (told in capsys.readouterr().out) == (not flags)  # a sweep's screen has a line for each run
    (second,) = set(Path("outputs").glob("*/**/h1_mine_*")) - {first}
    assert told in (second / "run.log").read_text()
    after = snapshot(Path("outputs"))
    assert {path: after[path] for path in before} == before
    assert tinylab(*flags, *MINE) == 0
    assert "earlier run" not in capsys.readouterr().out


@pytest.mark.parametrize("other", ["condition.n_examples=3", "seeds=[1]", "model.dtype=float64", "condition.path=yours.jsonl"])
def test_other_settings_or_another_file_are_no_change_to_be_told(
    other: str, desk: None, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(Path("yours.jsonl"), ROWS[:4])
    assert tinylab(*MINE) == 0
    other_corpus()
    assert tinylab(*MINE, other) == 0
    assert "earlier run" not in capsys.readouterr().out
