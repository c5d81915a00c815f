"""Make the pictures of docs/gallery.md anew (make gallery): type each command of the page, and keep what it drew."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser

from browser import browser, opened

ROOT = Path(__file__).parent.parent
PAGE, FOLDER = ROOT / "docs/gallery.md", ROOT / "docs/gallery"
MOST, MOST_OF_ALL = 200_000, 1_200_000
"""Bytes of a picture, and of all."""
WIDTH = 900
"""Of the browser's window, in pixels."""
PARTS: dict[str, tuple[str, ...]] = {
    "heads": (), "layers": (), "grid": (), "synergy": (), "sweep": (),
    "run_task": ("header", "#ability"), "run_map": ("#map",), "run_strongest": ("#top",), "run_prompts": ("#examples",),
    "sweep_shared": ("#shared",), "sweep_chance": ("#overlap",), "sweep_two": ("#pairs",),
}
"""The pictures: which elements of report.html they are of, none for heatmap.png."""


def of_page() -> Iterator[tuple[str, list[str]]]:
    """Each command of the page, and the names of the pictures behind it."""
    text = PAGE.read_text(encoding="utf-8")
    for command, behind in re.findall(r"```bash\n([^\n]*)\n```(.*?)(?=```bash|\Z)", text, flags=re.DOTALL):
        yield command, re.findall(r"!\[[^\]]+\]\(gallery/(\w+)\.png\)", behind)


def photograph(on: Browser, page: Path, elements: tuple[str, ...], picture: Path) -> None:
    """A picture of neighbouring elements of a page."""
    with opened(on, page, WIDTH) as seen:
        boxes = [seen.page.locator(element).bounding_box() for element in elements]
        found = [box for box in boxes if box is not None]
        assert len(found) == len(elements), elements
        top, bottom = min(box["y"] for box in found), max(box["y"] + box["height"] for box in found)
        seen.page.screenshot(path=picture, full_page=True, clip={"x": 0, "y": top, "width": WIDTH, "height": bottom - top})


def main() -> None:
    """Type each command in a folder of its own, and keep its pictures."""
    FOLDER.mkdir(exist_ok=True)
    with browser() as chromium:
        for command, names in of_page():
            with tempfile.TemporaryDirectory() as place:
                subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=place, check=True, stdout=subprocess.DEVNULL)
                results = Path(place) / "outputs"
                for name in names:
                    picture = FOLDER / f"{name}.png"
                    if PARTS[name]:
                        (page,) = results.glob("*/*/report.html")
                        photograph(chromium, page, PARTS[name], picture)
                    else:
                        (drawn,) = [*results.glob("runs/*/heatmap.png"), *results.glob("sweeps/*/artifacts/*/heatmap.png")]
                        picture.write_bytes(drawn.read_bytes())
                    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes, {command}")


if __name__ == "__main__":
    main()
