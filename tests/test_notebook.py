"""The notebook runs from first cell to last on a real sweep."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "explore.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter packages themselves
def test_the_notebook_loads_a_sweep_and_draws_it(tinylab: Callable[..., int], tmp_path: Path) -> None:
    assert tinylab("-m", "condition=cond_a,cond_b", "condition.n_examples=4") == 0
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "notebooks")
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "the notebook is kept without outputs"
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
