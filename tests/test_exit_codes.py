"""Every exit code of a command line, and which one counts where several hold: signals, then 3, 4, 2, 1.

130 and 143 need a process to interrupt: `tests/machine/test_interrupts.py` and the table of faults have them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from conftest import write_jsonl
from tinylab import errors
from typed import SHORT

Command = Callable[..., int]
TINY = Path(__file__).parent.parent / "tinylab/assets/tiny"
STRICT = ("+verify_slice.device=cpu", "verify_slice.n_examples=2", "verify_slice.strict=true")
BROKEN = ("model=local", "model.path=big", "model.dtype=float16", "engine=reference")
NO_ROUNDING = ("engine=forked", "verify_slice.tolerance=0")  # float32 in another order is never the same to the last bit
MISSING = ("-m", "condition=cond_a", "battery.heads=[98],[0]")
TABLE = {
    "a run": (0, SHORT),
    "a sweep": (0, ("-m", "condition=cond_a,cond_b", *SHORT)),
    "a dry run": (0, (*SHORT, "dry_run=true")),
    "the numbers of a run are none": (1, (*SHORT, *BROKEN)),
    "an option that does not exist": (2, ("condition=cond_z",)),
    "a key that does not exist": (2, ("battery.scale=[0.0]",)),
    "a value of the wrong type": (2, ("seeds=many",)),
    "a value that is no option": (2, ("model.dtype=int8",)),
    "a file that is not there": (2, ("condition=jsonl", "condition.path=gone.jsonl")),
    "a row that is broken": (2, ("condition=jsonl", "condition.path=broken.jsonl")),
    "a head that the model lacks": (2, ("battery.heads=[98]",)),
    "a sweep without -m": (2, ("condition=cond_a,cond_b",)),
    "one job of a sweep twice": (2, ("-m", "condition=cond_a,cond_a")),
    "a sweep with missing runs": (3, (*MISSING, *SHORT)),
    "a strict verify slice that disagrees": (4, (*SHORT, *STRICT, *NO_ROUNDING)),
    "the same in a sweep": (4, ("-m", "condition=cond_a,cond_b", *SHORT, *STRICT, *NO_ROUNDING)),
    "missing runs and a strict verify slice": (3, (*MISSING, *SHORT, *STRICT, *NO_ROUNDING)),
}


@pytest.fixture
def desk(tmp_path: Path) -> None:
    """A model that overflows in float16, and a corpus with a broken row."""
    folder = Path(shutil.copytree(TINY, tmp_path / "big"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_proj.bias"][0] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_jsonl(tmp_path / "broken.jsonl", [{"clean": "a b", "corrupt": "a c", "target": " d"}])


@pytest.mark.parametrize("what", TABLE)
def test_the_exit_code_of(what: str, desk: None, tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code, typed = TABLE[what]
    assert tinylab(*typed) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 2:
        assert said.startswith("tinylab: ") and said.count("\n") == 1
        assert not list(Path(".").glob("outputs/**/*.*"))


def test_the_errors_tree_has_these_codes() -> None:
    codes = {cls.__name__: cls.exit_code for cls in vars(errors).values()
             if isinstance(cls, type) and issubclass(cls, errors.TinylabError)}
    assert codes == {
        "TinylabError": 1, "UserError": 2, "ConfigError": 2, "CorpusError": 2, "ModelError": 2, "DeviceError": 2,
        "OutputError": 2, "EngineUnsupported": 2, "RunMissing": 1, "NotRun": 1, "Interrupted": 1, "StillRunning": 1,
        "WorkerDied": 1, "SchemaError": 1, "VerifyFailed": 4,
    }
