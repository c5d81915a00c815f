"""Named parts of prompts: from words in a row to token positions, and runs that act there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import Command, only, write_jsonl
from tinylab.interventions.variants import Named
from tinylab.paths import locate
from tinylab.results import load_run
from tinylab.task.parts import Words, positions_of, why_not

TINY = locate("pkg://tinylab/assets/tiny")


def test_words_are_found_where_they_stand_first_or_in_the_place_that_is_named() -> None:
    text = "Mary saw Mary and Marygold"
    assert Words("Mary").find(text) == (0, 4)
    assert Words("Mary", 2).find(text) == (9, 13)
    assert Words("Mary", 3).find(text) == (18, 22)
    assert Words("Mary", 4).find(text) is None
    assert Words("aa", 2).find("aaa") == (1, 3)  # places may overlap


def test_tokens_of_words_are_those_that_hold_a_character_of_them() -> None:
    offsets = [(0, 3), (3, 8), (8, 8), (8, 12), (12, 13)]  # the third is empty: a token of no text
    text = "The Spain wins"
    assert positions_of(Words("Spain"), text, text, offsets, 1) == (2, 4)
    assert positions_of(Words("Spa"), text, text, offsets, 0) == (1,)
    assert positions_of(Words("Italy"), text, text, offsets, 0) is None
    turn = f"<user> {text} <end>"
    shifted = [(begin + 7, end + 7) for begin, end in offsets]
    assert positions_of(Words("Spa"), text, turn, shifted, 2) == (3,)


def test_a_pair_without_the_part_or_with_parts_that_do_not_correspond_cannot_be_used() -> None:
    assert why_not(Named("subject", "last"), [1, None]) == "no part 'subject'"
    assert why_not(Named("subject", "all"), [1, 2]) == "part 'subject' of unequal lengths"
    assert why_not(Named("subject", "last"), [1, 2]) is None and why_not(Named("subject", "all"), [2, 2]) is None


def rows() -> list[dict[str, Any]]:
    """Pairs of the embedded model's words, of unequal lengths; the third has no part."""
    names = [("Anne", "Ryan"), ("Jessica", "Ryan"), ("Michael", "Jacob"), ("Anne", "Michael")]
    found = []
    for number, (one, other) in enumerate(names):
        clean = f"After {one} and {other} arrived at the airport, {other} brought a drink to"
        corrupt = f"{one} and {other} arrived at the airport, {one} brought a drink to"
        row = {"clean": clean, "corrupt": corrupt, "target": f" {one}", "foil": f" {other}", "template": f"t{number % 2}",
               "spans": {"first": [one, one], "again": [[other, 2], [one, 2]]}}
        found.append(row if number != 2 else {name: value for name, value in row.items() if name != "spans"})
    return found


def levels(run_folder: Path) -> dict[int, dict[int, float]]:
    run = load_run(run_folder)
    table = run.per_example.query("metric == 'logit_diff' and control == 'none'")
    return {int(layer): dict(zip(own["example"], own["value"], strict=True)) for layer, own in table.groupby("layer")}


@pytest.mark.parametrize("part", ["again.last", "first.all"])
def test_a_patch_acts_where_the_parts_of_pairs_of_unequal_length_correspond(tmp_path: Path, tinylab: Command, part: str) -> None:
    corpus = write_jsonl(tmp_path / "pairs.jsonl", rows())
    assert tinylab("battery=h2", "condition=jsonl", f"condition.path={corpus}", f"battery.positions={part}", "plots=false",
                   "controls=none", "output_dir=out") == 0
    folder = only(tmp_path, "out/runs/*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["positions"] == part
    assert manifest["provenance"]["corpus"]["dropped"] == {f"no part {part.split('.', maxsplit=1)[0]!r}": 1}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    found = levels(folder)
    for number, row in enumerate(rows()):
        if "spans" not in row:
            assert number not in found[0]
            continue
        texts = (row["clean"], row["corrupt"])
        clean, corrupt = ([tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)] for text in texts)
        assert len(clean) != len(corrupt)
        name = {"again.last": (row["foil"], row["target"]), "first.all": (row["target"], row["target"])}[part]
        word = [tokenizer.encode(one, add_special_tokens=False) for one in name]
        assert all(len(ids) == 1 for ids in word)
        place = -1 if part == "again.last" else 0
        at = [[t for t, token in enumerate(ids) if tokenizer.decode(token).strip() == one.strip()][place]
              for ids, one in zip((clean, corrupt), name, strict=True)]
        for layer in range(2):
            logits = patched(model, clean, corrupt, layer, at)
            target, foil = (tokenizer.encode(row[side], add_special_tokens=False)[0] for side in ("target", "foil"))
            assert found[layer][number] == pytest.approx(float(logits[target] - logits[foil]), abs=1e-4)


def patched(model: Any, clean: list[int], corrupt: list[int], layer: int, at: list[int]) -> torch.Tensor:
    """Logits of the corrupt prompt's last token, with a block's output at one token from the clean run; hooks written here."""
    kept: list[torch.Tensor] = []
    block = model.transformer.h[layer]

    def first(output: Any) -> torch.Tensor:
        return output[0] if isinstance(output, tuple) else output

    handle = block.register_forward_hook(lambda _m, _a, output: kept.append(first(output).clone()))
    with torch.no_grad():
        model(input_ids=torch.tensor([clean]))
    handle.remove()

    def overwrite(_module: Any, _args: Any, output: Any) -> Any:
        hidden = first(output).clone()
        hidden[0, at[1]] = kept[0][0, at[0]]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(overwrite)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([corrupt])).logits[0, -1]
    handle.remove()
    return logits


def test_a_csv_has_parts_as_json(tmp_path: Path, tinylab: Command) -> None:
    table = pd.DataFrame([{**row, "spans": json.dumps(row["spans"]) if "spans" in row else None} for row in rows()])
    table.to_csv(tmp_path / "pairs.csv", index=False)
    write_jsonl(tmp_path / "pairs.jsonl", rows())
    for suffix in ("csv", "jsonl"):
        assert tinylab("battery=h1", "condition=jsonl", f"condition.path={tmp_path / f'pairs.{suffix}'}", "battery.layers=[0]",
                       "battery.positions=first.last", "plots=false", "controls=none", f"output_dir={suffix}") == 0
    one, other = (load_run(only(tmp_path, f"{suffix}/runs/*")).per_example["value"] for suffix in ("csv", "jsonl"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("spans", "said"), [
    ("subject", "is not JSON"), ([1], "is a list"), ({"sub ject": ["a", "b"]}, "expected letters"),
    ({"subject": ["a"]}, "expected its words"),
    ({"subject": ["a", ["b", 0]]}, "which place of theirs"), ({"subject": ["a", ""]}, "which place of theirs"),
])
def test_parts_that_are_none_are_one_sentence(
    tmp_path: Path, tinylab: Command, capsys: pytest.CaptureFixture[str], spans: Any, said: str
) -> None:
    corpus = write_jsonl(tmp_path / "pairs.jsonl", [{**rows()[0], "spans": spans}])
    assert tinylab("battery=h2", "condition=jsonl", f"condition.path={corpus}", "battery.positions=subject.last") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and said in told[0] and "line 1" in told[0]
    assert not (tmp_path / "outputs").exists()


def test_positions_at_a_part_that_no_row_names_are_an_error(
    tmp_path: Path, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_jsonl(tmp_path / "pairs.jsonl", rows())
    assert tinylab("battery=h2", "condition=jsonl", f"condition.path={corpus}", "battery.positions=subject.last") == 2
    assert "no part 'subject': 4" in capsys.readouterr().err
