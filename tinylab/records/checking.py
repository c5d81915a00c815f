"""How a JSON document is declared, checked, read and written; a broken one is never written.

A document is a pydantic model (`tinylab.records.manifests`, `documents`, `invariants`). Models check, they do not
convert: a number is no text and no truth value, and what is written is the content that was checked, key for key.
`Record` knows all its keys. `OpenRecord` lets others pass; whoever is one says why.

Pydantic takes a while to import: modules that the command line needs for its help import this one where they use it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

from tinylab.errors import OutputError, SchemaError, TinylabError
from tinylab.records.storage import read_json, write_json

GOT = 80
"""Characters of a wrong value that an error shows."""
Item = TypeVar("Item", bound=Hashable)


def says(expected: str) -> WrapValidator:
    """Let any fault of a value be told as what was expected, in one clause."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError as error:
            raise PydanticCustomError("expected", "{clause}", {"clause": expected}) from error

    return WrapValidator(check)


def _distinct(values: list[Item]) -> list[Item]:
    if len(set(values)) != len(values):
        raise ValueError("no duplicates")
    return values


def _plain(value: Any) -> Any:
    """What JSON can hold, and numbers that are finite."""
    fine = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, dict):
        fine = all(isinstance(key, str) and _plain(item) is item for key, item in value.items())
    elif isinstance(value, list | tuple):
        fine = all(_plain(item) is item for item in value)
    if not fine:
        raise ValueError("plain JSON with finite numbers")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False), says("a finite number")]
