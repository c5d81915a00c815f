"""Where the numbers of a run come from, as its manifest says it, and the parts that several documents share.

All of it is open for keys of other versions, and what came later than the first version may be missing: manifests outlive
the version that wrote them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tinylab.interventions.components import ColumnType
from tinylab.records.checking import (
    Count,
    Distinct,
    Flag,
    Fraction,
    Index,
    Json,
    Name,
    OpenRecord,
    Sha256,
    Size,
    TableName,
    Text,
    Time,
)
from tinylab.records.made_of import ReferenceSet, Screen, WholeAnswers

Run = Literal["clean", "corrupt"]


class Failure(OpenRecord):
    """An error as data; open, as other versions may add keys."""

    type: Name
    """The class of the error."""
    message: Text
    """What it said."""


class Battery(OpenRecord):
    """The battery of a run; open, as its settings are those that its class declares."""

    name: Name
    """Such as h1."""


class ChosenFrom(OpenRecord):
    """The finished run that a battery's components come from; open for other versions."""

    run_id: Name
    """Its identity."""
    folder: Name
    """Where it was."""
    condition: Name
    """Its condition's tag."""
    k: Count
    """How many of its strongest were asked for."""
    metric: Name
    """By whose change."""


class Process(OpenRecord):
    """Who computes a run; open for other versions."""

    host: Name
    """The machine."""
    pid: Count
    """The process on it."""


class ModelIdentity(OpenRecord):
    """What the weights are; open for other versions."""

    name: Name
    """A hub id, or the name of a folder."""
    revision: Name | None
    """The hub's commit; null for a folder."""
    digest: Name | None
    """Of the weight files; null for a hub model."""


class Tokenizer(OpenRecord):
    """What made tokens of the prompts; open for other versions."""

    kind: Name = Field(alias="class")
    """Its class."""
    vocabulary: Count
    """How many tokens it knows."""
    digest: Sha256 | None
    """Of what it does; null for one that is written in Python."""


class Bos(OpenRecord):
    """Whether prompts begin with a token of their own; open for other versions."""

    add_bos: Flag
    """Whether they do."""
    token_id: Index | None
    """Which token; null if there is none."""
    token: Name | None = None
    """Its name."""
    policy: Name | None = None
    """`model.add_bos`: true, false, or auto, what the tokenizer itself puts before a text;
    `chat template` where that decides it."""


class Quantisation(OpenRecord):
    """How a file packs its weights; open for other versions."""

    format: Name
    """Of the file: gguf."""
    kind: Name | None
    """As the file says it, such as Q4_K_M; null if it does not."""
    tensors: dict[Name, Count]
    """How many tensors are packed in which way."""


class Chat(OpenRecord):
    """How prompts were made turns of a conversation; open for other versions."""

    template: Sha256
    """Of the tokenizer's chat template."""
    system: Text | None
    """What the system's turn says; null for what the template itself puts there."""
    date: Name | None
    """The date that prompts have instead of today's; null where the template writes none."""
    tokens: list[Text]
    """Of the first clean prompt, ␣ for a space and ⏎ for a new line in them."""


class Corpus(OpenRecord):
    """The prompt pairs; open for other versions."""

    path: Name
    """As the config names it."""
    sha256: Sha256
    """Of the file."""
    kept: Count
    """Pairs that can be used."""
    used: Count | None = None
    """Pairs that any seed used."""
    dropped: dict[Name, Count]
    """Rows that cannot be used, by the reason."""
    noted: dict[Name, Count] | None = None
    """Rows that are used, of which something is to be known, by what."""
    answers: WholeAnswers | None = None
    """What counts as the answer; left out where its first token does."""

    @field_validator("used")
    @classmethod
    def _some_of_them(cls, used: int | None, info: ValidationInfo) -> int | None:
        if used is not None and used > info.data.get("kept", used):
            raise ValueError(f"at most kept={info.data['kept']}")
        return used


class SelfCheck(OpenRecord):
    """The comparison of the engines before a run; open for other versions."""

    verdict: Literal["pass", "fail"]
    """Whether the forked engine's logits were the reference engine's."""
    cached: Flag
    """Whether the verdict is one of an earlier run, on this model and lengths like these."""


