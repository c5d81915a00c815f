"""What a person reads when a run or a sweep ends."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from tinylab.manifest import RunFolder
from tinylab.storage import read_json
from tinylab.tables import KEYS

STRONGEST = 10


def console() -> Console:
    """Standard output; made at each use so that redirection works."""
    return Console(highlight=False, soft_wrap=True)


def strongest(table: pd.DataFrame, keys: list[str], baselines: dict[str, Any], metric: str) -> pd.DataFrame:
    """The cells of an impact table, averaged over seeds, by |change of metric| from the unmodified run, largest first."""
    wide = table.groupby([*keys, "metric"])["value"].mean().unstack("metric")
    wide["change"] = wide[metric] - baselines[metric]["mean"]
    ordered = wide.reset_index().assign(size=wide["change"].abs().to_numpy())
    return ordered.sort_values(["size", *keys], ascending=[False] + [True] * len(keys)).drop(columns="size")


def print_run(folder: RunFolder) -> None:
    """Print the strongest components of a finished run, and where it lies."""
    manifest = folder.read()
    assert manifest is not None
    summary = read_json(folder.file("summary"))
    table = pd.read_parquet(folder.file(manifest["table"]))
    baselines = summary["baselines"][manifest["target_run"]]
    metric = "logit_diff" if "logit_diff" in summary["metrics"] else next(iter(summary["metrics"]))
    keys = list(KEYS[manifest["table"]])
    rows = strongest(table, keys, baselines, metric).head(STRONGEST)
    metrics = [name for name in summary["metrics"] if name in rows]
    view = Table(title=f"{manifest['battery']['name']} on {manifest['condition']}, {manifest['model']}: strongest by change of "
                       f"{metric} (unmodified {manifest['target_run']} run: {baselines[metric]['mean']:.3f})", title_justify="left")
    for name in [*keys, "change", *metrics]:
        view.add_column(name, justify="left" if name == "granularity" else "right")
    for _, row in rows.iterrows():
        view.add_row(*(str(row[key]) for key in keys), f"{row['change']:+.3f}", *(f"{row[name]:.3f}" for name in metrics))
    out = console()
    out.print(view)
    verify = manifest.get("verify_slice")
    if verify:
        out.print(f"verify slice on {verify['settings']['device']}: {verify['verdict']}")
    out.print(f"run: {folder.path}")
