"""Conditions: load a corpus of prompt pairs, check it, choose the rows of a run.

A corpus is a `.jsonl`, `.csv` or `.parquet` file, or a folder that `datasets` saved, whose rows hold a clean and a corrupt prompt
and the right answer to each (`target`, `foil`). This room knows text only: token lengths belong to `tinylab.task.tokens`.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinylab.config.groups import SET, ConditionConfig
from tinylab.errors import CorpusError, options
from tinylab.statistics.strata import shares, templates
from tinylab.task.parts import Part, parts_of
from tinylab.task.reading import CELL, ROWS, TEXT, Row
from tinylab.task.sources import corpus_rows, corpus_sha256

_BETWEEN = r"[,;/|)]"
"""What stands between the choices of a list."""
SEVERAL, LONG, UNEQUAL = "answer of several tokens", "prompt longer than the context", "prompts of unequal length"
"""Why a model cannot use a pair that its text has nothing against."""
_MENDING = {
    SEVERAL: "condition.single_token=false scores an answer's first token; or use another condition, or another model",
    LONG: "use another condition, or a model with a longer context",
    UNEQUAL: "battery.positions=last takes prompts of any length; or use another condition, or another model",
}
"""What to do about rows that cannot be used, by the reason."""
LEAST = 10
"""A run is of one in so many of its rows at least."""
FIELDS = ("clean_field", "corrupt_field", "target_field", "foil_field", "template_field", "item_field", "split_field",
          "spans_field")
"""The settings that name a corpus' fields."""
TOLD = 40
"""Fields that a message names."""


