"""What a group claims: partial conjunctions worked by hand with scipy and statsmodels, from effects.parquet on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT, TableKind
from tinylab.records.checking import check_document
from tinylab.records.invariants import Invariants
from tinylab.records.manifest import RunFolder
from tinylab.records.tables import effects_columns, schema
from tinylab.sweep import conjunction
from tinylab.sweep.artifacts import groups
from tinylab.sweep.effects import effects_of
from tinylab.sweep.invariants import Settings, find_invariants
from tinylab.sweep.joining import Child, Unreadable

SMALLEST, DF = 0.05, 10.0
JUDGED = {"smallest": SMALLEST, "alpha": 0.05, "correction": "holm", "k": 10, "noise": {}}
Cell = tuple[int | float | str, ...]
Row = tuple[float | None, float | None, str]


class Runs:
    """Runs made of effects alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = count()

    def run(self, condition: str, effects: Mapping[Cell, Row], /, *, corpus: str = "", metric: str = "logit_diff",
            kind: TableKind = HEAD_IMPACT, **manifest: Any) -> Child:
        """A run whose cells have these effects: value, standard error, label, with ten degrees of freedom."""
        folder = RunFolder(self._folder / f"{condition}_{next(self._number)}")
        whole = {(*cell, 0.0) if kind == HEAD_IMPACT and len(cell) == 2 else cell: row for cell, row in effects.items()}
        rows = [{**dict(zip(kind.keys, cell, strict=True)), "metric": metric, "effect": effect, "se": se,
                 "df": None if se is None else DF, "label": label,
                 "effect_logits": None if effect is None else 10 * effect,
                 "ci_low": None if effect is None or se is None else effect - 2 * se,
                 "ci_high": None if effect is None or se is None else effect + 2 * se}
                for cell, (effect, se, label) in whole.items()]
        expected = schema(effects_columns(kind), kind)
        folder.file("effects").parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, expected), folder.file("effects"))
        told = {"condition": condition, "table": kind.name, "table_kind": kind.as_json(), "effects": "metrics/effects.parquet",
                "judged": JUDGED, "direction": "none", "positions": "all", "battery": {"name": "h1"}, "battery_digest": "0",
                "provenance": {"model": {"name": "m", "revision": None, "digest": "0"}, "device": "cpu", "dtype": "float32",
                               "identity": {"condition": {"sha256": corpus} if corpus else {}}}, **manifest}
        return Child(folder, {key: value for key, value in told.items() if value is not None}, {})


