"""Answers of two tokens and sets of answers on the induction ledger: closed forms, as a user types it, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import only
from planted import heads, model
from tinylab.app import main
from tinylab.config.groups import ConditionConfig
from tinylab.errors import CorpusError
from tinylab.measures.answers import Answers
from tinylab.planted import closed_forms as known
from tinylab.planted.corpora import COLOURS, FOLDER
from tinylab.results import Run as Finished
from tinylab.results import load_run
from tinylab.task import reading
from tinylab.task.answers import Kind
from tinylab.task.corpus import load_condition
from tinylab.task.notes import EXTENDS, TWICE
from tinylab.task.tokens import tokenise

Row = dict[str, str]
NEAR: Final = known.TOLERANCE
LEVEL: Final = known.LEDGER_LEVEL
OTHERS: Final = known.LEDGER_WORDS - 1
ROWS: Final[list[Row]] = [json.loads(line) for line in (FOLDER / "planted_a.jsonl").read_text().splitlines()][:6]
ENGINES: Final = pytest.mark.parametrize("engine", ["engine=forked", "engine=reference"])
TYPED: Final = ("model=planted", "model.variant=ledger", "condition=jsonl", "condition.tag=answers",
                "condition.single_token=true", "plots=false", "threads=1")


def log_p(logit: float, likely: float | None = None) -> float:
    """Of a word of this logit, where one has `likely` (itself, if it is not said) and all others have 0."""
    return logit - math.log(math.exp(logit if likely is None else likely) + OTHERS)


NO_MATCH: Final = LEVEL / 7 - math.log(5 * math.exp(LEVEL / 7) + math.exp(2 * LEVEL / 7) + 3)
"""Of T after W, and of F after F: induction finds no match and looks at all of `BOS A T B x A W` alike, one of which is T."""


def corpus(folder: Path, target: Callable[[Row], Any], foil: Callable[[Row], Any]) -> Path:
    """A few of the ledger's pairs with other answers."""
    file = folder / "answers.jsonl"
    rows = [{**row, "target": target(row), "foil": foil(row)} for row in ROWS]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def after(row: Row) -> str:
    """What stands after the target in the clean prompt: B of A T B x A."""
    return str(row["clean"]).split()[2]


def spare(row: Row) -> list[str]:
    """The two words that stand in neither prompt."""
    return [word for word in COLOURS if word not in {*row["clean"].split(), *row["corrupt"].split()}]


