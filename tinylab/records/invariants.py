"""`invariants.json` of a sweep: which components are among the strongest of every condition."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from tinylab.records.checking import Count, Distinct, Index, Name, OpenRecord, Record, Size, Text
from tinylab.records.manifests import Rank


class Head(Record):
    """An attention head."""

    layer: Index
    """Its block, from 0."""
    head: Index
    """Its place in the block, from 0."""


def _whole_numbers(value: Any) -> Any:
    fine = _is_index(value) or (isinstance(value, dict) and "layer" in value and all(map(_is_index, value.values())))
    if not fine:
        raise ValueError("the number of a layer, or an object of numbers such as {layer, head}")
    return value


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _no_component_twice(components: list[Any]) -> list[Any]:
    told = [tuple(sorted(one.items())) if isinstance(one, dict) else one for one in components]
    if len(set(told)) != len(told):
        raise ValueError("nothing that stands twice")
    return components


Components = Annotated[
    list[Annotated[Any, AfterValidator(_whole_numbers)]],
    AfterValidator(_no_component_twice),
    Field(json_schema_extra={"uniqueItems": True}),
]
"""Components of any kind: {layer, head} and the like, or the bare number where a component is a layer."""


class Strongest(OpenRecord):
    """The strongest components by one metric; open, as the key of those of every condition is what they are: heads, say."""

    __pydantic_extra__: dict[str, Components] = Field(init=False)
    heads: Distinct[Head] | None = None
    """Those of every condition, in the order of layer and head; left out of other kinds."""
    layers: Distinct[Index] | None = None
    """Those of every condition, in order; left out of other kinds."""
    top_k: dict[Name, Components]
    """Each condition's, the strongest first: k of them, or as many as have an effect at all."""


class Group(OpenRecord):
    """Runs that were compared.

    It is open, as what tells groups apart is what the matrices say of a row's run, and the components' key is what they are.
    """

    kind: Name
    """What the components are, and the key of those of every condition by every metric: heads, layers, …"""
    conditions: list[Name]
    """What each run is called: its condition, with its folder where several runs share one."""
    components: Index
    """How many a run has; 0 where no run has any of the metrics."""
    heads: Distinct[Head] | None = None
    """Those of every condition by every metric; left out of other kinds."""
    layers: Distinct[Index] | None = None
    """Those of every condition by every metric; left out of other kinds."""
    per_metric: dict[Name, Strongest]
    """The strongest by each metric."""
    expected_by_chance: Size | None
    """The mean size of an intersection of random sets of the same sizes; null where there are no components."""
    notes: list[Text]
    """What limits the claim."""

    @model_validator(mode="after")
    def _has_its_components(self) -> Self:
        if not all(isinstance(getattr(entry, self.kind, None), list) for entry in (self, *self.per_metric.values())):
            raise ValueError(f"the key {self.kind} with a list, in it and by each metric")
        return self


class Invariants(OpenRecord):
    """`invariants.json`: the components that are among the k strongest of every condition.

    It is open, as programs may add notes of their own, and components of other kinds have their own key beside heads and layers.
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
    per_metric: dict[Name, dict[Name, Strongest]]
    """Of the only group of each kind: the strongest, by kind and metric."""
    expected_by_chance: dict[Name, Size | None]
    """Of the only group of each kind: the mean size of an intersection of random sets; null where there are no components."""
    conditions: list[Name]
    """The conditions that have runs."""
    groups: list[Group]
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
    if isinstance(value, list) and not any(isinstance(item, Group) for item in value):
        return len(value)
    if isinstance(value, Group):
        value = [getattr(value, value.kind), value.per_metric]
    elif isinstance(value, Strongest):
        value = [value.heads, value.layers, value.top_k, value.model_extra]
    elif isinstance(value, dict):
        value = value.values()
    return max(map(_largest, value or ()), default=0)
