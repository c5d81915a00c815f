"""From an old config to experiments: one for a run file, one for each condition of an orchestrated file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from tinylab.config.groups import ConditionConfig
from tinylab.errors import ConfigError
from tinylab.first_version.batteries import convert_battery
from tinylab.first_version.datasets import never_read, read_dataset, unread_note
from tinylab.first_version.models import convert_device, convert_model, less_memory
from tinylab.first_version.reading import Section, data_folders, find_beside, merged, read_config

PROFILING = ("interval_s", "powermetrics")


@dataclass
class Experiment:
    """An experiment that says what an old config said, and the files that it needs."""

    name: str
    content: dict[str, Any]  # of its YAML
    corpus: tuple[str, str]  # the file's name, and its text
    model: tuple[str, dict[str, Any]] | None = None  # a new option of the group, and its YAML
    notes: list[str] = field(default_factory=list)

    def yaml(self, source: str) -> str:
        """Its file's text; what is to be known of it is in comments.

        Args:
            source: the old config's name.
        """
        said = [f"# From {source}, a config of the first version (python -m tinylab.first_version).",
                *(f"# Note: {note}." for note in self.notes)]
        return "# @package _global_\n" + "\n".join(said) + f"\n{dumped(self.content)}"


def dumped(content: dict[str, Any]) -> str:
    """A YAML file's text, keys in their order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


@dataclass
class Conversion:
    """An old config's experiments."""

    source: str
    experiments: list[Experiment]
    sweep: str | None  # the sweep's name, where they are one
    notes: list[str] = field(default_factory=list)  # of the whole file


@dataclass(frozen=True)
class Source:
    """An old config's file, where its datasets may be, and the folder in which its corpora will."""

    file: Path
    folders: Sequence[Path]
    corpora: Path


def convert_config(file: Path, folders: Sequence[Path], corpora: Path) -> Conversion:
    """The experiments that an old config says.

    Args:
        file: a run file or an orchestrated file.
        folders: where datasets are; none for where the first version had them.
        corpora: the folder in which the corpora will be.

    Raises:
        ConfigError: it is not a config of the first version, or says something that cannot be expressed.
    """
    content = read_config(file)
    source = Source(file, folders or data_folders(file), corpora)
    if "conditions" not in content:
        if "type" in content and "battery" not in content:
            raise ConfigError(f"{file}: is a battery's file ({content['type']}); give the run's file, which names it.")
        return Conversion(file.name, [_experiment(source, content)], None)
    whole = Section(file.name, content)
    run_name, conditions, shared = whole.text("run_name"), whole.take("conditions"), whole.take("shared", {})
    if not isinstance(shared, dict):
        raise whole.wrong("shared", "an object with keys")
    if not isinstance(conditions, list) or not conditions or not all(isinstance(one, dict) for one in conditions):
        raise whole.wrong("conditions", "a list of objects with a tag each")
    battery = whole.take("battery", None)
    experiments = [_of_condition(source, {**shared, "run_name": run_name, "battery": battery}, one) for one in conditions]
    replaced = [f"shared.{key}" for key in ("run_name", "battery") if key in shared]
    replaced += ["conditions[].run_name"] if any("run_name" in one for one in conditions) else []
    return Conversion(file.name, experiments, run_name, [*never_read(whole, file.name), *unread_note(replaced, file.name)])


def _of_condition(source: Source, shared: dict[str, Any], own: dict[str, Any]) -> Experiment:
    """The experiment of one condition of an orchestrated file.

    Args:
        source: the file.
        shared: its `shared`, with its run_name and battery.
        own: the condition.
    """
    place = source.file.name
    told = Section(place, own, "conditions[].")
    tag, battery = told.text("tag"), told.take("battery", shared["battery"])
    content = merged(shared, {key: value for key, value in own.items() if key not in ("tag", "battery_overrides", "run_name")})
    found = _experiment(source, {**content, "run_name": f"{shared['run_name']}_{tag}", "battery": battery}, tag,
                        told.part("battery_overrides", {}).whole())
    found.content["sweep_name"] = shared["run_name"]
    return found


def _experiment(
    source: Source, content: dict[str, Any], tag: str | None = None, overrides: dict[str, Any] | None = None
) -> Experiment:
    """The experiment of one run."""
    file = source.file
    section = Section(file.name, content)
    run_name = section.text("run_name")
    dataset = read_dataset(section.part("dataset"), source.folders)
    condition = {"tag": tag or dataset.name, "path": str(source.corpora / f"{dataset.name}.jsonl"), **dataset.condition,
                 **_answer(section)}
    battery_file = find_beside(file, section.text("battery"))
    battery = Section(battery_file.name, merged(read_config(battery_file), overrides or {}))
    converted = convert_battery(battery)
    device, on_device = convert_device(section)
    told = section.part("model")
    option, model, option_yaml, on_model = convert_model(told)
    engine, on_memory = less_memory(told, device)
    seed = section.take("seed", 0)
    groups = {"battery": converted.option, "condition": "jsonl", "model": option, "device": device}
    parts = {"battery": converted.settings, "condition": condition, "model": model, "engine": engine,
             "controls": converted.controls, "verify_slice": _verify_slice(section)}
    notes = [*converted.notes, *on_device, *on_model, *on_memory, *dataset.notes, *_profiling(section)]
    return Experiment(
        name=_name(run_name),
        content={
            "defaults": [{f"override /{group}": value} for group, value in groups.items()],
            "run_name": run_name,
            "seeds": section.take("seeds", None) or [seed],
            **{key: part for key, part in parts.items() if part},
        },
        corpus=(dataset.name, dataset.text),
        model=None if option_yaml is None else (option, option_yaml),
        notes=[*notes, *never_read(battery, battery_file.name), *never_read(section, file.name)],
    )


def _answer(section: Section) -> dict[str, Any]:
    """What counts as the answer.

    Raises:
        ConfigError: what is asked for cannot be expressed.
    """
    span = section.take("metric_span", "first_token")
    if span == "first_token":
        return {}
    if span != "full_target":
        raise section.inexpressible("metric_span", "known: first_token, full_target")
    if "answer" not in {one.name for one in fields(ConditionConfig)}:
        raise section.inexpressible("metric_span", "this version scores first tokens only")
    return {"answer": "full"}


def _verify_slice(section: Section) -> dict[str, Any]:
    if not section.take("verify_slice", None):
        return {}
    part = section.part("verify_slice")
    return {"device": part.text("device", "cpu"), "n_examples": part.take("n_examples", 20)}


def _profiling(section: Section) -> list[str]:
    if not section.take("profiling", None):
        return []
    part = section.part("profiling")
    for key in PROFILING:
        part.take(key, None)
    return ["profiling: no power is measured here, it has no counterpart; manifest.json has a run's time and peak memory"]


def _name(run_name: str) -> str:
    """The experiment's name: of letters that need no quotes on the command line."""
    name = re.sub(r"[^\w.-]", "_", run_name)
    return name if name[:1].isalpha() else f"run_{name}"
