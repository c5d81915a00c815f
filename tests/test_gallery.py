"""The gallery shows the pictures that its commands make, and stays small (tests/gallery.py makes them, make gallery)."""

from __future__ import annotations

from gallery import FOLDER, MOST, MOST_OF_ALL, PARTS, of_page


def test_every_picture_stands_behind_the_command_that_makes_it_and_is_small() -> None:
    shown = [name for _, names in of_page() for name in names]
    assert sorted(shown) == sorted(PARTS) == sorted(file.stem for file in FOLDER.iterdir())
    assert all(names and command.startswith("python -m tinylab ") for command, names in of_page())
    sizes = {name: (FOLDER / f"{name}.png").stat().st_size for name in PARTS}
    assert max(sizes.values()) < MOST and sum(sizes.values()) < MOST_OF_ALL


def test_a_picture_of_a_page_is_of_a_page_that_its_command_writes() -> None:
    paged = {command for command, names in of_page() if any(PARTS[name] for name in names)}
    assert all("report=true" in command or " -m condition=" in command for command in paged)
