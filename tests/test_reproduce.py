"""Published numbers: what is shipped is whole, and the command runs, compares and says what it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from conftest import only
from tinylab import load_run, reproduce
from tinylab.checks import published
from tinylab.config.groups import ModelConfig
from tinylab.embedded.greater_than import FRAME, NOUNS
from tinylab.embedded.published import FILES, write
from tinylab.models.loading import skeleton
from tinylab.planted.closed_forms import LEDGER_LEVEL, LEDGER_RECOVERY, TOLERANCE, ledger_scaled
from tinylab.task.corpus import load_condition
from tinylab.task.preparation import prepare
from typed import composed, snapshot, type_in_shell

NEED_WEIGHTS = [name for name in published.names() if published.load(name).weights is not None]


def reproduced(folder: Path, *words: str) -> int:
    """`python -m tinylab.reproduce …` in this process, from a folder; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        patch.chdir(folder)
        return reproduce.main(words)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `gpt`, `xl` and `qwen`: random models with the layers of GPT-2 small and XL and of Qwen2.5 1.5B.

    Tokens are words; of years, the century and what follows it.
    """
    folder = tmp_path_factory.mktemp("desk")
    text = [row[field] for name, rows in FILES.items() for row in rows if name != "greater_than"
            for field in ("clean", "corrupt", "target", "foil")]
    text += [*(FRAME.format(noun=noun, began="") for noun in NOUNS), *(f"{year:02d}" for year in range(100))] * 2
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")
    ends = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 0}
    gpt, xl = (GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=48, n_layer=layers, n_head=12, **ends)) for layers in (12, 48))
    qwen = Qwen2ForCausalLM(Qwen2Config(hidden_size=48, intermediate_size=96, num_hidden_layers=28, num_attention_heads=12,
                                        num_key_value_heads=2, max_position_embeddings=64, **ends))
    for name, model in (("gpt", gpt), ("xl", xl), ("qwen", qwen)):
        numbers = torch.Generator().manual_seed(0)
        for weights in model.parameters():
            if weights.dim() > 1:  # by hand: versions of transformers draw them in different orders
                weights.data.normal_(0.0, 0.5, generator=numbers)
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    return folder


OWN_WEIGHTS = ("model=local", "model.path=gpt", "plots=false", "threads=1")
SMALL = {"openai-community/gpt2": "gpt", "openai-community/gpt2-xl": "xl", "Qwen/Qwen2.5-1.5B": "qwen"}
"""The stand-in of each model of the hub."""


def own_weights(name: str) -> tuple[str, ...]:
    """The stand-in's weights for an experiment."""
    return "model=local", f"model.path={SMALL[str(composed(f'experiment={name}').model.name)]}", "plots=false", "threads=1"


# --- what is shipped ---


@pytest.mark.parametrize("name", published.names())
def test_every_published_number_names_one_cell_of_an_experiment_that_composes(name: str) -> None:
    config = composed(f"experiment={name}")
    assert config.run_name == name
    shipped = published.load(name)
    assert shipped.title and shipped.source and shipped.tolerances
    for number in shipped.numbers:
        if number.run is None:
            assert set(number.cell) == set(config.battery.table.keys)
            assert number.metric in config.metric_names
        else:
            assert number.run in ("clean", "corrupt") and number.cell == {}
            assert number.metric in ("logit_diff", published.ANSWER, *config.metric_names)
        assert number.tolerance > 0
    places = [(number.place, number.metric) for number in shipped.numbers]
    assert len(set(places)) == len(places) > 0


@pytest.mark.parametrize("name", NEED_WEIGHTS)
def test_a_users_own_weights_take_the_place_of_the_hubs(name: str) -> None:
    own = composed(f"experiment={name}", "model=local", "model.path=my_model")
    hub = composed(f"experiment={name}")
    assert (own.model.path, own.model.name) == ("my_model", None)
    assert f"({hub.model.name})" in str(published.load(name).weights) and hub.model.name in SMALL
    assert replace(own.model, path=None, name=hub.model.name, add_bos=hub.model.add_bos) == hub.model
    assert own.model.add_bos == hub.model.add_bos or name == "mcqa_heads"  # auto: a tokenizer without BOS puts none
    assert (own.battery, own.condition) == (hub.battery, hub.condition)