"""A finite number."""
Size = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0), says("a number of at least 0")]
"""A finite number that is not negative."""
Fraction = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1), says("a number from 0 to 1")]
"""A part of a whole."""
Index = Annotated[int, Field(strict=True, ge=0), says("a whole number of at least 0")]
"""A place counted from 0, or how many of something that there may be none of."""
Count = Annotated[int, Field(strict=True, ge=1), says("a whole number of at least 1")]
"""How many of something that there is one of at least."""
Flag = Annotated[bool, Field(strict=True), says("true or false")]
"""Yes or no."""
Text = Annotated[str, Field(strict=True), says("a text")]
"""Any text, an empty one too."""
Name = Annotated[str, Field(strict=True, min_length=1), says("a name")]
"""A text that is not empty."""
TableName = Annotated[str, Field(strict=True, pattern=r"^[^/]+$"), says("the name of a table")]
"""What a table is called; its file is called so too."""
RelativePath = Annotated[str, Field(strict=True, pattern=r"^[^/]"), says("a path relative to the document's folder")]
"""Where a file lies, from the folder of the document that tells it."""
Sha256 = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$"), says("a sha256 of 64 hex digits")]
"""A sha256 in hex."""
Time = Annotated[
    str, Field(strict=True, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"), says("a time such as 2026-01-31T12:00:00+00:00")
]
"""A time, ISO 8601, in UTC to the second."""
Seed = Annotated[str, Field(strict=True, pattern=r"^\d+$"), says("a seed in decimal digits")]
"""A seed as the key of a JSON object."""
Distinct = Annotated[list[Item], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]
"""A list in which nothing stands twice."""
Json = Annotated[Any, AfterValidator(_plain)]
"""Whatever JSON can hold, without NaN and infinities."""


class Record(BaseModel):
    """An object all of whose keys are declared: any other is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OpenRecord(Record):
    """An object that may hold keys beside those declared; their values are plain JSON."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Json] = Field(init=False)


def check_document(model: type[BaseModel], data: object, where: str) -> None:
    """Check the content of a document that is going to be written.

    Args:
        model: what it has to be.
        data: its content, as plain data.
        where: what the message calls it, such as its path.

    Raises:
        SchemaError: it breaks its contract; the message names the first key that does.
    """
    try:
        model.model_validate(data)
    except ValidationError as error:
        raise SchemaError(f"{where}: {_sentence(model, data, error)}") from error


def check_read(model: type[BaseModel], data: object, where: str, fault: type[TinylabError] = OutputError) -> None:
    """Check the content of a document that was read: keys of a later version are let pass.

    Args:
        model: what it has to be.
        data: its content, as plain data.
        where: what the message calls it, such as its path.
        fault: what to raise, an OutputError where it was read from a file.

    Raises:
        TinylabError: it breaks its contract; the message names the first key that does.
    """
    known = data
    while True:
        try:
            model.model_validate(known)
        except ValidationError as error:
            later = [_place(known, one) for one in error.errors(include_url=False) if one["type"] == "extra_forbidden"]
            if not later:
                raise fault(f"{where}: {_sentence(model, known, error)}") from error
            known = _without(known, later)
        except RecursionError as error:
            raise fault(f"{where}: is nested too deeply, expected a document written by tinylab.") from error
        else:
            return


def _without(data: object, places: Sequence[Sequence[str | int]]) -> object:
    """A copy without the keys at some places."""
    copy = deepcopy(data)
    for place in places:
        del _object(copy, place)[place[-1]]
    return copy


def read_document(model: type[BaseModel], path: Path) -> dict[str, Any]:
    """Read a document as plain data, after it was checked; keys of a later version stay in it.

    Raises:
        OutputError: it is missing, no JSON, or breaks its contract.
    """
    data = read_json(path)
    check_read(model, data, str(path))
    return data


def write_document(model: type[BaseModel], path: Path, data: dict[str, Any]) -> None:
    """Write a document atomically, exactly as it is given, after it was checked.

    Raises:
        SchemaError: it breaks its contract; nothing was written.
        OutputError: the folder cannot be written.
    """
    check_document(model, data, str(path))
    write_json(path, data)


def _sentence(model: type[BaseModel], data: object, error: ValidationError) -> str:
    """The first fault: the key, what was got and what was expected."""
    first = error.errors(include_url=False)[0]
    place = _place(data, first)
    where = ".".join(map(str, place)) or "the document"
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key that is known here; expected none but those of docs/schemas."
    if first["type"] not in ("missing", "union_tag_not_found"):
        got = first["ctx"]["tag"] if first["type"] == "union_tag_invalid" else first["input"]
        return f"{where} is {'missing' if _is_absent(data, place) else _short(got)}, expected {_expected(first)}."
    probe = deepcopy(data)
    _object(probe, place)[place[-1]] = None  # what is wrong with null there is what was expected
    try:
        model.model_validate(probe)
    except ValidationError as again:
        found = [one for one in again.errors(include_url=False) if _place(probe, one)[: len(place)] == place]
        if found:
            return f"{where} is missing, expected {_expected(found[0])}."
    return f"{where} is missing, expected a value or null."


def _place(data: object, error: ErrorDetails) -> list[str | int]:
    """The keys that lead to a fault; pydantic's own names for the members of a union are left out."""
    place: list[str | int] = []
    steps = list(error["loc"])
    for number, step in enumerate(steps):
        absent = number == len(steps) - 1 and (error["type"] == "missing" or error["input"] is None)
        if isinstance(data, dict) and (step in data or absent):
            place.append(step)
            data = data.get(step)
        elif isinstance(data, list | tuple) and isinstance(step, int):
            place.append(step)
            data = data[step]
    if error["type"].startswith("union_tag"):
        place.append(error["ctx"]["discriminator"].strip("'"))
    return place


def _object(data: Any, place: Sequence[str | int]) -> Any:
    """What holds a place."""
    for step in place[:-1]:
        data = data[step]
    return data


def _is_absent(data: object, place: Sequence[str | int]) -> bool:
    holder = _object(data, place)
    return bool(place) and isinstance(holder, dict) and place[-1] not in holder


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= GOT else f"{text[:GOT]}…"


def _expected(error: ErrorDetails) -> str:
    """What was expected, as a clause."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind in ("expected", "value_error"):
        return str(context["clause"] if kind == "expected" else context["error"])
    if kind in ("literal_error", "union_tag_invalid"):
        names = str(context["expected" if kind == "literal_error" else "expected_tags"]).replace("'", "")
        return f"one of {names}" if " or " in names or "," in names else names
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "an object"
    if kind == "list_type":
        return "a list"
    if kind == "too_short":
        return f"at least {context['min_length']} of them"
    return f"at most {context['max_length']} of them" if kind == "too_long" else error["msg"]
