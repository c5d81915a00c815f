"""`manifest.json` of a run and of a sweep.

Manifests outlive the version that wrote them: a later one reuses the run, adds a verify slice to its manifest, or joins
the sweep again. So what stands in them is open for keys of other versions, and keys that came later than the first version
may be missing.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, RootModel, ValidationInfo, field_validator, model_validator

from tinylab.records.checking import Count, Flag, Index, Name, OpenRecord, RelativePath, Sha256, TableName, Text, Time
from tinylab.records.origin import Battery, ChosenFrom, DeclaredTable, EffectsJudged, Failure, Process, Provenance, Run
from tinylab.records.slices import VerifySlice

Rank = Literal["magnitude", "highest", "lowest"]
ClaimedBy = Literal["partial_conjunction", "intersection", "union"]


class Digest(OpenRecord):
    """What a file was when it was written; open for other versions."""

    sha256: Sha256
    """Of its bytes."""
    rows: Index | None = None
    """Of a table."""


class RunningManifest(OpenRecord):
    """A run that computes, or was cut off while it did, and the path of each of its files that is there.

    It is open for other versions, and for the files of other batteries.
    """

    status: Literal["running"]
    """How far the run is."""
    run_id: Name
    """A hash of everything that determines the numbers."""
    run_name: Name
    """What the user calls it."""
    condition: Name
    """The condition's tag."""
    battery: Battery
    """Which interventions were made."""
    table: TableName
    """Which impact table the run writes, such as head_impact."""
    direction: Name
    """Patching: source->target; none otherwise."""
    target_run: Run
    """The run that was intervened on."""
    positions: Name
    """The token positions at which the battery acts: all, last, each (by itself), a list, or a named part."""
    model: Name
    """As the config names it."""
    battery_digest: Name | None = None
    """Of the battery's settings that count for what a run is."""
    chosen_from: ChosenFrom | None = None
    """The finished run whose strongest components the battery was given; left out where they were named."""
    described: Text | None = None
    """The battery in words."""
    table_kind: DeclaredTable | None = None
    """What a row of its impact table is about: columns, what a component is, what distinguishes groups."""
    metrics: list[Name] | None = None
    """What was measured."""
    process: Process | None = None
    """Who computes it."""
    started: Time
    """When it began."""
    config: RelativePath | None = None
    """The resolved config."""
    head_impact: RelativePath | None = None
    """One row per seed, head, scale and metric."""
    layer_impact: RelativePath | None = None
    """One row per seed, layer, granularity and metric."""
    pair_impact: RelativePath | None = None
    """One row per seed, pair of heads, scale and metric."""
    subset_impact: RelativePath | None = None
    """One row per seed, set of heads, scale and metric."""
    per_example: RelativePath | None = None
    """The same for every single prompt pair."""
    effects: RelativePath | None = None
    """What those say of each cell: intervals, p-values, labels."""
    synergy: RelativePath | None = None
    """Of pairs: how far each is from the sum of its singles."""
    examples: RelativePath | None = None
    """The prompts, and how the model answers them unmodified."""
    summary: RelativePath | None = None
    """Baselines and means."""
    verify: RelativePath | None = None
    """The verify slice."""
    heatmap: RelativePath | None = None
    """The picture."""
    report: RelativePath | None = None
    """The page for people."""
    log: RelativePath | None = None
    """What the run said."""


class CompleteManifest(RunningManifest):
    """A finished run, all of whose files are there."""

    status: Literal["complete"]  # type: ignore[assignment]  # another literal is the point of it
    """How far the run is."""
    provenance: Provenance
    """Where the numbers come from."""
    config: RelativePath
    """The resolved config."""
    per_example: RelativePath
    """The same numbers for every single prompt pair."""
    judged: EffectsJudged | None = None
    """How effects were judged."""
    summary: RelativePath
    """Baselines and means."""
    verify_slice: VerifySlice | None = None
    """What became of the verify slice, where one was asked for."""
    attempt_failed: Failure | None = None
    """Why computing this finished run again failed."""
    digests: dict[Name, Digest] | None = None
    """What its tables and documents were when they were written, by key; no other bytes are taken for them."""

    @model_validator(mode="after")
    def _has_its_table(self) -> Self:
        if getattr(self, self.table, None) is None:
            raise ValueError(f"the key {self.table} with the path of its table")
        return self


class FailedManifest(OpenRecord):
    """A run that failed; open, as what its folder's manifest said before stays in it, whatever wrote that."""

    status: Literal["failed"]
    """How far the run is."""
    run_id: Text | None
    """The run's identity; null where the config is too broken to have one."""
    error: Failure
    """What it failed of."""


