"""Every family: H1 and H2 by the engine that the self-check chooses, against the plain way.

`make test` runs each family once, in float32; `make test-families` adds float64 and long prompts. The table
in docs/families.md is written by `make families`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from families import (
    ALIGNED,
    BY_PLACE,
    CONTEXT,
    EVERY,
    FIXED_BATCH,
    HEADS,
    LAYERS,
    LENGTH_DEPENDENT,
    LIMIT,
    NO_MIDDLE,
    NO_NEURONS,
    UNALIGNED,
    UNSUPPORTED,
    VOCABULARY,
    answered,
    family,
    fresh_logits,
    make,
)
from tinylab.batteries.activation_patch import ActivationPatch
from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import EngineConfig
from tinylab.engine.choose import AllLogits, choose_engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.errors import EngineUnsupported
from tinylab.interventions.variants import Variant
from tinylab.measures.metrics import Scorer, available
from tinylab.task.tokens import TokenPair

DOCUMENT = Path(__file__).parent.parent.parent / "docs/families.md"
PLAIN = {**UNSUPPORTED, **FIXED_BATCH, **BY_PLACE}.keys()
SWITCHES = LENGTH_DEPENDENT.keys()
"""Run by the reference when prompts lie beyond the limit, by the forked engine when they do not."""
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}
NO_FLOAT64 = {"xglm", "mpt"}  # transformers itself cannot run them (mpt: 5.0)
SINGLE_INSIDE = {"gemma2", "glm4_moe", "deepseek_v3", "llama4"}
"""Families that take a softmax or route to experts in float32 whatever the dtype: in float64 both engines agree to about
1e-7, which the self-check does not accept there."""
PLAIN_IN_OLDEST = {"gemma2", "nemotron", "ministral3"}
"""In transformers 5.0: attention without the soft cap under sdpa; without the interface; positions that are not position ids."""
OLDEST = transformers.__version__.startswith("5.0.")
SCORER = Scorer(tuple(available(source=False)))
LOGITS = AllLogits(tuple(str(word) for word in range(VOCABULARY)))


def battery(positions: tuple[Any, ...], scales: list[float]) -> list[Variant]:
    """H1 on all heads, and H2 in three granularities."""
    cells = list(HeadsZero(name="h1", scales=scales).cells(LAYERS, HEADS))
    for granularity in ("layer_resid", "mlp_out", "head_out"):
        for where in positions:
            if (granularity, where) != ("layer_resid", "all"):
                cells += ActivationPatch(name="h2", granularity=granularity, positions=where).cells(LAYERS, HEADS)
    return [cell.variant for cell in cells]


ALIGNED_WORK = (ALIGNED[0], ALIGNED[3], ALIGNED[7], ALIGNED[8], ALIGNED[9]), battery(("last", "all"), [0.0])
UNALIGNED_WORK = (UNALIGNED[0], UNALIGNED[2], UNALIGNED[3]), battery(("last",), [0.5])[::2]


@dataclass(frozen=True)
class Found:
    """What came of a family: the engine, why not the forked one, and the largest difference of any metric."""

    engine: str
    reason: str | None
    difference: float
    effect: float


def against_the_reference(name: str, dtype: torch.dtype, *works: tuple[tuple[Any, ...], list[Variant]]) -> Found:
    """Evaluate with the engine chosen for the first work, and with the reference; where they are one, there is no difference."""
    model = family(name, dtype)
    choice = choose_engine(model, EngineConfig(name="auto"), answered(model, works[0][0]))
    difference, effect = 0.0, np.inf
    for prompts, variants in works:
        pairs = answered(model, prompts)
        plain = ReferenceEngine(model).evaluate(pairs, variants, SCORER)
        heads = [v for v, variant in enumerate(variants) if variant.target == "clean"]
        effect = min(effect, float(np.abs(plain.values[heads] - plain.baselines["clean"]).max(axis=(1, 2)).min()))
        if choice.engine.name == "forked":
            found = choice.engine.evaluate(pairs, variants, SCORER)
            gaps = [(found.values, plain.values), *((found.baselines[run], plain.baselines[run]) for run in plain.baselines)]
            difference = max(difference, *(float(np.abs(a - b).max()) for a, b in gaps))
    return Found(choice.engine.name, choice.reason, difference, effect)


@cache
def measured(name: str, dtype: torch.dtype) -> Found:
    """Aligned prompts, longer than every window and chunk, and prompts of unequal length: the worse of both."""
    return against_the_reference(name, dtype, ALIGNED_WORK, UNALIGNED_WORK)


def expected_engine(name: str, dtype: torch.dtype = torch.float32, oldest: bool = OLDEST) -> str:
    plain = name in PLAIN | SWITCHES or (oldest and name in PLAIN_IN_OLDEST)
    return "reference" if plain or (dtype == torch.float64 and name in SINGLE_INSIDE) else "forked"


def check(name: str, dtype: torch.dtype) -> None:
    found = measured(name, dtype)
    assert found.engine == expected_engine(name, dtype), found.reason
    assert found.difference <= ROUNDING[dtype]
    assert found.effect > 1e-4  # of the weakest head: agreement means something


@pytest.mark.parametrize("name", EVERY)
def test_a_family_equals_the_reference(name: str) -> None:
    check(name, torch.float32)


@pytest.mark.families
@pytest.mark.parametrize("name", [name for name in EVERY if name not in NO_FLOAT64])
def test_a_family_equals_the_reference_in_float64(name: str) -> None:
    check(name, torch.float64)


def long_prompts(longest: int) -> tuple[Any, ...]:
    """Pairs up to a length, two of them with a prefix of half of it in common."""
    words = np.random.default_rng(0).integers(2, VOCABULARY, (4, longest)).tolist()
    half = longest // 2
    clean = [tuple(words[0]), tuple(words[0][:half] + words[1][half:]), tuple(words[2][: half + 1])]
    return tuple((prompt, (*prompt[:-3], words[3][0], *prompt[-2:])) for prompt in clean)


@pytest.mark.families
@pytest.mark.parametrize("name", [name for name in EVERY if name not in PLAIN])
def test_a_family_equals_the_reference_on_prompts_as_long_as_its_context(name: str) -> None:
    longest = LIMIT if name in SWITCHES else CONTEXT
    found = against_the_reference(name, torch.float32, (long_prompts(longest), battery(("last", "all", [longest // 2]), [0.0])))
    assert found.engine == ("reference" if OLDEST and name in PLAIN_IN_OLDEST else "forked")
    assert found.difference <= ROUNDING[torch.float32]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("lengths", [(LIMIT - 3, LIMIT), (LIMIT + 1, LIMIT + 4), (LIMIT - 3, LIMIT + 4)],
                         ids=["below the switch", "beyond it", "on both sides"])
def test_rotary_frequencies_that_depend_on_the_length_give_each_prompt_its_own(name: str, lengths: tuple[int, int]) -> None:
    model = make(EVERY[name])
    prompts = [tuple((5 + 3 * place) % VOCABULARY for place in range(length)) for length in lengths]
    pairs = [TokenPair(prompt, (*prompt[:-1], 7), 1, 2) for prompt in prompts]
    choice = choose_engine(model, EngineConfig(name="auto"), pairs[::-1])
    assert choice.engine.name == ("forked" if max(lengths) <= LIMIT else "reference")
    logits = choice.engine.evaluate(pairs[::-1], [], LOGITS).baselines["clean"][::-1]
    expected = np.stack([fresh_logits(name, prompt).double().cpu().numpy() for prompt in prompts])
    assert np.abs(logits - expected).max() <= ROUNDING[torch.float32]


@pytest.mark.parametrize("name", [*PLAIN, *SWITCHES])
def test_a_family_that_cannot_be_forked_says_why(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = family(name)
    pairs = answered(model, ALIGNED_WORK[0])
    with caplog.at_level(logging.WARNING, logger="tinylab"):
        choice = choose_engine(model, EngineConfig(name="auto"), pairs)
    assert choice.reason is not None
    assert any(choice.reason in record.getMessage() for record in caplog.records)
    with pytest.raises(EngineUnsupported, match="engine=auto or engine=reference"):
        choose_engine(model, EngineConfig(name="forked"), pairs)


def test_chunks_are_honoured_beyond_the_chunk() -> None:
    """A model whose engine forgets the chunks would differ: its longest prompt is longer than two of them."""
    model = make(EVERY["llama4"])
    pairs = answered(model, ALIGNED_WORK[0])
    assert len(model.chunks) == 2 and max(model.chunks.values()) * 2 < max(len(pair.clean) for pair in pairs)
    model.chunks.clear()
    expected = ReferenceEngine(model).evaluate(pairs, [], LOGITS).baselines["clean"]
    assert np.abs(ForkedEngine(model).evaluate(pairs, [], LOGITS).baselines["clean"] - expected).max() > 0.1


# The table in the docs


HEADER = f"""# Families

