"""How joining a sweep grows with its runs: seconds and memory on run folders made up for the purpose."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.measure import PeakMemory, timed
from tinylab.interventions.components import HEAD_IMPACT
from tinylab.records.manifest import RunFolder
from tinylab.records.storage import read_json
from tinylab.records.tables import EFFECTS_COLUMNS, effects_columns, impact_columns, schema
from tinylab.sweep.aggregate import aggregate
from tinylab.sweep.artifacts import groups
from tinylab.sweep.invariants import Group, Settings, find_invariants
from tinylab.sweep.joining import Child, Matrix, join
from tinylab.sweep.ranking import rank_matrix

CPU = torch.device("cpu")
METRICS = ("logit_diff", "kl_div", "acc_flip_rate", "p_drop")
SEEDS = (0, 1, 2)
BASELINES = dict.fromkeys(METRICS, 0.0) | {"logit_diff": 10.0}
SE = 0.02
"""Of the made-up effects."""
CONFIG = "battery: h1\n"
STARTED = "2026-01-31T12:00:00+00:00"


@dataclass(frozen=True)
class Shape:
    """The model of the made-up runs; each has a row per head, metric and seed."""

    layers: int = 20
    heads: int = 20

    @property
    def rows(self) -> int:
        """Of one run's table."""
        return self.layers * self.heads * len(METRICS) * len(SEEDS)


def make_sweep(folder: Path, runs: int, shape: Shape) -> None:
    """Write the folders of so many finished h1 runs, each a condition of its own, and the sweep's manifest."""
    rng = np.random.default_rng(0)
    columns = _columns(shape)
    jobs = []
    for number in range(runs):
        run_id, condition = f"{number:012x}", f"cond_{number:04d}"
        run = RunFolder(folder / f"h1_{condition}_{run_id}")
        run.file(HEAD_IMPACT.name).parent.mkdir(parents=True)
        values = {"run_id": pa.repeat(run_id, shape.rows), **columns, "value": pa.array(rng.normal(size=shape.rows))}
        table = pa.table(values).select(impact_columns(HEAD_IMPACT)).cast(schema(impact_columns(HEAD_IMPACT), HEAD_IMPACT))
        pq.write_table(table, run.file(HEAD_IMPACT.name), compression="zstd")
        pq.write_table(table.slice(0, 1), run.file("per_example"))
        pq.write_table(_effects(columns, rng, shape), run.file("effects"), compression="zstd")
        run.file("config").write_text(CONFIG, encoding="utf-8")
        _dump(run.file("summary"), _summary(run_id, condition))
        _dump(run.manifest, _manifest(run_id, condition, shape))
        jobs.append({"overrides": [f"condition={condition}"], "condition": condition, "battery": "h1", "run_id": run_id,
                     "folder": run.path.name})
    _dump(folder / "manifest.json", {"status": "running", "jobs": jobs})


def _columns(shape: Shape) -> dict[str, pa.Array]:
    """What all the tables have in common, in the order in which a run writes it: by seed, metric, layer, head."""
    seed, metric, layer, head = (
        axis.ravel()
        for axis in np.meshgrid(SEEDS, range(len(METRICS)), range(shape.layers), range(shape.heads), indexing="ij")
    )
    columns = {"seed": seed, "layer": layer, "head": head, "scale": np.zeros(shape.rows), "metric": np.array(METRICS)[metric]}
    return {name: pa.array(column) for name, column in columns.items()}


def _effects(columns: dict[str, pa.Array], rng: np.random.Generator, shape: Shape) -> pa.Table:
    """What effects.parquet holds: every twentieth head has an effect in all runs, and others now and then."""
    cells = shape.layers * shape.heads
    first = slice(0, cells * len(METRICS))  # of one seed
    keys = {name: columns[name][first] for name in ("layer", "head", "scale", "metric")}
    size = np.where(rng.random(cells) < 1 / 200, 0.3, 0.0) + np.where(np.arange(cells) % 20 == 0, 0.3, 0.0)
    effect = np.tile(-size + rng.normal(scale=SE, size=cells), len(METRICS))
    told = {name: pa.nulls(len(effect)) for name in EFFECTS_COLUMNS} | keys | {
        "n": np.full(len(effect), 120), "templates": np.full(len(effect), 4), "smallest_template": np.full(len(effect), 30),
        "effect": effect, "se": np.full(len(effect), SE), "df": np.full(len(effect), 116.0),
        "ci_low": effect - 2 * SE, "ci_high": effect + 2 * SE, "effect_logits": 10 * effect,
        "label": [["undecided", "matters"][big] if place < cells else None
                  for place, big in enumerate((np.abs(effect) - 4 * SE > 0.05).astype(int).tolist())],
    }
    columns_of_table = effects_columns(HEAD_IMPACT)
    return pa.table({name: told[name] for name in columns_of_table}).cast(schema(columns_of_table, HEAD_IMPACT))


