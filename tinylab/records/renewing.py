"""New files for a run that may have others: all are written beside them, then put in place together.

What is finished stays finished, and readable, until every new file is there. The new manifest is written last of all; from
then on the change is made, and whoever comes next ends it where a process was killed in the middle (`settle`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tinylab.errors import OutputError
from tinylab.records.digests import measured
from tinylab.records.manifest import RunFolder


@contextmanager
def renewing(folder: RunFolder) -> Iterator[RunFolder]:
    """Yield a folder for new files of a run; where the block breaks off they are gone, and the run is what it was."""
    new = folder.stage
    shutil.rmtree(new.path, ignore_errors=True)
    try:
        yield new
    finally:
        if not new.manifest.is_file():  # otherwise the change is made, and only its end is missing
            shutil.rmtree(new.path, ignore_errors=True)


def put_in_place(folder: RunFolder, content: dict[str, Any]) -> None:
    """Put what was written in `renewing` in place, with the manifest that goes with it.

    Args:
        folder: of the run.
        content: the manifest. Of files that are there it keeps those that it tells of, and the log; others are removed.

    Raises:
        SchemaError: the manifest breaks its contract; nothing was changed.
        OutputError: the folder cannot be written.
    """
    written = [key for key in folder.artifacts(content) if folder.stage.file(key).is_file()]
    digests = {**(content.get("digests") or {}), **{key: measured(folder.stage.file(key)) for key in written}}
    folder.write({**content, **{key: str(folder.file(key).relative_to(folder.path)) for key in written}, "digests": digests},
                 staged=True)
    settle(folder)


def settle(folder: RunFolder) -> None:
    """End a change of a run's files in the middle of which a process was killed.

    Raises:
        OutputError: the folder cannot be written.
    """
    new = folder.stage
    if not os.path.isfile(new.manifest):
        return
    content = new.read()
    assert content is not None
    try:
        for key in folder.artifacts(content):
            if new.file(key).is_file():
                folder.file(key).parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # another process ends the same change
                    new.file(key).replace(folder.file(key))
            elif key not in content and key != "log":  # it may have begun since
                folder.file(key).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            new.manifest.replace(folder.manifest)
    except OSError as error:
        raise OutputError(f"{folder.path}: new files cannot be put in place ({error.strerror or error}); run the same command "
                          "again once the folder can be written.") from error
    shutil.rmtree(new.path, ignore_errors=True)
