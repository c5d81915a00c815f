"""A self-check that passed is not made again on the same model, code and lengths; everything else is checked anew."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from conftest import Command, only
from families import ALIGNED, EVERY, UNSUPPORTED, answered, family, make
from tinylab.config.groups import EngineConfig, ModelConfig
from tinylab.engine import choose, verdicts
from tinylab.engine.choose import check_variants, choose_engine
from tinylab.engine.verdicts import verdict_key
from tinylab.interventions.operations import Given, Operation, Scale
from tinylab.interventions.sites import MLP_OUT, RESID_POST
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.loading import kept_model
from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity
from tinylab.task.tokens import TokenPair

CACHED, ALWAYS = EngineConfig(name="auto"), EngineConfig(name="auto", self_check="always")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny() -> CausalModel:
    return kept_model(ModelConfig(path="pkg://tinylab/assets/tiny"), "cpu")


def prompts(length: int, shortest: int | None = None) -> list[TokenPair]:
    return [TokenPair(tuple(range(5, 5 + n)), tuple(range(7, 7 + n)), 1, 2) for n in (length, shortest or length)]


def passes(model: CausalModel, work: Callable[[], object]) -> int:
    """How many forward passes a piece of work makes."""
    count = 0

    def one(*_: object) -> None:
        nonlocal count
        count += 1

    handle = model.model.register_forward_pre_hook(one)
    try:
        work()
    finally:
        handle.remove()
    return count


def test_a_check_that_passed_is_not_made_again_unless_it_is_asked_for(tiny: CausalModel) -> None:
    first = choose_engine(tiny, CACHED, prompts(6))
    again = choose_engine(tiny, CACHED, prompts(6))
    assert (first.cached, again.cached) == (False, True)
    assert again.max_difference == first.max_difference
    assert again.engine.name == "forked"
    assert again.verdict == {"verdict": "pass", "cached": True}
    anew = choose_engine(tiny, ALWAYS, prompts(6))
    assert (anew.cached, anew.max_difference) == (False, first.max_difference)
    trial = passes(tiny, lambda: choose_engine(tiny, CACHED, prompts(6)))
    assert trial <= 4 < passes(tiny, lambda: choose_engine(tiny, ALWAYS, prompts(6))) - trial


def test_what_a_verdict_depends_on_is_in_its_key(tiny: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(model: CausalModel = tiny, pairs: list[TokenPair] | None = None, extra: tuple[Variant, ...] = ()) -> object:
        return verdict_key(model, pairs or prompts(6), check_variants(model, extra))

    same = key()
    assert key(pairs=prompts(8)) == key(pairs=prompts(5)) == same != key(pairs=prompts(9))
    assert key(pairs=prompts(6, 1)) != same  # a prompt of one token is a case of its own
    assert key(replace(tiny, identity=ModelIdentity("tiny", None, "0" * 64))) != same
    assert key(kept_model(ModelConfig(path="pkg://tinylab/assets/tiny", dtype="float64"), "cpu")) != same
    assert key(extra=(Variant((Intervention(MLP_OUT, 0, Turn()),), "clean"),)) is None  # code that is not tinylab's
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert key() == same
    torch.set_num_threads(before)
    for module, name, value in ((verdicts, "PACKAGES", ("torch",)), (verdicts, "ROOMS", ("engine",))):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            verdicts._code.cache_clear()
            assert key() != same
    verdicts._code.cache_clear()
    assert key(extra=(Variant((Intervention(RESID_POST, 0, Scale(0.0)),), "clean"),)) == same  # it is tried in any case


@dataclass(frozen=True)
class Turn(Operation):
    """An operation of somebody's own."""

    def apply(self, rows: torch.Tensor, given: Given) -> torch.Tensor:
        return -rows


def test_windows_and_switches_that_prompts_reach_are_in_the_key() -> None:
    model = make(EVERY["mistral"], sliding_window=6)
    model.identity = ModelIdentity("random", None, "1" * 64)
    keys = [verdict_key(model, prompts(*lengths), []) for lengths in ((5, 5), (6, 5), (7, 5), (8, 6), (8, 7), (9, 7))]
    assert [keys.index(key) for key in keys] == [0, 0, 2, 2, 4, 5]