@dataclass(frozen=True)
class PromptPair:
    """One row of a corpus: `target` is the right answer to `clean`, `foil` the right answer to `corrupt`."""

    row: int
    clean: str
    corrupt: str
    target: str
    foil: str
    template: str | None = None
    item: str | None = None  # what several rows reuse, such as a word
    parts: tuple[Part, ...] = ()  # named ones of both prompts
    targets: tuple[str, ...] = ()  # of a set of right answers all; `target` is the first
    foils: tuple[str, ...] = ()

    def answers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The right answers to clean and to corrupt, one each or sets."""
        return self.targets or (self.target,), self.foils or (self.foil,)


@dataclass(frozen=True)
class Condition:
    """A named task: its usable pairs, the corpus they came from, the counts of what was left out and of what is to be known."""

    tag: str
    path: str
    sha256: str
    pairs: tuple[PromptPair, ...]
    dropped: dict[str, int]
    noted: dict[str, int] = field(default_factory=dict)  # of the pairs that are used all the same (`tinylab.task.notes`)
    shown: dict[str, str] = field(default_factory=dict)  # an example of what is noted

    @property
    def rows(self) -> int:
        """How many rows the corpus has in this split, used or not."""
        return len(self.pairs) + sum(self.dropped.values())


def load_condition(config: ConditionConfig) -> Condition:
    """Read the corpus, keep the rows of the active split, drop what cannot be used with a counted reason.

    Raises:
        CorpusError: missing, empty or unreadable file, a row without a field, items or templates that no row has, too few usable
            rows; with `strict=true` any row that would be dropped.
    """
    sha256 = corpus_sha256(config.path)
    pairs: list[PromptPair] = []
    splits: Counter[str] = Counter()
    names: dict[str, None] = {}
    room = TEXT
    lists = [config.target_field, config.foil_field] if config.answer == SET else []
    for row in corpus_rows(config.path, [field for name in FIELDS if (field := getattr(config, name)) is not None], lists):
        if row.number >= ROWS:
            raise CorpusError(f"condition.path={config.path}: more than {ROWS:,} rows; leave out rows.")
        if len(names) < TOLD:
            names.update(dict.fromkeys(row.names))
        split = _split(config, row)
        if split is not None:
            splits[split] += 1
        if config.split is None or split is None or split == config.split:
            pairs.append(pair := _pair(config, row))
            room -= len(pair.clean) + len(pair.corrupt) + sum(len(one) for answer in pair.answers() for one in answer)
            if room < 0:
                raise CorpusError(f"condition.path={config.path}: its texts have more than {TEXT:,} characters; leave out rows.")
    if not pairs and splits:
        raise CorpusError(f"condition.split={config.split}: no row of {config.path} has it; {options(config.split, splits)}.")
    if not pairs:
        raise CorpusError(f"condition.path={config.path}: the file is empty; expected at least one row.")
    if config.item_field is not None and all(pair.item is None for pair in pairs):
        raise _no_row_has("item_field", config, names)
    if config.template_field != ConditionConfig.template_field and all(pair.template is None for pair in pairs):
        raise _no_row_has("template_field", config, names)
    condition = Condition(config.tag, config.path, sha256, tuple(pairs), {})
    return drop(condition, {pair.row: reason for pair in pairs if (reason := _unusable(pair))}, config.strict)


def _no_row_has(setting: str, config: ConditionConfig, names: Iterable[str]) -> CorpusError:
    """A field that was asked for by name, and is nowhere: silently left out, it would change every interval and label."""
    field = getattr(config, setting)
    return CorpusError(f"condition.{setting}={field}: no used row of {config.path} has it; {options(field, _told([*names]))}.")


def drop(
    condition: Condition, reasons: Mapping[int, str], strict: bool, details: Mapping[int, str] | None = None
) -> Condition:
    """Leave out rows, by row number, with a reason each; the reasons are counted in the result.

    Args:
        condition: with the rows.
        reasons: of those that cannot be used.
        strict: whether one that would be dropped is an error.
        details: what is to be said of a row beside its reason.

    Raises:
        CorpusError: `strict` and there is something to drop, or fewer than one row in `LEAST` would be left.
    """
    if not reasons:
        return condition
    if strict:
        first = min(reasons)
        why = f"{reasons[first]}: {details[first]}" if details and details.get(first) else reasons[first]
        raise CorpusError(f"{condition.path}: row {first} cannot be used ({why}) and condition.strict=true; "
                          f"fix it or drop such rows with condition.strict=false ({_counted(Counter(reasons.values()))}).")
    dropped = Counter(condition.dropped) + Counter(reasons.values())
    pairs = tuple(pair for pair in condition.pairs if pair.row not in reasons)
    rows = len(pairs) + dropped.total()
    if len(pairs) * LEAST < rows:
        left = f"only {len(pairs)} of its {rows} rows can be used, fewer than one in {LEAST}" if pairs else \
            f"none of its {rows} rows can be used"
        (reason, _), = dropped.most_common(1)
        mending = _MENDING.get(reason, "fix the corpus or the fields that condition.*_field names")
        raise CorpusError(f"{condition.path}: {left} ({_counted(dropped)}); {mending}.")
    return replace(condition, pairs=pairs, dropped=dict(dropped))


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))


def subsamples(condition: Condition, n_examples: int | None, seeds: Sequence[int]) -> dict[int, list[int]]:
    """For each seed, which of the condition's pairs it uses (indices into `pairs`, in corpus order).

    Templates are strata: each seed draws from every one as many as `shares` gives it. Where a pair names no template, it draws
    from all. Without `n_examples`, or where it is not less than the number of pairs, every seed uses all of them.
    """
    total = len(condition.pairs)
    if n_examples is None or n_examples >= total:
        return {seed: list(range(total)) for seed in seeds}
    strata = templates([pair.template for pair in condition.pairs])
    drawn = list(zip(strata.each, shares(strata.sizes.tolist(), n_examples), strict=True))
    return {seed: _drawn(drawn, seed) for seed in seeds}


def _drawn(strata: Sequence[tuple[np.ndarray[Any, Any], int]], seed: int) -> list[int]:
    """So many of each stratum's indices, at random; in order."""
    rng = np.random.default_rng(seed)
    return sorted(int(i) for own, count in strata for i in rng.choice(own, size=count, replace=False))


def _pair(config: ConditionConfig, row: Row) -> PromptPair:
    text: dict[str, Any] = {}
    for name in ("clean", "corrupt", "target", "foil"):
        field = getattr(config, f"{name}_field")
        if field not in row.names:
            raise CorpusError(f"{row.place}: no field '{field}'; {options(field, _told(row.names))}. "
                              f"Name another one with condition.{name}_field=….")
        value = _value(row, field)
        if value is None:
            raise CorpusError(f"{row.place}: field '{field}' is empty; write its text, or leave the row out.")
        if name in ("target", "foil") and isinstance(value, list):
            text[f"{name}s"] = _set(config, row, field, value)
            value = value[0]
        if not isinstance(value, str):
            raise CorpusError(f"{row.place}: field '{field}' is {reprlib.repr(value)}, expected text.")
        text[name] = _whole(row, field, value)
    item = None if config.item_field is None else _optional(row, config.item_field)
    parts = parts_of(row, config.spans_field)
    return PromptPair(row=row.number, template=_optional(row, config.template_field), item=item, parts=parts, **text)


