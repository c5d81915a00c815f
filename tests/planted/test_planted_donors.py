"""Patching from shuffled donors where every number is known: another example's answer is worth half of the effect, or nothing.

Patching the induction head from another example's clean run takes g from the foil F, as the own one does, and adds g to that
donor's answer: to T only if it is T, and to F again if it is F. Of 2g that leaves (1 + [T' = T] − [T' = F]) / 2; the other
direction, and the suppressor, have the same fractions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from conftest import Command, only, write_jsonl
from planted import Typed, pairs
from tinylab.checks import shuffled_donors
from tinylab.checks.shuffled_donors import _examples
from tinylab.effects.shuffled_donors import Examples
from tinylab.models.loading import load_model
from tinylab.planted import closed_forms as known
from tinylab.records.storage import read_json
from tinylab.statistics.strata import Groups
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import Prepared, prepare
from typed import composed, type_in_shell

DONORS = "controls.shuffled_donors=true"
HEADS = ("battery=h2", "battery.granularity=head_out", "battery.per_head=true", "battery.positions=last", "metrics=[logit_diff]",
         "controls.random_sets=false")
ASKED = ("model=planted", "condition=planted_a", "plots=false", "threads=1", "engine=forked", *HEADS)
DISJOINT = [  # no answer of one stands in another
    {"clean": f"{at} {target} {other} pink {at}", "corrupt": f"{at} {foil} {other} pink {at}", "target": f" {target}",
     "foil": f" {foil}", "template": "one"}
    for at, target, foil, other in (("white", "red", "blue", "gray"), ("gray", "green", "gold", "white"))
]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("donors"))


@pytest.fixture(params=["forked", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(expected: object) -> object:
    return pytest.approx(expected, abs=known.TOLERANCE, rel=0)


def row(folder: str = "outputs") -> dict[str, Any]:
    found: dict[str, Any] = read_json(only(Path(folder), "runs/*/metrics/summary.json"))["shuffled_donors"]
    return found


@pytest.mark.parametrize(("direction", "answer", "other"), [("denoising", "target", "foil"), ("noising", "foil", "target")])
def test_a_donor_brings_its_own_answer(typed: Typed, engine: str, direction: str, answer: str, other: str) -> None:
    found = typed.run("planted_a", engine, *HEADS, DONORS, f"battery.patch_direction={direction}").summary
    told, own = found["shuffled_donors"], pairs("planted_a")
    mine = Examples(Groups.of([""] * 21), [pair.prompt("clean").tokens for pair in own], [getattr(pair, answer) for pair in own])
    given = [getattr(own[donor], answer) for donor in mine.deranged(range(21), 0).donors]
    left = np.array([(1 - (new == getattr(pair, other))) / 2 for new, pair in zip(given, own, strict=True)])
    assert 0 < left.mean() < 0.5
    assert (told["n"], told["of"], told["alone"], told["templates"], told["same_answer"]) == (21, 21, 0, 0, 0)
    assert [(one["cell"]["layer"], one["cell"]["head"]) for one in told["cells"]] == [(1, 0), (1, 1)]
    sign = 1 if direction == "denoising" else -1
    for one, gain in zip(told["cells"], (known.INDUCTION, -known.SUPPRESSION), strict=True):
        assert one["own"] == near(sign * 2 * gain)
        assert one["shuffled"] == near(sign * 2 * gain * left.mean())
        assert one["survives"] == near(left.mean())
        assert one["ci95"] == pytest.approx(list(stats.t.interval(0.95, 20, loc=left.mean(), scale=stats.sem(left))), abs=1e-8)
    assert (told["survives"], told["median"]) == (near(left.mean()), near(left.mean()))


def test_the_seed_decides_which_donor(typed: Typed) -> None:
    asked = (*HEADS, DONORS, "battery.patch_direction=denoising")
    first, other = (typed.run("planted_a", "forked", *asked, *seed).summary["shuffled_donors"] for seed in ((), ("seeds=[4]",)))
    assert (first["seed"], other["seed"]) == (0, 4)
    assert first["survives"] != pytest.approx(other["survives"], abs=1e-3)


def test_an_answer_that_is_neither_leaves_exactly_half_and_nothing_is_said(
    tinylab: Command, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The level that is restored is 0: the foil is taken away, the target not brought."""
    corpus = write_jsonl(tmp_path / "disjoint.jsonl", DISJOINT)
    line = [one for one in ASKED if not one.startswith(("condition", "engine"))]
    assert tinylab(*line, f"engine={engine}", "condition=jsonl", f"condition.path={corpus}", "condition.tag=two", DONORS) == 0
    told = row()
    assert (told["n"], told["templates"], told["survives"], told["same_answer"]) == (2, 1, near(0.5), 0)
    assert [one["shuffled"] for one in told["cells"]] == near([known.INDUCTION, -known.SUPPRESSION])
    assert "patched from another example" not in capsys.readouterr().out


