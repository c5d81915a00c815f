"""Components that a battery takes from a finished run: the strongest by what the run's effects say of the logit difference."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinylab.batteries.base import OfRun
from tinylab.config.groups import FIRST
from tinylab.errors import ConfigError, OutputError
from tinylab.interventions.components import TableKind
from tinylab.interventions.sites import SITES
from tinylab.measures.metrics import labelled
from tinylab.models.weights import ModelIdentity

RUN_ID = re.compile(r"[0-9a-f]{12}")
EFFECTS = "effects"


def strongest_of_run(asked: OfRun, output_dir: Path, model: ModelIdentity | None) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """The k strongest components of a finished run by |mean change| of its metric of labels, and what a manifest says of them.

    Over scales and their like the largest change counts; ties are in the order of the components. Fewer than k where the run
    has fewer.

    Args:
        asked: which run, of what components, how many.
        output_dir: where runs are looked for by their id.
        model: whose components they have to be; None where it cannot be told, which the run itself will tell.

    Raises:
        ConfigError: there is no such run, it is not finished, of another model, or of other components.
    """
    folder = _folder(asked, output_dir)
    manifest = _finished(asked, folder)
    kind = TableKind.of_manifest(manifest)
    what = f"{asked.key}={asked.run}"
    if kind.component != asked.component:
        like = "battery=h1" if asked.granularity is None else f"battery=mlps battery.site={asked.granularity}"
        raise ConfigError(f"{what}: a run of {kind.plural} ({manifest['battery']['name']}), expected one whose components are "
                          f"{', '.join(asked.component)} each, such as of {like}.")
    place = str(manifest["battery"].get("site") or manifest["battery"].get("granularity"))
    if asked.granularity is None and place in SITES and SITES[place].units == "key-value heads":
        raise ConfigError(f"{what}: a run of {place} by key-value head, which several query heads may share; expected one whose "
                          "heads are query heads, such as of battery=h1.")
    told = manifest["provenance"]["model"]
    theirs = ModelIdentity(told["name"], told["revision"], told["digest"])
    if model is not None and not _same(theirs, model):
        raise ConfigError(f"{what}: a run of another model, {_called(theirs)}, and this one is of {_called(model)}; expected one "
                          "of the same weights.")
    changes = _changes(what, folder, manifest, kind, part=asked.granularity)
    order = sorted(changes, key=lambda component: (-changes[component], component))
    where = {"run_id": manifest["run_id"], "folder": str(folder), "condition": manifest["condition"], "k": asked.k,
             "metric": labelled(answer_of(manifest))}
    return order[:asked.k], where


def _folder(asked: OfRun, root: Path) -> Path:
    """The folder that is meant: itself, or the one whose name ends with the id."""
    if (path := Path(asked.run)).is_dir():
        return path
    pattern = f"*_{asked.run}"
    found = [*chain(root.glob(f"runs/{pattern}"), root.glob(f"sweeps/*/{pattern}"))] if RUN_ID.fullmatch(asked.run) else []
    if not found:
        raise ConfigError(f"{asked.key}={asked.run}: no such run; expected the folder of a finished run, or the id that ends the "
                          f"name of one in {root}/runs or {root}/sweeps.")
    return sorted(found, key=lambda one: (not (one / "manifest.json").is_file(), one))[0]


def _finished(asked: OfRun, folder: Path) -> dict[str, Any]:
    """The manifest of a finished run whose effects are what it wrote."""
    from tinylab.records.checking import read_document  # not for the command line's help: pydantic takes a while
    from tinylab.records.digests import fault
    from tinylab.records.manifests import RunManifest

    what = f"{asked.key}={asked.run}"
    try:
        manifest = read_document(RunManifest, folder / "manifest.json")
    except OutputError as error:
        raise ConfigError(f"{what}: not the folder of a finished run: {error}") from error
    if manifest["status"] != "complete":
        raise ConfigError(f"{what}: not a finished run (status {manifest['status']}); the command that made it resumes it.")
    if EFFECTS not in manifest:
        raise ConfigError(f"{what}: it was computed by a version without effects; compute it again with overwrite=true.")
    if (told := fault({EFFECTS: folder / manifest[EFFECTS]}, manifest.get("digests") or {})) is not None:
        raise ConfigError(f"{what}: not a finished run any more: {told}; the command that made it computes it again.")
    return manifest


def _same(one: ModelIdentity, other: ModelIdentity) -> bool:
    """Whether two models have the same weights, whatever they are called: by digest, of the hub's by name and commit."""
    if one.digest is not None or other.digest is not None:
        return one.digest == other.digest
    return (one.name, one.revision) == (other.name, other.revision)


def _called(model: ModelIdentity) -> str:
    version = model.digest or model.revision
    return model.name if version is None else f"{model.name} ({version[:12]})"


def answer_of(manifest: dict[str, Any]) -> str:
    """What counts as the answer in a finished run, see `condition.answer`."""
    corpus = (manifest.get("provenance") or {}).get("corpus") or {}
    return str((corpus.get("answers") or {}).get("kind", FIRST))


def _changes(
    what: str, folder: Path, manifest: dict[str, Any], kind: TableKind, *, part: str | None
) -> dict[tuple[int, ...], float]:
    """Each component's largest |mean change| of what effects are labelled by; of layers, `part` is what of them is meant."""
    by = labelled(answer_of(manifest))
    columns = [*kind.component, *kind.apart, "metric", "effect_logits"]
    try:
        rows = pq.read_table(folder / manifest[EFFECTS], columns=columns).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"{what}: its {manifest[EFFECTS]} cannot be read ({' '.join(str(error).split())}); compute it again "
                          "with overwrite=true.") from error
    if part is not None and (others := {row["granularity"] for row in rows} - {part}):
        raise ConfigError(f"{what}: a run of {', '.join(sorted(others))} of layers, expected one of {part}, such as of "
                          f"battery=mlps battery.site={part}.")
    changes: dict[tuple[int, ...], float] = {}
    for row in rows:
        if row["metric"] == by and row["effect_logits"] is not None:
            component = tuple(row[name] for name in kind.component)
            changes[component] = max(changes.get(component, 0.0), abs(row["effect_logits"]))
    if not changes:
        raise ConfigError(f"{what}: it has no {by}, by which its {kind.plural} are ranked; the same run with metrics="
                          f"[{by}] adds it.")
    return changes