def test_weights_without_an_identity_are_always_checked(cache: Path) -> None:
    model = family("gpt2")
    assert [choose_engine(model, CACHED, answered(model, ALIGNED[:3])).cached for _ in range(2)] == [False, False]
    assert not cache.exists()


def test_a_check_that_failed_is_made_again(cache: Path) -> None:
    model = make(EVERY[next(iter(UNSUPPORTED))])
    model.identity = ModelIdentity("random", None, "2" * 64)
    for _ in range(2):
        choice = choose_engine(model, CACHED, answered(model, ALIGNED[:3]))
        assert (choice.engine.name, choice.verdict) == ("reference", {"verdict": "fail", "cached": False})
    assert not cache.exists()


def within(model: CausalModel, part: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept so much that what is found on 6 tokens is a part of it."""
    difference, allowed = choose._compared(model, prompts(6), ())
    monkeypatch.setitem(choose.TOLERANCES, torch.float32, choose.TOLERANCES[torch.float32] * difference / allowed / part)


@pytest.mark.parametrize(("part", "kept"), [(0.1, True), (0.5, False)])
def test_what_passed_by_little_is_checked_again(
    part: float, kept: bool, tiny: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other prompts of the same lengths may not pass."""
    within(tiny, part, monkeypatch)
    assert [choose_engine(tiny, CACHED, prompts(6)).cached for _ in range(2)] == [False, kept]


def test_a_check_that_fails_takes_back_what_was_kept(tiny: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_engine(tiny, CACHED, prompts(6))
    with monkeypatch.context() as strict:
        within(tiny, 2.0, strict)
        assert choose_engine(tiny, ALWAYS, prompts(6)).engine.name == "reference"
    again = choose_engine(tiny, CACHED, prompts(6))
    assert (again.engine.name, again.cached) == ("forked", False)


@pytest.mark.parametrize("content", ["", '{"value": "yes"}', "NaN"])
def test_a_broken_cache_costs_a_check_and_is_mended(
    content: str, tiny: CausalModel, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    choose_engine(tiny, CACHED, prompts(6))
    (file,) = (cache / verdicts.KIND).iterdir()
    file.write_text(content, encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        assert not choose_engine(tiny, CACHED, prompts(6)).cached
    assert any("only costs time" in record.getMessage() for record in caplog.records)
    assert choose_engine(tiny, CACHED, prompts(6)).cached


@pytest.mark.parametrize("value", ["yes", None, float("nan"), [0.0], True])
def test_a_verdict_that_is_no_number_is_none(value: object, tiny: CausalModel, cache: Path) -> None:
    choose_engine(tiny, CACHED, prompts(6))
    (file,) = (cache / verdicts.KIND).iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "value": value}), encoding="utf-8")
    assert not choose_engine(tiny, CACHED, prompts(6)).cached


def test_a_run_says_whether_its_verdict_was_kept_and_is_the_same_run(tinylab: Command, cache: Path) -> None:
    found = []
    for more in ([], ["overwrite=true"], ["overwrite=true", "engine.self_check=always"], ["overwrite=true", "engine=reference"]):
        assert tinylab("condition.n_examples=2", "battery.layers=[0]", f"output_dir=out{len(found)}", *more) == 0
        found.append(json.loads(only(Path.cwd() / f"out{len(found)}", "runs/*/manifest.json").read_text(encoding="utf-8")))
    verdict = [one["provenance"]["self_check"] for one in found]
    assert verdict == [{"verdict": "pass", "cached": False}, {"verdict": "pass", "cached": True},
                       {"verdict": "pass", "cached": False}, None]
    assert len({one["run_id"] for one in found[:3]}) == 1


def test_a_cache_that_cannot_be_used_fails_no_run(tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("TINYLAB_CACHE", str(tmp_path / "file"))
    assert tinylab("condition.n_examples=2", "battery.layers=[0]") == 0


def test_another_word_is_refused(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("engine.self_check=never") == 2
    assert "engine.self_check=never" in capsys.readouterr().err
