"""What the examples of a run can decide, reported before any number is there."""

from __future__ import annotations

from collections.abc import Sequence

from tinylab.config.groups import EffectsConfig
from tinylab.statistics.power import examples_for, resolvable
from tinylab.statistics.strata import Groups, Parts, templates
from tinylab.task.preparation import Prepared


def prospect(prepared: Prepared, effects: EffectsConfig) -> str:
    """One sentence: how near to the smallest effect of interest examples decide; or why they do not, and how many would.

    Spread is taken to be the same in all templates; where examples reuse items, each item counts once, as if nothing else varied.

    Args:
        prepared: the run's examples, over all seeds, and its cells.
        effects: how effects are judged.
    """
    names = [pair.template for pair in prepared.condition.pairs]
    strata, items = templates(names), Groups.of([pair.item for pair in prepared.condition.pairs])
    n, count = len(names), len(items.sizes)
    if (alone := int((strata.sizes == 1).sum())):
        what = "one example" if n == 1 else f"{alone} of {len(strata.sizes)} templates have one example"
        return f"{what}: no labels; {_mending(prepared)}"
    if count == 1:
        return f"{n} examples of one item: no labels; at least two items are needed"
    if (alone := Parts.of(strata, items).alone):
        return f"{alone} of {len(strata.sizes)} templates have one item: no labels; add rows of other items, or leave these out"
    named, unit, subject = None not in names, " examples", f"{n} examples"
    groups = len(strata.sizes)
    if count < n:
        groups, unit, subject = 1, " items", f"{n} examples of {count} items (each counts once)"
    elif named:
        subject += f" of {groups} template{'s' if groups > 1 else ''}"
    cells = len({tuple(cell.key.values()) for cell in prepared.cells if cell.control == "none"})
    distance = resolvable(count, groups, cells, effects.alpha)
    enough = examples_for(distance / 2, groups, cells, effects.alpha)
    nearer = "" if effects.correction == "holm" else " or less"
    return (f"{subject} can decide effects {_number(distance)} standard deviations{nearer} (of examples within templates) away "
            f"from the smallest effect of interest; half that distance takes {enough:,}{unit}"
            f"{_of_new(names, cells, effects.alpha)}")


def _of_new(names: Sequence[str | None], cells: int, alpha: float) -> str:
    """How far over the smallest effect templates show effects for new ones; none where there are fewer than two."""
    count = len(set(names))
    if None in names or count < 2:
        return _untold(names)
    distance = resolvable(count, 1, cells, alpha)
    return (f"; for new templates these {count} can show effects {_number(distance)} standard deviations (of template means) "
            f"over it; half that distance takes {examples_for(distance / 2, 1, cells, alpha):,} templates")


def _mending(prepared: Prepared) -> str:
    """How many examples would give each template two, if there are as many."""
    lacking = sum(size < 2 for size in prepared.strata.values())
    if lacking or prepared.kept < 2:
        of, rest = (f" of {lacking} of them", ", or leave these out") if prepared.kept > 1 else ("", "")
        return f"the corpus has no second usable row{of}: add rows{rest}"
    if not prepared.strata:
        return "it takes condition.n_examples=2 or more"
    return f"condition.n_examples={2 * len(prepared.strata)} or more gives each template two"


def _untold(names: Sequence[str | None]) -> str:
    """What stays undecided however large the effects are."""
    missing = names.count(None)
    if 0 < missing < len(names):
        return f"; {missing} of {len(names)} examples name no template, so all count as examples of one"
    if not missing and len(set(names)) == 1:
        return "; of one template: no conclusions about new ones, which need at least two"
    return ""


def _number(distance: float) -> str:
    return f"{distance:.2f}" if distance < 10 else f"{distance:,.0f}"
