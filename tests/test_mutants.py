"""The declared mutants still fit the source and the tests (make mutants runs them)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mutants import ROOT, Mutant, declared
from validation import DOCUMENT, between

MUTANTS = declared()
TESTS = Path(__file__).parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_declared_mutant_fits_the_source_and_names_tests_that_exist(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {re.escape(name.partition('[')[0])}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_table_in_the_docs_has_every_mutant_killed() -> None:
    rows = [line.split(" | ") for line in between("mutants", DOCUMENT.read_text(encoding="utf-8")).group().splitlines()]
    killed = [row[0].removeprefix("| ") for row in rows if row[-1].startswith("killed by")]
    assert killed == [mutant.name for mutant in MUTANTS]