def test_a_patch_that_says_the_same_in_every_example_is_alarming(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Every clean prompt turns all inputs on: whichever it is, one OR input opens the gate as far."""
    gates = [one.replace("planted_a", "planted_b") for one in ASKED]
    assert tinylab(*gates, "model.variant=gates", DONORS) == 0
    told = row()
    assert [(one["cell"]["layer"], one["cell"]["head"]) for one in told["cells"]] == list(known.OR_INPUTS)
    assert (told["survives"], [one["survives"] for one in told["cells"]]) == (near(1.0), near([1.0, 1.0]))
    assert told["same_answer"] == told["n"] == told["of"]
    assert (f"2 heads that matter keep 100 % of their effect (100 to 100 %), most of which is not the pair's own ({told['n']} of "
            f"{told['of']} examples; {told['n']} of these donors have the same answer)") in capsys.readouterr().out


def test_prompts_of_another_length_are_no_donors_where_positions_align(tinylab: Command, tmp_path: Path) -> None:
    longer = {key: DISJOINT[0][key].replace(" pink ", " pink pink ") for key in DISJOINT[0]}
    corpus = write_jsonl(tmp_path / "lengths.jsonl", [*DISJOINT, longer])
    line = [one for one in ASKED if not one.startswith("condition")]
    asked = (*line, "condition=jsonl", f"condition.path={corpus}", "condition.tag=three", DONORS)
    assert tinylab(*asked, "battery.positions=all") == 0
    assert (row()["n"], row()["alone"], row()["of"]) == (2, 1, 3)
    assert tinylab(*asked, "output_dir=last") == 0
    assert (row("last")["n"], row("last")["alone"]) == (3, 0)


def test_a_finished_run_gets_it_added_and_is_not_computed_again(tinylab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tinylab(*ASKED, "controls=none") == 0
    summary = only(Path("outputs/runs"), "*/metrics/summary.json")
    assert "shuffled_donors" not in read_json(summary)
    table = only(Path("outputs/runs"), "*/metrics/head_impact.parquet")
    before = table.stat().st_mtime_ns
    assert tinylab(*ASKED, DONORS) == 0
    assert row()["n"] == 21 and table.stat().st_mtime_ns == before
    assert tinylab(*ASKED, DONORS, "output_dir=fresh") == 0
    assert json.dumps(row()) == json.dumps(row("fresh"))
    monkeypatch.setattr(shuffled_donors, "_evaluated", None)  # nothing may be computed
    assert tinylab(*ASKED, DONORS) == 0
    assert tinylab(*ASKED) == 0
    assert row()["n"] == 21, "one of more examples stays"


def test_other_labels_are_other_cells(tinylab: Command) -> None:
    assert tinylab(*ASKED, DONORS) == 0
    assert len(row()["cells"]) == 2
    assert tinylab(*ASKED, DONORS, "effects.smallest=0.8") == 0  # 5/3 and 2/3 of the whole
    assert [one["cell"]["head"] for one in row()["cells"]] == [0]


@pytest.mark.parametrize(("overrides", "note"), [
    (("metrics=[kl_div]",), "no labels say which matter"),
    (("battery.layers=[0]",), "none of the 4 heads matters"),
])
def test_where_there_is_nothing_to_patch_that_is_noted(tinylab: Command, overrides: tuple[str, ...], note: str) -> None:
    assert tinylab(*ASKED, DONORS, *overrides) == 0
    assert (row()["n"], row()["cells"], row()["notes"]) == (None, [], [note])


def test_answers_that_cannot_differ_are_counted(tinylab: Command, tmp_path: Path) -> None:
    """Both of the second template name red: they keep all of their effect, those of the first half of it."""
    red = [{"clean": f"{at} red {rest} {at}", "corrupt": f"{at} blue {rest} {at}", "target": " red", "foil": " blue",
            "template": "other"} for at, rest in (("pink", "gray green"), ("gold", "green gray"))]
    corpus = write_jsonl(tmp_path / "red.jsonl", [*DISJOINT, *red])
    line = [one for one in ASKED if not one.startswith("condition")]
    assert tinylab(*line, "condition=jsonl", f"condition.path={corpus}", "condition.tag=four", DONORS) == 0
    told = row()
    assert (told["of"], told["n"], told["alone"], told["templates"], told["same_answer"]) == (4, 4, 0, 2, 2)
    assert told["survives"] == near(0.75)


def test_what_is_too_costly_is_not_done_and_says_how_to_get_it(tinylab: Command) -> None:
    assert tinylab(*ASKED) == 0
    assert (row()["n"], row()["survives"], row()["states"]) == (None, None, None)
    (line,) = [line for line in only(Path("outputs/runs"), "*/run.log").read_text().splitlines() if "no shuffled donors" in line]
    assert "more than a tenth of the run" in line and line.endswith(shuffled_donors.HOW)


def test_batteries_without_a_source_have_no_donors(tinylab: Command) -> None:
    assert tinylab("model=planted", "condition=planted_a", "plots=false", "controls.random_sets=false", DONORS) == 0
    assert "shuffled_donors" not in read_json(only(Path("outputs/runs"), "*/metrics/summary.json"))


def prepared_cond_a() -> tuple[Any, Prepared, Examples]:
    config = composed("battery=h2", "condition=cond_a")
    loaded = load_model(config.model, "cpu")
    prepared = prepare(config, load_condition(config.condition), loaded)

    class Resolved:
        """As much of one as is read."""

    Resolved.config = config  # type: ignore[attr-defined]
    return loaded, prepared, _examples(Resolved, prepared)  # type: ignore[arg-type]


def test_a_run_as_typed_does_it_for_a_tenth_of_its_states_and_plain_passes_give_the_same(tmp_path: Path) -> None:
    """What leaves the last block at the last token is all that the logits are made of: a donor's are those of its own run."""
    done = type_in_shell(tmp_path, "-m", "tinylab", "battery=h2", "condition=cond_a", "plots=false")
    assert done.returncode == 0, done.stderr
    run = only(tmp_path, "outputs/runs/*")
    told = read_json(run / "metrics/summary.json")["shuffled_donors"]
    assert told["asked"] == "auto" and 8 <= told["n"] < told["of"] == 120
    assert 0 < 10 * told["states"] <= read_json(run / "manifest.json")["provenance"]["states"]
    (last,) = [one for one in told["cells"] if one["cell"]["layer"] == 3]
    loaded, prepared, examples = prepared_cond_a()
    order, _ = examples.in_order(0)
    chosen = next(found for size in range(8, 120) if len((found := examples.deranged(order[:size], 0)).examples) == told["n"])
    assert told["same_answer"] == chosen.same_answer

    def level(prompt: tuple[int, ...], pair: Any) -> float:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        return float(logits[pair.target] - logits[pair.foil])

    changes = [
        [level(prepared.tokens[giver].clean, pair) - level(pair.corrupt, pair) for giver in (b, donor)]
        for b, donor in zip(chosen.examples, chosen.donors, strict=True) for pair in [prepared.tokens[b]]
    ]
    own, shuffled = np.mean(changes, axis=0)
    assert (last["own"], last["shuffled"]) == (pytest.approx(own, abs=1e-4), pytest.approx(shuffled, abs=1e-4))
    assert last["survives"] == pytest.approx(shuffled / own, abs=1e-5)
    assert told["survives"] < 0.75 and "patched from another example" not in done.stdout


