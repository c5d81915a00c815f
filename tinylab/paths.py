"""Where a config's `path` is: a file or folder of the user's, or one inside an installed package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

PACKAGE_SCHEME = "pkg://"


def locate(path: str) -> Path:
    """The file or folder that a config's `path` means; `pkg://package/rest` is inside an installed package."""
    if path.startswith(PACKAGE_SCHEME):
        package, _, rest = path.removeprefix(PACKAGE_SCHEME).partition("/")
        try:
            return Path(str(files(package).joinpath(rest)))
        except (ModuleNotFoundError, ValueError):
            return Path(path)  # a path that does not exist: whoever reads it says so
    return Path(path).expanduser()