Which engine `engine=auto` chooses for a family of transformers, and the largest difference of any metric of any H1 or H2
cell (three granularities, last and all positions) from the reference engine, on random tiny models of {LAYERS} layers ×
{HEADS} heads. Written by `make families` from `test_families.py`, which asserts {ROUNDING[torch.float32]:g} in float32
and {ROUNDING[torch.float64]:g} in float64. The config of each family is in `tests/families.py`.

"""
NOTES = {
    **dict.fromkeys(UNSUPPORTED, "its attention does not go through transformers' interface"),
    **dict.fromkeys(FIXED_BATCH, "its forward does not let rows join"),
    **dict.fromkeys(BY_PLACE, "it counts a token's place in the input from 8,192 tokens on (here 2); llama4 before that"),
    **dict.fromkeys(SWITCHES, f"forked where no prompt is longer than the limit (here {LIMIT} tokens)"),
    **dict.fromkeys(SINGLE_INSIDE, "computes in float32 inside whatever the dtype: the reference engine in float64"),
    "gemma2": "computes in float32 inside whatever the dtype: the reference engine in float64, and in transformers 5.0",
    "nemotron": "the reference engine in transformers 5.0, whose interface it does not use",
    "ministral3": "the reference engine in transformers 5.0, where it counts places in the input",
}


SITES_OF_FAMILIES = f"""## Sites

