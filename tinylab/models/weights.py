"""Weights: which ones a config means, told without loading them.

A hub id means the commit that its revision resolves to, a folder means the digest of its files. Digests of large files are kept
in the user's cache (`tinylab.cache`), so that weights are read once: when they are loaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from tinylab.cache import keep, recall
from tinylab.config.groups import ModelConfig
from tinylab.errors import ModelError, first_sentence
from tinylab.models.folder import INDEX, SMALL, WEIGHTS, check_folder, determining, listed, weight_files
from tinylab.models.gguf import is_gguf, read_header
from tinylab.models.hub import answers, endpoint, patience
from tinylab.paths import PACKAGE_SCHEME, locate

log = logging.getLogger(__name__)

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Of one weight, by dtype."""
LARGE = 2**20
"""Bytes of a file from which on its digest is kept."""
SETTLED = 2 * 10**9
"""Nanoseconds after a change from which on a file's times tell it from any later content: file systems' clocks are coarse."""
QUANTIZED = {"8bit": 1.0, "4bit": 0.5}
"""Bytes of one weight of a quantised matrix, without its scales."""
KEEPS_DTYPE = re.compile("embed|wte|wpe|head")
"""Names of matrices that are not quantised: those of words."""


@dataclass(frozen=True)
class ModelIdentity:
    """What the weights are: a hub id with its resolved commit, or a folder with the digest of its files."""

    name: str
    revision: str | None
    digest: str | None


lent: dict[str, ModelIdentity] = {}
"""What models in memory are that somebody lent, by the name that configs give them (`tinylab.models.lent`)."""


def identify(config: ModelConfig) -> ModelIdentity:
    """What the config's weights are, without loading them.

    Raises:
        ModelError: the folder is not a model, or the hub id cannot be resolved; with `verify_digest`, a file is not what its
            kept digest says.
    """
    if config.path is not None and is_gguf(config.path):
        return ModelIdentity(config.label, None, _file_digest(model_file(config.path), verify=config.verify_digest))
    if config.path is not None:
        folder = model_folder(config.path)
        return ModelIdentity(config.label, None, _folder_digest(folder, verify=config.verify_digest))
    assert config.name is not None
    if config.name in lent:
        return lent[config.name]
    return ModelIdentity(config.name, _hub_commit(config.name, config.revision), None)


def check_reachable(config: ModelConfig) -> None:
    """Say at once where a model of the hub is neither in the cache nor to be had.

    Raises:
        ModelError: so it is.
    """
    if config.path is None and config.name is not None and not answers():
        _hub_commit(config.name, config.revision)


def model_folder(path: str) -> Path:
    """The folder that a config's `path` means.

    Raises:
        ModelError: it is none, or holds no model that is read (see `tinylab.models.folder`).
    """
    folder = locate(path)
    if not folder.is_dir():
        expected = "expected one with config.json, model.safetensors and tokenizer files"
        raise ModelError(f"model.path={path}: no such folder; {expected}.")
    check_folder(folder, f"model.path={path}", own=path.startswith(PACKAGE_SCHEME))
    weight_files(folder, f"model.path={path}")
    return folder


def model_file(path: str) -> Path:
    """The GGUF file that a config's `path` means.

    Raises:
        ModelError: there is none.
    """
    file = locate(path)
    if not file.is_file():
        raise ModelError(f"model.path={path}: no such file; expected a GGUF file.")
    return file


def hub_folder(name: str, commit: str, *, weights: bool) -> Path:
    """The local copy of a hub model at a commit; what is not in the cache is downloaded into it.

    Args:
        name: its id. A folder of that name in the working directory is something else.
        commit: as `identify` resolved it.
        weights: whether they are wanted too.

    Raises:
        ModelError: it is not in the cache and cannot be downloaded, or holds no model that is read.
    """
    what = f"model.name={name}"
    folder = _hub_config(name, commit).parent
    for file in SMALL:
        if not _fetch(name, commit, file):
            break  # no network: what is in the cache has to do
    check_folder(folder, what)
    if weights:
        _fetch(name, commit, WEIGHTS, needed=not (folder / INDEX).is_file())
        if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
            for file in listed(folder / INDEX, what):
                _fetch(name, commit, file, needed=True)
        weight_files(folder, what)
    return folder


