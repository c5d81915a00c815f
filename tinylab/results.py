"""Loading results: a run's or a sweep's folder as DataFrames and plain dicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tinylab.config.checks import one_of
from tinylab.errors import ConfigError, OutputError
from tinylab.interventions.components import HEAD_IMPACT, LAYER_IMPACT
from tinylab.records.baselines import Baselines
from tinylab.records.checking import read_document
from tinylab.records.controls import CrossControls
from tinylab.records.digests import fault
from tinylab.records.documents import RunSummary, SweepSummary, Verify
from tinylab.records.invariants import Invariants
from tinylab.records.manifest import RunFolder
from tinylab.records.manifests import RunManifest, SweepManifest
from tinylab.records.reading import read_effects, read_examples, read_impact, read_per_example, read_synergy, read_table
from tinylab.records.renewing import settle
from tinylab.records.storage import read_json
from tinylab.records.tables import SYNERGY_MATRICES


@dataclass(frozen=True)
class Run:
    """A finished run. Tables it does not have are None."""

    path: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    head_impact: pd.DataFrame | None
    layer_impact: pd.DataFrame | None
    per_example: pd.DataFrame
    effects: pd.DataFrame | None
    """A row for each cell and metric: interval, p-values, label; None for runs of versions without effects."""
    verify: dict[str, Any] | None
    impact: pd.DataFrame
    """The impact table, whatever its kind."""
    synergy: pd.DataFrame | None = None
    """Of pairs: a row for each, its joint and single effects, and how far they are from adding up."""
    examples: pd.DataFrame | None = None
    """The prompts, their tokens, and how the model answers them unmodified; None for runs of versions that did not keep them."""


@dataclass(frozen=True)
class Sweep:
    """A sweep. Matrices it does not have are None; `runs` holds its complete runs."""

    path: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    invariants: dict[str, Any]
    head_matrix: pd.DataFrame | None
    layer_matrix: pd.DataFrame | None
    runs: list[Run]
    matrices: dict[str, pd.DataFrame]
    """Every matrix by name, whatever the kinds of the runs' tables."""
    baselines: dict[str, Any] | None = None
    """Where baselines disagree (`baselines.json`); None where runs do not differ in what replaces an activation."""
    cross_controls: dict[str, Any] | None = None
    """What the components of one condition do to another (`cross_controls.json`); None where that was not tried."""
    synergies: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Of pairs: what `synergy` of each run says, joined; by name, `synergy_matrix` of heads, `layer_synergy_matrix` of layers."""

    def pivot(
        self, metric: str = "logit_diff", columns: str | Sequence[str] = "condition", matrix: str | None = None,
        where: Mapping[str, object] | None = None,
    ) -> pd.DataFrame:
        """One metric, a row for each cell and a column for each condition (or what `columns` names), averaged over seeds.

        Args:
            metric: which one.
            columns: of the matrix, whose values make columns.
            matrix: head_matrix, layer_matrix or another; None where the sweep has one only.
            where: columns of the matrix with the value that a row must have, such as {"battery": "h1"}.

        Raises:
            ConfigError: there is no such metric or column; or rows that would be averaged differ in more than their seed, such as
                two batteries or a swept setting.
        """
        name = self.chosen_matrix(matrix)
        columns = [columns] if isinstance(columns, str) else list(columns)
        columns_of_all = list(self.matrices[name].columns)
        one_of("metric", metric, [*self.matrices[name]["metric"].unique()])
        for column in (*columns, *(where or {})):
            one_of("column", column, columns_of_all)
        rows = self.matrices[name].query("metric == @metric")
        for column, value in (where or {}).items():
            rows = rows[rows[column] == value]
        labels = columns_of_all[columns_of_all.index("condition"):]
        index = [key for key in columns_of_all[2:columns_of_all.index("metric")] if key not in columns]
        hidden = {column: sorted(map(str, rows[column].unique())) for column in labels
                  if column not in columns and rows[column].nunique() > 1}
        if hidden and rows.duplicated([*index, *columns, "seed"]).any():
            told = "; ".join(f"{column} ({', '.join(values)})" for column, values in hidden.items())
            column, values = next(iter(hidden.items()))
            raise ConfigError(f"pivot over {', '.join(columns)}: rows differ in {told} too, and would be averaged; name it "
                              f"among the columns, as in columns={[*columns, column]}, or choose with "
                              f"where={{{column!r}: {values[0]!r}}}.")
        return rows.pivot_table(index=index, columns=columns, values="value")

    def chosen_matrix(self, name: str | None) -> str:
        """The name of a matrix, None for the only one.

        Raises:
            ConfigError: there is no such matrix, or several of which none is named.
        """
        found = name or (next(iter(self.matrices)) if len(self.matrices) == 1 else None)
        if found not in self.matrices:
            raise ConfigError(f"matrix={name}: expected one of {', '.join(self.matrices)}.")
        return found


def load_run(path: str | os.PathLike[str]) -> Run:
    """Load a run's folder.

    Raises:
        OutputError: it is not the folder of a complete run.
    """
    folder = RunFolder(Path(path))
    with suppress(OutputError):  # in an archive that cannot be written files are read as they are, and checked
        settle(folder)
    content = read_json(folder.manifest) if os.path.lexists(folder.manifest) else None
    if content is not None and "jobs" in content:
        raise OutputError(f"{path}: a sweep's folder; use load_sweep, or name one of the runs in it.")
    if content is None or content.get("status") != "complete":
        status = "no manifest" if content is None else f"not a complete run (status {content.get('status')})"
        raise OutputError(f"{path}: {status}; expected the folder of a complete run, such as outputs/runs/NAME.")
    manifest = read_document(RunManifest, folder.manifest)
    if told := folder.fault(manifest):
        raise OutputError(f"{path}: not a complete run any more: {told}; the command that made it computes it again.")
    verify = _verify(folder, manifest)
    impact = read_impact(folder, manifest).to_pandas()
    effects, synergy = read_effects(folder, manifest), read_synergy(folder, manifest)
    examples = read_examples(folder, manifest)
    return Run(
        path=folder.path,
        manifest=manifest,
        summary=read_document(RunSummary, folder.file("summary")),
        per_example=read_per_example(folder, manifest).to_pandas(),
        effects=None if effects is None else effects.to_pandas(),
        verify=verify,
        head_impact=impact if manifest["table"] == HEAD_IMPACT.name else None,
        layer_impact=impact if manifest["table"] == LAYER_IMPACT.name else None,
        impact=impact,
        synergy=None if synergy is None else synergy.to_pandas(),
        examples=None if examples is None else examples.to_pandas(),
    )


def _verify(folder: RunFolder, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The verify slice of a run, None where there is none.

    Raises:
        OutputError: it is not what was written.
    """
    if not os.path.lexists(folder.file("verify")):
        return None
    if told := folder.fault(manifest, "verify"):
        raise OutputError(f"{told}; the same command with a verify slice makes it again, or remove it.")
    return read_document(Verify, folder.file("verify"))


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Load a sweep's folder; its path may end in `artifacts/cross_condition`.

    Raises:
        OutputError: it is not the folder of a sweep that was aggregated.
    """
    from tinylab.sweep.aggregate import sweep_folder
    from tinylab.sweep.cross_controls import FILE as CROSS_CONTROLS

    folder = sweep_folder(Path(path))
    if read_json(folder / "manifest.json").get("artifacts") is None:
        raise OutputError(f"{path}: not aggregated yet; run python -m tinylab.aggregate {path}.")
    manifest = read_document(SweepManifest, folder / "manifest.json")
    artifacts = manifest["artifacts"]
    drawn = (".png", ".html")  # those can be made again
    results = {name: folder / path for name, path in artifacts.items() if not path.endswith(drawn)}
    if told := fault(results, manifest.get("digests") or {}):
        raise OutputError(f"{path}: not joined any more: {told}; python -m tinylab.aggregate {path} joins its runs again.")
    tables = {name: read_table(folder / path).to_pandas() for name, path in artifacts.items() if path.endswith(".parquet")}
    synergies = {name: tables.pop(name) for name in SYNERGY_MATRICES.values() if name in tables}
    missing = {failure["folder"] for failure in manifest["failures"]}
    cross = folder / CROSS_CONTROLS
    return Sweep(
        path=folder,
        manifest=manifest,
        summary=read_document(SweepSummary, folder / artifacts["summary"]),
        invariants=read_document(Invariants, folder / artifacts["invariants"]),
        runs=[load_run(folder / job["folder"]) for job in manifest["jobs"] if job["folder"] not in missing],
        head_matrix=tables.get(HEAD_IMPACT.matrix),
        layer_matrix=tables.get(LAYER_IMPACT.matrix),
        matrices=tables,
        baselines=read_document(Baselines, folder / artifacts["baselines"]) if "baselines" in artifacts else None,
        cross_controls=read_document(CrossControls, cross) if cross.is_file() else None,
        synergies=synergies,
    )
