"""What the heads that matter in one condition do to another: a circuit that any other task's would replace is none of its own.

Every condition's prompts are run with the components that matter in it changed together, and with those that matter in each other
condition (2605.08348). The sweep is joined and on disk before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from tinylab.config.groups import AUTO
from tinylab.effects.random_sets import FEWEST, NOISE, OF_EACH, PART, Circuit, affordable, together
from tinylab.errors import OutputError, TinylabError
from tinylab.interventions.variants import Variant
from tinylab.measures.metrics import LOGIT_DIFF, Scorer
from tinylab.records.checking import read_document, write_document
from tinylab.records.controls import CrossControls
from tinylab.records.documents import RunSummary
from tinylab.records.identity import Resolved, resolve
from tinylab.records.manifest import RunFolder
from tinylab.records.reading import read_effects
from tinylab.records.storage import read_json
from tinylab.schema import Config, validate
from tinylab.sweep.artifacts import alike
from tinylab.sweep.finished import CROSS_CONDITION
from tinylab.sweep.joining import Child
from tinylab.task.corpus import load_condition

if TYPE_CHECKING:
    from tinylab.task.preparation import Prepared

FILE = f"{CROSS_CONDITION}/cross_controls.json"
MOST = 12
"""Conditions up to which this is done by itself: it takes as many runs of each example as there are conditions."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A run of a group, with what matters in it."""

    name: str  # its condition, with its folder where several share one
    child: Child
    circuit: Circuit

    def told(self) -> dict[str, Any]:
        """What the document says of it before anything is computed."""
        listed = [self.child.kind.listed(self.circuit.components[place]) for place in self.circuit.members]
        return {"run_id": self.child.manifest["run_id"], "at": self.circuit.at, "circuit": listed}


def add_cross_controls(folder: Path, asked: Any) -> None:
    """Do this for every group of a sweep's runs that has heads in several conditions, unless it was done.

    What cannot be done is told in the log; nothing else depends on it.

    Args:
        folder: of the sweep, joined.
        asked: true, false, or `auto`: where it costs at most a tenth of what the runs did, if need be on part of the examples.
    """
    comparable = _comparable(folder)
    if not comparable:
        return
    skipped = ("are not tried with each other's components; controls.cross=true does it, or python -m tinylab.aggregate "
               f"{folder} --cross")
    if asked is False:
        log.info("conditions %s", skipped)
        return
    few = [group for group in comparable if asked is True or len(group) <= MOST]
    groups = [members for members in map(_members, few) if len({one.child.manifest["condition"] for one in members}) > 1]
    before = _before(folder, groups)
    if before is not None and (asked == AUTO or before["asked"] != AUTO):
        return
    told = []
    for members in groups:
        try:
            told.append(_group(members, by_itself=asked == AUTO))
        except TinylabError as error:
            log.warning("conditions are not tried with each other's components: %s", error)
    if len(few) < len(comparable) or None in told:
        log.info("conditions %s", skipped)
    if done := [group for group in told if group is not None]:
        write_document(CrossControls, folder / FILE, {"asked": str(asked).lower(), "groups": done})


def _before(folder: Path, groups: Sequence[Sequence[Member]]) -> dict[str, Any] | None:
    """What is there of these very runs and circuits; of others it is removed."""
    if not (folder / FILE).is_file():
        return None
    try:
        before = read_document(CrossControls, folder / FILE)
    except OutputError as error:
        log.warning("%s", error)
        before = {"asked": AUTO, "groups": []}
    now = [{one.name: one.told() for one in members} for members in groups]
    same = [{name: {key: run[key] for key in ("run_id", "at", "circuit")} for name, run in group["runs"].items()}
            for group in before["groups"]]
    if same == now:
        return before
    (folder / FILE).unlink()
    return None


def _comparable(folder: Path) -> list[list[Child]]:
    """Runs that may be compared, of several conditions, whose components are units of a layer."""
    children = []
    for job in read_json(folder / "manifest.json")["jobs"]:
        run = RunFolder(folder / job["folder"])
        if (manifest := run.finished()) is not None:
            summary = read_document(RunSummary, run.file("summary"))
            children.append(Child(run, manifest, summary, job.get("settings") or {}))
    groups = alike([child for child in children if child.kind.of_units])
    several = [group for group in groups if len({child.manifest["condition"] for child in group}) > 1]
    same = [group for group in several if len({child.screened for child in group}) == 1]
    if len(same) < len(several):
        log.info("conditions whose screens chose different components are not tried with each other's")
    return same


def _members(group: Sequence[Child]) -> list[Member]:
    """The runs of a group that have labels by which some components matter."""
    times = Counter(child.manifest["condition"] for child in group)
    members = []
    for child in group:
        effects = read_effects(child.folder, child.manifest)
        circuit = None if effects is None else Circuit.of(effects, child.kind, child.labelled)
        if circuit is not None and circuit.members:
            condition = child.manifest["condition"]
            name = condition if times[condition] == 1 else f"{condition} ({child.folder.path.name})"
            members.append(Member(name, child, circuit))
    return members