def test_the_shipped_prompts_are_those_that_the_code_writes(tmp_path: Path) -> None:
    write(tmp_path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_bytes() for file in published.FOLDER.glob("*.jsonl")}
    rows = FILES["ioi_demo"]
    assert len({row["clean"] for row in rows}) == 8 == len(rows)
    assert {row["clean"] for row in rows} == {row["corrupt"] for row in rows}  # so the two unmodified runs are mirror images


@pytest.mark.parametrize("name", ["planted_ledger", "planted_ledger_patch"])
def test_the_planted_numbers_are_the_closed_forms(name: str) -> None:
    for number in published.load(name).numbers:
        assert number.tolerance == TOLERANCE
        if number.run is not None:
            assert number.value == {"clean": LEDGER_LEVEL, "corrupt": -LEDGER_LEVEL}[number.run]
            continue
        assert number.layer is not None and number.head is not None and number.scale is not None
        head = (number.layer, number.head)
        closed = LEDGER_RECOVERY[head] if number.metric == "recovery" else ledger_scaled(head, number.scale)
        assert number.value == pytest.approx(closed, abs=1e-15)


# --- the command ---


def test_without_a_name_it_lists_what_can_be_reproduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduced(tmp_path) == 0
    said = capsys.readouterr().out
    assert [name for name in published.names() if name not in said] == []
    assert [hub for hub in SMALL if hub not in said] == []
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "unknown name": (["ioi_rseid"], ["ioi_rseid", "did you mean 'ioi_resid'", *published.names()]),
    "no name": (["model=local"], ["model=local", *published.names()]),
    "experiment without published numbers": (["scan_h1"], ["scan_h1", *published.names()]),
    "another experiment": (["ioi_resid", "experiment=h2_with_verify"], ["experiment=h2_with_verify", "ioi_resid"]),
    "a sweep": (["ioi_resid", "model=tiny", "hydra.mode=MULTIRUN"], ["hydra.mode=MULTIRUN", "single run"]),
    "mistyped key": (["ioi_resid", "model=tiny", "battery.layrs=[0]"], ["battery.layrs", "did you mean 'layers'"]),
    "no such folder": (["ioi_resid", "model=local", "model.path=nowhere"], ["model.path=nowhere", "no such folder"]),
    "no such config folder": (["ioi_resid", "--config-dir", "nowhere"], ["--config-dir nowhere"]),
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_exit_code_2_and_nothing_written(
    words: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(tmp_path, *words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("tinylab.reproduce: ") and said.err.count("\n") == 1, said.err
    assert [word for word in expected if word not in said.err] == [], said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["tinylab.reproduce", "ioi_resid"], ["tinylab", "experiment=ioi_resid"]])
