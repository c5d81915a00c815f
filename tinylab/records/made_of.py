"""What a run was made of besides settings, as in a manifest: reference sets, units that a screen found, whole answers."""

from __future__ import annotations

from tinylab.records.checking import Count, Index, Name, OpenRecord, Sha256, Size, Text


class OtherCorpus(OpenRecord):
    """The prompt pairs of another condition, of which a reference set was made; open for other versions."""

    path: Name
    """As that condition's config names it."""
    sha256: Sha256
    """Of the file."""
    kept: Count
    """Pairs that can be used, whatever their split."""
    dropped: dict[Name, Count]
    """Rows that cannot be used, by the reason."""


class ReferenceSet(OpenRecord):
    """What means and deviations were taken over; open for other versions."""

    of: Name
    """condition, template, or the name of another condition."""
    over: Name
    """Which prompts of each pair: clean, corrupt or both."""
    prompts: Count
    """How many, duplicates too."""
    tokens: Count
    """How many they have together."""
    groups: Count
    """Sets that were kept apart: one, or one for each template."""
    digest: Sha256
    """Of the prompts' tokens."""
    corpus: OtherCorpus | None = None
    """The other condition's pairs; left out where they are the run's own."""


class ScreenedUnit(OpenRecord):
    """A unit that a screen found; open for other versions."""

    layer: Index
    """Its layer."""
    unit: Index
    """Its place there: of a neuron its number."""
    difference: Size
    """What the screen went by."""


class Screen(OpenRecord):
    """How the units of a battery's cells were found; open for other versions. A screen says which units were tried, no more."""

    site: Name
    """Where they are."""
    k: Count
    """How many of each layer."""
    by: Text
    """What it went by."""
    pairs: Count
    """Prompt pairs over which that is a mean: the run's own."""
    forwards: Index
    """Forward passes that it took; they are among those of the run."""
    states: Index
    """States that it took, likewise."""
    chosen: list[ScreenedUnit]
    """The units, layer by layer, the most different first."""


class WholeAnswers(OpenRecord):
    """What counts as the answer where it is more than its first token; open for other versions."""

    kind: Name
    """Of `condition.answer`: full or set."""
    alternatives: Count
    """Of a target or a foil, at most."""
    tokens: Count
    """Of an alternative, at most."""
