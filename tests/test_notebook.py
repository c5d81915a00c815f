"""The notebook runs from first cell to last, and draws with what the package has."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "explore.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter packages themselves
def test_the_notebook_runs_a_sweep_and_a_model_in_memory_and_shows_them(tmp_path: Path) -> None:
    shutil.copy(NOTEBOOK, tmp_path)
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "the notebook is kept without outputs"
    assert not any("matplotlib" in cell["source"] for cell in book.cells)
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    shown = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(shown) == 5
    assert "matters" in "".join(shown)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [path.name for path in tmp_path.iterdir()] == [NOTEBOOK.name]
