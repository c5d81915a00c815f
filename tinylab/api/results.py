"""Results as a notebook wants them: what `tinylab.results` loads, and its picture, its summary in HTML, its numbers as xarray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from tinylab import results as loaded
from tinylab.effects.strength import strongest
from tinylab.errors import ConfigError, install, options
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import LOGIT_DIFF
from tinylab.records.storage import write_text
from tinylab.report.joint import draw_matrix
from tinylab.report.names import with_names
from tinylab.report.plots import Drawn, draw, draw_runs
from tinylab.report.views import effects_sentence, title_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SHOWN = 10
"""Components that a notebook shows of a run."""
PANELS = 24
"""Runs in a sweep's picture, at most."""


@dataclass(frozen=True, repr=False)
class Run(loaded.Run):
    """A finished run. Tables it does not have are None."""

    folder: object | None = field(default=None, compare=False)
    """Holds the files of a run that was not kept, as long as anything holds the run; None of others."""

    @property
    def kind(self) -> TableKind:
        """The kind of its impact table."""
        return TableKind.of_manifest(self.manifest)

    @property
    def baselines(self) -> dict[str, Any]:
        """By metric, {"mean": …} of the unmodified run that was intervened on."""
        found: dict[str, Any] = self.summary["baselines"][self.manifest["target_run"]]
        return found

    def plot(self, metric: str | None = None) -> Figure:
        """The run's heat map as a matplotlib figure: what `heatmap.png` shows; of pairs their synergy.

        Args:
            metric: by which one; None for what the heat map has.

        Raises:
            ConfigError: the run has no such metric.
        """
        _show_figures()
        if metric is None and self.synergy is not None:
            return draw_matrix(self.synergy, title_of(self.manifest))
        impact = self.impact if metric is None else self.impact[self.impact["metric"] == self._known(metric)]
        return draw(impact, self.kind, self.baselines, title_of(self.manifest), patched=self.manifest["direction"] != "none",
                    labels=self._labels(str(impact["metric"].iloc[0])),
                    tokens=self.manifest["provenance"].get("position_tokens") or ())

    def report(self, path: str | PathLike[str] | None = None) -> Path:
        """Write the run's page, to be opened in a browser; returns where it is.

        Args:
            path: of an HTML file; None for `report.html` in the run's folder, which vanishes with a run that is not kept.

        Raises:
            ConfigError: what pages are made with is not installed.
            OutputError: it cannot be written.
        """
        return _page(self.path, path)

    def to_xarray(self) -> xr.Dataset:
        """The impact table as an xarray Dataset: a variable for each metric, by seed and by what identifies a cell.

        Cells that a battery does not have are missing values. Attributes say what the run was, `baselines` among them.

        Raises:
            ConfigError: xarray is not installed.
        """
        return to_xarray(self.impact, ["seed", *self.kind.keys], {
            **{key: self.manifest[key] for key in ("run_id", "condition", "model")}, "battery": self.manifest["battery"]["name"],
            **{f"baseline_{name}": entry["mean"] for name, entry in self.baselines.items()},
        })

    def _known(self, metric: str) -> str:
        known = list(dict.fromkeys(self.impact["metric"]))
        if metric not in known:
            raise ConfigError(f"metric={metric}: this run has none of it; {options(metric, known)}.")
        return metric

    def _drawn(self, metric: str) -> Drawn:
        """The run as a panel of a sweep's picture."""
        return Drawn(pa.Table.from_pandas(self.impact, preserve_index=False), self.baselines, self._labels(self._known(metric)))

    def _labels(self, metric: str) -> pd.DataFrame | None:
        """Each cell's label by a metric; None where it has none."""
        if self.effects is None:
            return None
        rows = self.effects[self.effects["metric"] == metric]
        return None if rows["label"].isna().all() else rows[[*self.kind.keys, "label"]]

    def _strongest(self) -> tuple[str, pd.DataFrame]:
        """By which metric, and the strongest components with their effects."""
        metrics = list(dict.fromkeys(self.impact["metric"]))
        metric = LOGIT_DIFF if LOGIT_DIFF in metrics else metrics[0]
        cells, component = with_names(strongest(self.impact, self.kind, self.baselines, metric), self.kind)
        told = [*component, *(name for name in (*self.kind.apart, *self.kind.varied) if cells[name].nunique() > 1), "change"]
        if self.effects is not None:
            rows = self.effects[self.effects["metric"] == metric]
            judged = ["effect", "ci_low", "ci_high", "label"]
            cells = cells.merge(rows[[*self.kind.keys, *judged]], how="left", on=list(self.kind.keys))
            told += [name for name in judged if not cells[name].isna().all()]
        return metric, cells[told].head(SHOWN)

    def __repr__(self) -> str:
        """Such as `Run(h1 on cond_a, tiny: 16 cells)`."""
        cells = len(self.impact[list(self.kind.keys)].drop_duplicates())
        return f"Run({title_of(self.manifest)}: {cells} cells)"

    def _repr_html_(self) -> str:
        """What a notebook shows: the strongest components, and what their effects come to."""
        metric, cells = self._strongest()
        mean = self.baselines[metric]["mean"]
        told = f"strongest by change of {metric} (unmodified {self.manifest['target_run']} run: {mean:.3f})"
        said = self.summary.get("effects")
        below = "" if said is None else f"<p>{escape(effects_sentence(said, self.kind.plural))}</p>"
        return (f"<p><b>{escape(title_of(self.manifest))}</b>: {escape(told)}</p>"
                f"{cells.to_html(index=False, float_format='{:.3f}'.format, na_rep='–', border=0)}{below}")


