"""The shapes in the signature of `Operation.apply` hold: both engines call it through a type checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped

from both_engines import LOGITS
from families import ALIGNED, HEADS, WIDTH, answered, family
from tinylab.engine.base import Engine
from tinylab.engine.forked.engine import ForkedEngine
from tinylab.engine.reference import ReferenceEngine
from tinylab.interventions import operations
from tinylab.interventions.operations import Given, Operation, Patch, Scale
from tinylab.interventions.sites import HEAD_OUT, SITES
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel

Calls = list[tuple[torch.Tensor, Given]]


@jaxtyped(typechecker=beartype)
def fits(
    rows: Float[torch.Tensor, "*rows d"], source: Float[torch.Tensor, "*rows d"] | None, bias: Float[torch.Tensor, " d"] | None
) -> None:
    """`Given`'s shapes are those of the rows."""


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every operation's `apply` through the type checker; what it was called with."""
    calls: Calls = []
    monkeypatch.setattr(operations, "Tensor", torch.Tensor, raising=False)  # these two are imported for types alone
    monkeypatch.setattr(operations, "Float", Float, raising=False)

    def through(own: Any) -> Any:
        typed = jaxtyped(typechecker=beartype)(own)

        def apply(self: Operation, rows: torch.Tensor, given: Given) -> torch.Tensor:
            calls.append((rows, given))
            fits(rows, given.source, given.bias)
            changed: torch.Tensor = typed(self, rows, given)
            return changed

        return apply

    for operation in (Scale, Patch):
        monkeypatch.setattr(operation, "apply", through(operation.apply))
    return calls


@pytest.mark.parametrize("positions", ["last", "all", (0, 2)], ids=str)
@pytest.mark.parametrize("kind", [ForkedEngine, ReferenceEngine])
def test_both_engines_give_operations_the_shapes_that_they_declare(
    kind: Callable[[CausalModel], Engine], positions: Any, checked: Calls
) -> None:
    model = family("llama")
    units = [(site, head) for site in SITES.values() for head in ([None] if site.units == "whole" else [None, 1])]
    variants = [
        Variant((Intervention(site, 1, operation, head),), "corrupt", Own("clean") if operation.needs_source else None, positions)
        for site, head in units for operation in (Scale(0.5), Patch(), *([Scale(0.5, True)] if site is HEAD_OUT else []))
    ]
    kind(model).evaluate(answered(model, ALIGNED[3:5]), variants, LOGITS)
    widths = {(rows.shape[-1], given.source is not None, given.bias is not None) for rows, given in checked}
    head = WIDTH // HEADS
    shared, neurons = model.n_kv_heads * head, 48  # keys or values together, and what the MLP's last linear map gets
    assert widths == {(WIDTH, False, True), (head, False, True), *(
        (width, patched, False) for width in (WIDTH, head, shared, neurons, 1) for patched in (False, True))}


@pytest.mark.parametrize(("rows", "source", "bias"), [((5, 4), (5, 3), None), ((5, 4), (4, 4), None), ((5, 4), None, (2, 2))])
def test_shapes_that_do_not_fit_are_noticed(rows: Any, source: Any, bias: Any, checked: Calls) -> None:
    given = Given(*(None if shape is None else torch.zeros(shape) for shape in (source, bias)))
    with pytest.raises(jaxtyping.TypeCheckError):
        Scale(0.5).apply(torch.zeros(rows), given)


def test_a_result_of_another_shape_is_noticed(checked: Calls) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        Scale(torch.ones(3, 1, 1)).apply(torch.zeros(5, 4), Given())  # type: ignore[arg-type]
