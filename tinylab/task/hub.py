"""Corpora of the hub: a file of a dataset repository, downloaded once into the hub library's own cache."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from tinylab.errors import CorpusError, first_sentence
from tinylab.models.hub import answers, endpoint

SCHEME = "hf://"
_FILE = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")


@lru_cache(maxsize=64)
def hub_file(path: str) -> Path:
    """The local copy of `hf://datasets/OWNER/NAME[@REVISION]/FILE`; without an answer of the hub, the one in its cache.

    Raises:
        CorpusError: another form, no such file, or neither the hub nor the cache has it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    if (asked := _FILE.fullmatch(path)) is None:
        raise CorpusError(f"condition.path={path}: expected hf://datasets/OWNER/NAME/FILE, with @REVISION after the name if a "
                          "certain one is meant.")
    revision = None if asked["revision"] is None else asked["revision"].replace("%2F", "/")
    try:
        return Path(hf_hub_download(asked["repository"], asked["file"], repo_type="dataset", revision=revision,
                                    local_files_only=not answers()))
    except LocalEntryNotFoundError as error:
        raise CorpusError(f"condition.path={path}: not in the local cache, and {endpoint()} does not answer; download it where "
                          "there is a network, or give a file.") from error
    except RepositoryNotFoundError as error:
        raise CorpusError(f"condition.path={path}: {endpoint()} has no such dataset, or it needs a login "
                          "(`hf auth login`).") from error
    except EntryNotFoundError as error:
        raise CorpusError(f"condition.path={path}: the dataset has no such file at this revision.") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CorpusError(f"condition.path={path}: cannot be downloaded ({first_sentence(error)}).") from error
