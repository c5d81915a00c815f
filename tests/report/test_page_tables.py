"""What is on report.html, as tables: closed forms, what is kept of prompts, what is left out, and that nothing fails a run."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import only
from made_sweeps import made_member, made_sweep
from tinylab import validate
from tinylab.effects.strength import Ranking
from tinylab.errors import SchemaError
from tinylab.report.__main__ import main
from tinylab.report.page import document, sweep_tables
from tinylab.report.page.cells import place_of
from tinylab.report.page.document import Column, Dataset, Page, Section, Table, number, render
from tinylab.report.page.run_tables import differing_tokens, prompts_of
from tinylab.report.page.sweep_page import page_of
from tinylab.report.page.sweep_tables import Compared
from tinylab.report.runs import failures_sentences
from tinylab.results import load_run
from typed import type_in

TINY = Path(__file__).parents[2] / "tinylab/assets/tiny"
FEW = ("condition=facts", "condition.n_examples=6", "battery.layers=[0]", "plots=false", "metrics=[logit_diff]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    assert type_in(folder, *FEW) == 0
    return only(folder, "outputs/runs/*")


def test_examples_are_what_the_plain_model_says_of_each_prompt(run: Path) -> None:
    examples = load_run(run).examples
    assert examples is not None and len(examples) == 6
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY).eval(), AutoTokenizer.from_pretrained(TINY)
    corpus = [json.loads(line) for line in (TINY.parent / "corpora/facts.jsonl").read_text().splitlines()]
    sides = [("clean", "target", "foil"), ("corrupt", "foil", "target")]
    for one, (side, answer, other) in product(examples.to_dict("records"), sides):
        assert {key: one[key] for key in ("clean", "corrupt", "target", "foil")}.items() <= corpus[one["example"]].items()
        ids = [tokenizer.bos_token_id, *tokenizer(one[side], add_special_tokens=False).input_ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        right, wrong = (tokenizer(one[name], add_special_tokens=False).input_ids[0] for name in (answer, other))
        assert one[f"{side}_answer_probability"] == pytest.approx(float(logits.softmax(-1)[right]), abs=1e-5)
        sign = 1 if side == "clean" else -1
        assert one[f"{side}_difference"] == pytest.approx(sign * float(logits[right] - logits[wrong]), abs=1e-4)
        assert one[f"{side}_right"] == (int(logits.argmax()) == right)
        assert len(one[f"{side}_tokens"]) == len(ids)
        assert "".join(one[f"{side}_tokens"][1:]).replace("␣", " ").strip() == one[side].strip()


def test_examples_are_in_the_manifest_with_their_digest_and_valid(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["examples"] == "metrics/examples.parquet" and manifest["digests"]["examples"]["rows"] == 6
    assert manifest["provenance"]["command"] == ["python", "-m", "tinylab", *FEW]
    validate.validate_examples_schema(pd.read_parquet(run / "metrics/examples.parquet"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clean_right": 1}, "column 'clean_right' is int64"),
        ({"corrupt_answer_probability": 1.5}, "column 'corrupt_answer_probability' has a number that is not from 0 to 1"),
        ({"clean_difference": float("inf")}, "column 'clean_difference' has values that are not finite"),
        ({"clean_tokens": "a text"}, "column 'clean_tokens' is"),
        ({"example": 3}, "an example is there twice"),
        ({"target": None}, "column 'target' has 6 missing values"),
        ({"more": 1}, "not expected ['more']"),
    ],
)
def test_each_broken_rule_of_examples_is_named(run: Path, change: dict[str, object], words: str) -> None:
    table = pd.read_parquet(run / "metrics/examples.parquet")
    with pytest.raises(SchemaError, match=re.escape(words)):
        validate.validate_examples_schema(table.assign(**change))
    empty = table.assign(corrupt_tokens=[[] for _ in range(len(table))])
    with pytest.raises(SchemaError, match="a prompt without tokens"):
        validate.validate_examples_schema(empty)


def test_a_run_of_before_is_read_and_a_metric_added_to_it_brings_its_prompts(tmp_path: Path) -> None:
    assert type_in(tmp_path, *FEW) == 0
    folder = only(tmp_path, "outputs/runs/*")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["examples"], manifest["digests"]["examples"]
    kept = pd.read_parquet(folder / "metrics/examples.parquet")
    (folder / "metrics/examples.parquet").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_run(folder).examples is None
    assert type_in(tmp_path, *FEW) == 0
    assert not (folder / "metrics/examples.parquet").exists(), "a finished run is reused as it is"
    assert type_in(tmp_path, *FEW[:-1], "metrics=[logit_diff,kl_div]") == 0
    examples = load_run(folder).examples
    assert examples is not None
    pd.testing.assert_frame_equal(examples, kept, rtol=1e-6)


def test_the_tokens_in_which_prompts_differ() -> None:
    assert differing_tokens(["a", "b", "c"], ["a", "x", "c"]) == ([1], [1])
    assert differing_tokens(["a", "b", "c", "d"], ["a", "d"]) == ([1, 2], [])
    assert differing_tokens(["a"], ["a"]) == ([], [])


def test_prompts_beyond_the_room_are_left_out_and_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = load_run(run).examples
    assert prompts_of(examples)["left_out"] == 0 and prompts_of(None) == {"rows": {}, "left_out": None}
    monkeypatch.setattr("tinylab.report.page.run_tables.ROOM", 400)
    found = prompts_of(examples)
    assert found["left_out"] == 6 - len(found["rows"]) > 0


def test_overlap_by_k_is_hypergeometric() -> None:
    layers = {0: 2, 1: 2}
    ranked = {"a": Ranking([(0, 0), (0, 1), (1, 0), (1, 1)], 4, layers=layers), "b": Ranking([(0, 0), (1, 0), (0, 1), (1, 1)], 4,
                                                                                             layers=layers)}
    rows = sweep_tables.overlap_by_k(ranked).set_index(["series", "k"])["shared"]
    assert rows["found in all"].tolist() == [1, 1, 3, 4]
    assert rows["by chance"].tolist() == pytest.approx([1 / 4, 4 / 4, 9 / 4, 4])  # k²/N
    assert rows["by chance within layers"].tolist() == pytest.approx([1 / 2, 1, 2 * 2 / 2 + 1 / 2, 4])  # Σ over layers kᵢkⱼ/2


def test_agreement_is_spearmans_and_the_shared_part_of_the_strongest() -> None:
    group = Compared("", [made_member("a", 4, 5, 1), made_member("b", 4, 5, 2)], {})
    table, ranked = sweep_tables.rankings(group, "logit_diff", "magnitude")
    rows = sweep_tables.agreement(table, ranked, 6).set_index(["first", "second"])
    sizes = [np.abs(member.effects["effect"].to_numpy()) for member in group.members if member.effects is not None]
    ranks = [size.argsort().argsort() for size in sizes]
    assert rows.loc[("a", "b"), "correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    tops = [set(size.argsort()[-6:].tolist()) for size in sizes]
    assert rows.loc[("a", "b"), "shared"] == len(tops[0] & tops[1]) and rows.loc[("a", "a"), "shared"] == 6


def test_what_most_conditions_share_comes_first() -> None:
    rows = pd.concat([made_member(name, 1, 3, seed).effects.assign(condition=name, name=["0.0", "0.1", "0.2"], rank=[1, 2, 3])  # type: ignore[union-attr]
                      for seed, name in enumerate("abc")])
    rows["label"] = ["matters", "undecided", "undecided", "matters", "mixed", "undecided", "undecided", "mixed", "negligible"]
    found = sweep_tables.shared(rows, 10)
    assert dict(zip(found["name"], found["count"], strict=True)) == {"0.0": 2, "0.1": 2, "0.2": 0}
    assert found["name"].tolist()[-3:] == ["0.2"] * 3


def test_only_the_strongest_are_kept_where_there_is_no_room() -> None:
    group = Compared("", [made_member("a", 4, 5, 1), made_member("b", 4, 5, 2)], {})
    rows = sweep_tables.components_of(group)
    kept, left_out = sweep_tables.strongest_rows(rows, most=13)
    assert left_out == 14 and len(kept) == 12 and kept["name"].nunique() == 6
    weakest = kept["effect"].abs().groupby(kept["name"]).max().min()
    assert weakest >= rows[~rows["name"].isin(kept["name"])]["effect"].abs().max()


def test_places_are_in_order_of_numbers() -> None:
    assert sorted(["10", "2", "1: a", "10.2", "9.11", "layer 3"], key=place_of) == ["1: a", "2", "9.11", "10", "10.2", "layer 3"]


def test_columns_are_parsed_as_what_they_are() -> None:
    rows = {"layer": [10, 9], "name": ["1.10", "01"], "effect": [0.5, None], "note": ['a "b", c\nd', ""]}
    dataset = Dataset.of(pd.DataFrame(rows))
    assert dataset.parse == {"layer": "number", "name": "string", "effect": "number", "note": "string"}
    assert dataset.csv == 'layer,name,effect,note\n10,1.10,0.5,"a ""b"", c\nd"\n9,01,,\n'
    said = [number(value, 2) for value in (None, -0.001, 1.004, float("nan"), "x", True)]
    assert said == ["–", "0.00", "1.00", "–", "x", "True"]


@pytest.mark.parametrize("wrong", [(), ("nowhere",), (".",), ("--k",)])
def test_the_command_says_in_one_sentence_what_it_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pages: None, wrong: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(r"tinylab\.report: [^\n]*expected [^\n]*\.\n", said.err)
    assert wrong != ("nowhere",) or "of a run or a sweep" in said.err
    assert [*tmp_path.iterdir()] == []


def test_without_the_extra_one_sentence_says_how_to_install_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "PACKAGES", ("altair", "vl_nothing"))
    assert main([str(run)]) == 2
    assert capsys.readouterr().err == (
        "tinylab.report: report.html needs vl-nothing, which is not installed; pip install 'tiny-ablation-lab[report]' (in a "
        "checkout: pip install -e '.[report]').\n")


def test_a_sweep_has_its_page_and_a_run_if_it_is_asked_for(
    tmp_path: Path, pages: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_in(tmp_path, "-m", *FEW, "condition=facts,negation") == 0
    sweep = only(tmp_path, "outputs/sweeps/*")
    assert json.loads((sweep / "manifest.json").read_text())["artifacts"]["report"] == "report.html"
    assert "report: " in capsys.readouterr().out
    run = only(sweep, "h1_facts_*")
    assert not (run / "report.html").exists()
    assert main([str(run), str(sweep / "artifacts/cross_condition")]) == 0
    assert json.loads((run / "manifest.json").read_text())["report"] == "report.html"
    assert type_in(tmp_path, "-m", *FEW, "condition=facts,negation", "report=false") == 0
    assert not (sweep / "report.html").exists(), "one of an earlier join would show other numbers"
    assert "report" not in json.loads((sweep / "manifest.json").read_text())["artifacts"]


def test_a_page_that_cannot_be_made_fails_nothing(
    tmp_path: Path, pages: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinylab.report.page.run_page.title_of", lambda manifest: 1 / 0)
    assert type_in(tmp_path, *FEW, "report=true") == 0
    folder = only(tmp_path, "outputs/runs/*")
    assert load_run(folder).manifest["status"] == "complete" and not (folder / "report.html").exists()
    assert "the results themselves are complete" in capsys.readouterr().out


def test_a_page_larger_than_allowed_is_refused(run: Path, pages: None, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tinylab.report.page.writing.MOST_BYTES", 900_000)
    assert main([str(run)]) == 2 and "at most 0.9 are written" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_a_large_sweep_fits_on_a_page(pages: None) -> None:
    page = made_sweep(layers=80, heads=64, conditions=20)
    assert sum(len(one.csv) for one in page.datasets.values()) < document.MOST_BYTES - 1_000_000
    assert any("3,820 weakest" in line or "3820 weakest" in line for section in page.sections for line in section.text)


def test_nothing_that_results_say_ends_a_script_or_makes_an_element(pages: None) -> None:
    evil = "</script><img src=x onerror=1><!--"
    table = Table(evil, (Column("a", evil),), [{"a": evil}])
    section = Section("one", evil, (evil,), tables=(table,), code=evil, links=((evil, evil),))
    text = render(Page(evil, (evil,), (section,), {"d": Dataset.of(pd.DataFrame({"a": [evil]}))}, {"rows": evil}, {"a": evil}))
    assert len(re.findall("</script", text, flags=re.IGNORECASE)) == len(re.findall("<script[ >]", text)) == 3
    assert "<img" not in text.replace(document.library(), "")
    data = re.search('<script type="application/json" id="page-data">(.*?)</script>', text, flags=re.DOTALL)
    assert data is not None and json.loads(data.group(1))["state"] == {"a": evil}


def test_a_missing_run_has_a_row_that_says_why_and_its_log(pages: None) -> None:
    error = {"type": "CorpusError", "message": "no such <file>"}
    failure = {"condition": "b", "battery": "h1", "folder": "run_b", "log": "run_b/run.log", "error": error}
    jobs = [{"folder": f"run_{name}", "condition": name, "battery": "h1", "settings": {"model": "tiny"}} for name in "ab"]
    manifest = {"status": "partial", "sweep_name": "made", "jobs": jobs, "failures": [failure], "artifacts": {}}
    invariants = {"k": 10, "rank": "magnitude", "metrics": ["logit_diff"], "groups": []}
    runs = {"run_a": made_member("a", 2, 3, 0)}
    text = render(page_of(manifest, invariants, runs, [Compared("h1", list(runs.values()), {})], metric="logit_diff"))
    assert "partial: 1 of 2 runs." in text and "CorpusError: no such &lt;file&gt;" in text
    assert '<a href="run_b/run.log">' in text and "model=tiny" in text
    assert 'id="pairs"' not in text, "one condition alone has nothing to be compared with"
    nothing = render(page_of(manifest, invariants, {}, [], metric="logit_diff"))
    assert "CorpusError" in nothing and "<h1>made: a, b</h1>" in nothing and 'id="shared"' not in nothing
    assert re.search("<tr>.*<td>failed</td>", text) is not None and text.count("no such &lt;file&gt;") == 1
    withheld = {**invariants, "withheld": "no complete run of b"}
    assert "Invariants withheld: no complete run of b." in render(page_of(manifest, withheld, runs, [], metric="logit_diff"))


def test_runs_that_failed_alike_are_named_in_one_sentence() -> None:
    alike, other = ({"type": kind, "message": "no"} for kind in ("CorpusError", "RuntimeError"))
    jobs = [{"folder": name, "settings": {"seeds": "[0]"} if name == "b" else {}} for name in "abc"]
    failures = [{"condition": name, "battery": "h1", "folder": name, "log": f"{name}/run.log", "error": error}
                for name, error in zip("abc", (alike, alike, other), strict=True)]
    assert failures_sentences({"jobs": jobs, "failures": failures}) == {
        "FAILED a (h1), b (h1, seeds=[0]): CorpusError: no": ["a/run.log", "b/run.log"],
        "FAILED c (h1): RuntimeError: no (the log has the traceback)": ["c/run.log"],
    }
