"""A hook of mkdocs: pages that are made of files of the repository link to each other as pages."""

from __future__ import annotations

PAGES = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md"}


def on_page_markdown(markdown: str, **_: object) -> str:
    """A page's text, with links to files that are pages."""
    for file, page in PAGES.items():
        markdown = markdown.replace(f"]({file})", f"]({page})")
    return markdown
