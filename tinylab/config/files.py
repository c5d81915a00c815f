"""The user's YAML files, looked at before Hydra reads them: no bomb of aliases; and afterwards, where one is not text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from tinylab.errors import ConfigError, first_sentence

LARGEST = 2**18
"""Bytes of a config file with aliases."""
MOST_VALUES = 100_000
"""Values of a config, with every alias written out."""
DEEPEST = 4
"""Folders below the given one in which configs are looked for here."""
ALIASED = re.compile(rb"(?:^|[\s\[{,])&[\w-]+(?:$|[\s\[{]).*(?:^|[\s\[{,])\*[\w-]+(?:$|[\s,\]}])", re.DOTALL | re.MULTILINE)
"""An anchor, and after it an alias."""


def check_aliases(folder: str) -> None:
    """Check that no YAML file of a folder of configs has aliases that grow beyond all bounds.

    Raises:
        ConfigError: one has.
    """
    for file, content in _yaml_files(Path(folder)):
        if not ALIASED.search(content):
            continue
        if len(content) > LARGEST:
            raise ConfigError(f"{file}: has {len(content):,} bytes and aliases; expected at most {LARGEST:,}, or none.")
        try:
            root = yaml.compose(content, yaml.SafeLoader)
            too_many = root is not None and _values(root, {}) > MOST_VALUES
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):  # whoever loads it says so
            continue
        if too_many:
            raise ConfigError(f"{file}: its aliases expand to over {MOST_VALUES:,} values, or for themselves; write them out.")


def check_encoding(folder: str) -> None:
    """Name the YAML file of a folder of configs that is not UTF-8.

    Raises:
        ConfigError: there is one.
    """
    for file, content in _yaml_files(Path(folder)):
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is not UTF-8 ({first_sentence(error)}); save it as UTF-8.") from error


def _yaml_files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every YAML file that can be read, and its content."""
    for place, folders, names in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts)
        folders[:] = [name for name in folders if not name.startswith(".")] if deep < DEEPEST else []
        if "manifest.json" in names:  # a run or a sweep, whose configs are not composed again
            folders.clear()
            continue
        for file in (Path(place, name) for name in names if name.endswith(".yaml")):
            with suppress(OSError):  # whoever loads it says so
                if file.is_file():
                    yield file, file.read_bytes()


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node means, with every alias written out; a node inside itself means too many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1
        inside = [] if isinstance(node, yaml.ScalarNode) else [
            part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))
        ]
        known[id(node)] = 1 + sum(_values(part, known) for part in inside)
    return known[id(node)]
