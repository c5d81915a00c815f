"""Which GPU a process uses: each worker of a sweep gets one of its own, as long as there are enough.

Launchers start worker processes that all see all GPUs, and `cuda` means the first one in each of them, so all jobs would
compute on the same GPU. Here a process claims a GPU by locking a file that is named after it, and keeps the lock as long as
it lives; other processes see that it is taken and choose another. Where all are taken they are shared evenly. The operating
system releases the lock of a process that ends, however it ends.
"""

from __future__ import annotations

import getpass
import logging
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
_held: list[FileLock] = []
"""What this process drew: a lock that is forgotten would be opened."""


def lots_folder() -> Path:
    """Where the lots of this user are, on this machine."""
    return Path(tempfile.gettempdir()) / f"tinylab-gpus-{getpass.getuser()}"


def draw(names: Sequence[str], folder: Path) -> int:
    """Draw one of some things for this process, for as long as it lives: the first of those that fewest others hold.

    Args:
        names: of the things, the same in every process that shares them.
        folder: where the lots are; it is made.

    Returns:
        The index of what was drawn.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for holders in count():
        for index, name in enumerate(names):
            lot = FileLock(folder / f"{name}.{holders}", blocking=False, thread_local=False)
            try:
                lot.acquire()
            except Timeout:
                continue
            _held.append(lot)
            return index
    raise AssertionError("unreachable: there are more lots than processes")


@cache
def take_gpu() -> None:
    """Make `cuda` mean a GPU of this process's own; where only one is visible there is nothing to choose."""
    import torch

    visible = torch.cuda.device_count()
    if visible < 2:
        return
    index = draw([str(torch.cuda.get_device_properties(i).uuid) for i in range(visible)], lots_folder())
    torch.cuda.set_device(index)
    log.info("cuda is GPU %d of %d in this process", index, visible)
