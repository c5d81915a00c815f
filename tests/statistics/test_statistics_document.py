"""docs/statistics.md: `make statistics` writes it, and the one that is committed is of the tables that are made now."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.statistics_document import DOCUMENT, SECTIONS, SHORT, table, write
from tinylab.records.tables import EFFECTS_COLUMNS


def headers(text: str) -> list[str]:
    return re.findall(r"^(\|.*\|)\n\| --- \|", text, flags=re.MULTILINE)


def test_the_document_is_written_with_every_table_and_a_picture(tmp_path: Path) -> None:
    write(tmp_path / "statistics.md", SHORT)
    text = (tmp_path / "statistics.md").read_text(encoding="utf-8")
    assert len(headers(text)) == len(SECTIONS)
    assert not re.search(r"\bnan\b|[{}]", text)
    assert (tmp_path / "statistics.png").stat().st_size < 100_000


def test_the_committed_document_has_those_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert sorted(headers(text)) == sorted(table(header, []).splitlines()[0] for header, _ in SECTIONS.values())
    assert f"]({DOCUMENT.stem}.png)" in text
    assert DOCUMENT.with_suffix(".png").stat().st_size < 100_000


def test_the_documents_say_what_every_column_of_effects_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8") + DOCUMENT.with_name("reference.md").read_text(encoding="utf-8")
    assert [column for column in EFFECTS_COLUMNS if f"`{column}`" not in text] == []