@dataclass(frozen=True, repr=False)
class Sweep(loaded.Sweep):
    """A sweep. Matrices it does not have are None; `runs` holds its complete runs."""

    runs: list[Run]  # type: ignore[assignment]
    folder: object | None = field(default=None, compare=False)
    """Holds the files of a sweep that was not kept, as long as anything holds it or one of its runs; None of others."""

    def plot(self, metric: str = LOGIT_DIFF) -> Figure:
        """Its runs with one colour scale, a panel each (of layers a column), as a matplotlib figure.

        Args:
            metric: whose change is shown.

        Raises:
            ConfigError: the runs are of several kinds of table or have no such metric, or there are none.
        """
        kinds = dict.fromkeys(run.kind for run in self.runs)
        if len(kinds) != 1:
            raise ConfigError(f"a picture is of runs with one kind of table, got {', '.join(k.name for k in kinds) or 'none'}; "
                              "draw each run by itself.")
        _show_figures()
        runs = self.runs[:PANELS]
        drawn = {name: run._drawn(metric) for name, run in zip(_names(runs), runs, strict=True)}
        some = f", the first {len(runs)} of {len(self.runs)} runs" if len(runs) < len(self.runs) else ""
        models = ", ".join(dict.fromkeys(run.manifest["model"] for run in runs))
        return draw_runs(drawn, runs[0].kind, metric, f"{runs[0].manifest['battery']['name']} on {models}{some}")

    def report(self, path: str | PathLike[str] | None = None) -> Path:
        """Write the sweep's page; see `Run.report`."""
        return _page(self.path, path)

    def to_xarray(self, matrix: str | None = None) -> xr.Dataset:
        """A matrix as an xarray Dataset: a variable for each metric, by condition, seed and what identifies a cell.

        Columns that differ between runs (model, battery, …) are dimensions too.

        Args:
            matrix: head_matrix, layer_matrix or another; None where the sweep has one only.

        Raises:
            ConfigError: xarray is not installed, or there is no such matrix.
        """
        table = self.matrices[self.chosen_matrix(matrix)]
        columns = list(table.columns)
        keys = columns[2:columns.index("metric")]
        labels = [name for name in columns[columns.index("condition"):] if name != "condition" and table[name].nunique() > 1]
        return to_xarray(table, ["condition", *labels, "seed", *keys], {"sweep": self.manifest["sweep_name"]})

    def __repr__(self) -> str:
        """Such as `Sweep(2 runs: cond_a, cond_b; status complete)`."""
        return f"Sweep({len(self.runs)} runs: {', '.join(_names(self.runs))}; status {self.manifest['status']})"

    def _repr_html_(self) -> str:
        """What a notebook shows: a row for each run, and for each that is missing why."""
        rows = []
        for name, run in zip(_names(self.runs), self.runs, strict=True):
            told = run.summary.get("effects") or {}
            counts = told.get("counts") or {}
            metric, _ = run._strongest()
            rows.append({"run": name, "model": run.manifest["model"], f"unmodified {metric}": run.baselines[metric]["mean"],
                         **{label: counts.get(label) for label in ("matters", "mixed", "negligible", "undecided")}})
        missing = "".join(f"<p>missing: {escape(str(one['condition']))}: {escape(str(one['error']))}</p>"
                          for one in self.manifest["failures"])
        shared = {key: self.invariants[key] for key in ("heads", "layers") if self.invariants.get(key)}
        found = f"<p>shared ({escape(str(self.invariants.get('set')))}): {escape(str(shared or 'none'))}</p>"
        table = pd.DataFrame(rows).to_html(index=False, float_format="{:.3f}".format, na_rep="–", border=0)
        return f"{table}{missing}{found}"