Every family above has `resid_pre`, `head_out`, `attn_out`, `mlp_out` and the block's output in each layer. A run at one of the
others is refused, before anything is computed, where a family has none:

- `resid_mid`, where attention and MLP run in parallel: {", ".join(NO_MIDDLE)};
- `mlp_neurons`, where the MLP is a mixture of experts: {", ".join(name if len(layers) == LAYERS else
    f"{name} (layers {' and '.join(map(str, layers))})" for name, layers in NO_NEURONS.items())};
- `q`, `k` and `v`, where attention does not go through transformers' interface: {", ".join(UNSUPPORTED)}.

`test_sites.py` asserts this, and that both engines agree at each site of every family that is forked: at last, all and listed
positions, in all layers, units alone and together.
"""

OTHERS = "## The others\n"
"""Heading of the part of the document that `test_other_families.py` writes."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.families
def test_write_the_table(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--write-docs"):
        pytest.skip("only with --write-docs (make families)")
    lines = ["| family | engine | float32 | float64 | |", "|---|---|---|---|---|"]
    for name in EVERY:
        found = [measured(name, dtype) for dtype in ROUNDING if dtype == torch.float32 or name not in NO_FLOAT64]
        numbers = [f"{one.difference:.0e}" if one.engine == "forked" else "reference" for one in found]
        lines.append(f"| {name} | {found[0].engine} | {' | '.join([*numbers, '–'][:2])} | {NOTES.get(name, '')} |")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, one CPU"
    others = DOCUMENT.read_text(encoding="utf-8").partition(OTHERS)[1:]
    body = "\n".join([*lines, "", SITES_OF_FAMILIES, "".join(others)])
    DOCUMENT.write_text(f"{HEADER}Measured with {versions}.\n\n{body}", encoding="utf-8")


def test_the_table_in_the_docs_names_each_family_and_its_engine() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition(OTHERS)[0]
    assert SITES_OF_FAMILIES in table
    lines = [cells(line) for line in table.splitlines() if line.startswith("| ")][1:]
    assert [line[0] for line in lines] == list(EVERY)
    for name, engine, *numbers, _ in lines:
        assert engine == expected_engine(name, oldest=False)
        for dtype, number in zip(ROUNDING, numbers, strict=True):
            plain = expected_engine(name, dtype, oldest=False) == "reference"
            assert number in ("reference", "–") if plain else float(number) <= ROUNDING[dtype]
