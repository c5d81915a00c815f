"""Large imports without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tinylab.machine.imports import large_import


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.enable()
    gc.freeze()  # as conftest.py has it


def test_no_garbage_is_collected_while_it_is_open_and_what_came_is_never_looked_at_again() -> None:
    frozen = gc.get_freeze_count()
    with large_import("no_such_package"):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


def test_the_collector_is_back_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), large_import("no_such_package"):
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("package", ["pytest", "no_such_package"])
def test_nothing_is_done_for_what_is_there_or_where_the_collector_is_off(package: str) -> None:
    if package != "pytest":
        gc.disable()
    before = gc.isenabled(), gc.get_freeze_count()
    with large_import(package):
        assert gc.isenabled() == before[0]
    assert gc.isenabled() == before[0]
    assert before[1] - 1000 < gc.get_freeze_count() <= before[1]  # a few of what was frozen before may have died meanwhile
