"""The user's cache folder: what was costly to find out, one small file each.

It is at `TINYLAB_CACHE`, else at `XDG_CACHE_HOME/tinylab`, else at `~/.cache/tinylab`; whoever deletes it loses time, nothing
else. A file that cannot be read counts for nothing, one that cannot be written is logged, and several processes at
once are fine: each file is put in its place in one step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where the cache is, whether it is there or not.

    Raises:
        RuntimeError: this user has no home folder, and no variable names another one.
    """
    if own := os.environ.get("TINYLAB_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "tinylab"


def recall(kind: str, key: Mapping[str, Any]) -> Any:
    """What was kept under a key; None where nothing was, or where its file is broken.

    Args:
        kind: of what is kept: a folder in the cache.
        key: everything that it depends on, as JSON can hold it.
    """
    try:
        file = _file(kind, key)
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, RecursionError) as error:
        log.warning("the cache cannot be read, which only costs time: %s", error)
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        log.warning("the cache has unexpected content, which only costs time: %s", file)
        return None
    return content.get("value")


def keep(kind: str, key: Mapping[str, Any], value: Any) -> None:
    """Keep something under a key, in place of what was there.

    Args:
        kind: as for `recall`.
        key: as for `recall`.
        value: as JSON can hold it.
    """
    try:
        file = _file(kind, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump({"key": key, "value": value}, stream, indent=1)
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except (OSError, RuntimeError) as error:
        log.warning("the cache cannot be written, which only costs time: %s", error)


def _file(kind: str, key: Mapping[str, Any]) -> Path:
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return cache_folder() / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
