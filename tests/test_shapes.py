"""Shapes and types in signatures are true: runs through both engines with every call of the scientific rooms checked.

jaxtyping and beartype check each annotation as it is met, shapes included (`Float[Tensor, "B W"]`), in a process of its own.
"""

from __future__ import annotations

import json

import pytest

from typed import type_in_shell

CHECKED = """
import contextlib, io, json, sys, typing, warnings
import beartype
from jaxtyping import install_import_hook
import tinylab.app, tinylab.experiment, tinylab.engine.choose, sympy, torch, torch._dynamo, xarray  # what is imported lazily
for name in [name for name in sys.modules if name.split(".")[0] == "tinylab"]:
    del sys.modules[name]
warnings.simplefilter("ignore")
rooms = ["tinylab.measures", "tinylab.statistics", "tinylab.interventions", "tinylab.effects", "tinylab.engine"]
with install_import_hook(rooms, "beartype.beartype"):
    typing.TYPE_CHECKING = True  # so that names which are there for types alone can be looked up
    import tinylab.engine.choose, tinylab.effects.summary, tinylab.effects.conclusions, tinylab.effects.random_sets
    typing.TYPE_CHECKING = False
    from tinylab.app import main
from tinylab.measures.readings import Reading
told = {}
for number, line in enumerate(json.loads(sys.argv[1])):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main([*line, f"output_dir={number}"])
    told[" ".join(line)] = (code, said.getvalue())
try:
    Reading(torch.zeros(2, 3), torch.zeros(1, 3))
except Exception as error:
    told["wrong"] = (type(error).__name__, str(error))
print(json.dumps(told))
"""
BATTERIES = {
    "h1": ("battery=h1", "battery.layers=[0,3]", "battery.scales=[0.0,0.5]", "battery.keep_value_bias=true"),
    "h2": ("battery=h2", "battery.granularity=head_out", "battery.per_head=true", "battery.sham_control=true", "seeds=[0,1]"),
}
LINES = {(battery, engine): (*words, f"engine={engine}", "condition.n_examples=3", "plots=false")
         for battery, words in BATTERIES.items() for engine in ("forked", "reference")}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What came of each command line, and of a reading of wrong shapes."""
    done = type_in_shell(tmp_path_factory.mktemp("shapes"), "-c", CHECKED, json.dumps(list(LINES.values())), fresh=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("engine", ["forked", "reference"])
@pytest.mark.parametrize("battery", BATTERIES)
def test_every_annotation_of_the_scientific_rooms_holds_in_a_run(battery: str, engine: str, told: dict[str, list[str]]) -> None:
    code, said = told[" ".join(LINES[battery, engine])]
    assert code == 0, said[-3000:]


def test_a_wrong_shape_is_noticed(told: dict[str, list[str]]) -> None:
    error, said = told["wrong"]
    assert error == "TypeCheckError", said
    assert "Reading" in said
