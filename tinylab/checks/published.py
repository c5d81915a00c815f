"""Published numbers: what was measured or derived elsewhere, and whether a run agrees with it.

`tinylab/assets/published/NAME.yaml` holds the numbers of the experiment `conf/experiment/NAME.yaml`, each with the
difference up to which a run agrees; the file says where they come from and why the tolerances are what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from tinylab.errors import ConfigError, options

if TYPE_CHECKING:
    from tinylab.results import Run

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "published"
ANSWER = "answer_probability"
"""What the right answers have on average in an unmodified run, which a run tells of its ability; no metric of cells."""
CELL = ("set", "layer", "head", "granularity", "position", "scale")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One number: a metric or `ANSWER` of an unmodified run (`run`), or a metric of the cell that the other keys name."""

    metric: str
    value: float
    tolerance: float
    run: str | None = None  # clean | corrupt
    set: int | None = None
    layer: int | None = None
    head: int | None = None
    granularity: str | None = None
    position: int | None = None
    scale: float | None = None

    @property
    def cell(self) -> dict[str, int | float | str]:
        """The columns of the impact table that identify the cell, with their values."""
        return {key: value for key in CELL if (value := getattr(self, key)) is not None}

    @property
    def place(self) -> str:
        """Where the number stands, for a person: `unmodified clean run`, or `layer 10, head 7, scale 0`."""
        if self.run is not None:
            return f"unmodified {self.run} run"
        return ", ".join(f"{value}" if key == "granularity" else f"{key} {value:g}" for key, value in self.cell.items())

    def found_in(self, run: Run) -> float | None:
        """The run's own number, averaged over seeds; None if the run has none."""
        if self.run is not None and self.metric == ANSWER:
            return float(run.summary["ability"][self.run][ANSWER])
        if self.run is not None:
            baseline = run.summary["baselines"][self.run].get(self.metric)
            return None if baseline is None else float(baseline["mean"])
        rows = run.impact[run.impact["metric"] == self.metric]
        for key, value in self.cell.items():
            rows = rows[rows[key] == value] if key in rows else rows[:0]
        return None if rows.empty else float(rows["value"].mean())


@dataclass(frozen=True, kw_only=True)
class Published:
    """The numbers of one experiment and where they come from."""

    name: str
    title: str
    source: str
    weights: str | None  # what a user needs beside this package; None: nothing
    tolerances: str  # why they are what they are
    numbers: list[Expected]


@dataclass(frozen=True)
class Comparison:
    """A published number beside a run's."""

    expected: Expected
    found: float | None

    @property
    def difference(self) -> float | None:
        """Found minus expected."""
        return None if self.found is None else self.found - self.expected.value

    @property
    def agrees(self) -> bool:
        """Whether the run has the number, within the tolerance."""
        return self.difference is not None and abs(self.difference) <= self.expected.tolerance


def names() -> list[str]:
    """The experiments that have published numbers."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Published:
    """The published numbers of an experiment.

    Raises:
        ConfigError: it has none.
    """
    if name not in names():
        raise ConfigError(f"{name}: expected the name of an experiment with published numbers; {options(name, names())}.")
    content = OmegaConf.merge(OmegaConf.structured(Published), {"name": name}, OmegaConf.load(FOLDER / f"{name}.yaml"))
    published = OmegaConf.to_object(content)
    assert isinstance(published, Published)
    return published


def compare(published: Published, run: Run) -> list[Comparison]:
    """Each published number beside the run's own."""
    return [Comparison(number, number.found_in(run)) for number in published.numbers]
