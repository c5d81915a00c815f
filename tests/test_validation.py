"""The planted models' closed forms as docs/validation.md tells them, and that document's own tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import validation
from conftest import Within
from planted import ENGINES, levels, patched, recovered, scaled
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Variant
from tinylab.planted import closed_forms as known

LEDGER = [*known.LEDGER_ZERO]
INPUTS = [*known.AND_INPUTS, *known.OR_INPUTS]
DIRECTIONS: tuple[RunName, RunName] = ("clean", "corrupt")
GRID = [(layer, head) for layer in range(known.GRID) for head in range(known.GRID)]


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def off(found: np.ndarray, expected: Sequence[float]) -> float:
    """Largest difference of [V, B] from a number for each variant."""
    return float(np.abs(found - np.array(expected)[:, None]).max())


def test_the_ledgers_heads(engine: str, within: Within) -> None:
    for factor in (0.0, 0.5):
        moved = LEDGER if factor == 0 else [(1, 0), (1, 1), (1, 2)]
        found = levels("planted_a", engine, [scaled(head, scale=factor) for head in moved])
        expected = [known.LEDGER_LEVEL + (1 - factor) * known.LEDGER_ZERO[head] for head in moved]
        within("ledger, scaled", off(found, expected), known.TOLERANCE)
    found = levels("planted_a", engine, [scaled(*both) for both in known.LEDGER_PAIRS])
    within("ledger, pairs", off(found, [known.LEDGER_LEVEL + change for change in known.LEDGER_PAIRS.values()]), known.TOLERANCE)


@pytest.mark.parametrize("source", DIRECTIONS)
def test_the_ledgers_recoveries(engine: str, source: RunName, within: Within) -> None:
    found = recovered("planted_a", engine, [patched(head, source=source) for head in LEDGER])
    within("ledger, patched", off(found, [known.LEDGER_RECOVERY[head] for head in LEDGER]), known.TOLERANCE)


@pytest.mark.parametrize("source", DIRECTIONS)
def test_the_gates_inputs(engine: str, source: RunName, within: Within) -> None:
    found = recovered("planted_b", engine, [patched(head, source=source) for head in INPUTS])
    expected = known.GATES_DENOISED if source == "clean" else known.GATES_NOISED
    within("gates, patched", off(found, [expected[head] for head in INPUTS]), known.TOLERANCE)
    zeroed: list[Variant] = [scaled(head) for head in INPUTS]
    within("gates, zeroed", off(levels("planted_b", engine, zeroed), [known.gates_scaled(head, 0) for head in INPUTS]),
           known.TOLERANCE)


@pytest.mark.parametrize("condition", "cdefg")
def test_the_twins_heads(engine: str, condition: str, within: Within) -> None:
    gains = known.twin_gains(condition)
    expected = [sum(gains.values()) - gains.get(head, 0.0) for head in GRID]
    found = levels(f"planted_{condition}", engine, [scaled(head) for head in GRID])
    within("twins, zeroed", off(found, expected), known.TOLERANCE)


def test_every_claim_of_the_document_is_told_and_kept() -> None:
    for table in dict.fromkeys(claim.table for claim in validation.CLAIMS.values()):
        lines = validation.told(table)
        assert len({claim.what for claim in validation.CLAIMS.values()}) == len(validation.CLAIMS)
        assert [*lines][1:] == [claim.what for claim in validation.CLAIMS.values() if claim.table == table]
        for _, largest, allowed, why in (line.strip("| ").split(" | ") for line in [*lines.values()][1:]):
            assert float(largest) <= float(allowed)
            assert why
