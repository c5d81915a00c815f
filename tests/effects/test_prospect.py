"""What is said of a run's examples before it starts."""

from __future__ import annotations

from collections import Counter

import pytest

from tinylab.batteries.heads_zero import HeadsZero
from tinylab.config.groups import EffectsConfig
from tinylab.effects.prospect import prospect
from tinylab.statistics.power import examples_for, resolvable
from tinylab.task.corpus import Condition, PromptPair
from tinylab.task.preparation import Prepared

CELLS = HeadsZero(name="h1").cells(4, 9)


def prepared(
    templates: list[str | None], usable: list[str | None] | None = None, items: list[str | None] | None = None
) -> Prepared:
    """Examples of these templates, of a corpus whose rows are of those."""
    own = items or [None] * len(templates)
    pairs = tuple(PromptPair(row, "", "", "", "", *both) for row, both in enumerate(zip(templates, own, strict=True)))
    rows = usable or templates
    strata = {} if None in rows else dict(Counter(str(name) for name in rows))
    return Prepared(Condition("t", "t.jsonl", "sha", pairs, {}), [], {}, CELLS, len(rows), strata)


def said(*args: list[str | None] | None, correction: str = "holm") -> str:
    return prospect(prepared(*args), EffectsConfig(correction=correction))  # type: ignore[arg-type]


def test_it_says_how_near_to_the_smallest_effect_examples_decide_and_how_many_decide_half_as_near() -> None:
    distance = resolvable(32, 4, 36, 0.05)
    enough = examples_for(distance / 2, 4, 36, 0.05)
    assert said([*"abcd"] * 8) == (
        f"32 examples of 4 templates can decide effects {distance:.2f} standard deviations (of examples within templates) away "
        f"from the smallest effect of interest; half that distance takes {enough} examples{of_new(4)}"
    )


def of_new(templates: int) -> str:
    """What is said of new templates, of 36 cells: a one-sample t-test of template means."""
    distance = resolvable(templates, 1, 36, 0.05)
    return (f"; for new templates these {templates} can show effects {distance:.2f} standard deviations (of template means) over "
            f"it; half that distance takes {examples_for(distance / 2, 1, 36, 0.05)} templates")


def test_it_says_how_far_over_the_smallest_effect_templates_show_one_for_new_ones() -> None:
    assert said([*"abcdefgh"] * 4).endswith(of_new(8))
    assert said([*"abcd"] * 8, None, [f"word {b // 2}" for b in range(32)]).endswith(of_new(4))


def test_corrections_that_decide_more_cells_are_said_to() -> None:
    assert "standard deviations or less (of" in said([*"abcd"] * 8, correction="bh")


def test_examples_that_share_items_count_as_items() -> None:
    found = said([*"abcd"] * 8, None, [f"word {b // 2}" for b in range(32)])
    distance = resolvable(16, 1, 36, 0.05)
    assert found.startswith(f"32 examples of 16 items (each counts once) can decide effects {distance:.2f} standard")
    assert f"; half that distance takes {examples_for(distance / 2, 1, 36, 0.05)} items; for new" in found
    assert said([*"abcd"] * 8, None, [f"word {b}" for b in range(32)]) == said([*"abcd"] * 8)
    assert said([*"ab"] * 2, None, ["word"] * 4) == "4 examples of one item: no labels; at least two items are needed"
    assert said([*"aabb"], None, ["v", "v", "v", "w"]) == (
        "1 of 2 templates have one item: no labels; add rows of other items, or leave these out")


@pytest.mark.parametrize(
    ("examples", "usable", "expected"),
    {
        "some alone": ([*"aabbccdefgh"], [*"abcdefgh"] * 15,
                       "5 of 8 templates have one example: no labels; condition.n_examples=16 or more gives each template two"),
        "fewer than templates": ([*"abc"], [*"abcdefgh"] * 15, "3 of 3 templates have one example: no labels; "
                                 "condition.n_examples=16 or more gives each template two"),
        "one": (["a"], [*"abcd"] * 9, "one example: no labels; condition.n_examples=8 or more gives each template two"),
        "one without a template": ([None], [None] * 9,
                                   "one example: no labels; it takes condition.n_examples=2 or more"),
        "one of one": (["a"], ["a"], "one example: no labels; the corpus has no second usable row: add rows"),
        "alone in the corpus": ([*"aabbc"], [*"aaabbc"], "1 of 3 templates have one example: no labels; the corpus has no "
                                "second usable row of 1 of them: add rows, or leave these out"),
    }.values(),
)
def test_where_nothing_is_decided_it_says_why_and_what_it_takes(
    examples: list[str | None], usable: list[str | None], expected: str
) -> None:
    assert said(examples, usable) == expected


def test_one_template_tells_nothing_of_new_ones_and_rows_without_one_are_counted() -> None:
    assert said(["a"] * 9).endswith("; of one template: no conclusions about new ones, which need at least two")
    assert said(["a"] * 9).startswith("9 examples of 1 template can decide")
    assert said([*"aabbccdd", None]).endswith("; 1 of 9 examples name no template, so all count as examples of one")
    assert said([None] * 9).startswith("9 examples can decide") and said([None] * 9).endswith(" examples")
