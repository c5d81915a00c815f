"""Ablations, a grid and a pair of heads on a trained model, against transformers' own model with hooks written here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import REAL, Command, only, write_jsonl
from tinylab.task.reading import read_rows

pytestmark = pytest.mark.real
LAYER = 17
HEADS = ((17, 0), (24, 5))
TOLERANCE = 5e-5
"""Of a logit difference: logits are of the order of 20 in float32, and the batches of the two computations differ."""

Change = Callable[[torch.Tensor], torch.Tensor]


class Plain:
    """SmolLM2 as transformers runs it: one prompt at a time, no BOS."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.width = self.model.config.head_dim

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def difference(self, text: str, row: dict[str, Any]) -> float:
        logits = self.model(torch.tensor([self.ids(text)]), use_cache=False).logits[0, -1].double()
        target, foil = (self.ids(row[key])[0] for key in ("target", "foil"))
        return float(logits[target] - logits[foil])

    def mlp(self, layer: int) -> Any:
        return self.model.model.layers[layer].mlp

    def projection(self, layer: int) -> Any:
        return self.model.model.layers[layer].self_attn.o_proj

    def head(self, head: int) -> slice:
        return slice(head * self.width, (head + 1) * self.width)

    @contextmanager
    def changed(self, module: Any, change: Change, *, side: str) -> Iterator[None]:
        """What a module gets (`in`) or gives (`out`), [T, d], put through a function."""
        def before(_module: object, args: tuple[torch.Tensor, ...]) -> Any:
            return (change(args[0][0].clone())[None], *args[1:])

        def behind(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
            return change(output[0].clone())[None]

        handle = module.register_forward_pre_hook(before) if side == "in" else module.register_forward_hook(behind)
        try:
            yield
        finally:
            handle.remove()

    def activation(self, module: Any, text: str, *, side: str) -> torch.Tensor:
        """In the unmodified run of a prompt, [T, d]."""
        kept: list[torch.Tensor] = []

        def keep(rows: torch.Tensor) -> torch.Tensor:
            kept.append(rows.clone())
            return rows

        with self.changed(module, keep, side=side):
            self.model(torch.tensor([self.ids(text)]), use_cache=False)
        return kept[0]


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(REAL / "smollm2")


@pytest.fixture
def rows(plain: Plain, tmp_path: Path) -> list[dict[str, Any]]:
    """Two prompt pairs of as many tokens, `pairs.jsonl`: the donor of one is the other."""
    found = [row.values for row in read_rows("pkg://tinylab/assets/corpora/ioi.jsonl", []) if row.values["split"] == "test"]
    first = found[0]
    same = (row for row in found[1:] if row["target"] != first["target"]
            and {len(plain.ids(row[side])) for side in ("clean", "corrupt")} == {len(plain.ids(first["clean"]))})
    chosen = [{key: value for key, value in row.items() if key != "split"} for row in (first, next(same))]
    write_jsonl(tmp_path / "pairs.jsonl", chosen)
    return chosen


@pytest.fixture
def ran(tinylab: Command, tmp_path: Path, smollm2: Path) -> Callable[..., Path]:
    """Run a battery on the two pairs; returns the run's folder."""
    def run(name: str, *battery: str) -> Path:
        assert tinylab(f"run_name={name}", *battery, "condition=jsonl", "condition.path=pairs.jsonl", "model=local",
                       f"model.path={smollm2}", "model.add_bos=false", "device=cpu", "plots=false", "metrics=[logit_diff]",
                       "controls=none") == 0
        return only(tmp_path, f"outputs/runs/{name}_*")

    return run


def values(folder: Path, *keys: str) -> dict[Any, float]:
    table = pd.read_parquet(folder / "metrics/per_example.parquet").query("control == 'none'")
    return dict(zip(table[["example", *keys]].itertuples(index=False, name=None), table["value"], strict=True))


@pytest.mark.parametrize("positions", ["last", "all"])
def test_an_mlps_mean_is_that_over_every_token_of_the_clean_prompts(
    positions: str, plain: Plain, rows: list[dict[str, Any]], ran: Callable[..., Path]
) -> None:
    folder = ran("mean", "battery=mlps", f"battery.positions={positions}", f"battery.layers=[{LAYER}]")
    found, module = values(folder), plain.mlp(LAYER)
    mean = torch.cat([plain.activation(module, row["clean"], side="out") for row in rows]).double().mean(dim=0).float()

    def put(output: torch.Tensor) -> torch.Tensor:
        output[-1 if positions == "last" else slice(None)] = mean
        return output

    for number, row in enumerate(rows):
        with plain.changed(module, put, side="out"):
            assert found[(number,)] == pytest.approx(plain.difference(row["clean"], row), abs=TOLERANCE)
        assert abs(found[(number,)] - plain.difference(row["clean"], row)) > 0.01


def test_a_resampled_head_is_what_it_is_in_the_other_example(
    plain: Plain, rows: list[dict[str, Any]], ran: Callable[..., Path]
) -> None:
    heads = [head for layer, head in HEADS if layer == LAYER] + [5]
    folder = ran("resample", "battery=heads", "battery.ablation=resample", f"battery.layers=[{LAYER}]", f"battery.heads={heads}")
    found, module = values(folder, "head"), plain.projection(LAYER)
    for number, row in enumerate(rows):
        donor = plain.activation(module, rows[1 - number]["clean"], side="in")
        for head in heads:
            def put(z: torch.Tensor, head: int = head, donor: torch.Tensor = donor) -> torch.Tensor:
                z[:, plain.head(head)] = donor[:, plain.head(head)]
                return z

            with plain.changed(module, put, side="in"):
                assert found[(number, head)] == pytest.approx(plain.difference(row["clean"], row), abs=TOLERANCE)


def test_a_grids_cells_are_patches_of_one_position_each(
    plain: Plain, rows: list[dict[str, Any]], ran: Callable[..., Path]
) -> None:
    folder = ran("grid", "battery=h2", "battery.granularity=mlp_out", "battery.positions=each", f"battery.layers=[{LAYER}]")
    found, module = values(folder, "position"), plain.mlp(LAYER)
    length = len(plain.ids(rows[0]["clean"]))
    assert found.keys() == {(number, position) for number in range(len(rows)) for position in range(length)}
    for number, row in enumerate(rows):
        source = plain.activation(module, row["clean"], side="out")
        clean, corrupt = plain.ids(row["clean"]), plain.ids(row["corrupt"])
        (differs,) = (at for at, (one, other) in enumerate(zip(clean, corrupt, strict=True)) if one != other)
        changes = []
        for position in (0, differs, differs + 1, length - 1):
            def put(output: torch.Tensor, at: int = position, source: torch.Tensor = source) -> torch.Tensor:
                output[at] = source[at]
                return output

            with plain.changed(module, put, side="out"):
                expected = plain.difference(row["corrupt"], row)
            assert found[(number, position)] == pytest.approx(expected, abs=TOLERANCE)
            changes.append(abs(expected - plain.difference(row["corrupt"], row)))
        assert changes[0] < TOLERANCE < 0.001 < max(changes[1:])  # the prompts begin alike


def test_two_heads_synergy_is_what_both_change_beyond_what_each_changes(
    plain: Plain, rows: list[dict[str, Any]], ran: Callable[..., Path]
) -> None:
    names = ",".join(f"'{layer}.{head}'" for layer, head in HEADS)
    folder = ran("pair", "battery=pairs", f"battery.heads=[{names}]")
    told = pd.read_parquet(folder / "metrics/synergy.parquet")

    def level(row: dict[str, Any], *heads: tuple[int, int]) -> float:
        if not heads:
            return plain.difference(row["clean"], row)
        (layer, head), *rest = heads

        def zero(z: torch.Tensor) -> torch.Tensor:
            z[:, plain.head(head)] = 0
            return z

        with plain.changed(plain.projection(layer), zero, side="in"):
            return level(row, *rest)

    synergies = []
    for row in rows:
        base = level(row)
        joint, first, second = (level(row, *heads) - base for heads in (HEADS, HEADS[:1], HEADS[1:]))
        synergies.append(joint - first - second)
    mean = sum(synergies) / len(synergies)
    assert abs(mean) > 100 * TOLERANCE
    assert told["synergy"].item() == pytest.approx(mean, abs=4 * TOLERANCE)  # of four levels
