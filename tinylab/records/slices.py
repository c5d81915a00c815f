"""What a run's manifest says of its verify slice: how it was asked for, and what became of it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from tinylab.records.checking import Count, Flag, Name, OpenRecord, Size
from tinylab.records.origin import Failure


class VerifySettings(OpenRecord):
    """How a verify slice was asked for, defaults filled in; open for other versions."""

    device: Name
    """Where the reference engine ran."""
    n_examples: Count
    """The most examples that it repeats."""
    sample: Name = "last"
    """Which ones: last, as before it was said; or stratified, the last ones of each template."""
    dtype: Name
    """Of the weights as it ran."""
    tolerance: Size
    """The largest difference of one example's number that passes, in the metric's own unit."""
    strict: Flag
    """Whether a verdict of fail fails the command."""


class VerifySlice(OpenRecord):
    """What became of a run's verify slice; open for other versions."""

    settings: VerifySettings
    """How it was asked for."""
    verdict: Literal["pass", "fail", "error"]
    """As in verify.json, or error where there is none."""
    error: Failure | None = None
    """What it broke off with."""

    @model_validator(mode="after")
    def _an_error_is_told(self) -> Self:
        if (self.verdict == "error") != (self.error is not None):
            raise ValueError("an error where the verdict is error, and nowhere else")
        return self
