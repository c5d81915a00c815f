"""The benchmark runs, and its lower bound is what one counts by hand."""

from __future__ import annotations

import json
import os
import pydoc
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import end_to_end, large, overhead
from benchmarks.baselines import PlainRuns
from benchmarks.bound import lower_bound
from benchmarks.document import LARGE, put
from benchmarks.end_to_end import Failed, Ran
from benchmarks.grids import ANSWERED
from benchmarks.grids import TASKS as GRIDS
from benchmarks.measure import counted
from benchmarks.peers import KINDS, PeerRuns, installed
from benchmarks.report import Results, write
from benchmarks.side_by_side import SCORER, Case, forked_flops
from benchmarks.workloads import SHAPES, TASKS, Task, Workload, corpus, distinct, embedded_model, gpt2, random_model
from tinylab.engine.forked.budget import Budget
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.forked.passes import Pass
from tinylab.interventions.operations import Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, MLP_OUT, RESID_POST, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Each, Intervention, Positions, Variant
from tinylab.measures.metrics import METRICS
from tinylab.task.tokens import TokenPair

ROOT = Path(__file__).parent.parent
ZERO = Scale(0.0)
PAIRS = [TokenPair((1, 2, 3), (1, 2, 4), 0, 1), TokenPair((1, 5, 6), (1, 2, 3), 0, 1)]
"""Clean: 1, 12, 15, 123, 156. Corrupt: 1, 12, 124, 123. Together 6 prefixes, 3 whole prompts."""

TITLES = (
    "Machine", "Targets", "Speed", "States", "States of grids and answers", "Matmul peak", "Correctness", "Memory", "Curves",
    "Layout", "Profile", "Profile of the embedded model", "Start-up", "Aggregate", "Effects",
)


def variant(site: Site, layer: int, operation: Operation, positions: Positions = "all") -> Variant:
    if isinstance(operation, Patch):
        return Variant((Intervention(site, layer, operation),), "corrupt", Own("clean"), positions)
    return Variant((Intervention(site, layer, operation),), "clean", None, positions)


def beyond_unmodified(*variants: Variant) -> int:
    """States of some variants in three layers, those of the unmodified runs taken off."""
    unmodified = 6 * 2 + 3
    assert lower_bound(PAIRS, [], 3) == unmodified
    return lower_bound(PAIRS, variants, 3) - unmodified


@pytest.mark.parametrize(("site", "layer", "expected"), [
    (HEAD_OUT, 0, 5 + 5 + 2), (HEAD_OUT, 1, 5 + 2), (HEAD_OUT, 2, 2),
    (MLP_OUT, 1, 5 + 2), (RESID_POST, 0, 5 + 2), (RESID_POST, 1, 2), (RESID_POST, 2, 0),
])
def test_a_scale_at_all_positions_costs_every_clean_prefix_from_its_block_on(site: Site, layer: int, expected: int) -> None:
    assert beyond_unmodified(variant(site, layer, ZERO)) == expected


@pytest.mark.parametrize(("positions", "expected"), [
    ("last", 2 + 2), ((1,), 4 + 2), ((2,), 2 + 2), ((0, 2), 5 + 2), (Each(1), 4 + 2), (Each(2), 2 + 2), (Each(3), 0),
])
def test_states_in_front_of_the_first_change_cost_nothing(positions: Positions, expected: int) -> None:
    assert beyond_unmodified(variant(HEAD_OUT, 1, ZERO, positions)) == expected


def test_a_grid_costs_what_each_of_its_positions_costs() -> None:
    every = [variant(HEAD_OUT, 1, ZERO, Each(position)) for position in range(3)]
    assert beyond_unmodified(*every) == (5 + 2) + (4 + 2) + (2 + 2)
    patches = [variant(MLP_OUT, 1, Patch(), Each(position)) for position in range(3)]
    assert beyond_unmodified(*patches) == 0 + (2 + 1) + (2 + 2)  # 1 is 1 in both, 12 is 12 in the first


def test_a_patch_costs_nothing_where_it_puts_in_what_was_there_before() -> None:
    """1 is 1 in both pairs, 12 is 12 in the first; from there on what is put in tells corrupt prefixes apart."""
    assert beyond_unmodified(variant(MLP_OUT, 1, Patch())) == (2 + 1) + 2
    assert beyond_unmodified(variant(MLP_OUT, 1, Patch(), "last")) == 2 + 2
    equal = [TokenPair((1, 2), (1, 2), 0, 1)]
    assert lower_bound(equal, [variant(MLP_OUT, 0, Patch())], 2) == lower_bound(equal, [], 2)


def test_duplicates_cost_nothing() -> None:
    variants = [variant(HEAD_OUT, 0, ZERO), variant(MLP_OUT, 1, Patch())]
    assert lower_bound(PAIRS * 3, variants, 3) == lower_bound(PAIRS, variants, 3)