def _manifest(run_id: str, condition: str, shape: Shape) -> dict[str, Any]:
    return {
        "status": "complete", "run_id": run_id, "run_name": f"h1_{condition}", "condition": condition,
        "battery": {"name": "h1", "scales": [0.0], "layers": None, "heads": None}, "table": HEAD_IMPACT.name,
        "table_kind": HEAD_IMPACT.as_json(),
        "judged": {"smallest": 0.05, "alpha": 0.05, "correction": "holm", "k": 10, "noise": {}},
        "direction": "none", "target_run": "clean", "positions": "all", "model": "made up",
        "provenance": {
            "model": {"name": "made up", "revision": None, "digest": "0" * 64}, "n_layers": shape.layers, "n_heads": shape.heads,
            "corpus": {"path": f"{condition}.jsonl", "sha256": "0" * 64, "kept": 120, "dropped": {}},
            "device": "cpu", "dtype": "float32",
            "seeds": list(SEEDS), "packages": {f"package {number}": "1.2.3" for number in range(20)},
            "architecture": "MadeUp", "bos": {"add_bos": False, "token_id": None}, "threads": 1, "attention": None,
            "git": {"commit": None, "dirty": None}, "config_digest": "0" * 12, "engine": "forked", "engine_fallback_reason": None,
            "self_check_max_difference": None, "forwards": 0, "states": 0, "wall_seconds": 0, "engine_seconds": 0,
            "peak_memory_bytes": 1, "started": STARTED, "finished": STARTED,
        },
        "started": STARTED,
        **{name: str(RunFolder(Path()).file(name)) for name in ("config", HEAD_IMPACT.name, "per_example", "effects", "summary")},
    }


def _summary(run_id: str, condition: str) -> dict[str, Any]:
    def told(value: float) -> dict[str, Any]:
        return {"mean": value, "n": 120, "per_seed": {str(seed): value for seed in SEEDS}}

    return {
        "run_id": run_id, "condition": condition, "battery": {"name": "h1"}, "direction": "none", "target_run": "clean",
        "positions": "all", "model": "made up", "seeds": list(SEEDS),
        "baselines": {run: {name: told(value) for name, value in BASELINES.items()} for run in ("clean", "corrupt")},
        "metrics": {name: {**told(value), "ci95": [value, value], "ci95_method": "percentile, examples", "undefined_cells": 0}
                    for name, value in BASELINES.items()},
        "controls": {},
    }


def _dump(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Point:
    """What joining one sweep took."""

    runs: int
    rows: int
    whole: float  # seconds of `aggregate`
    mebibytes: float  # that it holds at most beyond the imports
    read: float  # seconds of its parts: manifests and summaries
    join: float
    rank: float  # the invariants, from the matrix and the runs' effects


def points(counts: Sequence[int], shape: Shape) -> list[Point]:
    """A sweep of each number of runs, each measured in a process of its own."""
    return [_point(runs, shape) for runs in counts]


def _point(runs: int, shape: Shape) -> Point:
    with tempfile.TemporaryDirectory() as place:
        make_sweep(Path(place), runs, shape)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            whole, mebibytes = pool.submit(grown, Path(place)).result()
            return Point(runs, runs * shape.rows, whole, mebibytes, *pool.submit(seconds, Path(place)).result())


def grown(folder: Path) -> tuple[float, float]:
    """Seconds and MiB of `aggregate`; called in a fresh process."""
    with PeakMemory(CPU) as memory:
        _, whole = timed(CPU, lambda: aggregate(folder, Settings()))
    return whole, memory.mebibytes


def seconds(folder: Path) -> tuple[float, float, float]:
    """Of reading, of joining, and of the invariants by one metric, effects included."""
    settings = Settings()
    children, read = timed(CPU, lambda: _children(folder))
    matrix, joined = timed(CPU, lambda: join(folder / "matrix.parquet", children))
    _, ranked = timed(CPU, lambda: find_invariants(_groups(matrix, children, settings), settings, []))
    return read, joined, ranked


def _children(folder: Path) -> list[Child]:
    runs = [(RunFolder(folder / job["folder"]), job["run_id"]) for job in read_json(folder / "manifest.json")["jobs"]]
    complete = ((run, run.complete(run_id)) for run, run_id in runs)
    return [Child(run, manifest, read_json(run.file("summary"))) for run, manifest in complete if manifest is not None]


def _groups(matrix: Matrix, children: list[Child], settings: Settings) -> list[Group]:
    baselines = [child.baselines for child in children]
    found = rank_matrix(matrix, HEAD_IMPACT, baselines, metrics=settings.metrics, rank=settings.rank, k=settings.k)
    return groups(children, dict(zip((child.folder.path for child in children), found, strict=True)))
