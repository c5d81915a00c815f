"""Wrong reuse is wrong science: what would give other numbers is never taken from an earlier run or an earlier attempt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.engine.base import EvaluationState
from tinylab.models.weights import ModelIdentity
from tinylab.records import identity
from tinylab.records.checkpoint import Checkpoint
from tinylab.records.identity import Resolved
from tinylab.records.manifest import RunFolder
from tinylab.schema import validate
from tinylab.task.corpus import corpus_sha256
from typed import SHORT


@dataclass(kw_only=True)
class OtherHeads(HeadsZero):
    """The same name and settings, another battery."""

    kind = "other_heads"


@pytest.fixture(scope="module")
def now() -> Resolved:
    with Composer(flags_parser().parse_args([])) as composer:
        return identity.resolve(validate(composer.compose([])))


DIFFERENT: dict[str, Callable[[Resolved], Resolved]] = {
    "battery's kind": lambda run: replace(run, config=replace(run.config, battery=OtherHeads(name="h1"))),
    "battery's name": lambda run: replace(run, config=replace(run.config, battery=HeadsZero(name="h1b"))),
    "battery's setting": lambda run: replace(run, config=replace(run.config, battery=HeadsZero(name="h1", scales=[0.5]))),
    "corpus": lambda run: replace(run, corpus="0" * 64),
    "corpus unread": lambda run: replace(run, corpus=None),
    "weights": lambda run: replace(run, model=ModelIdentity("tiny", None, "0" * 64)),
    "commit": lambda run: replace(run, model=ModelIdentity("tiny", "0" * 40, None)),
    "another model of one commit": lambda run: replace(run, model=ModelIdentity("other", "0" * 40, None)),
    "device": lambda run: replace(run, device="cuda"),
    "dtype": lambda run: replace(run, config=replace(run.config, model=replace(run.config.model, dtype="float64"))),
    "BOS": lambda run: replace(run, config=replace(run.config, model=replace(run.config.model, add_bos=False))),
    "split": lambda run: replace(run, config=replace(run.config, condition=replace(run.config.condition, split=None))),
    "seeds": lambda run: replace(run, config=replace(run.config, seeds=[1])),
    "engine": lambda run: replace(run, config=replace(run.config, engine=replace(run.config.engine, name="reference"))),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_gives_other_numbers_has_another_identity_than_all_others(now: Resolved, what: str) -> None:
    ids = {name: change(now).run_id for name, change in DIFFERENT.items() if name != what}
    assert DIFFERENT[what](now).run_id not in {now.run_id, *ids.values()}


@pytest.mark.parametrize("version", ["RESULTS_VERSION", "IDENTITY_VERSION"])
def test_a_version_that_is_raised_gives_every_run_another_identity(
    now: Resolved, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = now.run_id
    monkeypatch.setattr(identity, version, 99)
    assert replace(now, device=now.device).run_id != before


def test_a_corpus_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("1")
    first = corpus_sha256(str(file))
    file.write_text("2")
    assert corpus_sha256(str(file)) != first


def test_a_folder_counts_as_finished_for_its_own_run_only_and_while_its_files_are_there(tinylab: Callable[..., int]) -> None:
    assert tinylab(*SHORT) == 0
    (path,) = Path("outputs/runs").glob("*")
    run_id = path.name.rpartition("_")[2]
    assert RunFolder(path).complete(run_id) is not None
    assert RunFolder(path).complete("0" * 12) is None
    for file in ("metrics/head_impact.parquet", "metrics/per_example.parquet", "metrics/summary.json", "config.yaml"):
        copy = Path(shutil.copytree(path, Path("copies") / file.replace("/", "-")))
        (copy / file).unlink()
        assert RunFolder(copy).complete(run_id) is None, file


def test_what_an_attempt_at_other_metrics_kept_is_not_taken_for_these(
    tinylab: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both attempts keep two numbers for each cell and example, of which one is logit_diff."""
    keep = Checkpoint.keep

    def keep_and_break_off(self: Checkpoint, state: EvaluationState) -> None:
        self._pause = 0.0
        keep(self, state)
        raise KeyboardInterrupt

    few = (*SHORT, "engine.max_states=64")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "keep", keep_and_break_off)
        assert tinylab(*few, "metrics=[kl_div]") == 130
    assert list(Path("outputs/runs").glob("*/checkpoint.npz"))
    assert tinylab(*few, "metrics=[p_drop]") == 0
    assert tinylab(*few, "metrics=[p_drop]", "output_dir=fresh") == 0
    found, fresh = (pd.read_parquet(next(Path(root).glob("runs/*/metrics/per_example.parquet"))) for root in ("outputs", "fresh"))
    pd.testing.assert_frame_equal(found, fresh, check_exact=True)
