"""What a sweep's runs give together, as files: matrices, summary, invariants; and what an earlier join gave is never lost."""

from __future__ import annotations

import glob
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tinylab.config.groups import FIRST
from tinylab.effects.strength import Ranking
from tinylab.errors import OutputError
from tinylab.interventions.components import TABLE_KINDS
from tinylab.records.checking import write_document
from tinylab.records.digests import measured
from tinylab.records.documents import SweepSummary
from tinylab.records.invariants import Invariants
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import read_table
from tinylab.records.tables import SYNERGY_MATRICES
from tinylab.sweep.effects import effects_of
from tinylab.sweep.finished import CROSS_CONDITION, output_root, run_folders
from tinylab.sweep.invariants import ConditionRun, Group, Settings, find_invariants
from tinylab.sweep.joining import Child, join, join_synergies
from tinylab.sweep.ranking import rank_matrix

DOCUMENTS = ("summary", "invariants")
log = logging.getLogger(__name__)


def write_artifacts(
    folder: Path, children: Sequence[Child], failures: Sequence[dict[str, Any]], settings: Settings, before: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write the cross-condition files; what an earlier join made of runs that are gone stays.

    Args:
        folder: of the sweep.
        children: its complete runs.
        failures: what is missing.
        settings: how to look for invariants.
        before: the sweep's manifest so far.

    Returns:
        By name their relative paths, and their digests.

    Raises:
        Unreadable: a run's table is none of ours.
    """
    earlier = _earlier(folder, before)
    if not children and {*DOCUMENTS} < {*earlier}:
        log.warning("%s: no run can be joined; what an earlier join made stays in %s", folder, folder / CROSS_CONDITION)
        told = before.get("digests") or {}
        return earlier, {name: told.get(name) or measured(folder / path) for name, path in earlier.items()}
    _put_aside(folder, earlier, children)
    target = folder / CROSS_CONDITION
    written: dict[str, str] = {}
    rankings: dict[Path, dict[str, Ranking]] = {}
    kinds = {child.kind.matrix: child.kind for child in children}
    for kind in kinds.values():
        file = target / f"{kind.matrix}.parquet"
        joined = [child for child in children if child.kind.matrix == kind.matrix]
        metrics = list(dict.fromkeys(name for child in joined for name in settings.by(child.labelled).metrics))
        found = rank_matrix(join(file, joined), kind, [child.baselines for child in joined],
                            metrics=metrics, rank=settings.rank, k=settings.k)
        rankings.update(zip((child.folder.path for child in joined), found, strict=True))
        written[kind.matrix] = f"{CROSS_CONDITION}/{file.name}"
        synergies = SYNERGY_MATRICES.get(kind.matrix)
        if synergies is not None and (told := [child for child in joined if "synergy" in child.manifest]):
            join_synergies(target / f"{synergies}.parquet", told)
            written[synergies] = f"{CROSS_CONDITION}/{synergies}.parquet"
    for name in {*earlier} - {*written, *DOCUMENTS}:  # of runs that this sweep has no more, and pictures, which are drawn again
        (folder / earlier[name]).unlink(missing_ok=True)
    write_document(SweepSummary, target / "summary.json", _summary(children, failures))
    complete = {child.manifest["condition"] for child in children}
    missing = [
        f"{failure['condition']} ({failure['folder']})" if failure["condition"] in complete else failure["condition"]
        for failure in failures
        if not _has(children, failure)
    ]
    invariants = find_invariants(groups(children, rankings), settings, list(dict.fromkeys(missing)))
    write_document(Invariants, target / "invariants.json", invariants)
    written.update({name: f"{CROSS_CONDITION}/{name}.json" for name in DOCUMENTS})
    return written, {name: measured(folder / path) for name, path in written.items()}


def _earlier(folder: Path, before: dict[str, Any]) -> dict[str, str]:
    """The files of an earlier join that are there, matrices first: those that the manifest tells of, and of shipped tables."""
    shipped = {kind.matrix: f"{CROSS_CONDITION}/{kind.matrix}.parquet" for kind in TABLE_KINDS.values()}
    told = {name: path for name, path in (before.get("artifacts") or {}).items() if str(path).startswith(CROSS_CONDITION)}
    listed = {**shipped, **told, **{name: f"{CROSS_CONDITION}/{name}.json" for name in DOCUMENTS}}
    return {name: path for name, path in listed.items() if (folder / path).is_file()}


def _put_aside(folder: Path, earlier: dict[str, str], children: Sequence[Child]) -> None:
    """Move an earlier join away that has runs which are nowhere any more: it could not be made again."""
    lost = _joined_runs(folder, earlier) - {child.manifest["run_id"] for child in children}
    places = run_folders(output_root(folder.resolve()) or folder)
    lost = {run_id for run_id in lost if not any(
        RunFolder(path).intact(run_id) for path in (*places.get(run_id, ()), *folder.glob(f"*_{glob.escape(run_id)}")))}
    if not lost:
        return
    number = next(n for n in range(1, 10**6) if not _aside(folder, n).exists())
    aside = _aside(folder, number)
    try:
        aside.mkdir(parents=True)
        for path in earlier.values():
            (folder / path).rename(aside / Path(path).name)
    except OSError as error:
        raise OutputError(f"{aside}: cannot be written ({error.strerror or error}); nothing was joined: an earlier join has runs "
                          "that are gone, and is not replaced.") from error
    log.warning("%s: runs that were joined before are gone (%s); the join that has them stays in %s", folder,
                ", ".join(sorted(lost)), aside)


def _aside(folder: Path, number: int) -> Path:
    return folder / CROSS_CONDITION.replace("cross_condition", f"earlier_{number}")


def _joined_runs(folder: Path, earlier: dict[str, str]) -> set[str]:
    """The runs in the matrices of an earlier join; one that cannot be read has none to lose."""
    found: set[str] = set()
    for name in (name for name, path in earlier.items() if path.endswith(".parquet")):
        try:
            table = read_table(folder / earlier[name], columns=["run_id"])
            found.update(map(str, pc.unique(table["run_id"]).to_pylist()))
        except (OutputError, KeyError) as error:
            log.warning("%s", error)
    return found


def _has(children: Sequence[Child], failure: dict[str, Any]) -> bool:
    return any(child.folder.path.name == Path(failure["folder"]).name for child in children)


def _summary(children: Sequence[Child], failures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per condition that run's summary; several runs of one condition (models, batteries) are told apart by folder."""
    conditions: dict[str, Any] = {}
    runs_of = Counter(child.manifest["condition"] for child in children)
    for child in children:
        tag = child.manifest["condition"]
        if runs_of[tag] == 1:
            conditions[tag] = child.summary
        else:
            conditions.setdefault(tag, {"runs": {}})["runs"][child.folder.path.name] = child.summary
    return {"conditions": conditions, "failed": [{key: f[key] for key in ("condition", "error", "log")} for f in failures]}


def groups(children: Sequence[Child], rankings: dict[Path, dict[str, Ranking]]) -> list[Group]:
    """Runs of one model, battery setting, device, dtype and granularity.

    Args:
        children: all runs.
        rankings: each run's strongest components by metric, by its folder.

    Raises:
        Unreadable: a run's effects are none of ours.
    """
    return [_group(runs, rankings) for runs in alike(children)]


def alike(children: Sequence[Child]) -> list[list[Child]]:
    """Runs of one model, battery setting, device and dtype, together."""
    members: dict[str, list[Child]] = {}
    for child in children:
        weights = {key: child.manifest["provenance"]["model"][key] for key in ("revision", "digest")}
        labels = {**child.labels, **weights, **_apart(child)}
        del labels["condition"]
        members.setdefault(json.dumps([labels, child.battery_digest], sort_keys=True), []).append(child)
    return list(members.values())


def _apart(child: Child) -> dict[str, str]:
    """Swept settings that make runs another measurement, and not the same one on another condition."""
    told = ("model", "model.name", "model.path", "model.variant")  # by what results call the model, and its digest
    answer = {} if child.answer == FIRST else {"condition.answer": child.answer}
    return answer | {name: value for name, value in child.settings.items()
            if name not in told and not name.startswith(("condition", "experiment"))}


def _group(children: Sequence[Child], rankings: dict[Path, dict[str, Ranking]]) -> Group:
    first = children[0]
    told: dict[str, Any] = {key: value for key, value in first.labels.items() if key != "condition"}
    told["battery_digest"] = first.battery_digest
    settings = first.manifest["battery"]
    apart = [column for kind in (*TABLE_KINDS.values(), first.kind) for column in kind.apart]  # a granularity, of heads too
    told.update({column: settings[column] for column in apart if column in settings})
    told["described"] = first.manifest.get("described", told["battery"])
    if settings_apart := _apart(first):
        told["settings"] = settings_apart
    runs = [ConditionRun(child.manifest["condition"], rankings[child.folder.path], child.folder.path.name, child.corpus)
            for child in children]
    alike = len({child.screened for child in children}) == 1
    return Group(first.kind, told, runs, effects_of(children), first.labelled, alike)
