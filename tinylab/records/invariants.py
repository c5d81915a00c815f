"""`invariants.json` of a sweep: which components are among the strongest of every condition."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tinylab.records.checking import Count, Distinct, Index, Name, OpenRecord, Record, Size, Text
from tinylab.records.manifests import Rank


class Head(Record):
    """An attention head."""

    layer: Index
    """Its block, from 0."""
    head: Index
    """Its place in the block, from 0."""


class HeadMetric(Record):
    """The strongest heads by one metric."""

    heads: Distinct[Head]
    """Those of every condition, in the order of layer and head."""
    top_k: dict[Name, Distinct[Head]]
    """Each condition's, the strongest first."""


class LayerMetric(Record):
    """The strongest layers by one metric."""

    layers: Distinct[Index]
    """Those of every condition, in order."""
    top_k: dict[Name, Distinct[Index]]
    """Each condition's, the strongest first."""


Metric = TypeVar("Metric", HeadMetric, LayerMetric)


class Compared(OpenRecord, Generic[Metric]):
    """Runs that were compared; open, as what tells groups apart is what the matrices say of a row's run."""

    conditions: list[Name]
    """What each run is called: its condition, with its folder where several runs share one."""
    components: Index
    """How many a run has; 0 where no run has any of the metrics."""
    per_metric: dict[Name, Metric]
    """The strongest by each metric."""
    expected_by_chance: Size | None
    """The mean size of an intersection of as many random k-sets; null where there are no components."""
    notes: list[Text]
    """What limits the claim."""


class HeadGroup(Compared[HeadMetric]):
    """Runs whose heads were compared; open as any group."""

    kind: Literal["heads"]
    """What the components are."""
    heads: Distinct[Head]
    """Those of every condition by every metric."""


class LayerGroup(Compared[LayerMetric]):
    """Runs whose layers were compared; open as any group."""

    kind: Literal["layers"]
    """What the components are."""
    layers: Distinct[Index]
    """Those of every condition by every metric."""


class ByKind(Record):
    """The only group of each kind, by metric."""

    heads: dict[Name, HeadMetric] | None = None
    """Of heads; left out where there is no group, or several."""
    layers: dict[Name, LayerMetric] | None = None
    """Of layers; left out where there is no group, or several."""


class Chance(Record):
    """The mean size of an intersection of random k-sets, by kind; null where there are no components."""

    heads: Size | None = None
    """Of heads."""
    layers: Size | None = None
    """Of layers."""


class Invariants(OpenRecord):
    """`invariants.json`: the components that are among the k strongest of every condition.

    It is open, as programs may add notes of their own.
    """

    k: Count
    """How many components of each condition count as its strongest."""
    metrics: Annotated[list[Name], Field(min_length=1)]
    """By which metrics."""
    rank: Rank
    """magnitude: |change| from the unmodified target run; highest, lowest: the level itself."""
    set: Literal["intersection"]
    """How the conditions' lists were joined."""
    heads: Distinct[Head]
    """Of the only group of heads, else empty."""
    layers: Distinct[Index]
    """Of the only group of layers, else empty."""
    per_metric: ByKind
    """The same by metric."""
    expected_by_chance: Chance
    """How many components chance would give."""
    conditions: list[Name]
    """The conditions that have runs."""
    groups: list[Annotated[HeadGroup | LayerGroup, Field(discriminator="kind")]]
    """Runs that may be compared: of one model, battery setting, device, dtype and granularity."""
    withheld: Text | None = None
    """Why nothing is claimed."""
    note: Text | None = None
    """What limits the claim."""

    @field_validator("heads", "layers", "per_metric", "groups")
    @classmethod
    def _no_more_than_k(cls, value: Any, info: ValidationInfo) -> Any:
        k, largest = info.data.get("k"), _largest(value)
        if k is not None and largest > k:
            raise ValueError(f"at most k={k} components in a list, not {largest}")
        return value

    @model_validator(mode="after")
    def _withheld_is_empty(self) -> Self:
        if self.withheld is not None and (self.heads or self.layers or self.groups):
            raise ValueError("no heads, layers and groups beside withheld, which says why there are none")
        return self


def _largest(value: Any) -> int:
    """The length of the longest list of components in a part of invariants.json."""
    if isinstance(value, list) and not any(isinstance(item, Compared) for item in value):
        return len(value)
    if isinstance(value, Record):
        value = [getattr(value, name, None) for name in ("heads", "layers", "per_metric", "top_k")]
    elif isinstance(value, dict):
        value = value.values()
    return max(map(_largest, value or ()), default=0)
