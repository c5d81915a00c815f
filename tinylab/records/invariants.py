"""`invariants.json` of a sweep: which components are among the strongest of every condition."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from tinylab.records.checking import Count, Distinct, Fraction, Index, Name, OpenRecord, Record, Size, Text, says
from tinylab.records.manifests import ClaimedBy, Rank


class Head(Record):
    """An attention head."""

    layer: Index
    """Its block, from 0."""
    head: Index
    """Its place in the block, from 0."""


def _whole_numbers(value: Any) -> Any:
    told = isinstance(value, dict) and {"layer", "layer1"} & {*value} and all(map(_is_index, value.values()))
    fine = told or _is_index(value)
    if not fine:
        raise ValueError("the number of a layer, or an object of numbers such as {layer, head}")
    return value


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _no_component_twice(components: list[Any]) -> list[Any]:
    told = [tuple(sorted(one.items())) if isinstance(one, dict) else one for one in components]
    if len(set(told)) != len(told):
        raise ValueError("no duplicates")
    return components


Components = Annotated[
    list[Annotated[Any, AfterValidator(_whole_numbers)]],
    AfterValidator(_no_component_twice),
    Field(json_schema_extra={"uniqueItems": True}),
]
"""Components of any kind: {layer, head} and the like, or the bare number where a component is a layer."""


Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; of many at once, so that a fault is reported for all of them."""
OfRuns = Annotated[dict[str, Finite | None], says("an object of finite numbers or null")]
"""A number for each run, by what the run is called; null where it has none. There may be very many."""


class ByChance(Record):
    """What random lists of the same sizes share, exactly; null where runs of a condition are several, or there is one only."""

    expected: Size | None
    """The mean number, of lists drawn among all components."""
    p: Fraction | None
    """The probability of as many as were found, or more."""
    expected_within_layers: Size | None
    """The mean number, of lists drawn within each layer, with as many of each layer as were found; null for layers."""
    p_within_layers: Fraction | None
    """The probability of as many as were found, or more."""


class Claim(OpenRecord):
    """A component in the conditions; open, as what identifies it are the columns of its kind."""

    layer: Index | None = None
    """Its block, from 0; left out of components of several layers."""
    p: Fraction | None
    """That it has an effect of one sign, beyond the smallest, in so many conditions; null where a run has no effects."""
    p_adjusted: Fraction | None
    """The same, corrected over components."""
    sign: Literal["+", "-"] | None
    """Of its effect: - where changing it takes away from the logit difference; null where p is 1, as neither sign is nearer."""
    count: Index
    """In how many conditions it matters by their own labels, each run of them."""
    matters_in: Distinct[Name]
    """Runs in which it is labelled so."""
    mixed_in: Distinct[Name]
    """Runs in which its sign depends on the template."""
    effects: OfRuns
    """Each run's effect, as a fraction of its unmodified logit difference; of several cells the largest. In groups of more than
    100 runs, where the component is not claimed, those of `matters_in` and `mixed_in`."""
    plus_minus: OfRuns
    """Half of each effect's 95 % interval."""


class Conjunction(Record):
    """Components that have an effect of one sign in several conditions, tested: a partial conjunction."""

    at_least: Count
    """In so many conditions."""
    of: Count
    """Conditions that have runs."""
    smallest: Fraction
    """The smallest effect of interest, as a fraction of the unmodified logit difference."""
    alpha: Fraction
    """The error that is allowed."""
    correction: Literal["holm", "bh"]
    """Over components."""
    components: list[Claim]
    """Those that are claimed, the smallest p first, then others that matter in some condition."""


class SignAgreement(Record):
    """Whether shared components change the logit difference in the same direction."""

    shared: Index
    """Components that are among the strongest of every condition."""
    same_sign: Index
    """Those of them whose change has one sign in all runs."""


class Strongest(OpenRecord):
    """The strongest components by one metric; open, as the key of those of every condition is what they are: heads, say."""

    __pydantic_extra__: dict[str, Components] = Field(init=False)
    heads: Distinct[Head] | None = None
    """Those of every condition, in the order of layer and head; left out of other kinds."""
    layers: Distinct[Index] | None = None
    """Those of every condition, in order; left out of other kinds."""
    top_k: dict[Name, Components]
    """Each condition's, the strongest first: k of them, or as many as have an effect at all."""
    by_chance: ByChance | None = None
    """What chance gives, exactly; left out by earlier versions."""


