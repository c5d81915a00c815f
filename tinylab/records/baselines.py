"""Where baselines disagree: a document of a sweep whose runs differ in what replaces an activation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tinylab.records.checking import Count, Index, Json, Name, Number, OpenRecord, Size


class BaselineEffect(OpenRecord):
    """What one baseline says of a component; open for other versions."""

    logits: Number | None
    """The mean change of logit_diff."""
    plus_minus: Size | None
    """Half of its 95 % interval, in logits."""
    rank: Count | None
    """By |change|, 1 the strongest."""


class BaselineComponent(OpenRecord):
    """A component that is among the strongest by one baseline at least; open for other versions."""

    component: Json
    """Such as {layer, head}, or a layer's number."""
    sign: bool
    """Whether two baselines find opposite signs, each with an interval that does not hold 0."""
    strongest_by: Annotated[list[Name], Field(min_length=1)]
    """The baselines by which it is among the k strongest."""
    effects: dict[Name, BaselineEffect]
    """By baseline."""


class BaselineGroup(OpenRecord):
    """Runs that differ in the baseline alone; open for other versions."""

    condition: Name
    """Their condition."""
    model: Name
    """Their model."""
    battery: Name
    """Their battery."""
    settings: dict[Name, str] = {}
    """What else the sweep varies, as it is for them, such as battery.site: q."""
    kind: Name
    """What the components are: heads."""
    runs: Annotated[dict[Name, Name], Field(min_length=2)]
    """By baseline, the run's id."""
    rank_correlation: dict[Name, dict[Name, Annotated[float, Field(ge=-1, le=1)] | None]]
    """Spearman's, of |change| over all components, for each two baselines; null where one has no variation."""
    shared: dict[Name, dict[Name, Index]]
    """How many of the k strongest each two baselines share."""
    components: list[BaselineComponent]
    """Every component that is among the k strongest by some baseline, those with opposite signs first."""


class Baselines(OpenRecord):
    """`baselines.json` of a sweep; open for other versions."""

    k: Count
    """How many components count as the strongest."""
    groups: Annotated[list[BaselineGroup], Field(min_length=1)]
    """Runs of one condition, model and battery."""