@pytest.fixture
def made(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def found(children: Sequence[Child], **settings: Any) -> dict[str, Any]:
    """invariants.json of these runs, which are one group; it keeps its schema."""
    content = find_invariants(groups(children, {child.folder.path: {} for child in children}), Settings(**settings), [])
    check_document(Invariants, content, "invariants")
    assert len(content["groups"]) == 1
    return content


def entries(content: dict[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    return {(one["layer"], one["head"]): one for one in content["groups"][0]["conjunction"]["components"]}


def heads(content: dict[str, Any]) -> list[tuple[int, int]]:
    return [(head["layer"], head["head"]) for head in content["heads"]]


def under(effect: float | None, se: float | None) -> float:
    """The p-value that an effect is under −SMALLEST."""
    assert effect is not None and se is not None
    return float(stats.t.sf((-effect - SMALLEST) / se, DF))


A: dict[Cell, Row] = {(0, 0): (-0.5, 0.05, "matters"), (0, 1): (-0.2, 0.04, "mixed"), (1, 0): (-0.09, 0.03, "undecided"),
                      (1, 1): (0.4, 0.05, "matters")}
B: dict[Cell, Row] = {(0, 0): (-0.3, 0.06, "matters"), (0, 1): (-0.4, 0.05, "matters"), (1, 0): (-0.1, 0.03, "undecided"),
                      (1, 1): (-0.4, 0.05, "matters")}


def test_p_is_twice_the_larger_of_the_better_sign_corrected_by_holm_over_components(made: Runs) -> None:
    content = found([made.run("a", A), made.run("b", B)])
    told = content["groups"][0]["conjunction"]
    assert {key: told[key] for key in ("at_least", "of", "smallest", "alpha", "correction")} == {
        "at_least": 2, "of": 2, "smallest": SMALLEST, "alpha": 0.05, "correction": "holm"}
    expected = {head: min(1.0, 2 * max(under(*A[head][:2]), under(*B[head][:2]))) for head in A}
    adjusted = dict(zip(expected, multipletests([*expected.values()], method="holm")[1], strict=True))
    for head, one in entries(content).items():
        assert one["p"] == pytest.approx(expected[head], rel=1e-12, abs=0)
        assert one["p_adjusted"] == pytest.approx(adjusted[head], rel=1e-12, abs=0)
    assert heads(content) == [(0, 0), (0, 1)] == [head for head in A if adjusted[head] <= 0.05]
    assert min(expected[1, 0], adjusted[1, 1]) > 0.05


def test_an_effect_of_another_sign_in_another_condition_is_not_shared(made: Runs) -> None:
    content = found([made.run("a", A), made.run("b", B)])
    assert entries(content)[1, 1]["p"] == 1.0 and (1, 1) not in heads(content)
    assert (1, 1) in heads(found([made.run("a", A), made.run("b", B)], set="union"))


def test_what_matters_anywhere_is_listed_with_its_effects_labels_and_count(made: Runs) -> None:
    content = found([made.run("a", A), made.run("b", B)])
    one = entries(content)
    assert list(one) == [(0, 0), (0, 1), (1, 1)]  # the claimed ones by their p, then the others; nobody calls 1.0 anything
    assert [entry["count"] for entry in one.values()] == [2, 1, 2]
    assert [entry["sign"] for entry in one.values()] == ["-", "-", None]  # 1.1 has one sign here and the other there
    assert (one[0, 1]["matters_in"], one[0, 1]["mixed_in"]) == (["b"], ["a"])
    assert one[0, 1]["effects"] == {"a": -0.2, "b": -0.4}
    assert one[0, 1]["plus_minus"] == pytest.approx({"a": 0.08, "b": 0.1})


@pytest.mark.parametrize(("at_least", "claimed"), [(1, [(0, 0), (0, 1), (0, 2)]), (2, [(0, 0), (0, 1)]), (3, [(0, 0)])])
def test_at_least_r_of_m(at_least: int, claimed: list[tuple[int, int]], made: Runs) -> None:
    """The (m − r + 1)-fold of the r-th smallest."""
    here, none = (-0.3, 0.03, "matters"), (0.0, 0.03, "negligible")
    weak = (-0.21, 0.03, "matters")
    runs = [made.run("a", {(0, 0): here, (0, 1): here, (0, 2): none}), made.run("b", {(0, 0): weak, (0, 1): weak, (0, 2): none}),
            made.run("c", {(0, 0): here, (0, 1): none, (0, 2): here})]
    content = found(runs, at_least=at_least)
    assert heads(content) == claimed
    ordered = [sorted(under(*row[:2]) for row in rows) for rows in ((here, weak, here), (here, weak, none), (none, none, here))]
    for c, p in enumerate(ordered):
        expected = min(1.0, 2 * (3 - at_least + 1) * p[at_least - 1])
        assert entries(content)[0, c]["p"] == pytest.approx(expected, rel=1e-12, abs=0)


def test_a_union_is_at_least_one_condition(made: Runs) -> None:
    runs = [made.run("a", A), made.run("b", B)]
    one, union = found(runs, at_least=1), found(runs, set="union")
    assert one["heads"] == union["heads"] and one["groups"][0]["conjunction"] == union["groups"][0]["conjunction"]
    assert union["set"] == "union" and union["groups"][0]["conjunction"]["at_least"] == 1


def test_more_conditions_than_a_group_has_claim_nothing_and_say_so(made: Runs) -> None:
    content = found([made.run("a", A), made.run("b", B)], at_least=3)
    assert content["heads"] == [] and "at_least=3, but 2 conditions have runs: nothing is claimed" in content["note"]
    assert {one["p"] for one in entries(content).values()} == {None}


def test_several_cells_of_a_component_are_one_test_with_bonferroni(made: Runs) -> None:
    """Scales 0 and .5 of a head: twice the smaller p; its effect is that of the stronger."""
    rows: dict[Cell, Row] = {(0, 0, 0.0): (-0.2, 0.05, "undecided"), (0, 0, 0.5): (-0.18, 0.03, "matters"),
                             (0, 1, 0.0): (-0.3, 0.1, "")}
    one = entries(found([made.run("a", rows), made.run("b", rows)]))[0, 0]
    assert one["p"] == pytest.approx(2 * min(1.0, 2 * min(under(-0.2, 0.05), under(-0.18, 0.03))), rel=1e-12, abs=0)
    assert one["effects"] == {"a": -0.2, "b": -0.2} and one["matters_in"] == ["a", "b"]


def test_runs_of_one_condition_count_once_with_the_largest_p(made: Runs) -> None:
    weaker: dict[Cell, Row] = {head: (effect, 2 * (se or 0), label) for head, (effect, se, label) in A.items()}
    alone = found([made.run("a", weaker), made.run("b", B)])
    for again in (made.run("a", A), made.run("other tag", A, corpus="one")):
        first = made.run("a", weaker, corpus="one")
        both = found([first, again, made.run("b", B)])
        assert both["groups"][0]["conjunction"]["of"] == 2
        assert [one["p"] for one in entries(both).values()] == [one["p"] for one in entries(alone).values()]
        assert heads(both) == heads(alone)


def test_benjamini_hochberg_where_the_runs_were_judged_so(made: Runs) -> None:
    runs = [made.run(name, rows, judged={**JUDGED, "correction": "bh"}) for name, rows in (("a", A), ("b", B))]
    content = found(runs)
    p = [min(1.0, 2 * max(under(*A[head][:2]), under(*B[head][:2]))) for head in A]
    told = {head: one["p_adjusted"] for head, one in entries(content).items()}
    adjusted = dict(zip(A, multipletests(p, method="fdr_bh")[1], strict=True))
    assert told == pytest.approx({head: adjusted[head] for head in told}, rel=1e-12, abs=0)
    assert content["groups"][0]["conjunction"]["correction"] == "bh"


def test_of_different_judgements_the_strictest_counts_and_that_is_said(made: Runs) -> None:
    content = found([made.run("a", A, judged={**JUDGED, "smallest": 0.2, "alpha": 0.01, "correction": "bh"}), made.run("b", B)])
    told = content["groups"][0]["conjunction"]
    assert (told["smallest"], told["alpha"], told["correction"]) == (0.2, 0.01, "holm")
    assert "judged by effects.smallest=0.05 and 0.2: 0.2 counts here" in content["note"]
    assert "effects.alpha=0.01 and 0.05: 0.01 counts" in content["note"] and "bh and holm: holm counts" in content["note"]


SILENT: dict[str, tuple[dict[str, Any], str]] = {
    "of before": ({"effects": None, "judged": None}, "it was computed by a version without effects; the same command again"),
    "no logit_diff": ({"metric": "kl_div"}, "logit_diff was not measured; add it to metrics"),
}


@pytest.mark.parametrize("why", [*SILENT, "no fraction", "no interval"])
def test_a_run_that_says_nothing_takes_all_claims_away_and_is_named(why: str, made: Runs) -> None:
    if why in SILENT:
        changes, words = SILENT[why]
        silent = made.run("b", B, **changes)
    else:
        words = {"no fraction": "its unmodified logit difference is too small", "no interval": "it has too few examples"}[why]
        silent = made.run("b", {head: (None if why == "no fraction" else row[0], None, "") for head, row in B.items()})
    for set_ in ("partial_conjunction", "union"):
        content = found([made.run("a", A), silent, made.run("c", B)], set=set_)
        assert content["heads"] == []
        assert f"b: no effects ({words}" in content["note"]
        assert {one["p"] for one in entries(content).values()} == {None}
        assert entries(content)[0, 0]["effects"]["b"] == (B[0, 0][0] if why == "no interval" else None)


def test_runs_of_before_alone_are_an_empty_claim(made: Runs) -> None:
    content = found([made.run(name, A, effects=None, judged=None) for name in ("a", "b", "c", "d", "e")])
    assert content["heads"] == [] and content["groups"][0]["conjunction"]["components"] == []
    assert "a, b, c and 2 more: no effects" in content["note"]
    assert content["groups"][0]["sign_agreement"] is None


def test_a_component_that_a_run_lacks_is_not_claimed(made: Runs) -> None:
    fewer = {head: row for head, row in B.items() if head != (0, 0)}
    assert heads(found([made.run("a", A), made.run("b", fewer)])) == [(0, 1)]


def test_layers_are_claimed_by_their_numbers(made: Runs) -> None:
    rows: dict[Cell, Row] = {(2, "mlp_out"): (-0.5, 0.05, "matters"), (0, "mlp_out"): (-0.01, 0.01, "negligible")}
    runs = [made.run(name, rows, kind=LAYER_IMPACT) for name in ("a", "b")]
    assert found(runs)["layers"] == [2]


def test_an_exact_effect_is_claimed_and_an_exact_zero_is_not(made: Runs) -> None:
    """Standard errors of 0, as planted models have: what is beyond the smallest effect is certain."""
    rows: dict[Cell, Row] = {(0, 0): (-0.2, 0.0, "matters"), (0, 1): (0.0, 0.0, "negligible"),
                             (0, 2): (SMALLEST, 0.0, "undecided")}
    content = found([made.run("a", rows), made.run("b", rows)])
    assert heads(content) == [(0, 0)] and entries(content)[0, 0]["p"] == 0.0


def test_many_runs_together_are_each_alone(made: Runs) -> None:
    """Of runs with other heads and scales, in other orders of the rows: every array is that of the run itself."""
    rng = np.random.default_rng(0)
    children = []
    for number in range(7):
        cells: list[Cell] = [(layer, head, scale) for layer in range(3) for head in range(2) for scale in (0.0, 0.5)]
        chosen = [cells[place] for place in rng.permutation(len(cells))[: 5 + number]]
        labels = rng.choice(["matters", "mixed", "undecided"], len(chosen))
        children.append(made.run(f"c{number}", {cell: (float(rng.normal()), float(rng.uniform(0.1, 1)), str(label))
                                                for cell, label in zip(chosen, labels, strict=True)}))
    together = effects_of(children)
    for place, child in enumerate(children):
        alone = effects_of([child])
        for c, component in enumerate(alone.components):
            there = together.components.index(component)
            own = [row for row in rows_of([child]) if (row["layer"], row["head"]) == component]
            whole = len(own) == several_cells(children, component)
            for name in ("effect", "half", "logits", "matters", "mixed"):
                assert getattr(together, name)[place, there] == getattr(alone, name)[0, c]
            for name in ("above", "below"):  # a test of all cells is undefined where the run lacks one
                value = getattr(together, name)[place, there]
                assert value == getattr(alone, name)[0, c] if whole else np.isnan(value)


def rows_of(children: Sequence[Child]) -> list[dict[str, Any]]:
    return [row for child in children for row in pq.read_table(child.folder.file("effects")).to_pylist()]


def several_cells(children: Sequence[Child], component: tuple[int, ...]) -> int:
    return len({row["scale"] for row in rows_of(children) if (row["layer"], row["head"]) == component})


@pytest.mark.parametrize("fault", ["no parquet", "a column less", "a head that is missing"])
def test_effects_that_cannot_be_read_name_the_run(fault: str, made: Runs) -> None:
    child = made.run("a", A)
    file = child.folder.file("effects")
    table = pq.read_table(file)
    if fault == "no parquet":
        file.write_text("hello")
    elif fault == "a column less":
        pq.write_table(table.drop_columns(["se"]), file)
    else:
        pq.write_table(table.set_column(1, table.schema.field(1), pa.nulls(len(table), pa.int64())), file)
    with pytest.raises(Unreadable, match=f"{file}: .*overwrite=true") as told:
        effects_of([made.run("b", B), child])
    assert told.value.child is child


@pytest.mark.parametrize("most", [2, 1])
def test_in_large_groups_what_is_not_claimed_is_told_of_runs_in_which_it_matters(
    most: int, made: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conjunction, "EVERY_RUN", most)
    quiet = {**B, (1, 1): (-0.01, 0.01, "negligible")}
    one = entries(found([made.run("a", A), made.run("b", quiet)]))
    assert one[0, 0]["effects"] == {"a": -0.5, "b": -0.3}
    assert one[1, 1]["effects"] == ({"a": 0.4, "b": -0.01} if most == 2 else {"a": 0.4})
    assert one[1, 1]["plus_minus"].keys() == one[1, 1]["effects"].keys()