def _group(members: Sequence[Member], *, by_itself: bool) -> dict[str, Any] | None:
    """What every member's components do to every member; None where that costs too much to be done by itself.

    Raises:
        TinylabError: a run's corpus or model is not what it was, or cannot be loaded.
    """
    if by_itself and any(_is_costly(member, len(members)) for member in members):
        return None
    resolved = [_resolved(member) for member in members]
    chosen = [_chosen(member, one, members) if by_itself else None for member, one in zip(members, resolved, strict=True)]
    if by_itself and None in chosen:
        return None
    runs, states = {}, 0
    for member, one, examples in zip(members, resolved, chosen, strict=True):
        log.info("trying %s with the components of %d conditions", member.name, len(members))
        told, computed = _tried(member, one, members, examples)
        runs[member.name], states = {**member.told(), **told}, states + computed
    first = members[0].child
    by = {} if first.labelled == LOGIT_DIFF else {"metric": first.labelled}
    return {
        **by,
        "kind": first.kind.plural, "model": first.labels["model"], "battery": first.manifest["battery"]["name"],
        "described": first.manifest.get("described", first.manifest["battery"]["name"]), "states": states, "runs": runs,
    }


def _is_costly(member: Member, several: int) -> bool:
    """Whether even the fewest examples are too many, at a glance: an unmodified pair costs as two cells, a joint run as one."""
    summary = member.child.summary["effects"]
    fewest = min(summary["n"], max(FEWEST, OF_EACH * summary["templates"]))
    return bool(PART * fewest * (several + 2) > summary["n"] * (summary["cells"] + 2))


def _resolved(member: Member) -> Resolved:
    """The config of a finished run, and what it names.

    Raises:
        OutputError: that is not what the run had.
    """
    file = member.child.folder.file("config")
    raw = OmegaConf.load(file)
    assert isinstance(raw, DictConfig)
    resolved = resolve(validate(raw))
    if resolved.run_id != member.child.manifest["run_id"]:
        raise OutputError(f"{file}: what it names (corpus, model, device) is not here as it was when the run was computed.")
    return resolved


def _variants(prepared: Prepared, on: Member, members: Sequence[Member]) -> list[Variant]:
    """One for each member: its components, changed together."""
    found = []
    for member in members:
        cells = member.circuit.cells_among(prepared.cells, on.child.kind)
        if cells is None:
            raise OutputError(f"{on.child.folder.path}: its cells are not of one unit of a layer each.")
        found.append(together([cells[place] for place in member.circuit.members]))
    return found


def _chosen(member: Member, resolved: Resolved, members: Sequence[Member]) -> list[int] | None:
    """The examples that all together cost little, by the model's shape alone; None where there are too few of them."""
    from tinylab.engine.cost import Shape, plain_cost
    from tinylab.engine.forked.budget import Budget, predict
    from tinylab.models.device import resolve_device
    from tinylab.models.loading import skeleton
    from tinylab.task.preparation import prepare

    config, provenance = resolved.config, member.child.manifest["provenance"]
    model = skeleton(config.model)
    prepared = prepare(config, load_condition(config.condition), model)
    variants, shape, device = _variants(prepared, member, members), Shape.of(model), resolve_device(config.device.type)

    def states(examples: list[int]) -> int:
        pairs = [prepared.tokens[b] for b in examples]
        if provenance["engine"] == "reference":
            return plain_cost(shape, pairs, variants).states
        return predict(shape, device, pairs, variants, Budget.of(device, config.engine.max_states)).states

    templates = [pair.template for pair in prepared.condition.pairs]
    return affordable(templates, config.seeds[0], states, provenance["states"] / PART)


def _tried(
    member: Member, resolved: Resolved, members: Sequence[Member], examples: list[int] | None
) -> tuple[dict[str, Any], int]:
    """The change that each member's components make to this one by the metric of labels, and how many states that took."""
    from tinylab.engine.choose import choose_engine
    from tinylab.models.device import resolve_device
    from tinylab.models.loading import kept_model
    from tinylab.task.preparation import prepare

    config = resolved.config
    model = kept_model(config.model, resolved.device or resolve_device(config.device.type), resolved.model)
    prepared = prepare(config, load_condition(config.condition), model)
    variants = _variants(prepared, member, members)
    engine = choose_engine(model, _engine(config, member), prepared.read, variants).engine
    some = [prepared.tokens[b] for b in (range(len(prepared.tokens)) if examples is None else examples)]
    found = engine.evaluate(some, variants, Scorer((config.labelled,)))
    battery = config.battery
    target = found.baselines[battery.target][:, 0]
    whole = target if battery.source is None else found.baselines[battery.source.run][:, 0] - target
    change = (found.values[:, :, 0] - target).mean(axis=1)
    if not np.isfinite(change).all():
        raise OutputError(f"{member.name}: logits of heads that are changed together are not finite.")
    changes = {other.name: float(one) for other, one in zip(members, change, strict=True)}
    return {
        "n": len(some), "of": len(prepared.tokens), "whole": float(whole.mean()), "changes": changes,
        "of_own": of_own(changes, member.name),
    }, found.states


def rows_of(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the summary of a sweep says of this: a row for each run.

    Args:
        groups: of cross_controls.json.
    """
    return [
        {"model": group["model"], "described": group["described"], "condition": name, "n": run["n"], "of": run["of"],
         "own": run["changes"][name],
         "others": {other: {"change": run["changes"][other], "of_own": part}
                    for other, part in of_own(run["changes"], name).items() if other != name}}
        for group in groups for name, run in group["runs"].items()
    ]


def of_own(changes: dict[str, float], name: str) -> dict[str, float | None]:
    """The sizes of changes as fractions of the one that a run's own components make; None where they make none."""
    own = abs(changes[name])
    return {other: abs(change) / own if own > NOISE else None for other, change in changes.items()}


def _engine(config: Config, member: Member) -> Any:
    """The engine group of the config, by the engine that computed the run."""
    used = member.child.manifest["provenance"]["engine"]
    return replace(config.engine, name=used) if used == "reference" else config.engine
