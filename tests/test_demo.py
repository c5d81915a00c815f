"""What README.md says of the demo is what its labels say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tinylab.results import load_sweep

README = Path(__file__).parent.parent / "README.md"


def labelled(effects: pd.DataFrame, label: str) -> list[str]:
    """Heads with a label, the largest effect first."""
    rows = effects[effects["label"] == label].sort_values("effect_logits", key=abs, ascending=False)
    return [f"{row.layer}.{row.head}" for row in rows.itertuples()]


def said(heads: list[str]) -> str:
    """As a sentence lists them."""
    *first, last = heads
    return f"{', '.join(first)} and {last}" if first else last


def test_what_the_readme_says_of_the_demo_is_what_its_labels_say(tinylab: Callable[..., int]) -> None:
    assert tinylab("-m", "condition=cond_a,cond_b", "metrics=[logit_diff]", "plots=false") == 0
    (folder,) = Path("outputs/sweeps").iterdir()
    demo = load_sweep(folder)
    text = re.sub(r"\s+", " ", README.read_text(encoding="utf-8"))
    a, b = (run.effects for run in demo.runs)
    assert a is not None and b is not None
    in_a, in_b, mixed = labelled(a, "matters"), labelled(b, "matters"), labelled(a, "mixed")
    assert labelled(b, "mixed") == []
    claimed = sorted(f"{head['layer']}.{head['head']}" for head in demo.invariants["heads"])
    assert claimed == sorted([*(head for head in in_a if head in in_b), *mixed])
    assert f"{said(sorted(head for head in in_a if head in in_b))} matter in both tasks" in text
    assert f"{said(sorted(mixed))}, which complete repetitions, matter in `cond_b`; in `cond_a` they are mixed" in text
    only_a, only_b = (said([head for head in own if head not in other and head not in mixed])
                      for own, other in ((in_a, in_b), (in_b, in_a)))
    assert f"{only_a} were found to matter in `cond_a` alone, {only_b} in `cond_b`" in text
    rows = demo.runs[0].per_example.query("control == 'none' and layer == 1 and head == 0")
    change = (rows["value"] - rows["baseline"]).groupby(rows["template"]).mean()
    lost, gained = (-change[change < 0], change[change > 0])
    assert [{name.rsplit("_", 1)[1] for name in signed.index} for signed in (lost, gained)] == [{"abba"}, {"baba"}]
    assert f"costs {lost.min():.1f} to {lost.max():.1f} logits where the first name comes first again (ABBA)" in text
    assert f"gains {gained.min():.1f} to {gained.max():.1f} where the second does (BABA)" in text
    (group,) = demo.invariants["groups"]
    chance = group["per_metric"]["logit_diff"]["by_chance"]
    assert len(group["per_metric"]["logit_diff"]["heads"]) == 8
    assert f"share {chance['expected_within_layers']:.2f} (p = .{round(100 * chance['p_within_layers'])})" in text
