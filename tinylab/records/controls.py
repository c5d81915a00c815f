"""What controls found, as parts of other documents and documents of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tinylab.records.checking import Count, Fraction, Index, Json, Name, Number, OpenRecord, Size, Text

Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
"""A lower and an upper bound."""


class DrawnSets(OpenRecord):
    """Random sets of one kind compared with the components that matter; open for other versions."""

    as_much: Index
    """How many do as much damage."""
    share: Fraction
    """Which part of them that is."""
    p: Fraction
    """(1 + as_much) / (1 + sets): how often a random set does as much, the components that matter counted as one."""
    median: Size | None
    """The median damage of the sets, as a fraction of that of the components that matter; null where that is 0."""


class RandomSets(OpenRecord):
    """Whether random sets of components do as much damage as those that matter; open for other versions."""

    asked: Name
    """As controls.random_sets had it: true, or auto."""
    draws: Count
    """Sets of each kind."""
    seed: Index
    """What was drawn depends on it."""
    at: dict[Name, Json]
    """Of what varies other than components (a scale), the value that counts."""
    circuit: list[Json]
    """The components that matter or are mixed at that value, which are intervened on together."""
    n: Count | None
    """Examples on which sets were evaluated; null where they were not."""
    of: Count
    """Examples of the run."""
    states: Index | None
    """States computed for it."""
    damage: Size | None
    """|mean change of logit_diff| where all components that matter are intervened on together, in logits."""
    uniform: DrawnSets | None
    """Sets of as many components, of all those of the battery."""
    same_layers: DrawnSets | None
    """Sets with as many components of each layer."""
    notes: list[Text]
    """Why sets were not evaluated."""


class Surviving(OpenRecord):
    """A cell that matters compared with the same with another example's activations; open for other versions."""

    cell: dict[Name, Json]
    """Which one, by the columns of the impact table."""
    own: Number
    """Mean change of logit_diff that it makes on these examples, in logits."""
    shuffled: Number
    """The same with the donors' activations in place of the own."""
    survives: Number | None
    """The second over the first; null where the first is 0."""
    ci95: Interval | None
    """Lower and upper bound of that; null where there is none."""


class ShuffledDonors(OpenRecord):
    """What patching does where activations come from another example of the template; open for other versions."""

    asked: Name
    """As controls.shuffled_donors had it: true, or auto."""
    seed: Index
    """Who is whose donor depends on it."""
    candidates: list[dict[Name, Json]]
    """The cells that matter, the strongest ten where there are more, the largest effect first."""
    n: Count | None
    """Examples on which this was evaluated, each with a donor; null where it was not."""
    of: Count
    """Examples of the run."""
    alone: Index | None
    """Examples of the run that have no donor: no other prompt of their template, and of their length where positions align."""
    templates: Index | None
    """Templates that the n are of; 0 where the corpus does not name them."""
    same_answer: Index | None
    """Examples of the n whose donor has the same answer, which it brings in any case: no other donor was to be had."""
    states: Index | None
    """States computed for it."""
    survives: Number | None
    """The part of the effect that survives, of all cells together."""
    ci95: Interval | None
    """Lower and upper bound of it; null where there is none."""
    median: Number | None
    """The median of the cells' parts."""
    cells: list[Surviving]
    """The cells that were evaluated, the largest effect first."""
    notes: list[Text]
    """Why it was not evaluated."""


class CrossRun(OpenRecord):
    """What the components that matter in each condition do to one; open for other versions."""

    run_id: Name
    """The run whose prompts these are."""
    at: dict[Name, Json]
    """Of what varies other than components (a scale), the value that counts."""
    circuit: list[Json]
    """The components that matter or are mixed in this one."""
    n: Count
    """Examples on which this was evaluated."""
    of: Count
    """Examples of the run."""
    whole: Number
    """Logits of which a change may be called a fraction: the unmodified logit difference, for patching source minus target."""
    changes: dict[Name, Number]
    """By run, the mean change of logit_diff when the components that matter in it are intervened on together, in logits."""
    of_own: dict[Name, Size | None] | None = None
    """By run, the size of that change as a fraction of what this run's own components do; null where they do nothing."""


class CrossGroup(OpenRecord):
    """Runs that may be compared; open for other versions."""

    kind: Name
    """What the components are: heads."""
    model: Name
    """The runs' model."""
    battery: Name
    """The runs' battery."""
    described: Name
    """The battery with its settings."""
    metric: Name | None = None
    """By whose change; left out where it is logit_diff."""
    states: Index
    """States computed for it."""
    runs: Annotated[dict[Name, CrossRun], Field(min_length=2)]
    """By condition, with the folder where several runs share one."""


class CrossDamage(OpenRecord):
    """What another condition's components do to one; open for other versions."""

    change: Number
    """The mean change of logit_diff when they are intervened on together, in logits."""
    of_own: Size | None
    """Its size as a fraction of what the condition's own components do; null where they do nothing."""


class CrossRow(OpenRecord):
    """A condition's row in the summary of a sweep, of `cross_controls.json`; open for other versions."""

    model: Name
    """The run's model."""
    described: Name
    """The battery with its settings."""
    condition: Name
    """The condition, with its folder where several runs share one."""
    n: Count
    """Examples on which this was evaluated."""
    of: Count
    """Examples of the run."""
    own: Number
    """The mean change of logit_diff when its own components are intervened on together, in logits."""
    others: dict[Name, CrossDamage]
    """By the other conditions what theirs do."""


class CrossControls(OpenRecord):
    """`cross_controls.json` of a sweep: what one condition's components do to another; open for other versions."""

    asked: Name
    """As controls.cross had it: true, or auto, which may have taken part of the examples."""
    groups: Annotated[list[CrossGroup], Field(min_length=1)]
    """Runs of one model and battery setting."""
