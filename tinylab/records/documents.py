"""What a run and a sweep found, as JSON: `summary.json` of both, and a run's `verify.json`.

Summaries are open for keys of other versions: a sweep joins runs of several.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from tinylab.records.checking import (
    Count,
    Distinct,
    Fraction,
    Index,
    Name,
    Number,
    OpenRecord,
    Record,
    RelativePath,
    Seed,
    Size,
)
from tinylab.records.controls import CrossRow, RandomSets, ShuffledDonors
from tinylab.records.effects import EffectsSummary
from tinylab.records.origin import Battery, Failure, Run


class Baseline(OpenRecord):
    """A metric in an unmodified run, in the metric's own unit; open for other versions."""

    mean: Number
    """Over seeds, of the means over examples."""
    n: Count
    """Examples that any seed used."""
    per_seed: dict[Seed, Number]
    """Each seed's mean over its examples."""


class Baselines(OpenRecord):
    """The unmodified runs, by metric; open for other versions."""

    clean: dict[Name, Baseline]
    """The clean prompts' run."""
    corrupt: dict[Name, Baseline]
    """The corrupt prompts' run."""

    @field_validator("clean", "corrupt")
    @classmethod
    def _has_logit_diff(cls, metrics: dict[str, Baseline]) -> dict[str, Baseline]:
        if not {"logit_diff", "logprob_diff"} & {*metrics}:
            raise ValueError("an object with logit_diff in any case, or of whole answers logprob_diff")
        return metrics


class MetricSummary(OpenRecord):
    """A metric under the battery's interventions, in its own unit; open for other versions."""

    per_seed: dict[Seed, Number]
    """Each seed's mean over cells and its examples; a seed where no cell is defined is left out."""
    mean: Number | None
    """Over seeds; null where no cell is defined."""
    ci95: Annotated[list[Number], Field(min_length=2, max_length=2)] | None
    """Lower and upper bound of the mean, from a bootstrap over examples; null where there is none."""
    ci95_method: Name
    """What was resampled, and how many."""
    n: Index
    """Examples that count."""
    undefined_cells: Index
    """Cells and seeds where it is undefined."""
    left_out: Index | None = None
    """recovery_mean: examples whose denominator is too small."""

    @field_validator("mean")
    @classmethod
    def _of_something(cls, mean: float | None, info: ValidationInfo) -> float | None:
        if "per_seed" in info.data and (mean is None) == bool(info.data["per_seed"]):
            raise ValueError("a number where per_seed has any, else null")
        return mean

    @field_validator("ci95")
    @classmethod
    def _in_order(cls, bounds: list[float] | None) -> list[float] | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError("the lower bound first")
        return bounds


class Answered(OpenRecord):
    """How the model answers some unmodified prompts; open for other versions."""

    accuracy: Fraction
    """The part after which the right answer's first token is the likeliest of the whole vocabulary; of whole answers, after which
    the likeliest token, and then the likeliest one after it and so on, give one of the right ones."""
    answer_probability: Fraction
    """Its mean probability."""
    n: Count
    """Prompts."""


class Answers(Answered):
    """The same over all examples that any seed used; open for other versions."""

    by_template: dict[Name, Answered]
    """Over those of each template that the corpus names."""


class Ability(OpenRecord):
    """Whether the model can do the task at all: where it cannot, effects mean little; open for other versions."""

    clean: Answers
    """The clean prompts, to which the target is the right answer."""
    corrupt: Answers
    """The corrupt prompts, to which the foil is the right answer."""


class RunSummary(OpenRecord):
    """`summary.json` of a run: what it is of, the unmodified runs, and each metric's mean; open for other versions."""

    run_id: Name
    """The run's identity."""
    condition: Name
    """The condition's tag."""
    battery: Battery
    """Which interventions were made."""
    direction: Name
    """Patching: source->target; none otherwise."""
    target_run: Run
    """The run that was intervened on: its baselines are what the metrics are to be compared with."""
    positions: Name
    """The token positions at which the battery acts."""
    model: Name
    """As the config names it."""
    seeds: Distinct[Index]
    """The seeds."""
    ability: Ability | None = None
    """How the model answers the unmodified prompts."""
    baselines: Baselines
    """The unmodified runs."""
    metrics: Annotated[dict[Name, MetricSummary], Field(min_length=1)]
    """Means over cells, seeds and examples."""
    effects: EffectsSummary | None = None
    """How many cells matter, and which."""
    controls: dict[Name, dict[Name, Size]]
    """For each control and metric, the largest change from the unmodified run; a sham's should be 0."""
    random_sets: RandomSets | None = None
    """The components that matter compared with random ones; left out where there are no such sets."""
    shuffled_donors: ShuffledDonors | None = None
    """Patching: the cells that matter with another example's activations; left out where they have no source."""


