"""`examples.parquet`: the prompts of a run, one row for each pair, and how the model answers them unmodified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from tinylab.arrays import FloatArray
from tinylab.interventions.sources import RUNS, RunName
from tinylab.measures.ability import ABILITY
from tinylab.task.corpus import PromptPair

SCHEMA = pa.schema([
    ("run_id", pa.string()),
    ("example", pa.int64()),
    ("template", pa.string()),
    ("item", pa.string()),
    ("clean", pa.string()),
    ("corrupt", pa.string()),
    ("target", pa.string()),
    ("foil", pa.string()),
    ("targets", pa.list_(pa.string())),
    ("foils", pa.list_(pa.string())),
    *((f"{run}_tokens", pa.list_(pa.string())) for run in RUNS),
    *((f"{run}_difference", pa.float64()) for run in RUNS),
    *((f"{run}_answer_probability", pa.float64()) for run in RUNS),
    *((f"{run}_right", pa.bool_()) for run in RUNS),
])
"""`example` is the row in the corpus; the right answer is the target after the clean prompt, the foil after the corrupt one.
`targets` and `foils` are all answers of a set, the first of which are `target` and `foil`; `*_difference` is the logit
difference, of whole answers that of their log-probabilities, in nats."""
MAY_LACK = ("template", "item")
"""Columns that have nothing where the corpus does not say it."""


def examples_table(
    run_id: str,
    pairs: Sequence[PromptPair],
    *,
    tokens: Mapping[RunName, Sequence[Sequence[str]]],
    difference: Mapping[RunName, FloatArray],
    answered: Mapping[RunName, FloatArray],
) -> pa.Table:
    """One row for each of B pairs.

    Args:
        run_id: the run.
        pairs: B pairs.
        tokens: of each run's B prompts, as a person reads them, what begins a prompt included.
        difference: [B] of each unmodified run, by the metric of labels.
        answered: [B, 2] of each unmodified run, the columns of `ABILITY`.
    """
    right, probability = (ABILITY.index(name) for name in ("accuracy", "answer_probability"))
    columns: dict[str, object] = {"run_id": [run_id] * len(pairs), "example": [pair.row for pair in pairs]}
    columns |= {name: [getattr(pair, name) for pair in pairs] for name in SCHEMA.names[2:8]}
    columns["targets"], columns["foils"] = zip(*([list(texts) for texts in pair.answers()] for pair in pairs), strict=True)
    for run in RUNS:
        columns[f"{run}_tokens"] = [list(prompt) for prompt in tokens[run]]
        columns[f"{run}_difference"] = difference[run]
        columns[f"{run}_answer_probability"] = answered[run][:, probability]
        columns[f"{run}_right"] = answered[run][:, right] == 1
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
