"""What a run's numbers say of each cell: `effects.parquet`, and the part of summary.json that sums it up.

Everything here is a function of the `per_example` table and of the settings: it is worked out anew, without the model, where a
setting changes. The statistics themselves are in `tinylab.statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tinylab.arrays import FloatArray
from tinylab.config.groups import EffectsConfig
from tinylab.effects.measured import Measured
from tinylab.effects.noise import floor_of, p_beyond_noise
from tinylab.interventions.components import TableKind
from tinylab.measures.metrics import LOGIT_DIFF, named
from tinylab.measures.recovery import RECOVERY_FLOOR
from tinylab.records.tables import effects_columns, schema
from tinylab.statistics import estimates
from tinylab.statistics.estimates import Estimate
from tinylab.statistics.families import benjamini_hochberg, holm
from tinylab.statistics.labels import LABELS, MATTERS, MIXED, UNDECIDED, critical, decide, hold_for_new_templates
from tinylab.statistics.power import examples_to_decide, templates_for_half
from tinylab.statistics.proportions import clopper_pearson, of_clusters
from tinylab.statistics.ranking import split_half, top_k
from tinylab.statistics.strata import Parts

METHOD = 2
"""Raised where the same numbers and settings give other effects: those of a finished run are then worked out anew."""
OF_A_FRACTION = ("effect", "se", "df", "ci_low", "ci_high", "new_templates_effect", "new_templates_low", "new_templates_high",
                 "p", "p_holm", "q_bh", "between_template_sd", "heterogeneity_p")
"""Columns that tell of effects as fractions, undefined where there is nothing to be a fraction of."""


@dataclass(frozen=True)
class Settings:
    """How effects are judged; the config group `effects`, and the k of `invariants`."""

    smallest: float
    alpha: float
    correction: Any  # of `tinylab.statistics.labels.CORRECTIONS`
    k: int

    @classmethod
    def of(cls, effects: EffectsConfig, k: int) -> Settings:
        """From a checked config."""
        return cls(effects.smallest, effects.alpha, effects.correction, k)

    def judged(self, noise: Mapping[str, float]) -> dict[str, Any]:
        """What a manifest keeps of how effects were judged."""
        return {**asdict(self), "method": METHOD, "noise": dict(noise)}


def conclude(
    table: pa.Table, kind: TableKind, settings: Settings, noise: Mapping[str, float], by: str = LOGIT_DIFF
) -> tuple[pa.Table, dict[str, Any]]:
    """The effects of a run, a row for each cell and metric, and what summary.json says of them.

    Args:
        table: the run's `per_example`.
        kind: of its impact table.
        settings: how effects are judged.
        noise: by metric the largest difference that a sham or a verify slice found.
        by: the metric by which effects are labelled.
    """
    metrics = pc.unique(table["metric"]).to_pylist()
    measured = {name: Measured.read(table, kind, name) for name in metrics}
    parts = []
    summary: dict[str, Any] | None = None
    for name, one in measured.items():
        if name == by:
            part, summary = _labelled(one, settings, noise.get(name, 0.0))
        elif one.metric.pooled:
            part = _pooled(one, measured.get(by), noise.get(by, 0.0))
        else:
            part = _unlabelled(one, settings, noise.get(name, 0.0))
        parts.append(part)
        if one.metric.companion is not None:
            defined = ~np.isnan(one.values).any(axis=0)
            companion = _called(one.where(np.asarray(defined)), one.metric.companion)
            parts.append(_unlabelled(companion, settings, noise.get(name, 0.0)))
    columns = effects_columns(kind)
    whole = pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)
    return pa.Table.from_pandas(whole, schema=schema(columns, kind), preserve_index=False), summary or _nothing(settings, by)


def _called(one: Measured, name: str) -> Measured:
    return Measured(named(name), one.keys, one.values, one.baseline, one.source, one.names, one.items)


def _described(one: Measured) -> pd.DataFrame:
    """The columns that say of what examples a row is."""
    sizes = one.templates.sizes
    return one.keys.assign(metric=one.metric.name, n=len(one.baseline), templates=_count(one),
                           smallest_template=int(sizes.min()) if len(sizes) else 0)


def _count(one: Measured) -> int:
    """How many templates are named; 0 where they are not."""
    return 0 if None in one.names or not one.names else len(one.templates.sizes)


def _estimated(
    one: Measured, fixed: Estimate, new: Estimate, e: FloatArray, *, noise: float, signed: bool = True
) -> pd.DataFrame:
    """The columns that every metric has."""
    low, high = fixed.interval()
    new_low, new_high = new.interval()
    change = one.change
    means = change.mean(axis=1, keepdims=True)
    by_template = one.templates.means(change)
    floor = floor_of(noise, one.baseline)
    p = p_beyond_noise(fixed, change, one.baseline, floor) if signed else np.full(len(e), np.nan)
    return _described(one).assign(
        effect=fixed.value, se=fixed.se, df=fixed.df, ci_low=low, ci_high=high,
        new_templates_effect=new.value if len(one.templates.sizes) > 1 else np.nan,
        new_templates_low=new_low, new_templates_high=new_high,
        p=p, p_holm=holm(p), q_bh=benjamini_hochberg(p),
        nonzero=np.abs(means[:, 0]) > floor,
        templates_opposite=(by_template * means < 0).sum(axis=1),
        examples_opposite=(change * means < 0).mean(axis=1),
        between_template_sd=estimates.between_templates(e, one.templates, one.items),
        heterogeneity_p=estimates.heterogeneity(e, one.templates, one.items),
    )


def _unlabelled(one: Measured, settings: Settings, noise: float) -> pd.DataFrame:
    """A metric that is no logit difference: the mean change and its interval, and how many examples change by much."""
    if not len(one.baseline):
        return _described(one)
    change = one.change
    fixed = estimates.fixed_templates(change, None, one.templates, one.items)
    new = estimates.new_templates(change, None, one.templates, one.items)
    share, low, high = _share_beyond(one, settings.smallest)
    return _estimated(one, fixed, new, change, noise=noise, signed=one.metric.signed).assign(
        share_beyond=share, share_low=low, share_high=high)


def _share_beyond(one: Measured, smallest: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The share of examples that change by more, and its 95 % interval: exact, or by clusters where words are reused."""
    beyond = np.abs(one.change) > smallest
    share, n = beyond.mean(axis=1), beyond.shape[1]
    if one.items is None or len(one.items.sizes) == n:
        return share, *clopper_pearson(beyond.sum(axis=1), n)
    estimate = estimates.fixed_templates(beyond.astype(float), None, one.templates, one.items)
    return share, *of_clusters(estimate, n, len(one.items.sizes))