def _split(config: ConditionConfig, row: Row) -> str | None:
    """The split that a row names in a field, or that its file is for (a DatasetDict's); None where neither is."""
    named = _optional(row, config.split_field)
    if row.split is not None and named not in (None, row.split):
        raise CorpusError(f"{row.place}: field '{config.split_field}' says {named!r}, but the row is in the split {row.split!r} "
                          "of a DatasetDict; condition.split_field=… names another field, one that no row has if need be.")
    return named if row.split is None else row.split


def _set(config: ConditionConfig, row: Row, field: str, value: list[Any]) -> tuple[str, ...]:
    """The texts of a list of answers."""
    if config.answer != SET:
        raise CorpusError(f"{row.place}: field '{field}' is a list, with condition.answer={config.answer} expected text; "
                          "condition.answer=set takes lists.")
    if not value:
        raise CorpusError(f"{row.place}: field '{field}' is an empty list; expected one answer at least, or leave the row out.")
    if (wrong := next((one for one in value if not isinstance(one, str)), None)) is not None or None in value:
        raise CorpusError(f"{row.place}: field '{field}' has {reprlib.repr(wrong)} in its list, expected texts.")
    return tuple(_whole(row, field, one) for one in value)


def _told(names: Sequence[str]) -> list[str]:
    """The first names that a file has, as they fit into a sentence."""
    return [(name if name.isprintable() else ascii(name))[:40] for name in names[:TOLD]]


def _optional(row: Row, field: str) -> str | None:
    """A field that a row need not have; an empty one, as csv writes it, is none."""
    value = _value(row, field)
    if value is None or value == "":
        return None
    return _whole(row, field, value if isinstance(value, str) else str(value))


def _value(row: Row, field: str) -> Any:
    """A field's value, None where there is none: NaN is how data frames write that."""
    value = row.values.get(field)
    return None if isinstance(value, float) and math.isnan(value) else value


def _whole(row: Row, field: str, text: str) -> str:
    """A text that is not longer than one may be, and that has whole characters only."""
    if len(text) > CELL:
        raise CorpusError(f"{row.place}: field '{field}' has {len(text):,} characters, at most {CELL:,} are read; shorten it.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise CorpusError(f"{row.place}: field '{field}' has half a character ({half}, a lone surrogate); "
                          "write the whole one.") from error
    return text


def _unusable(pair: PromptPair) -> str | None:
    """Why a pair cannot be used, as far as its text tells."""
    if not pair.clean.strip() or not pair.corrupt.strip():
        return "empty prompt"
    if not all(one.strip() for answer in pair.answers() for one in answer):
        return "empty answer"
    if max(map(len, pair.answers())) > 1:  # of several, one may well stand at the end: the year 17 in a list of two digits
        return None
    if _ends_with(pair.clean, pair.target, pair.foil) or _ends_with(pair.corrupt, pair.foil, pair.target):
        return "prompt ends with its answer"
    return None


def _ends_with(prompt: str, answer: str, other: str) -> bool:
    """Whether a prompt ends with its answer, and not with choices of which it is the last, such as "A or B:"."""
    before, found, after = prompt.rpartition(answer.strip())
    if not found or re.search(r"\w", after) is not None or re.match(r"\w", before[-1:]) is not None:
        return False
    return not _offers(before, other, after)


def _offers(before: str, other: str, after: str) -> bool:
    """Whether what stands around an answer makes it one of several: "or" before it, or the other answer in a list that is asked.

    A list that ends in nothing but the answer goes on with it, and asks for nothing.
    """
    *_, end = [0, *(word.end() for word in re.finditer(r"\w+", before))]
    text, between, wanted = before[:end], before[end:], re.findall(r"\w+", other)
    if re.search(r"\bor$", text[-3:], re.IGNORECASE) is not None:
        return True
    if re.fullmatch(r"[\s,;]*", between) is not None and re.search(r"[:?)\]]", after) is None:
        return False
    for item in reversed(re.split(_BETWEEN, text)) if re.search(_BETWEEN, between) is not None else []:
        words = re.findall(r"\w+", item)
        if wanted and wanted in (words[-len(wanted):], words[-len(wanted) - 1:-1]):  # (A) other (B) answer
            return True
        if len(words) > 2:
            return False
    return False