def test_one_layer_computes_whole_prompts_only() -> None:
    assert lower_bound(PAIRS, [variant(HEAD_OUT, 0, ZERO)], 1) == 3 + 2


def test_distinct_prompts_share_no_first_token() -> None:
    prompts = [prompt for pair in distinct(32, 16, 100) for prompt in (pair.clean, pair.corrupt)]
    assert len({prompt[0] for prompt in prompts}) == 64


def test_a_battery_that_aligns_positions_gets_pairs_of_equal_length() -> None:
    pairs = corpus("facts", True, 32, embedded_model())
    assert len(pairs) == 32
    assert all(len(pair.clean) == len(pair.corrupt) for pair in pairs)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_operations_counted_without_data_are_those_that_run(task: Task) -> None:
    config = gpt2(vocab_size=512, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
    model, shadow = (random_model(config, device, "float32") for device in ("cpu", "meta"))
    case = Case.of(model, task, Workload("distinct", "distinct", distinct(4, 8, 512)))
    _, executed = counted(lambda: ForkedEngine(model).evaluate(case.workload.pairs, case.variants, SCORER))
    assert forked_flops(shadow, case, Budget.of("cpu")) == pytest.approx(executed, rel=0.01)


def test_attention_is_counted() -> None:
    query, key = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)
    with torch.inference_mode():
        _, flops = counted(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key))
    assert flops == 2 * (2 * 3 * 5 * 7) * (8 + 8)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_another_tool_gives_the_numbers_of_plain_hooks_on_padded_prompts(kind: Any, task: Task) -> None:
    pytest.importorskip(kind.package, reason=f"{kind.name} is not installed: make test-peers has it")
    model, tokenizer = random_model(SHAPES["quick"](), "cpu", "float32"), embedded_model().tokenizer
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    pairs = distinct(4, 8, model.vocabulary) + distinct(3, 5, model.vocabulary)
    variants = task.variants(model)
    plain = PlainRuns(model, pairs, variants, SCORER)
    peer = PeerRuns(kind(model, tokenizer), plain.batches, pairs, variants, SCORER)
    peer.unmodified()
    baselines = plain.unmodified()
    for variant in variants:
        expected = plain.evaluate(variant, reading_rows_only=False)
        assert np.abs(expected - baselines[variant.target]).max() > 1e-3
        np.testing.assert_allclose(peer.evaluate(variant), expected, rtol=0, atol=1e-5)
    after = model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("slow", "engines"), [
    ("tinylab.engine.forked.engine.Layout", True), ("tinylab.engine.forked.attention.TreeAttention._make", True),
    ("transformers.models.gpt2.modeling_gpt2.GPT2MLP.forward", False),
    ("torch.nn.functional.scaled_dot_product_attention", False), ("tinylab.measures.metrics.kl_div", False),
])
def test_the_clock_tells_the_engines_seconds_from_the_models_and_the_metrics(slow: str, engines: bool) -> None:
    model = random_model(SHAPES["quick"](), "cpu", "float32")
    pairs, variants = distinct(4, 8, model.vocabulary), TASKS[1].variants(model)

    def share() -> float:
        return overhead.share(model, lambda: ForkedEngine(model).evaluate(pairs, variants, SCORER))

    own, before = pydoc.locate(slow), dict(vars(Pass))
    share()
    assert dict(vars(Pass)) == before

    def later(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return own(*args, **kwargs)  # type: ignore[operator]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow, later)
        if slow.endswith("kl_div"):
            patch.setitem(METRICS, "kl_div", replace(METRICS["kl_div"], score=later))
        assert (share() > 0.7) == engines


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_tables(tmp_path: Path) -> None:
    document, raw = tmp_path / "benchmarks.md", tmp_path / "raw.json"
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "--quick", "--out", str(document), "--raw", str(raw)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = document.read_text(encoding="utf-8")
    for title in TITLES:
        assert f"\n## {title}" in text
    assert ("\n## Compared with other tools" in text) == bool(installed())
    assert all(f"{tool} {number}" in text for tool, number in installed().items())
    assert str(ROOT) not in text
    measured = json.loads(raw.read_text(encoding="utf-8"))
    cases = measured["cases"]
    assert len(cases) == 9
    for case in cases:
        assert case["bound"] <= case["states"] <= 1.05 * case["bound"], case
        assert case["difference"] <= 1e-4, case
        assert case["difference"] < case["effect"], case
        assert set(case["beside"]) == (set(installed()) if case["kind"] == "distinct" else set())
        assert all(difference <= 1e-4 for difference in case["beside_difference"].values()), case
    grids = measured["grids"]
    assert {grid["battery"] for grid in grids} == {task.label for task in (*GRIDS, *ANSWERED)}
    assert all(0 < grid["states"] == grid["bound"] < grid["rows"] for grid in grids), grids
    assert [(sweep["runs"], sweep["rows"]) for sweep in measured["sweeps"]] == [(4, 4 * 400 * 4 * 3)]
    assert all(sweep[part] > 0 for sweep in measured["sweeps"] for part in ("whole", "mebibytes", "read", "join", "rank"))
    concluded = [(point["what"], point["rows"]) for point in measured["effects"]]
    assert concluded == [(name, 8 * 16 * 4) for name in ("holm", "bh", "maxt", "controls")]


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A folder of models that holds a random Llama of 2 layers × 4 heads, whose tokenizer is the embedded model's."""
    tokenizer = Tokenizer.from_file(str(ROOT / "tinylab/assets/tiny/tokenizer.json"))
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>")
    config = LlamaConfig(vocab_size=len(words), initializer_range=0.2, pad_token_id=None, hidden_size=32, intermediate_size=64,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "models/small")
    words.save_pretrained(tmp_path / "models/small")
    return tmp_path / "models"


@pytest.mark.slow
def test_whole_runs_give_the_numbers_of_a_plain_script_beside_them(small_model: Path, tmp_path: Path) -> None:
    document, raw = tmp_path / "benchmarks.md", tmp_path / "raw.json"
    document.write_text("# Before\n")
    command = [sys.executable, str(ROOT / "benchmarks/end_to_end.py"), "--models", "small", "--pairs", "6", "--rounds", "1",
               "--threads", "1", "--out", str(document), "--raw", str(raw)]
    environment = {**os.environ, "TINYLAB_REAL_MODELS": str(small_model)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cases = json.loads(raw.read_text(encoding="utf-8"))["cases"]
    sizes = [(case["model"], case["battery"], case["interventions"], case["pairs"], case["engine"]) for case in cases]
    assert sizes == [("small", "h1", 8, 6, "forked"), ("small", "h2", 2, 6, "forked")]
    for case in cases:
        assert case["difference"] <= 1e-5, case  # logits of order 1 in float32
        assert case["effect"] > 0.1, case
        assert case["states"] > 1, case
        for seconds in ("start", "plain", "first", "second", "engine_first", "engine_second"):
            assert len(case[seconds]) == 1 and case[seconds][0] > 0, case
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# Before\n") and text.count(f"## {end_to_end.TITLE}") == 1
    assert "| small | H1 all heads | 8 × 6 | 1 |" in text and "| small | H2 layer_resid last | 2 × 6 | 1 |" in text
    assert str(ROOT) not in text


def numbers(*values: float, example: int = 7) -> pd.DataFrame:
    """Logit differences of heads 0, 1, … of layer 0 on one example."""
    index = pd.MultiIndex.from_tuples([(0, head, example) for head in range(len(values))], names=["layer", "head", "example"])
    return pd.DataFrame({"value": values, "baseline": 1.0}, index=index)


@pytest.mark.parametrize(("first", "second", "told"), [
    (numbers(2.0, 3.002), numbers(2.0, 3.0), "differ by 0.002 logits, more than 0.001"),
    (numbers(2.0, 3.0), numbers(2.0, 3.002), "differ by 0.002 logits, more than 0.001"),
    (numbers(2.0, float("nan")), numbers(2.0, 3.0), "differ by nan logits"),
    (numbers(2.0), numbers(2.0, 3.0), "has 1 logit differences, the plain script 2"),
    (numbers(2.0, 3.0, example=8), numbers(2.0, 3.0), "of other interventions or rows"),
], ids=["first", "second", "no number", "fewer", "other rows"])
def test_numbers_that_are_not_those_of_the_plain_script_are_no_measurement(
    first: pd.DataFrame, second: pd.DataFrame, told: str
) -> None:
    case, told_of = end_to_end.Case("small", "h1", 1), {"engine": "forked", "engine_seconds": 1.0}
    with pytest.raises(Failed, match=told):
        case.add(Ran(1.0, first, told_of, 1), Ran(1.0, numbers(2.0, 3.0), {}, 1), Ran(1.0, second, told_of, 1))
    assert not case.plain


@pytest.mark.parametrize(("first", "second", "good"), [
    (None, None, True), (False, True, True), (True, True, False), (False, False, False), (False, None, False),
])
def test_a_second_run_is_one_that_found_what_the_first_kept(first: bool | None, second: bool | None, good: bool) -> None:
    def ran(cached: bool | None) -> Ran:
        checked = None if cached is None else {"verdict": "pass", "cached": cached}
        return Ran(1.0, numbers(2.0), {"engine": "forked", "engine_seconds": 1.0, "self_check": checked}, 1)

    case = end_to_end.Case("small", "h1", 1)
    if good:
        case.add(ran(first), Ran(2.0, numbers(2.0), {}, 2), ran(second))
    else:
        with pytest.raises(Failed, match=f"first run: {first}, for the second: {second}"):
            case.add(ran(first), Ran(2.0, numbers(2.0), {}, 2), ran(second))
    assert len(case.second) == good


def test_ratios_are_of_medians_and_beside_their_targets() -> None:
    case, told_of = end_to_end.Case("small", "h2", 1), {"engine": "forked", "engine_seconds": 0.5}
    for plain, first, second in ((60, 20, 10), (61, 21, 11), (600, 20, 10)):
        ran = [Ran(seconds, numbers(2.0, 3.0), told_of, states)
               for seconds, states in ((first, 40), (plain, 90), (second, 40))]
        case.add(ran[0], ran[1], ran[2])
        case.start.append(plain / 4)
    assert case.row() == (
        "small", "H2 layer_resid last", "2 × 1", "3", "–", "15.25 (15.00 to 150.00)",
        "61.00 (60.00 to 600.00)", "20.00 (20.00 to 21.00)", "10.00 (10.00 to 11.00)",
        "3.05 (≥ 3: met)", "6.10 (≥ 6: met)", "4.00", "2.25", "0.0e+00", "2.0e+00",
    )


@pytest.mark.slow
def test_a_run_on_a_model_that_was_made_for_it_is_measured_beside_a_plain_script(tmp_path: Path) -> None:
    document, raw = tmp_path / "benchmarks.md", tmp_path / "raw.json"
    words = ROOT / "tinylab/assets/tiny"
    large.main(["--quick", "--words", str(words), "--threads", "1", "--out", str(document), "--raw", str(raw)])
    found = json.loads(raw.read_text(encoding="utf-8"))
    shape = large.QUICK
    width, heads, groups = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    block = 2 * width + 3 * width * shape["intermediate_size"] + 2 * width * shape["head_dim"] * (heads + groups)
    count = len(PreTrainedTokenizerFast(tokenizer_file=str(words / "tokenizer.json")))
    assert found["parameters"] == shape["num_hidden_layers"] * block + width * (count + 1)
    assert 0 < found["weights"] - 2 * found["parameters"] < 10_000  # bytes; the file's header
    assert found["difference"] <= 0.01 < found["effect"]  # logits of order 0.1, of which bfloat16 has 8 bits
    for process in ("lab", "plain"):
        assert found[process]["seconds"] > 0 and 100 < found[process]["peak"] / 2**20 < 2_000
    assert document.read_text(encoding="utf-8").count(f"## {large.TITLE}") == 1
    assert str(ROOT) not in document.read_text(encoding="utf-8")


@pytest.mark.parametrize(("found", "told"), [
    (numbers(2.0, 3.3), "differ by 0.3 logits, more than 0.2"), (numbers(2.0, float("nan")), "differ by nan logits"),
    (numbers(2.0), "has 1 logit differences, the plain script 2"), (numbers(2.0, 3.0, example=8), "of other layers or rows"),
], ids=["apart", "no number", "fewer", "other rows"])
def test_numbers_of_a_large_model_that_are_not_the_plain_scripts_are_no_measurement(found: pd.DataFrame, told: str) -> None:
    with pytest.raises(Failed, match=told):
        large.apart(found, numbers(2.0, 3.0))
    assert large.apart(numbers(2.0, 3.1), numbers(2.0, 3.0)) == pytest.approx(0.1)


def test_a_model_that_is_not_there_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TINYLAB_REAL_MODELS", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        end_to_end.main(["--models", "nothing"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'nothing'}: no model; `make real-models` fetches")


def test_each_command_leaves_the_others_part_of_the_document(tmp_path: Path) -> None:
    document, console = tmp_path / "benchmarks.md", Console(quiet=True)

    def bench() -> str:
        write(Results("gpt2", "cpu", "float32"), document, tmp_path / "raw.json", console)
        return document.read_text(encoding="utf-8")

    alone = bench()
    document.write_text(put(alone, "## End\n\nold"), encoding="utf-8")
    both = bench()
    assert both.startswith(alone.rstrip()) and both.count("## End\n\nold") == 1
    assert put(both, "## End\n\nnew") == both.replace("old", "new")
    assert bench() == both
    document.write_text(put(both, "## Large\n\n1", LARGE), encoding="utf-8")
    three = bench()
    assert three.startswith(both.rstrip()) and "<!-- make bench-large -->\n\n## Large\n\n1\n\n<!-- end" in three
    assert put(put(three, "## End\n\nnew"), "## Large\n\n2", LARGE) == three.replace("old", "new").replace("\n1\n", "\n2\n")
    assert bench() == three
    document.write_text(both.replace("<!-- end of make bench-real -->", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="put back the one that is missing"):
        bench()