def _pooled(one: Measured, made_of: Measured | None, noise: float) -> pd.DataFrame:
    """A ratio of means: it is the effect of what it is made of, as a fraction; undefined where that was not asked for.

    Args:
        one: the ratio.
        made_of: what it is made of.
        noise: of what it is made of.
    """
    if made_of is None or not _is_fraction(made_of):
        return _described(one)
    fixed = estimates.fixed_templates(made_of.change, made_of.whole, made_of.templates, made_of.items)
    new = estimates.new_templates(made_of.change, made_of.whole, made_of.templates, made_of.items)
    e = estimates.ratio(made_of.change, made_of.whole)[1]
    return _estimated(made_of, fixed, new, e, noise=noise).assign(metric=one.metric.name, nonzero=None)


def _is_fraction(one: Measured) -> bool:
    """Whether there is anything that a change could be a fraction of."""
    return abs(float(one.whole.mean())) >= RECOVERY_FLOOR


def _labelled(one: Measured, settings: Settings, noise: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The logit difference: fractions of the whole, simultaneous intervals, labels, ranks, and the summary."""
    fraction = _is_fraction(one)
    whole = one.whole if fraction else None
    fixed = estimates.fixed_templates(one.change, whole, one.templates, one.items)
    new = estimates.new_templates(one.change, whole, one.templates, one.items)
    e = estimates.ratio(one.change, whole)[1]
    part = _estimated(one, fixed, new, e, noise=noise)
    ranks = top_k(one.change, one.templates, settings.k, items=one.items)
    part = part.assign(effect_logits=one.change.mean(axis=1), p_top_k=ranks.probability, label=None, new_templates=None)
    notes = _notes(one, fraction)
    summary: dict[str, Any] = {
        **asdict(settings), "metric": one.metric.name, "whole": float(one.whole.mean()), "n": len(one.baseline),
        "templates": _count(one), "cells": len(one.keys),
    }
    if not fraction:
        part = part.assign(**dict.fromkeys(OF_A_FRACTION))
        return part, {**summary, "counts": None, "matter": [], "mixed": [], "ranking": _ranking(one, settings, ranks.stability),
                      "examples_to_decide": None, "templates_to_decide": None, "notes": notes}
    correction = settings.correction
    if correction == "maxt" and one.items is not None:
        correction = "holm"
        notes.append("words are reused, and maxt flips the signs of single examples: critical values are those of holm")
    c = critical(fixed, settings.smallest, settings.alpha, correction, e, one.templates)
    if (np.isnan(c) & ~np.isnan(fixed.se)).any():
        notes.append("maxt has no critical value, as too few examples are flipped: no simultaneous intervals, so none matters or "
                     "is negligible")
    crossed = estimates.crossover(one.change, settings.smallest * abs(float(one.whole.mean())), one.templates, one.items)
    labels = decide(fixed, c, settings.smallest, crossed, settings.alpha, settings.correction)
    held = hold_for_new_templates(new, settings.smallest, labels, settings.alpha)
    part = part.assign(
        simultaneous_low=fixed.value - c * fixed.se, simultaneous_high=fixed.value + c * fixed.se,
        label=pd.Series(labels, dtype=object), new_templates=pd.Series(held, dtype=object),
    )
    undecided = np.array([label == UNDECIDED for label in labels])
    needed = examples_to_decide(fixed, c, settings.smallest, len(one.baseline))[undecided]
    needed = needed[np.isfinite(needed)]
    return part, {
        **summary,
        "counts": {label: labels.count(label) for label in LABELS} if None not in labels else None,
        "matter": _listed(part[part["label"] == MATTERS]),
        "mixed": _listed(part[part["label"] == MIXED]),
        "ranking": _ranking(one, settings, ranks.stability),
        "examples_to_decide": int(np.median(needed)) if len(needed) else None,
        "templates_to_decide": _templates_to_decide(new, labels, held, one, settings),
        "notes": notes,
    }


def _templates_to_decide(
    new: Estimate, labels: Sequence[str | None], held: Sequence[bool | None], one: Measured, settings: Settings
) -> int | None:
    """About how many templates would show half of the cells to matter for new ones that matter and are not shown to; or none."""
    open_ = np.array([label == MATTERS and shown is False for label, shown in zip(labels, held, strict=True)])
    if not open_.any():
        return None
    some = Estimate(new.value[open_], new.se[open_], new.df[open_])
    needed = templates_for_half(some, settings.smallest, len(one.templates.sizes), labels.count(MATTERS), settings.alpha)
    return int(needed) if np.isfinite(needed) else None


def _ranking(one: Measured, settings: Settings, stable: float) -> dict[str, Any]:
    """How far the list of the k strongest can be relied on."""
    told = split_half(one.change, one.templates, min(settings.k, len(one.keys)), items=one.items)
    return {"k": min(settings.k, len(one.keys)), "stability": _json(stable), "naive": _json(told.naive),
            "held_out": _json(told.held_out)}


def _listed(part: pd.DataFrame) -> list[dict[str, Any]]:
    """Cells with their effects, the largest first."""
    keys = list(part.columns[: list(part.columns).index("metric")])
    ordered = part.assign(size=-part["effect"].abs()).sort_values(["size", *keys])
    told = [*keys, "effect", "ci_low", "ci_high", "new_templates"]
    return [{str(name): _json(value) for name, value in row.items()} for row in ordered[told].to_dict("records")]


def _json(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _notes(one: Measured, fraction: bool) -> list[str]:
    """Why something is missing."""
    notes = []
    if None in one.names:
        missing = sum(name is None for name in one.names)
        if missing < len(one.names):
            notes.append(f"{missing} of {len(one.names)} examples name no template: all count as examples of one")
    elif len(one.templates.sizes) == 1:
        notes.append("one template: no conclusions about new ones")
    if len(one.names) < 2:
        notes.append("one example: no interval, no label")
    elif (alone := int((one.templates.sizes == 1).sum())):
        notes.append(f"{alone} of {len(one.templates.sizes)} templates have one example: no interval, no label")
    elif (alone := Parts.of(one.templates, one.items).alone):
        notes.append(f"{alone} of {len(one.templates.sizes)} templates have one item: no interval, no label")
    if not fraction:
        notes.append(f"the mean that changes would be a fraction of is {float(one.whole.mean()):.3f} {one.metric.unit}, less "
                     f"than {RECOVERY_FLOOR:g}: no fractions, no label")
    return notes


def _nothing(settings: Settings, by: str) -> dict[str, Any]:
    return {**asdict(settings), "metric": by, "whole": None, "n": None, "templates": None, "cells": None, "counts": None,
            "matter": [], "mixed": [], "ranking": None, "examples_to_decide": None, "templates_to_decide": None,
            "notes": [f"{by} was not asked for: no label"]}
