"""Prompt pairs that are in memory, as the corpus that a condition reads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinylab.errors import ConfigError
from tinylab.records.storage import write_text

FIELDS = ("clean", "corrupt", "target", "foil")


def write_pairs(pairs: Any, folder: Path) -> Path:
    """Write prompt pairs as a corpus, in a file that is named by what is in it; returns its path.

    Args:
        pairs: a table with the columns clean, corrupt, target, foil; or a row each, as a mapping with these keys (and template,
            item, spans, … where rows have them) or as four texts in this order.
        folder: where corpora are.

    Raises:
        ConfigError: they are not such rows, or there are none.
    """
    rows = pairs.to_dict("records") if hasattr(pairs, "to_dict") else pairs
    if isinstance(rows, str):
        raise ConfigError(f"pairs={rows!r:.60}: expected a table, or a list of rows with {', '.join(FIELDS)}; a file is "
                          "condition=\"jsonl\" with \"condition.path=FILE\".")
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise ConfigError(f"pairs={type(pairs).__name__}: expected a table, or a list of rows with {', '.join(FIELDS)}.")
    told = [_row(number, row) for number, row in enumerate(rows)]
    if not told:
        raise ConfigError(f"pairs: there are none; expected rows with {', '.join(FIELDS)}.")
    try:
        text = "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in told)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"pairs: a row cannot be written as text ({error}); expected texts.") from error
    file = folder / f"pairs_{name}.jsonl"
    if not file.is_file():
        write_text(file, text)
    return file


def _row(number: int, row: Any) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return {str(key): value for key, value in row.items() if not _is_missing(value)}
    if isinstance(row, (tuple, list)) and len(row) == len(FIELDS):
        return dict(zip(FIELDS, row, strict=True))
    raise ConfigError(f"pairs[{number}]={row!r:.60}: expected a mapping with {', '.join(FIELDS)}, or these four texts in this "
                      "order.")


def _is_missing(value: Any) -> bool:
    """Whether a cell is what a table has where there is nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))