class Git(OpenRecord):
    """tinylab's own checkout, null where it is none; open for other versions."""

    commit: Name | None
    """Its commit."""
    dirty: Flag | None
    """Whether files differ from it."""


class Provenance(OpenRecord):
    """Where the numbers of a run come from; open for other versions."""

    model: ModelIdentity
    """The weights."""
    architecture: Name
    """The model's class."""
    n_layers: Count
    """Its blocks."""
    n_heads: Count
    """Attention heads of a block."""
    tokenizer: Tokenizer | None = None
    """What made tokens of the prompts."""
    bos: Bos
    """Whether prompts begin with a token of their own."""
    chat: Chat | None = None
    """How prompts were made turns of a conversation, where they were."""
    corpus: Corpus
    """The prompt pairs."""
    reference: ReferenceSet | None = None
    """What means and deviations were taken over, where they were."""
    screen: Screen | None = None
    """How the units of the cells were found, where a screen found them."""
    position_tokens: list[Text | None] | None = None
    """Of `positions=each`: the token at each position that every prompt has, null where prompts differ."""
    device: Name
    """Where the model ran, such as cpu or cuda."""
    device_map: dict[Name, Count] | None = None
    """Groups of modules (a whole list of blocks may be one) by where they were kept; null where all were on the device."""
    threads: Count
    """Of torch."""
    attention: Name | None
    """The attention implementation of transformers."""
    packages: dict[Name, Name]
    """Versions of what computes."""
    command: list[Text] | None = None
    """What to type for this run alone; null where no command line started it."""
    git: Git
    """tinylab's own checkout."""
    value_bias: Name | None = None
    """What a scale did to a head's value bias."""
    config_digest: Name
    """Of the resolved config."""
    results_version: Count | None = None
    """Raised when a version of tinylab changes numbers."""
    identity_version: Count | None = None
    """Raised when a version of tinylab hashes other things into `run_id`."""
    identity: dict[Name, Json] | None = None
    """What `run_id` is a hash of."""
    dtype: Name
    """Of the weights as they ran, and of what is computed with quantised ones."""
    quantisation: Quantisation | None = None
    """Of the weights' file; null of plain numbers."""
    quantize: Name | None = None
    """The format of quantised weights; null where they were not."""
    engine: Name
    """What evaluated the interventions: forked or reference."""
    engine_fallback_reason: Text | None
    """Why the forked engine was not used; null where it was, or where it was not asked for."""
    self_check_max_difference: Size | None
    """The largest difference between the engines before the run, in logits; null where it was not checked."""
    self_check: SelfCheck | None = None
    """What it said; null where it was not made."""
    seeds: Distinct[Index]
    """Seeds of whatever is random."""
    forwards: Index
    """Forward passes."""
    states: Index
    """Outputs of one block for one token prefix under one intervention."""
    wall_seconds: Size
    """The run's, loading included."""
    engine_seconds: Size
    """The engine's alone."""
    peak_memory_bytes: Count
    """The largest resident size of the process."""
    started: Time
    """When the run began."""
    finished: Time
    """When it ended."""
    added: list[Json] | None = None
    """What later commands added to the run's numbers, oldest first."""


class EffectsJudged(OpenRecord):
    """How effects were judged, so that other settings are seen; open for other versions."""

    smallest: Fraction
    """The smallest effect of interest, as a fraction of the unmodified logit difference."""
    alpha: Fraction
    """The error that is allowed."""
    correction: Name
    """Which kind of error: holm, bh, maxt."""
    k: Count
    """How many cells count as the strongest."""
    method: Index | None = None
    """Which edition of the statistics; left out of the first. Effects by an earlier one are worked out anew."""
    noise: dict[Name, Size]
    """By metric, the largest difference that a sham or a verify slice found."""


class DeclaredTable(OpenRecord):
    """What a row of an impact table is about; open for other versions."""

    name: TableName
    """Of the table."""
    columns: dict[Name, ColumnType]
    """What identifies a cell, in order, with types."""
    matrix: TableName
    """Of the sweep's table that joins them."""
    component: Annotated[list[Name], Field(min_length=1)]
    """The columns that identify a component."""
    plural: Name
    """What components are called."""
    apart: list[Name]
    """Columns that distinguish groups, whose components are never compared."""
