"""What becomes of the causal language models of transformers that `tests/families.py` has none of: run exactly, or refused.

The second table of docs/families.md is written by `make families` and is what these tests expect, its numbers aside.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import transformers
from test_families import DOCUMENT, OTHERS, SCORER, cells

from families import ALIGNED, answered
from others import NotBuilt, other, others
from tinylab.config.groups import EngineConfig
from tinylab.engine.choose import choose_engine
from tinylab.engine.reference import ReferenceEngine
from tinylab.engine.trial import check_causal, flaws
from tinylab.errors import EngineUnsupported, ModelError
from tinylab.interventions.operations import Patch, Scale
from tinylab.interventions.sites import COMMON, Site
from tinylab.interventions.sources import Own
from tinylab.interventions.variants import Intervention, Variant
from tinylab.models.network import CausalModel
from tinylab.task.tokens import TokenPair

PROMPTS = (ALIGNED[0], ALIGNED[3], ALIGNED[7])
HEADER = """
Every other type of causal language model in transformers, tried with one small random model; a row is measured
by `test_other_families.py`. *forked* and *reference*: the engine that `engine=auto` chooses, and the largest difference of any
metric from the reference engine, each site scaled at all positions and patched at the last. *refused*: a sentence instead of
numbers. If a run is not refused, some sites may be: these are named, with the reason. *not built*: a small model cannot be
made from the common config of `tests/others.py`, with what transformers says; nothing is claimed of those (types with parts for
images or sound among them).

"""


@dataclass(frozen=True)
class Outcome:
    """What became of a type: the engine, `refused` or `not built`; the largest difference of any metric; what was told."""

    engine: str
    difference: float | None
    told: str

    @property
    def row(self) -> str:
        number = "–" if self.difference is None else f"{self.difference:.0e}"
        return f"{self.engine} | {number} | {self.told.replace('|', '/')}"


def refused_sites(model: CausalModel) -> dict[Site, tuple[list[int], str]]:
    """The sites that are not what they are called: in which layers, and why."""
    found: dict[Site, tuple[list[int], str]] = {}
    for site in COMMON:
        try:
            wrong = flaws(model, PROMPTS[0][0], [(site, layer) for layer in range(model.n_layers)])
        except ModelError as error:
            found[site] = list(range(model.n_layers)), str(error)
        else:
            if wrong:
                found[site] = [layer for _, layer in wrong], next(iter(wrong.values()))
    return found


def variants(model: CausalModel, refused: dict[Site, tuple[list[int], str]]) -> list[Variant]:
    """Each site of each layer that is not refused, scaled everywhere and patched at the last token."""
    places = [(site, layer) for site in COMMON for layer in range(model.n_layers)
              if layer not in refused.get(site, ([], ""))[0]]
    head = {site: model.n_heads - 1 if site.units == "heads" else None for site in COMMON}
    return [
        *(Variant((Intervention(site, layer, Scale(0.5), head[site]),), "clean") for site, layer in places),
        *(Variant((Intervention(site, layer, Patch(), head[site]),), "corrupt", Own("clean"), "last") for site, layer in places),
    ]


def outcome(kind: str) -> Outcome:
    """What becomes of a type; what no sentence of ours tells counts as `fails`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of architectures about configs this small
            return run(other(kind))
    except NotBuilt as error:
        return Outcome("not built", None, str(error))
    except Exception as error:
        return Outcome("fails", None, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def run(model: CausalModel) -> Outcome:
    """Run a model with the engine that is chosen for it."""
    try:
        check_causal(model, TokenPair(*PROMPTS[0], 0, 1))  # the first that a run does
        refused = refused_sites(model)
        chosen, pairs = variants(model, refused), answered(model, PROMPTS)
        choice = choose_engine(model, EngineConfig(name="auto"), pairs, chosen)
        plain = ReferenceEngine(model).evaluate(pairs, chosen, SCORER)
    except (ModelError, EngineUnsupported) as error:
        return Outcome("refused", None, str(error))
    told = "; ".join(f"no {site} in layers {layers}: {why}" for site, (layers, why) in refused.items())
    if choice.reason is not None:
        return Outcome("reference", None, "; ".join(filter(None, (choice.reason.rstrip("."), told))))
    found = choice.engine.evaluate(pairs, chosen, SCORER)
    gaps = [(found.values, plain.values), *((found.baselines[run], plain.baselines[run]) for run in plain.baselines)]
    return Outcome("forked", max(float(np.abs(a - b).max()) for a, b in gaps), told)


def documented() -> dict[str, Outcome]:
    """The rows of the table."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").partition(OTHERS)[2].splitlines() if line.startswith("| ")]
    rows = [cells(line) for line in lines[1:]]
    return {kind: Outcome(engine, None if number == "–" else float(number), told) for kind, engine, number, told in rows}


ROUNDING_OF_OTHERS = 3e-5
"""In float32; larger than for `tests/families.py`, whose initialisation is tuned so that logits stay of order 1."""
MEASURED_WITH = "5.23."
"""The version of transformers that the table is of: others have other types."""


def worded(told: str) -> str:
    """A reason without its numbers: how much differs depends on the processor, and which shape fails first on what is tried."""
    return re.sub(r"[0-9][0-9.,e-]*", "N", told)


@pytest.mark.families
@pytest.mark.parametrize("kind", documented())
def test_another_family_comes_out_as_the_table_says(kind: str) -> None:
    if not transformers.__version__.startswith(MEASURED_WITH):
        pytest.skip(f"the table is of transformers {MEASURED_WITH}x, this is {transformers.__version__}")
    found, expected = outcome(kind), documented()[kind]
    assert (found.engine, worded(cells(f"| x | {found.row} |")[3])) == (expected.engine, worded(expected.told))
    assert found.difference is None or found.difference <= ROUNDING_OF_OTHERS




@pytest.mark.families
def test_write_the_table_of_the_others(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--write-docs"):
        assert list(documented()) == others()
        return
    first = DOCUMENT.read_text(encoding="utf-8").partition(OTHERS)[0]
    rows = [f"| {kind} | {outcome(kind).row} |" for kind in others()]
    table = "\n".join(["| type | comes out | float32 | |", "|---|---|---|---|", *rows])
    DOCUMENT.write_text(f"{first.rstrip()}\n\n{OTHERS}{HEADER}{table}\n", encoding="utf-8")


def test_every_refusal_of_a_family_is_one_sentence() -> None:
    rows = documented()
    assert {outcome.engine for outcome in rows.values()} == {"forked", "reference", "refused", "not built"}
    for kind, row in rows.items():
        assert row.told or row.engine == "forked", kind
        assert row.difference is None or row.difference <= ROUNDING_OF_OTHERS, kind
        if row.engine == "refused":
            named = "its own code in transformers" in row.told  # whose error it is
            assert row.told.endswith(".") and ("Error" not in row.told or named), kind