class Group(OpenRecord):
    """Runs that were compared.

    It is open, as what distinguishes groups is what the matrices say of a row's run, and the components' key is what they are.
    """

    kind: Name
    """What the components are, and the key of those that are claimed: heads, layers, …"""
    conditions: list[Name]
    """What each run is called: its condition, with its folder where several runs share one."""
    runs: list[Text] | None = None
    """The names of their folders, in the same order; left out by earlier versions."""
    components: Index
    """How many a run has; 0 where no run has any of the metrics."""
    heads: Distinct[Head] | None = None
    """Those that are claimed; left out of other kinds."""
    layers: Distinct[Index] | None = None
    """Those that are claimed; left out of other kinds."""
    intersection: dict[Name, Components] | None = None
    """By kind, those that are among the strongest of every condition by every metric; not in earlier versions."""
    conjunction: Conjunction | None = None
    """How components were tested; left out by earlier versions."""
    sign_agreement: SignAgreement | None = None
    """Of those in `intersection`; null where a run has no effects."""
    per_metric: dict[Name, Strongest]
    """The strongest by each metric."""
    expected_by_chance: Size | None
    """The mean size of an intersection of random sets of the same sizes; null where there are no components,
    or where screens chose others in each run."""
    notes: list[Text]
    """What limits the claim."""

    @model_validator(mode="after")
    def _has_its_components(self) -> Self:
        if not all(isinstance(getattr(entry, self.kind, None), list) for entry in (self, *self.per_metric.values())):
            raise ValueError(f"the key {self.kind} with a list, in it and by each metric")
        return self


class Invariants(OpenRecord):
    """`invariants.json`: the components that matter in every condition.

    It is open, as programs may add notes of their own, and components of other kinds have their own key next to heads and layers.
    """

    k: Count
    """How many components of each condition count as its strongest."""
    metrics: Annotated[list[Name], Field(min_length=1)]
    """By which metrics."""
    rank: Rank
    """magnitude: |change| from the unmodified target run; highest, lowest: the level itself."""
    set: ClaimedBy
    """What is claimed: effects of one sign in every condition or in several, in one at least, or to be among the strongest."""
    heads: Distinct[Head]
    """Those that are claimed of the only group of heads, else empty."""
    layers: Distinct[Index]
    """Those that are claimed of the only group of layers, else empty."""
    intersection: dict[Name, Components] | None = None
    """Of the only group of each kind, those among the k strongest of every condition by every metric, else empty; not before."""
    per_metric: dict[Name, dict[Name, Strongest]]
    """Of the only group of each kind: the strongest, by kind and metric."""
    expected_by_chance: dict[Name, Size | None]
    """Of the only group of each kind: the mean size of an intersection of random sets; null where there are no components,
    or where screens chose others in each run."""
    conditions: list[Name]
    """The conditions that have runs."""
    groups: list[Group]
    """Runs that may be compared: of one model, battery setting, device, dtype and granularity."""
    withheld: Text | None = None
    """Why nothing is claimed."""
    note: Text | None = None
    """What limits the claim."""

    @field_validator("heads", "layers", "intersection", "per_metric", "groups")
    @classmethod
    def _no_more_than_k(cls, value: Any, info: ValidationInfo) -> Any:
        claims = info.data.get("set") == "intersection"
        if info.field_name in ("heads", "layers") and not claims:
            return value
        k, largest = info.data.get("k"), _largest(value, claims=claims)
        if k is not None and largest > k:
            raise ValueError(f"at most k={k} components in a list, not {largest}")
        return value

    @model_validator(mode="after")
    def _withheld_is_empty(self) -> Self:
        if self.withheld is not None and (self.heads or self.layers or self.groups):
            raise ValueError("no heads, layers and groups together with withheld, which says why there are none")
        return self


def _largest(value: Any, *, claims: bool) -> int:
    """The length of the longest list of the strongest in a part of invariants.json.

    Args:
        value: the part.
        claims: whether what groups claim is such a list.
    """
    if isinstance(value, list) and not any(isinstance(item, Group) for item in value):
        return len(value)
    if isinstance(value, Group):
        value = [getattr(value, value.kind) if claims else None, value.intersection, value.per_metric]
    elif isinstance(value, Strongest):
        value = [value.heads, value.layers, value.top_k, value.model_extra]
    elif isinstance(value, dict):
        value = value.values()
    return max((_largest(part, claims=claims) for part in value or ()), default=0)
