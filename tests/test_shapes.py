"""Shapes and types in signatures are true: runs through both engines with every call of the scientific rooms checked.

jaxtyping and beartype check each annotation as it is met, shapes included (`Float[Tensor, "B W"]`), in a process of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from typed import type_in_shell

CHECKED = """
import sys, typing
import beartype
from jaxtyping import install_import_hook
import tinylab.app, tinylab.experiment, tinylab.engine.choose, sympy, torch._dynamo, xarray  # what is imported lazily
for name in [name for name in sys.modules if name.split(".")[0] == "tinylab"]:
    del sys.modules[name]
rooms = ["tinylab.measures", "tinylab.statistics", "tinylab.interventions", "tinylab.effects", "tinylab.engine"]
with install_import_hook(rooms, "beartype.beartype"):
    typing.TYPE_CHECKING = True  # so that names which are there for types alone can be looked up
    import tinylab.engine.choose, tinylab.effects.summary, tinylab.effects.conclusions, tinylab.effects.random_sets
    typing.TYPE_CHECKING = False
    from tinylab.app import main
    if BROKEN:
        import torch
        from tinylab.measures.readings import Reading
        Reading(torch.zeros(2, 3), torch.zeros(1, 3))
    sys.exit(main(sys.argv[1:]))
"""


def checked(folder: Path, *overrides: str, broken: bool = False) -> tuple[int, str]:
    program = CHECKED.replace("BROKEN", str(broken))
    done = type_in_shell(folder, "-W", "ignore", "-c", program, "condition.n_examples=3", "plots=false", *overrides)
    return done.returncode, done.stderr


@pytest.mark.parametrize("engine", ["forked", "reference"])
@pytest.mark.parametrize(
    "battery",
    [
        ("battery=h1", "battery.layers=[0,3]", "battery.scales=[0.0,0.5]", "battery.keep_value_bias=true"),
        ("battery=h2", "battery.granularity=head_out", "battery.per_head=true", "battery.sham_control=true", "seeds=[0,1]"),
    ],
    ids=["h1", "h2"],
)
def test_every_annotation_of_the_scientific_rooms_holds_in_a_run(tmp_path: Path, battery: tuple[str, ...], engine: str) -> None:
    code, said = checked(tmp_path, *battery, f"engine={engine}")
    assert code == 0, said[-3000:]


def test_a_wrong_shape_is_noticed(tmp_path: Path) -> None:
    code, said = checked(tmp_path, broken=True)
    assert code == 1
    assert "Reading" in said