def loaded_bytes(config: ModelConfig) -> int | None:
    """Bytes of the weights as the config loads them, read off the files' headers; None where they are not on this machine.

    Raises:
        ModelError: see `identify`.
    """
    if config.path is not None and is_gguf(config.path):
        return read_header(model_file(config.path), f"model.path={config.path}").numbers * BYTES[config.dtype]
    if config.path is not None:
        folder = model_folder(config.path)
    else:
        assert config.name is not None
        folder = _hub_config(config.name, config.revision).parent
    files = sorted(folder.glob("*.safetensors"))
    return int(sum(_bytes(file, config) for file in files)) if files else None


def _bytes(file: Path, config: ModelConfig) -> float:
    """Bytes of a safetensors file's tensors as they are loaded; 0 if it is none, which loading will tell."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    except (SafetensorError, OSError):
        return 0
    quantized = QUANTIZED.get(config.quantize, BYTES[config.dtype])
    dtype: float = BYTES[config.dtype]
    return sum(int(prod(shape)) * (quantized if len(shape) == 2 and not KEEPS_DTYPE.search(name) else dtype)
               for name, shape in shapes.items())


def _folder_digest(folder: Path, *, verify: bool) -> str:
    """sha256 over the names and contents of what determines a local model's numbers."""
    digest = hashlib.sha256()
    for file in determining(folder):
        digest.update(f"{file.name}\0{_file_digest(file, verify=verify)}\n".encode())
    return digest.hexdigest()


def _file_digest(file: Path, *, verify: bool) -> str:
    """sha256 of a file; of a large one that is as it was, the one that is kept.

    Args:
        file: a model's.
        verify: read it in any case.

    Raises:
        ModelError: it was read, and the digest that is kept is another.
    """
    marks = _marks(file)
    if marks["size"] < LARGE:
        return _of_content(file, **marks)
    key = {"file": str(file.resolve()), **marks}
    kept = recall("weights", key)
    kept = kept if isinstance(kept, str) else None
    if kept is not None and not verify:
        return kept
    if verify and kept is None:
        log.warning("model.verify_digest: no digest of %s was kept, so there is nothing to compare with", file)
    settled = time.time_ns() - max(marks["mtime_ns"], marks["ctime_ns"]) > SETTLED
    found = _of_content(file, **marks)
    if kept is not None and kept != found:
        raise ModelError(f"{file}: sha256 is {found[:12]}…, but {kept[:12]}… was kept for this size and these times: "
                         "the file changed without a trace, or the cache is wrong; look at the file, then clear tinylab's cache.")
    if kept is None and settled and _marks(file) == marks:
        keep("weights", key, found)
    return found


def _marks(file: Path) -> dict[str, int]:
    """What changes with a file's content."""
    stat = os.stat(file)
    return {"size": stat.st_size, "inode": stat.st_ino, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}


@lru_cache(maxsize=64)
def _of_content(file: Path, **_marks: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit that a hub id and revision mean now (asked of the hub, else of the local cache)."""
    return _hub_config(name, revision).parent.name


@lru_cache(maxsize=64)
def _hub_config(name: str, revision: str | None) -> Path:
    """The local copy of a hub model's config, in a folder that is named as its commit."""
    from huggingface_hub import hf_hub_download

    with _told(name, revision):
        return Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=not answers()))


def _fetch(name: str, commit: str, file: str, *, needed: bool = False) -> bool:
    """Have a file of a hub model in the cache, if the model has it; what is known of this commit is not asked for again.

    Returns:
        Whether that is known now; it is not where the hub cannot be reached.

    Raises:
        ModelError: the hub cannot be reached, and the file is needed.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if try_to_load_from_cache(name, file, revision=commit) is not None:  # there, or known not to be
        return True
    with _told(name, commit):
        try:
            hf_hub_download(name, file, revision=commit, local_files_only=not answers())
        except LocalEntryNotFoundError:
            if needed:
                raise
            return False
        except EntryNotFoundError:
            pass
    return True


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """What goes wrong with the hub is told once, in one sentence.

    Raises:
        ModelError: something did.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    try:
        yield
    except (LocalEntryNotFoundError, ConnectionError) as error:
        why = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else f"the hub cannot be reached ({endpoint()})"
        wait = "" if answers() or constants.HF_HUB_OFFLINE else f"; HF_HUB_ETAG_TIMEOUT=30 waits longer than {patience():g} s"
        raise ModelError(f"model.name={name}: {why} and the model is not in the local cache; connect once to download it, or use "
                         f"model=local model.path=<folder>{wait}.") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"model.name={name}, model.revision={revision}: {first_sentence(error)}.") from error
