"""What there is to choose from: the options of every config group, read off their YAML files without composing anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

KEY = re.compile(r"(\w+):(?:.*?\s#\s(.*))?")
"""A line with a key of the file, and the comment after it."""
MISSING = "???"
"""How a YAML says that a value is for the user to give."""


@dataclass(frozen=True)
class Option:
    """One option of a config group."""

    name: str
    about: str  # the comment at the head of its file, as one line
    values: dict[str, Any]  # with those of the options that it inherits, nothing resolved
    comments: dict[str, str]  # on its keys, as one line each
    file: Path

    @property
    def required(self) -> list[str]:
        """Its keys whose values are for the user to give."""
        return [key for key, value in self.values.items() if value == MISSING]


def groups(folders: Sequence[Path]) -> list[str]:
    """The groups that some folder has options of, without Hydra's own."""
    found = {place.name for folder in folders if folder.is_dir() for place in folder.iterdir()
             if place.is_dir() and place.name != "hydra" and any(place.glob("*.yaml"))}
    return sorted(found)


def root_keys(folders: Sequence[Path]) -> dict[str, tuple[Any, str]]:
    """The keys of the root config outside of groups, each with its value and the comment on it."""
    text = next((text for folder in folders if (text := _text(folder / "config.yaml"))), "")
    comments = _comments(text)
    return {key: (value, comments.get(key, "")) for key, value in _parsed(text).items() if key not in ("defaults", "hydra")}


def called(name: str, folders: Sequence[Path]) -> list[str]:
    """What is set by that name: `battery=h2` for an option, whatever its group; `seeds=…` for a key, `battery=…` for a group."""
    known = groups(folders)
    options = [f"{group}={name}" for group in known if any((folder / group / f"{name}.yaml").is_file() for folder in folders)]
    return [*options, *([f"{name}=…"] if name in (*known, *root_keys(folders)) else [])]


def options_of(group: str, folders: Sequence[Path]) -> list[Option]:
    """The options of a group, by name; a file that is not YAML has its name alone.

    Args:
        group: such as `condition`.
        folders: of configs, the one that goes first before the others.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder / group).glob("*.yaml")):
            files.setdefault(file.stem, file)
    found = []
    for name in sorted(files):
        values: dict[str, Any] = {}
        comments: dict[str, str] = {}
        for file in _line(name, files, ()):
            values |= _content(file)
            comments |= _comments(_text(file))
        values.pop("defaults", None)
        found.append(Option(name, _comment(files[name]), values, comments, files[name]))
    return found


def _line(name: str, files: dict[str, Path], heirs: Sequence[str]) -> Iterator[Path]:
    """The files of an option: those that it inherits first, then its own."""
    if name not in files or name in heirs:
        return
    defaults = _content(files[name]).get("defaults")
    for parent in defaults if isinstance(defaults, list) else []:
        if isinstance(parent, str) and parent != "_self_":
            yield from _line(parent, files, [*heirs, name])
    yield files[name]


def _content(file: Path) -> dict[str, Any]:
    return _parsed(_text(file))


@lru_cache(maxsize=256)
def _parsed(text: str) -> dict[str, Any]:
    """What a file says, for reading only: what others inherit is parsed once for all of them."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # composing it says so
        return {}
    return content if isinstance(content, dict) else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # composing it says so
        return ""


def _comment(file: Path) -> str:
    """The comment at the head of a file, as one line."""
    head = takewhile(lambda line: line.startswith("#"), _text(file).splitlines())
    return " ".join(line.lstrip("# ").strip() for line in head if not line.startswith("# @package"))


def _comments(text: str) -> dict[str, str]:
    """The comments after keys, with the lines that go on below them."""
    found: dict[str, str] = {}
    key = None
    for line in text.splitlines():
        if (keyed := KEY.match(line)) is not None:
            key = keyed[1] if keyed[2] is not None else None
            if key is not None:
                found[key] = keyed[2].strip()
        elif key is not None and (more := re.match(r"\s+#\s*(.*)", line)) is not None:
            found[key] += f" {more[1].strip()}"
        else:
            key = None
    return found


def in_yaml(value: Any) -> str:
    """A value on one line, as YAML has it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
