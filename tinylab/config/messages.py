"""What Hydra says of a config that it cannot compose, as one sentence."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinylab.config.options import in_yaml
from tinylab.errors import options

NOUNS = {int: "whole number", float: "number", str: "text"}
"""What a value of a type is called."""


def wrong_type(key: str, value: Any, kind: Any) -> str:
    """The message for a value that is not of its key's type.

    Args:
        key: whole, as on the command line.
        value: as it was read.
        kind: the declared type.
    """
    kinds = [*get_args(kind)] if get_origin(kind) in (Union, UnionType) else [kind]
    listed = next((get_args(one)[0] for one in kinds if get_origin(one) is list), None)
    null = " or null" if NoneType in kinds else ""
    got = " ".join(in_yaml(value).split())
    if listed is not None:
        like = "" if value is None or isinstance(value, (list, dict)) else f", such as {key}=[{got}]"
        return f"{key}={got}: expected a list of {NOUNS.get(listed, 'value')}s{null}{like}."
    if bool in kinds:
        return f"{key}={got}: expected {'true, false or null' if null else 'true or false'}."
    what = next((f"a {NOUNS[one]}" for one in kinds if one in NOUNS), "keys with values")
    return f"{key}={got}: expected {what}{null}."


def meant(message: str) -> str:
    """What was meant where a file, a folder or a hub id was given as an option of a group: a clause for the message."""
    found = re.search(r"Could not find '(condition|model)/([^']+)'", message)
    if found is None:
        return ""
    group, given = found.groups()
    if group == "condition" and (Path(given).suffix or os.path.isdir(os.path.expanduser(given))):
        return f" For a {'file' if Path(given).suffix else 'folder'} of your own use condition=jsonl condition.path={given}."
    if group == "model" and Path(given).expanduser().is_dir():
        return f" For a folder of your own use model=local model.path={given}."
    if group == "model" and "/" in given:
        return f" For a model of the hub use model=hf model.name={given}."
    return ""


def one_sentence(error: Exception) -> str:
    """Hydra's many-line messages as one line: the first, then the options it lists."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if (lacking := re.search(r"Interpolation key '([^']+)' not found", str(error))) is not None:
        return f"{lacking[1]}: is missing, and other settings are made of it; give it in your YAML, or as {lacking[1]}=…."
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        lines.append(str(cause).splitlines()[0])
    head = [line for line in lines if not line.startswith(("See https", "full_key", "object_type", "reference_type"))]
    if not head:
        return type(error).__name__
    listing = next((i for i, line in enumerate(head) if line.startswith("Available options in")), None)
    if listing is None:
        return " ".join(head)
    known = [line for line in head[listing + 1 :] if not line.startswith(("Config search path", "provider="))]
    wanted = re.search(r"Could not find '\w+/([\w-]+)'", head[0])
    said = " ".join(head[:listing]).removeprefix("In 'config': ")
    return f"{said}; {options('' if wanted is None else wanted[1], known)}."


def unknown_key(key: str, config: DictConfig) -> str:
    """The message for a mistyped key: what was meant, or its known siblings.

    Args:
        key: as it was typed.
        config: what is composed without it.
    """
    parent, _, own = key.rpartition(".")
    whole = own_keys(config)
    if alike := [name for name in whole if name.rpartition(".")[2] == own]:
        return f"{key}: unknown key; did you mean {' or '.join(map(repr, alike))}?"
    node = OmegaConf.select(config, parent) if parent else config
    if not parent and not get_close_matches(own, [str(k) for k in config], n=1):
        near = get_close_matches(own, [name.rpartition(".")[2] for name in whole], n=1)
        if alike := [name for name in whole if name.rpartition(".")[2] in near]:
            return f"{key}: unknown key; did you mean {' or '.join(map(repr, alike))}?"
    if not isinstance(node, DictConfig):
        near = get_close_matches(key, whole, n=1)
        hint = f", did you mean {near[0]!r}?" if near else "."
        return f"{key}: unknown key; '{parent}' is no group of keys{hint}"
    return f"{key}: unknown key; {options(own, [str(k) for k in node if k != 'hydra'])}."


def own_keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Every key of a config that holds a value, with those of the groups that it is in; Hydra's own are left out."""
    found: list[str] = []
    for key in config:
        if not prefix and key == "hydra":
            continue
        node: Any = config._get_node(key)
        name = f"{prefix}{key!s}"
        inside = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
        found += own_keys(node, f"{name}.") if inside else [name]
    return found
