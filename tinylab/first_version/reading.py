"""Reading an old config: every key that is looked at is remembered, so that those which never were can be named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinylab.errors import ConfigError, OutputError
from tinylab.records.storage import read_json

_REQUIRED = object()


class Section:
    """An object of an old config, and which of its keys have been read."""

    def __init__(self, place: str, values: Any, prefix: str = "") -> None:
        """Read nothing yet.

        Args:
            place: the file, for messages.
            values: the object.
            prefix: of its keys, such as `model.`.

        Raises:
            ConfigError: it is not an object.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{place}: {prefix.rstrip('.') or 'the file'} is a {type(values).__name__}, expected an object "
                              "with keys.")
        self.place, self._values, self._prefix = place, dict(values), prefix
        self._read: set[str] = set()
        self._parts: list[Section] = []

    def __contains__(self, key: str) -> bool:
        """Whether there is such a key; that alone does not count as reading it."""
        return key in self._values

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key, which counts as read.

        Raises:
            ConfigError: there is none, and no default.
        """
        self._read.add(key)
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise ConfigError(f"{self.place}: {self._prefix}{key} is missing; the first version needed it.")
        return default

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key that is a text, or the default.

        Raises:
            ConfigError: it is none.
        """
        value = self.take(key, default)
        if not isinstance(value, str) and not (key not in self._values and value is default):
            raise self.wrong(key, "a text")
        return value

    def part(self, key: str, default: Any = _REQUIRED) -> Section:
        """The object at a key."""
        part = Section(self.place, self.take(key, default), f"{self._prefix}{key}.")
        self._parts.append(part)
        return part

    def whole(self) -> dict[str, Any]:
        """All of it, which counts as read."""
        self._read.update(self._values)
        return self._values

    def wrong(self, key: str, expected: str) -> ConfigError:
        """The error for a value that is not what it has to be."""
        return ConfigError(f"{self.place}: {self._prefix}{key}={self._values.get(key)!r}: expected {expected}.")

    def inexpressible(self, key: str, why: str) -> ConfigError:
        """The error for a value that today's configs cannot say."""
        return ConfigError(f"{self.place}: {self._prefix}{key}={self._values.get(key)!r} cannot be expressed: {why}.")

    def unread(self) -> list[str]:
        """The keys that were never read, those of its parts after their own."""
        own = [f"{self._prefix}{key}" for key in self._values if key not in self._read]
        return [*own, *(key for part in self._parts for key in part.unread())]


def read_config(file: Path) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        ConfigError: it cannot be read, or holds no object.
    """
    try:
        return read_json(file)
    except OutputError as error:
        raise ConfigError(str(error).replace("written by tinylab", "of the first version")) from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two objects, the second one before the first, and so with the objects in them."""
    found = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def find_beside(file: Path, named: str) -> Path:
    """A file that an old config names: as it is typed, or from the config's folder or one above it, where a checkout began.

    Raises:
        ConfigError: there is none.
    """
    own = file.resolve().parent
    places = [Path(named), *(folder / named for folder in (own, *own.parents)), own / Path(named).name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(f"{file}: names {named}, which is not there, nor from the file's folder or one above it; type the "
                          "command where the first version was typed.")
    return found


def data_folders(file: Path) -> list[Path]:
    """Where an old config's datasets may be, if that is not given: `data` or `lab/data` in a folder above it."""
    own = file.resolve().parent
    return [place for folder in (own, *own.parents) for name in ("data", "lab/data") if (place := folder / name).is_dir()]
