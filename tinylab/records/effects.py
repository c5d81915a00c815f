"""What summary.json says of a run's effects."""

from __future__ import annotations

from tinylab.records.checking import Count, Fraction, Index, Json, Name, Number, OpenRecord, Size, Text


class Ranked(OpenRecord):
    """How far the list of the strongest cells can be relied on; open for other versions."""

    k: Count
    """How many are the strongest."""
    stability: Number | None
    """How alike the lists of other samples are: 1 the same, 0 by chance; null where examples are too few."""
    naive: Size | None
    """Mean |change| of the strongest in logits, on the half of the examples that chose them."""
    held_out: Number | None
    """The same on the other half, with the sign that the first gave it."""


class EffectsSummary(OpenRecord):
    """What `effects.parquet` says in short, of logit_diff; open for other versions."""

    smallest: Fraction
    """The smallest effect of interest, as a fraction of the unmodified logit difference."""
    alpha: Fraction
    """The error that is allowed."""
    correction: Name
    """Which kind of error: holm, bh, maxt."""
    whole: Number | None
    """Logits of which effects are fractions; null where logit_diff was not asked for."""
    n: Count | None
    """Examples."""
    templates: Index | None
    """Templates that the corpus names."""
    cells: Count | None
    """Cells that were judged together."""
    counts: dict[Name, Index] | None
    """Cells by label; null where there are none."""
    matter: list[dict[Name, Json]]
    """The cells that matter, the largest effect first."""
    mixed: list[dict[Name, Json]]
    """The cells whose effect has one sign in some templates and the other in others."""
    ranking: Ranked | None
    """Of the strongest."""
    examples_to_decide: Count | None
    """About how many examples would decide half of the undecided cells with probability .8."""
    templates_to_decide: Count | None = None
    """About how many templates would show half of the cells to matter for new ones that matter and are not shown to, with
    probability .8; null where there are none, or no number would do."""
    notes: list[Text]
    """Why something is missing."""
