"""An operation: go a part of the way to the source."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinylab.interventions.operations import Given, Operation


@dataclass(frozen=True)
class Towards(Operation):
    """rows + part · (source − rows)."""

    part: float

    needs_source: ClassVar[bool] = True
    changes_equal: ClassVar[bool] = False

    def apply(self, rows: Tensor, given: Given) -> Tensor:
        assert given.source is not None
        return rows + self.part * (given.source - rows)
