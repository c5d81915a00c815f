"""Synergy: how far the joint effect of two components is from the sum of their single effects.

With levels on one example, (joint − baseline) − [(single1 − baseline) + (single2 − baseline)]; a run's number is the mean
over examples, with the interval that effects have: these templates, new words. It is a function of the `per_example` table, in
which singles stand as cells of control `single` under the key of a pair with itself.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tinylab.arrays import FloatArray
from tinylab.batteries.base import SINGLE
from tinylab.interventions.components import PAIR_IMPACT, TableKind
from tinylab.records.tables import schema, synergy_columns
from tinylab.statistics.estimates import fixed_templates
from tinylab.statistics.strata import Groups, templates


def joint_tables(per_example: pa.Table, kind: TableKind) -> dict[str, pa.Table]:
    """The tables beside those that every run has, by artifact: of pairs, their synergy.

    Args:
        per_example: the run's.
        kind: of its impact table.
    """
    return {"synergy": synergy(per_example, kind)} if kind.name == PAIR_IMPACT.name else {}


def synergy(per_example: pa.Table, kind: TableKind = PAIR_IMPACT) -> pa.Table:
    """A row for each seed, metric and pair: joint and single changes, synergy and its 95 % interval, over `n` examples.

    Examples count where the metric is defined in every cell.

    Args:
        per_example: the run's.
        kind: of its impact table: of pairs of heads, or of layers.
    """
    kept = pc.is_in(per_example["control"], pa.array(["none", SINGLE]))
    columns = ["run_id", "seed", "metric", *kind.keys, "example", "template", "item", "value", "baseline", "control"]
    rows = per_example.select(columns).filter(kept).to_pandas()
    parts = [_of_metric(part, kind) for _, part in rows.groupby(["seed", "metric"], sort=False)]
    names = synergy_columns(kind)
    whole = pd.concat([part.reindex(columns=names) for part in parts], ignore_index=True)
    return pa.Table.from_pandas(whole, schema=schema(names, kind), preserve_index=False)


def _of_metric(rows: pd.DataFrame, kind: TableKind) -> pd.DataFrame:
    """The pairs of one seed by one metric."""
    keys = list(kind.keys)
    others = keys[len(kind.component):]  # which follow both members
    rows = rows.assign(change=rows["value"] - rows["baseline"])
    cells = rows.pivot(index=["control", *keys], columns="example", values="change").dropna(axis=1)
    order = rows.loc[rows["control"] == "none", keys].drop_duplicates()
    joint, first, second = (_changes(cells, control, order[columns]) for control, columns in (
        ("none", keys), *((SINGLE, [*side, *side, *others]) for side in kind.members)))
    beyond = joint - (first + second)
    examples = rows.drop_duplicates("example").set_index("example").loc[cells.columns]
    items = None if examples["item"].isna().all() else Groups.of(examples["item"].tolist())
    found = fixed_templates(beyond, None, templates(examples["template"].tolist()), items)
    low, high = found.interval()
    return order.assign(
        run_id=rows["run_id"].iloc[0], seed=rows["seed"].iloc[0], metric=rows["metric"].iloc[0], joint=joint.mean(axis=1),
        single1=first.mean(axis=1), single2=second.mean(axis=1), synergy=found.value, ci_low=low, ci_high=high, n=beyond.shape[1],
    )


def _changes(cells: pd.DataFrame, control: str, keys: pd.DataFrame) -> FloatArray:
    """The changes of some cells of a control, [cells, examples]."""
    found: FloatArray = cells.loc[[(control, *key) for key in keys.itertuples(index=False, name=None)]].to_numpy()
    return found