class Typed:
    """Runs on one corpus of the ledger; what was typed before is not computed again."""

    def __init__(self, folder: Path, target: Callable[[Row], Any], foil: Callable[[Row], Any], *asked: str) -> None:
        self._folder, self._runs = folder, dict[tuple[str, ...], Finished]()
        self._asked = (f"condition.path={corpus(folder, target, foil)}", *asked)

    def run(self, *more: str) -> Finished:
        if more not in self._runs:
            out = self._folder / str(len(self._runs))
            assert main([*TYPED, *self._asked, *more, f"output_dir={out}"]) == 0
            self._runs[more] = load_run(only(out, "runs/*"))
        return self._runs[more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """The target and the word that induction finds after it, against the foil twice."""
    folder = tmp_path_factory.mktemp("full")
    return Typed(folder, lambda row: f"{row['target']} {after(row)}", lambda row: row["foil"] * 2, "condition.answer=full")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """The target or the first spare word, against the foil, or the second spare word and the target."""
    return Typed(tmp_path_factory.mktemp("set"), lambda row: [row["target"], f" {spare(row)[0]}"],
                 lambda row: [row["foil"], f"{spare(row)[1]} {row['target']}"], "condition.answer=set")


def near(expected: object) -> object:
    return pytest.approx(expected, abs=NEAR, rel=0)


@ENGINES
def test_a_two_token_answer_has_the_log_probability_of_both(whole: Typed, engine: str) -> None:
    run = whole.run(engine)
    foil = log_p(0.0, LEVEL) + NO_MATCH
    assert run.summary["baselines"]["clean"]["logprob_diff"]["mean"] == near(2 * log_p(LEVEL) - foil)
    lost = heads(run, "p_drop")
    assert lost[0, 1] == near(0.0)
    assert lost[1, 0] == near(math.exp(2 * log_p(LEVEL)) - math.exp(2 * log_p(-known.SUPPRESSION)))
    assert lost[1, 1] == near(math.exp(2 * log_p(LEVEL)) - math.exp(2 * log_p(known.INDUCTION)))
    flips = heads(run, "acc_flip_rate")
    assert {head for head in flips if flips[head]} == {(0, 0), (1, 0)}


@ENGINES
def test_the_run_says_what_counts_as_the_answer(whole: Typed, engine: str) -> None:
    run = whole.run(engine)
    assert run.summary["ability"]["clean"]["accuracy"] == 1
    assert run.summary["ability"]["clean"]["answer_probability"] == near(math.exp(2 * log_p(LEVEL)))
    assert run.summary["ability"]["corrupt"]["accuracy"] == 0  # the foil twice is not what the model goes on with
    assert run.summary["effects"]["metric"] == "logprob_diff"
    assert (1, 0) in {(row["layer"], row["head"]) for row in run.summary["effects"]["matter"]}
    assert run.manifest["provenance"]["corpus"]["answers"] == {"kind": "full", "alternatives": 1, "tokens": 2}
    assert run.manifest["metrics"] == ["logprob_diff", "kl_div", "acc_flip_rate", "p_drop"]
    assert "logit_diff" not in run.summary["baselines"]["clean"]


@ENGINES
def test_at_last_only_the_prompts_last_token_is_changed(whole: Typed, engine: str) -> None:
    run = whole.run(engine, "battery=heads", "battery.ablation=zero", "battery.positions=last", "metrics=[p_drop]")
    lost = math.exp(2 * log_p(LEVEL)) - math.exp(log_p(-known.SUPPRESSION) + log_p(LEVEL))
    assert heads(run, "p_drop")[1, 0] == near(lost)


@ENGINES
def test_a_set_has_the_sum_of_its_answers_probabilities(sets: Typed, engine: str) -> None:
    run = sets.run(engine, "metrics=[logprob_diff,prob_diff,p_drop]")
    second = math.exp(log_p(0.0, LEVEL)) * math.exp(NO_MATCH)
    for gain, found in ((LEVEL, run.summary["baselines"]["clean"]), (-known.SUPPRESSION, None)):
        target, foil = (math.exp(log_p(gain)) + math.exp(log_p(0.0, gain)), math.exp(log_p(0.0, gain)))
        if found is None:
            before = math.exp(log_p(LEVEL)) + math.exp(log_p(0.0, LEVEL))
            assert heads(run, "p_drop")[1, 0] == near(before - target)
        else:
            assert found["prob_diff"]["mean"] == near(target - foil - second)
            assert found["logprob_diff"]["mean"] == near(math.log(target / (foil + second)))


def test_a_set_of_first_tokens_takes_the_first_of_each(sets: Typed) -> None:
    run = sets.run("engine=forked", "condition.first_tokens=true", "metrics=[prob_diff]")
    found = run.summary["baselines"]["clean"]["prob_diff"]["mean"]
    assert found == near(math.exp(log_p(LEVEL)) - math.exp(log_p(0.0, LEVEL)))  # a spare word on either side


@ENGINES
def test_patched_heads_recover_the_log_probability_difference(sets: Typed, engine: str) -> None:
    run = sets.run(engine, "battery=h2", "battery.granularity=head_out", "battery.per_head=true", "metrics=[recovery,iia]")
    level = {name: run.summary["baselines"][name]["logprob_diff"]["mean"] for name in ("clean", "corrupt")}
    assert level["clean"] > 0 > level["corrupt"]
    assert heads(run, "iia", scale=1.0) == {head: float(head == (1, 0)) for head in known.LEDGER_ZERO}
    assert heads(run, "recovery", scale=1.0)[1, 0] > 1
    assert heads(run, "recovery", scale=1.0)[0, 0] == near(0.0)


# what is refused, in one sentence


def refused(folder: Path, capsys: pytest.CaptureFixture[str], file: Path, *asked: str) -> str:
    assert main([*TYPED, f"condition.path={file}", *asked, f"output_dir={folder / 'out'}"]) == 2
    assert not (folder / "out").exists()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


@pytest.mark.parametrize(("asked", "told"), [
    (("condition.answer=whole",), "not an option; known: first, full, set"),
    (("condition.answer=full", "metrics=[logit_diff]"), "use logprob_diff"),
    (("condition.answer=set", "metrics=[p_drop,target_rank]"), "target_rank: not defined for condition.answer=set, it is of"),
    (("condition.answer=full", "condition.first_tokens=true"), "use condition.answer=set"),
    (("condition.answer=full", "condition.strict=true"), "target and foil share an answer, or one begins with the other"),
    (("condition.answer=set",), "none of its 6 rows can be used (target and foil share an answer, or one begins with the other"),
])
def test_wrong_settings(asked: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = corpus(tmp_path, lambda row: row["target"], lambda row: f"{row['target']} {after(row)}")
    assert told in refused(tmp_path, capsys, file, *asked)


@pytest.mark.parametrize(("target", "kind", "told"), [
    ([], "set", "field 'target' is an empty list; expected one answer at least"),
    ([" red", 3], "set", "field 'target' has 3 in its list, expected texts"),
    ([" red", None], "set", "field 'target' has None in its list, expected texts"),
    ([" red"], "full", "is a list, with condition.answer=full expected text; condition.answer=set takes lists"),
    ([" red"], "first", "with condition.answer=first expected text"),
    ([[" red"]], "set", "field 'target' has [' red'] in its list"),
])
def test_wrong_lists(target: Any, kind: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = corpus(tmp_path, lambda _row: target, lambda row: row["foil"])
    assert told in refused(tmp_path, capsys, file, f"condition.answer={kind}")


def test_a_mean_by_position_has_none_at_an_answers_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = corpus(tmp_path, lambda row: f"{row['target']} {after(row)}", lambda row: row["foil"])
    told = refused(tmp_path, capsys, file, "condition.answer=full", "battery=heads", "battery.mean_by=position")
    assert "battery.mean_by=position: an intervention at all positions reaches the tokens of an answer" in told


# lists in a table


def test_a_parquet_column_of_lists_is_read_where_sets_are_asked_for(tmp_path: Path) -> None:
    targets = [[row["target"], f" {spare(row)[0]}"] for row in ROWS]
    table = {name: [row[name] for row in ROWS] for name in ("clean", "corrupt", "foil")}
    pq.write_table(pa.table({**table, "target": targets}), tmp_path / "sets.parquet")
    config = ConditionConfig(tag="t", path=str(tmp_path / "sets.parquet"), answer="set")
    assert [pair.answers() for pair in load_condition(config).pairs] == [
        (tuple(target), (row["foil"],)) for target, row in zip(targets, ROWS, strict=True)]
    with pytest.raises(CorpusError, match="column 'target' has cells of type list<.*>, expected text"):
        load_condition(replace(config, answer="first"))


def test_a_parquet_column_that_says_of_more_answers_than_are_read_is_refused(tmp_path: Path) -> None:
    many = pa.array([["a"] * (reading.ALTERNATIVES + 1)], pa.list_(pa.string()))
    pq.write_table(pa.table({"clean": ["a b"], "corrupt": ["c d"], "foil": ["e"], "target": many}), tmp_path / "many.parquet")
    with pytest.raises(CorpusError, match="its lists have 4,194,305 answers, at most 4,194,304 are read"):
        load_condition(ConditionConfig(tag="t", path=str(tmp_path / "many.parquet"), answer="set"))


def test_what_is_counted_once_of_a_set(tmp_path: Path) -> None:
    file = corpus(tmp_path, lambda row: [row["target"], row["target"], f"{row['target']} {after(row)}"], lambda row: row["foil"])
    condition, pairs = tokenise(
        load_condition(ConditionConfig(tag="t", path=str(file), answer="set")), model("ledger").encode, bos=0, context=12,
        single_token=True, aligned=True, strict=True, answer=Kind("set"))
    assert condition.noted == {TWICE: 6, EXTENDS: 6}
    assert [pair.answers for pair in pairs] == [Answers(((pair.target,),), ((pair.foil,),)) for pair in pairs]


def test_a_prompt_has_to_fit_with_its_answer(tmp_path: Path) -> None:
    file = corpus(tmp_path, lambda row: row["target"] * 8, lambda row: row["foil"])  # 6 tokens and 7 that are read
    with pytest.raises(CorpusError, match="prompt longer than the context: 6"):
        tokenise(load_condition(ConditionConfig(tag="t", path=str(file), answer="full")), model("ledger").encode, bos=0,
                 context=12, single_token=False, aligned=True, strict=False, answer=Kind("full"))
