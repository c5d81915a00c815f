"""The recipes of CONTRIBUTING, executed from their own text, one after the other in one folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from typed import type_in_shell

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
RECIPES = TEXT.split("## Recipes\n")[1].split("\n## ")[0]
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`\n\n)?```(?P<language>\w+)\n(?P<body>.*?)```", re.MULTILINE | re.DOTALL)


def carry_out(folder: Path) -> dict[str, list[str]]:
    """Write the files and type the commands of each recipe, in order; returns what each command printed, by recipe."""
    printed: dict[str, list[str]] = {}
    for recipe in RECIPES.split("\n### ")[1:]:
        said = printed.setdefault(recipe.splitlines()[0], [])
        for block in BLOCK.finditer(recipe):
            if block["language"] != "bash":
                file = folder / block["file"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block["body"])
                continue
            for line in block["body"].splitlines():
                program, *words = shlex.split(line)
                assert program == "python"
                done = type_in_shell(folder, *words)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
                said.append(done.stdout)
    return printed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    folder = tmp_path_factory.mktemp("recipes")
    return folder, carry_out(folder)


def test_there_is_a_recipe_for_every_kind_of_addition(done: tuple[Path, dict[str, list[str]]]) -> None:
    assert list(done[1]) == ["A condition", "A model", "A metric", "An operation", "A site", "A battery", "An option",
                             "A published number"]


def test_each_recipe_gives_what_it_says(done: tuple[Path, dict[str, list[str]]]) -> None:
    printed = done[1]
    assert "h1, head × 0 on capitals, tiny" in printed["A condition"][0]
    assert "h2, layer_resid clean->corrupt at last on capitals, tiny" in printed["A model"][0]
    assert "computing what it lacks: surprise" in printed["A metric"][0]
    assert "clamped on capitals, tiny" in printed["A battery"][0]
    assert "clamped, largest=0.5 on tiny: layers that matter with one sign" in printed["A battery"][1]
    assert "clamped, layers=[0] on capitals" in printed["An option"][1]


def test_an_option_at_its_default_and_another_file_keep_the_identity(done: tuple[Path, dict[str, list[str]]]) -> None:
    assert "is already complete" in done[1]["An option"][0]
    (manifest,) = (json.loads(file.read_text()) for file in done[0].glob("outputs/runs/*/manifest.json")
                   if "largest" in file.read_text() and "more_batteries" not in (file.parent / "config.yaml").read_text())
    assert manifest["battery"] == {"kind": "clamped", "name": "clamped", "largest": 1.0}


def test_a_metric_that_came_later_is_added_to_the_finished_run(done: tuple[Path, dict[str, list[str]]]) -> None:
    (folder,) = done[0].glob("outputs/runs/h1_capitals_*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["metrics"] == ["logit_diff", "kl_div", "acc_flip_rate", "p_drop", "surprise"]
    assert [added["metrics"] for added in manifest["provenance"]["added"]] == [["surprise"]]
