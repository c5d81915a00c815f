"""Writing `report.html` into the folder of a run or a sweep."""

from __future__ import annotations

from pathlib import Path

from tinylab.errors import OutputError
from tinylab.records.checking import write_document
from tinylab.records.manifest import RunFolder
from tinylab.records.manifests import SweepManifest
from tinylab.records.storage import read_json, write_text
from tinylab.report.page.document import MOST_BYTES, Page, check_installed, render
from tinylab.results import load_run

NAME = RunFolder.ARTIFACTS["report"]


def write_report(path: Path) -> Path:
    """Write the page of a finished run, or of a sweep that was joined; returns its path.

    Raises:
        ConfigError: what pages are made with is not installed.
        OutputError: the folder is neither, its files are not what was written, or it cannot be written.
    """
    check_installed()
    if not path.is_dir():
        raise OutputError(f"{path}: no such folder; expected one of a run or a sweep, such as outputs/runs/NAME.")
    manifest = path / "manifest.json"
    if manifest.is_file() and "jobs" not in read_json(manifest):
        return write_run_report(path)
    from tinylab.sweep.aggregate import sweep_folder

    return write_sweep_report(sweep_folder(path))


def write_run_report(path: Path) -> Path:
    """Write the page of a finished run, and tell its manifest."""
    from tinylab.report.page.run_page import run_page

    run = load_run(path)
    file = _write(path, run_page(run))
    RunFolder(path).write(run.manifest)
    return file


def write_sweep_report(folder: Path) -> Path:
    """Write the page of a sweep that was joined, and tell its manifest."""
    from tinylab.report.page.sweep_page import sweep_page

    file = _write(folder, sweep_page(folder))
    manifest = read_json(folder / "manifest.json")
    manifest["artifacts"]["report"] = NAME
    write_document(SweepManifest, folder / "manifest.json", manifest)
    return file


def _write(folder: Path, page: Page) -> Path:
    text = render(page)
    if (size := len(text.encode())) > MOST_BYTES:
        raise OutputError(f"{folder / NAME}: would have {size / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:g} are written; the "
                          "tables have it all.")
    write_text(folder / NAME, text)
    return folder / NAME