class RunManifest(RootModel[Annotated[RunningManifest | CompleteManifest | FailedManifest, Field(discriminator="status")]]):
    """`manifest.json` of a run: status, the relative path of every file that exists, and where its numbers come from."""


class SweepJob(OpenRecord):
    """One planned run of a sweep; open for other versions."""

    overrides: list[Text]
    """What its command line would be."""
    condition: Name
    """The condition's tag."""
    battery: Text
    """The battery's name; empty for a run that was found on disk and does not record it."""
    run_id: Name | None
    """The run's identity; null for a run that was found on disk and does not record it."""
    folder: RelativePath
    """Where the run is."""
    settings: dict[Name, Text] | None = None
    """What the sweep sets for it, by the key of the override."""
    ended: Text | None = None
    """How a job ended that returned nothing to the launcher."""
    output: RelativePath | None = None
    """Where what it printed is."""


class SweepPlan(OpenRecord):
    """What joining needs of a sweep's manifest, or keeps; open for the rest of it."""

    sweep_name: Name | None = None
    """What the user calls it."""
    swept: list[Text] | None = None
    """The keys over which it sweeps."""
    jobs: list[SweepJob]
    """The planned runs, in order."""
    artifacts: dict[Name, RelativePath] | None = None
    """The files of an earlier join."""
    digests: dict[Name, Digest] | None = None
    """What they were when they were written."""

    @field_validator("jobs")
    @classmethod
    def _vary_the_same(cls, jobs: list[SweepJob]) -> list[SweepJob]:
        if len({frozenset(job.settings or {}) for job in jobs}) > 1:
            raise ValueError("settings of the same keys in every job")
        return jobs


class SweepFailure(OpenRecord):
    """A job without a finished run, or whose verify slice broke off; open for other versions."""

    condition: Name
    """The condition's tag."""
    battery: Text
    """The battery's name."""
    folder: RelativePath
    """Where the run should be."""
    overrides: list[Text]
    """What its command line would be."""
    log: RelativePath | None
    """What to read about it; null if it left nothing."""
    error: Failure
    """What went wrong."""


class InvariantsSettings(OpenRecord):
    """How a sweep looks for invariants; open for other versions."""

    k: Count
    """How many components of each condition count as its strongest."""
    metrics: Annotated[list[Name], Field(min_length=1)]
    """By which metrics."""
    rank: Rank
    """magnitude: |change|; highest, lowest: the level itself."""
    allow_partial: Flag
    """Whether missing conditions are passed over."""
    set: ClaimedBy = "partial_conjunction"
    """What is claimed."""
    at_least: Count | None = None
    """Of partial_conjunction: in how many conditions at least; null for every one."""


class RunningSweep(OpenRecord):
    """A sweep whose jobs have not all ended, or were not joined yet; open, as joining keeps what other versions wrote."""

    status: Literal["running"]
    """How far the sweep is."""
    sweep_name: Name | None = None
    """What the user calls it."""
    swept: list[Text] | None = None
    """The keys over which it sweeps."""
    invariants: InvariantsSettings
    """How to look for invariants when it ends."""
    plots: Flag | None = None
    """Whether it is drawn."""
    report: Flag | None = None
    """Whether it has a page for people; null where it has one if that can be made."""
    jobs: list[SweepJob]
    """The planned runs, in order."""


class JoinedSweep(RunningSweep):
    """A sweep whose runs were joined."""

    status: Literal["complete", "partial", "failed"]  # type: ignore[assignment]  # other literals are the point of it
    """complete: every run is there; partial: some are; failed: none."""
    runs: list[RelativePath]
    """Folders of the runs that are there."""
    failures: list[SweepFailure]
    """What is missing, and why."""
    verify_failed: list[Name]
    """Conditions whose strict verify slice disagreed."""
    artifacts: dict[Name, RelativePath]
    """The joined files: summary, invariants, a matrix for each kind of table, and pictures."""
    digests: dict[Name, Digest] | None = None
    """What they were when they were written, by name."""

    @field_validator("failures")
    @classmethod
    def _tell_the_status(cls, failures: list[SweepFailure], info: ValidationInfo) -> list[SweepFailure]:
        if "status" in info.data and (info.data["status"] == "complete") == bool(failures):
            raise ValueError("none in a complete sweep" if failures else "one at least where the sweep is not complete")
        return failures

    @field_validator("artifacts")
    @classmethod
    def _has_documents(cls, artifacts: dict[str, str]) -> dict[str, str]:
        if not {"summary", "invariants"} <= set(artifacts):
            raise ValueError("an object with summary and invariants in any case")
        return artifacts


class SweepManifest(RootModel[Annotated[RunningSweep | JoinedSweep, Field(discriminator="status")]]):
    """`manifest.json` of a sweep: its status, its jobs, where each run is, and what is missing."""