def test_without_weights_it_says_in_one_sentence_what_it_needs(command: list[str], tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = type_in_shell(tmp_path, "-m", *command, **offline)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    for word in (f"{command[0]}: ", "openai-community/gpt2", "connect once", "model=local model.path=<folder>"):
        assert word in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


@pytest.mark.parametrize("name", ["planted_ledger", "planted_ledger_patch"])
def test_the_planted_numbers_are_reproduced_by_a_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduced(tmp_path, name, "plots=false", "threads=1") == 0
    said = capsys.readouterr().out
    count = len(published.load(name).numbers)
    assert said.count("agrees") == count and f"{count} of {count} numbers agree" in said


@pytest.mark.parametrize("name", NEED_WEIGHTS)
def test_with_other_weights_the_experiment_runs_through_and_disagrees(
    name: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = own_weights(name)
    assert reproduced(desk, name, *own) == 1
    said = capsys.readouterr().out
    run = only(desk, f"outputs/runs/{name}_{'[0-9a-f]' * 12}")
    comparisons = published.compare(published.load(name), load_run(str(run)))
    assert all(one.found is not None for one in comparisons)
    assert said.count("differs") == sum(not one.agrees for one in comparisons) > 0
    assert "not in this run" not in said
    assert f"{sum(one.agrees for one in comparisons)} of {len(comparisons)} numbers agree" in said
    for one in comparisons:
        assert f"{one.found:.4f}" in said
    before = snapshot(run)
    assert reproduced(desk, name, *own) == 1
    assert {path: seen for path, seen in snapshot(run).items() if path != "run.log"} == {
        path: seen for path, seen in before.items() if path != "run.log"
    }


Part = tuple[Any, str, slice, slice]
"""A module, its side (`in` or `out`), positions and columns of what it gets or gives."""


def put(hidden: torch.Tensor, kept: list[torch.Tensor], part: Part) -> torch.Tensor:
    """The first activation that comes by is kept; of every other one the part is that one's."""
    kept.append(hidden.clone())
    changed = hidden.clone()
    changed[:, part[2], part[3]] = kept[0][:, part[2], part[3]]
    return changed


def patched_level(model: Any, tokenizer: Any, part: Part) -> float:
    """The demo's mean logit difference in its corrupt prompts, with part of a module's activation taken from the clean ones.

    The plain way: one hook, all eight prompts in a batch, as they are equally long.
    """
    kept: list[torch.Tensor] = []

    def before(_module: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        return (put(inputs[0], kept, part), *inputs[1:])

    def behind(_module: Any, _inputs: Any, output: Any) -> Any:
        return (put(output[0], kept, part), *output[1:]) if isinstance(output, tuple) else put(output, kept, part)

    module = part[0]
    hook = module.register_forward_pre_hook(before) if part[1] == "in" else module.register_forward_hook(behind)
    for side in ("clean", "corrupt"):
        logits = model(torch.tensor([[0, *tokenizer.encode(row[side])] for row in FILES["ioi_demo"]])).logits[:, -1]
    hook.remove()
    return mean_difference(logits, tokenizer)


def mean_difference(logits: torch.Tensor, tokenizer: Any) -> float:
    right, wrong = (torch.tensor([tokenizer.encode(row[side]) for row in FILES["ioi_demo"]]) for side in ("target", "foil"))
    return float((logits.gather(1, right) - logits.gather(1, wrong)).mean())


EVERYWHERE = slice(None)
LAST = slice(-1, None)


def part_of(name: str, block: Any, number: published.Expected) -> Part:
    """What an experiment patches for one of its numbers: 12 heads of width 4, queries, keys and values side by side."""
    begin = 4 * (number.head or 0)
    own, keys, values = (slice(start + begin, start + begin + 4) for start in (0, 48, 96))
    at = slice(0) if number.position is None else slice(number.position, number.position + 1)
    return {
        "ioi_patch": (block.attn.c_proj, "in", EVERYWHERE, own),
        "ioi_resid": (block, "out", LAST, EVERYWHERE),
        "ioi_resid_grid": (block, "in", at, EVERYWHERE),
        "ioi_attn_grid": (block.attn, "out", at, EVERYWHERE),
        "ioi_mlp_grid": (block.mlp, "out", at, EVERYWHERE),
        "ioi_queries": (block.attn.c_attn, "out", EVERYWHERE, own),
        "ioi_keys": (block.attn.c_attn, "out", EVERYWHERE, keys),
        "ioi_values": (block.attn.c_attn, "out", EVERYWHERE, values),
    }[name]


PATCHED = ("ioi_patch", "ioi_resid", "ioi_resid_grid", "ioi_attn_grid", "ioi_mlp_grid", "ioi_queries", "ioi_keys", "ioi_values")


@pytest.mark.parametrize("name", PATCHED)
def test_the_run_computes_what_the_source_describes(name: str, desk: Path) -> None:
    assert reproduced(desk, name, *OWN_WEIGHTS) == 1
    run = load_run(str(only(desk, f"outputs/runs/{name}_{'[0-9a-f]' * 12}")))
    model = GPT2LMHeadModel.from_pretrained(desk / "gpt").eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(desk / "gpt")
    clean, corrupt = (run.summary["baselines"][side]["logit_diff"]["mean"] for side in ("clean", "corrupt"))
    assert clean == pytest.approx(-corrupt, abs=1e-5)
    checked = 0
    for number in published.load(name).numbers:
        if number.layer is not None:
            level = patched_level(model, tokenizer, part_of(name, model.transformer.h[number.layer], number))
            recovery = (level - corrupt) / (clean - corrupt)
            assert number.found_in(run) == pytest.approx(recovery, abs=1e-4)
            checked += 1
    assert checked > 10


def test_a_name_movers_head_is_zeroed_at_the_last_position_and_its_value_bias_stays(desk: Path) -> None:
    assert reproduced(desk, "ioi_backup", *OWN_WEIGHTS) == 1
    run = load_run(str(only(desk, f"outputs/runs/ioi_backup_{'[0-9a-f]' * 12}")))
    model = GPT2LMHeadModel.from_pretrained(desk / "gpt").eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(desk / "gpt")
    attention, own = model.transformer.h[9].attn, slice(36, 40)
    bias = attention.c_attn.bias[96 + own.start : 96 + own.stop]

    def zero(_module: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        z = inputs[0].clone()
        z[:, -1, own] = bias
        return (z,)

    hook = attention.c_proj.register_forward_pre_hook(zero)
    logits = model(torch.tensor([[0, *tokenizer.encode(row["clean"])] for row in FILES["ioi_demo"]])).logits[:, -1]
    hook.remove()
    (number,) = (number for number in published.load("ioi_backup").numbers if number.layer is not None)
    assert number.found_in(run) == pytest.approx(mean_difference(logits, tokenizer), abs=1e-4)


def test_four_heads_are_zeroed_together_at_the_last_token_of_the_question(desk: Path) -> None:
    assert reproduced(desk, "mcqa_heads", *own_weights("mcqa_heads")) == 1
    run = load_run(str(only(desk, f"outputs/runs/mcqa_heads_{'[0-9a-f]' * 12}")))
    model = Qwen2ForCausalLM.from_pretrained(desk / "qwen").eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(desk / "qwen")
    (row,) = FILES["mcqa_demo"]
    ids = torch.tensor([tokenizer.encode(row["clean"])])
    z, m = (tokenizer.encode(word)[0] for word in (" Z", " M"))
    before = model(ids).logits[0, -1]
    hooks = []
    for layer, heads in ((21, (9, 11)), (22, (7, 9))):
        def zero(_module: Any, inputs: tuple[torch.Tensor, ...], heads: tuple[int, ...] = heads) -> Any:
            values = inputs[0].clone()
            for head in heads:
                values[:, -1, 4 * head : 4 * head + 4] = 0
            return (values,)

        hooks.append(model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(zero))
    after = model(ids).logits[0, -1]
    for hook in hooks:
        hook.remove()
    level = run.impact.query("metric == 'logit_diff'")["value"].item()
    assert level == pytest.approx(float(after[z] - after[m]), abs=1e-4)
    assert abs(level - float(before[z] - before[m])) > 0.1
    before, after = before.softmax(-1), after.softmax(-1)
    expected = [float(before[z] - before[m]), float(before[z] - after[z]), float(after[z] - after[m])]
    assert [number.found_in(run) for number in published.load("mcqa_heads").numbers] == pytest.approx(expected, rel=1e-3)


def test_three_mlps_are_zeroed_together_at_the_last_token_of_the_subject(desk: Path) -> None:
    assert reproduced(desk, "rome_mlps", *own_weights("rome_mlps")) == 1
    run = load_run(str(only(desk, f"outputs/runs/rome_mlps_{'[0-9a-f]' * 12}")))
    model = GPT2LMHeadModel.from_pretrained(desk / "xl").eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(desk / "xl")
    ids = torch.tensor([tokenizer.encode("The Space Needle is in downtown")])
    (seattle,) = tokenizer.encode(" Seattle")
    place = tokenizer.convert_ids_to_tokens(ids[0].tolist()).index("ĠNeedle")  # of GPT-2's own tokens the fourth, le

    def zero(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, place] = 0
        return changed

    before = model(ids).logits[0, -1].softmax(-1)[seattle]
    hooks = [model.transformer.h[layer].mlp.register_forward_hook(zero) for layer in (13, 14, 15)]
    after = model(ids).logits[0, -1].softmax(-1)[seattle]
    for hook in hooks:
        hook.remove()
    expected = [float(before), float(before - after)]
    assert abs(expected[1]) > 1e-4 * expected[0]
    assert [number.found_in(run) for number in published.load("rome_mlps").numbers] == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_later_years_stand_against_the_year_itself_and_earlier_ones(desk: Path) -> None:
    assert reproduced(desk, "greater_than", *OWN_WEIGHTS) == 1
    run = load_run(str(only(desk, f"outputs/runs/greater_than_{'[0-9a-f]' * 12}")))
    model = GPT2LMHeadModel.from_pretrained(desk / "gpt").eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(desk / "gpt")
    digits = [tokenizer.encode(f"{year:02d}") for year in range(100)]
    assert all(len(one) == 1 for one in digits)
    prompts = torch.tensor([[0, *tokenizer.encode(row["clean"])] for row in FILES["greater_than"]])
    likely = model(prompts).logits[:, -1].softmax(-1)[:, torch.tensor(digits).ravel()]
    began = [int(row["clean"].split()[6][2:]) for row in FILES["greater_than"]]
    differences = [float(own[year + 1 :].sum() - own[: year + 1].sum()) for own, year in zip(likely, began, strict=True)]
    (number,) = published.load("greater_than").numbers
    assert number.found_in(run) == pytest.approx(np.mean(differences), abs=1e-5)


def test_the_prompts_of_greater_than_are_a_thousand_with_years_on_both_sides() -> None:
    rows = FILES["greater_than"]
    assert len({row["clean"] for row in rows}) == len(rows) == 1000
    assert {row["noun"] for row in rows} == set(NOUNS)
    for row in rows:
        began = row["clean"].removeprefix(f"The {row['noun']} lasted from the year 17")[:2]
        assert row["clean"] == f"The {row['noun']} lasted from the year 17{began} to the year 17"
        assert row["corrupt"] == f"The {row['noun']} lasted from the year 1701 to the year 17"
        assert row["foil"] + row["target"] == [f"{year:02d}" for year in range(100)] and row["foil"][-1] == began
        assert 2 <= int(began) <= 98
    began = [int(row["foil"][-1]) for row in rows]
    assert {*began} == {*range(2, 99)} and abs(np.mean(began) - 50) < 3


def test_the_subject_of_greater_than_is_the_second_half_of_the_year(desk: Path) -> None:
    """For a tokenizer that has such a half, as GPT-2's has."""
    config = composed("condition=greater_than", "battery=h2", "battery.positions=subject.last", "controls=none", "model=local",
                      f"model.path={desk / 'gpt'}", "model.add_bos=true", "metrics=[logprob_diff]")
    loaded = skeleton(ModelConfig(path=str(desk / "gpt"), add_bos=True))
    condition = load_condition(config.condition)
    ready = prepare(config, replace(condition, pairs=condition.pairs[::25]), loaded)
    assert ready.condition.dropped == {} and ready.kept == 40
    for pair, row in zip(ready.tokens, FILES["greater_than"][::25], strict=True):
        (name, (place,)), = pair.prompt("clean").spans
        assert name == "subject" and loaded.spelt([pair.clean[place]]) == [row["foil"][-1]]


@pytest.mark.parametrize(("name", "start"), [("ioi_with_bos", [0]), ("ioi_without_bos", [])])
def test_the_level_is_read_with_and_without_bos(name: str, start: list[int], desk: Path) -> None:
    assert reproduced(desk, name, *OWN_WEIGHTS) == 1
    run = load_run(str(only(desk, f"outputs/runs/{name}_{'[0-9a-f]' * 12}")))
    model = GPT2LMHeadModel.from_pretrained(desk / "gpt").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(desk / "gpt")
    (row,) = FILES["bos_demo"]
    assert row["target"] == " Claire" and row["clean"].startswith("Claire and Mary")
    with torch.no_grad():
        logits = model(torch.tensor([[*start, *tokenizer.encode(row["clean"])]])).logits[0, -1]
    right, wrong = (tokenizer.encode(row[side])[0] for side in ("target", "foil"))
    (number,) = published.load(name).numbers
    assert number.found_in(run) == pytest.approx(float(logits[right] - logits[wrong]), abs=1e-4)


def as_expected(run: Path, offset: float, tolerance: float) -> list[dict[str, Any]]:
    """A run's own recovery and baselines as if they had been published, all off by as much."""
    found = load_run(str(run))
    assert found.layer_impact is not None
    rows = found.layer_impact[found.layer_impact["metric"] == "recovery"]
    numbers = [{"layer": int(row.layer), "granularity": str(row.granularity), "metric": "recovery",
                "value": float(row.value) + offset, "tolerance": tolerance} for row in rows.itertuples()]
    levels = json.loads((run / "metrics/summary.json").read_text())["baselines"]
    return numbers + [{"run": side, "metric": "logit_diff", "value": levels[side]["logit_diff"]["mean"] + offset,
                       "tolerance": tolerance} for side in ("clean", "corrupt")]


def publish(folder: Path, numbers: Sequence[dict[str, Any]], patch: pytest.MonkeyPatch) -> None:
    """Put other numbers in the place of those of ioi_resid."""
    content = {**asdict(published.load("ioi_resid")), "numbers": list(numbers)}
    (folder / "ioi_resid.yaml").write_text(yaml.safe_dump(content))
    patch.setattr(published, "FOLDER", folder)


@pytest.mark.parametrize(("offset", "code"), [(0.009, 0), (-0.009, 0), (0.011, 1), (-0.011, 1)])
def test_numbers_agree_up_to_their_tolerance_and_not_beyond(
    offset: float, code: int, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(desk, "ioi_resid", *OWN_WEIGHTS) == 1
    numbers = as_expected(only(desk, f"outputs/runs/ioi_resid_{'[0-9a-f]' * 12}"), offset, tolerance=0.01)
    publish(tmp_path, numbers, monkeypatch)
    capsys.readouterr()
    assert reproduced(desk, "ioi_resid", *OWN_WEIGHTS) == code
    assert f"{0 if code else len(numbers)} of {len(numbers)} numbers agree" in capsys.readouterr().out


def test_one_wrong_number_is_enough_to_disagree(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(desk, "ioi_resid", *OWN_WEIGHTS) == 1
    numbers = as_expected(only(desk, f"outputs/runs/ioi_resid_{'[0-9a-f]' * 12}"), 0.0, tolerance=0.01)
    numbers[3]["value"] += 1.0
    publish(tmp_path, numbers, monkeypatch)
    capsys.readouterr()
    assert reproduced(desk, "ioi_resid", *OWN_WEIGHTS) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if "differs" in line]
    assert len(wrong) == 1 and "layer 3" in wrong[0] and "-1.0e+00" in wrong[0]


def test_a_number_that_the_run_does_not_have_never_agrees(
    desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("ioi_resid", "model=local", f"model.path={desk / 'gpt'}", "plots=false", "threads=1", "battery.layers=[0]")
    assert reproduced(tmp_path, *words) == 1
    said = capsys.readouterr().out
    assert said.count("not in this run") == 10
    assert said.count("layer 0, layer_resid") == 1


def test_a_dry_run_tells_the_cost_and_compares_nothing(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ioi_resid", "model=local", f"model.path={desk / 'gpt'}", "dry_run=true")
    assert reproduced(tmp_path, *words) == 0
    said = capsys.readouterr().out
    assert "states" in said and "numbers agree" not in said
    assert list(tmp_path.iterdir()) == []