class SeveralRuns(Record):
    """Runs of one condition, such as those of several models or batteries."""

    runs: Annotated[dict[Name, RunSummary], Field(min_length=1)]
    """Each run's summary, by its folder's name."""


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, dict | SeveralRuns) and "runs" in dict(value) else "one"


OneOrSeveral = Annotated[
    Annotated[RunSummary, Tag("one")] | Annotated[SeveralRuns, Tag("several")], Discriminator(_one_or_several)
]


class MissingRun(OpenRecord):
    """A condition's run that failed; open for other versions."""

    condition: Name
    """The condition's tag."""
    error: Failure
    """What went wrong."""
    log: RelativePath | None
    """What to read about it, from the sweep's folder; null if it left nothing."""


class SweepSummary(OpenRecord):
    """`summary.json` of a sweep; open for other versions."""

    conditions: dict[Name, OneOrSeveral]
    """By condition its run's summary, or the summaries of its runs where there are several."""
    failed: list[MissingRun]
    """What is missing, and why."""
    cross_controls: list[CrossRow] | None = None
    """What the components of other conditions do to each; left out where that was not tried."""


class VerifyMetric(Record):
    """One metric of a verify slice on both sides, in the metric's own unit."""

    main: Number | None
    """The run's average over cells and seeds; null where it is undefined on this slice."""
    verify: Annotated[Number | None, Field(validate_default=True)] = None
    """The reference engine's; null where `main` is."""
    abs_diff: Annotated[Number | None, Field(validate_default=True)] = None
    """|main - verify|."""
    max_abs_diff: Size | None = None
    """The largest difference of one cell and example."""
    sign_flips: Index | None = None
    """Cells whose change has the other sign on the other side."""
    missing: Index | None = None
    """Numbers that only one side has, or neither."""

    @field_validator("verify")
    @classmethod
    def _on_both_sides(cls, verify: float | None, info: ValidationInfo) -> float | None:
        if "main" in info.data and (verify is None) != (info.data["main"] is None):
            raise ValueError("a finite number, as main is one" if verify is None else "null, as main is null")
        return verify

    @field_validator("abs_diff")
    @classmethod
    def _is_the_difference(cls, difference: float | None, info: ValidationInfo) -> float | None:
        main, verify = info.data.get("main"), info.data.get("verify")
        if main is None or verify is None:
            if difference is not None and {"main", "verify"} <= set(info.data):
                raise ValueError("null, as main and verify are null")
            return difference
        true = abs(main - verify)
        if difference is None or not math.isclose(difference, true, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(f"|main - verify| = {true}")
        return difference


class Verify(OpenRecord):
    """`verify.json`: some examples of a run repeated by the reference engine; open, as programs may add notes of their own."""

    device_main: Name
    """Where the run computed."""
    device_verify: Name
    """Where the slice was repeated."""
    dtype_main: Name | None = None
    """The run's dtype."""
    dtype_verify: Name | None = None
    """The slice's dtype."""
    engine_main: Name | None = None
    """The run's engine."""
    engine_verify: Name | None = None
    """The slice's engine."""
    n_examples: Count
    """Examples repeated."""
    sample: Name | None = None
    """Which ones: last, or stratified, the last ones of each template."""
    templates: Index | None = None
    """Templates that they are of; 0 where the corpus does not name them."""
    n_seeds: Count
    """The run's seeds."""
    metrics: Annotated[dict[Name, VerifyMetric], Field(min_length=1)]
    """Both sides by metric."""
    top_k: Count | None = None
    """How many of the strongest cells are compared."""
    top_k_agreement: Fraction
    """The part of the `top_k` strongest cells that both sides name."""
    tolerance: Size
    """The largest difference of one example's number that passes."""
    judged: list[Name] | None = None
    """Metrics that the verdict looks at."""
    verdict: Literal["pass", "fail"]
    """Whether both sides agree."""