def of_folder(run: loaded.Run, folder: object | None = None) -> Run:
    """A loaded run as a notebook wants it."""
    return Run(**{one.name: getattr(run, one.name) for one in fields(run)}, folder=folder)


def load_run(path: str | PathLike[str], folder: object | None = None) -> Run:
    """See `tinylab.results.load_run`; `folder` is what holds its files, if they are not kept."""
    return of_folder(loaded.load_run(path), folder)


def load_sweep(path: str | PathLike[str], folder: object | None = None) -> Sweep:
    """See `tinylab.results.load_sweep`; `folder` is what holds its files, if they are not kept."""
    sweep = loaded.load_sweep(path)
    own = {one.name: getattr(sweep, one.name) for one in fields(sweep)}
    return Sweep(**{**own, "runs": [of_folder(run, folder) for run in sweep.runs]}, folder=folder)


def to_xarray(table: pd.DataFrame, index: Sequence[str], attributes: Mapping[str, Any]) -> xr.Dataset:
    """A long table as a Dataset.

    Args:
        table: with `metric` and `value`.
        index: its columns that become dimensions.
        attributes: of the Dataset.

    Raises:
        ConfigError: xarray is not installed.
    """
    try:
        import xarray  # noqa: F401  # pandas takes it from here
    except ImportError as error:
        raise ConfigError(f"to_xarray: needs the package xarray, which is not there; {install('xarray')}.") from error
    wide = table.pivot(index=list(index), columns="metric", values="value")
    return wide.to_xarray().assign_attrs(attributes)


def _page(folder: Path, path: str | PathLike[str] | None) -> Path:
    """The page of a run or sweep: in its folder, or a copy of it elsewhere."""
    from tinylab.report.page.writing import write_report

    written = write_report(folder)
    if path is None:
        return written
    write_text(Path(path), written.read_text(encoding="utf-8"))
    return Path(path)


def _names(runs: Sequence[Run]) -> list[str]:
    """What runs are called: their condition, with their folder's name where several share one."""
    conditions = [str(run.manifest["condition"]) for run in runs]
    return [name if conditions.count(name) == 1 else f"{name} ({run.path.name})"
            for name, run in zip(conditions, runs, strict=True)]


def _show_figures() -> None:
    """In a notebook, have figures shown as pictures: Jupyter's backend does so from when it is imported."""
    module = os.environ.get("MPLBACKEND", "").removeprefix("module://")
    if module == "matplotlib_inline.backend_inline":
        import_module(module)
