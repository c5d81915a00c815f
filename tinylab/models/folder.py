"""A model's folder: which of its files are read, and what is refused before any of them is.

Weights come from safetensors inside the folder alone, since other formats can run code, and what lies elsewhere is in no digest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tinylab.errors import ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
                   "tekken.json")
_MORE = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
         "chat_template.jinja", INDEX)
SMALL = (*_MORE, *TOKENIZER_FILES, "adapter_config.json")
"""What is downloaded of a hub model beside its weights, where it has them."""
_LARGEST = 2**28
"""Bytes of a JSON file that is read whole."""


def determining(folder: Path) -> list[Path]:
    """The files that determine a model's numbers, by name; links that lead nowhere are among them."""
    named = [folder / name for name in (*_MORE, *TOKENIZER_FILES)]
    return sorted([*folder.glob("*.safetensors"), *(file for file in named if file.is_file() or file.is_symlink())])


def check_folder(folder: Path, what: str, *, own: bool = False) -> None:
    """Refuse a folder that transformers would read otherwise than as the model that lies in it.

    Args:
        folder: what is to be read.
        what: how the config names it, for the message.
        own: it is a part of an installed package, whose files may be links.

    Raises:
        ModelError: it holds no model or an adapter, reaches outside itself, or its JSON files or weights are none.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{what}: it contains an adapter (adapter_config.json), which would be left out or added depending on "
                         "the packages that are installed; merge it into its base model first (peft's merge_and_unload(), then "
                         "save_pretrained) and name the merged folder.")
    if not own:
        _check_links(folder, what)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{what}: not a model folder, it has no config.json.")
    config = read_object(folder / "config.json", what)
    if (folder / "tokenizer_config.json").is_file():
        read_object(folder / "tokenizer_config.json", what)
    if (named := config.get("transformers_weights")) is not None:
        raise ModelError(f"{what}: its config.json names other weights (transformers_weights={named!r}); only {WEIGHTS}, or the "
                         f"files that {INDEX} lists, are read.")


def weight_files(folder: Path, what: str) -> list[Path]:
    """The files that hold the weights: model.safetensors, or those that its index lists.

    Raises:
        ModelError: there are none, or the index names anything but safetensors of this folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        reason = "" if any(folder.glob("*.safetensors")) else "; other formats are not read, they can run code"
        raise ModelError(f"{what}: no *.safetensors in it that are weights (expected {WEIGHTS}, or {INDEX} and what it "
                         f"lists){reason}.")
    files = [folder / name for name in listed(folder / INDEX, what)]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{what}: {INDEX} lists {file.name}, which is not in the folder; copy or download it again.")
    return files


def listed(index: Path, what: str) -> list[str]:
    """The names of the files that an index lists.

    Raises:
        ModelError: it is no index, or names anything but safetensors beside it.
    """
    names = read_object(index, what).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{what}: {INDEX} has no weight_map; expected one from tensors to files.")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ModelError(f"{what}: {INDEX} names {name!r} as a file of weights; expected *.safetensors files of the same "
                             "folder, nothing else is read.")
    return sorted(set(names.values()))


def read_object(file: Path, what: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        ModelError: it holds something else.
    """
    if file.stat().st_size > _LARGEST:
        raise ModelError(f"{what}: {file.name} has {file.stat().st_size:,} bytes, which no file of its kind has.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what}: {file.name} is not JSON ({type(error).__name__}); expected an object ({{…}}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{what}: {file.name} is not a JSON object, got a {type(content).__name__}; expected {{…}}.")
    return content


def _check_links(folder: Path, what: str) -> None:
    """Refuse links that lead nowhere or out of the folder; those of the hub's cache lead to its blobs."""
    inside = folder.resolve()
    for file in determining(folder):
        target = file.resolve()
        if not target.exists():
            raise ModelError(f"{what}: {file.name} is a link that leads nowhere ({target}); copy or download it again.")
        if inside not in target.parents and not _is_a_blob(file, target):
            raise ModelError(f"{what}: {file.name} is a link that leads out of the folder ({target}); put the file itself there.")


def _is_a_blob(file: Path, target: Path) -> bool:
    """Whether a link of a snapshot leads to its model's blobs in the hub's cache, or on to the store that models share."""
    if not file.is_symlink():
        return False
    blob = Path(os.path.normpath(file.parent / os.readlink(file)))
    if blob.parent.name != "blobs" or not blob.parent.parent.name.startswith("models--"):
        return False
    shared = blob.parent.parent.parent.resolve() / "blobs"
    in_store = shared in target.parents and (shared / ".huggingface-shared-blobs").is_file()
    return target.parent == blob.parent.resolve() or in_store
