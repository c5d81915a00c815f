"""What tests share gives what a user gets: commands in forks of a warm process, configs that are composed once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hydra._internal import config_loader_impl as loader
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

import remembered
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from typed import _warm, type_in_shell

SAY = """
import atexit, os, sys
atexit.register(lambda: print("the end"))
print(sys.argv, os.getcwd(), os.environ["SAID"], sys.path[0], __name__)
sys.exit({code})
"""


ENDS = {"3": 3, "None": 0, "'broken'": 1, "1 / 0": 1, "os.kill(os.getpid(), 9)": -9}


@pytest.mark.parametrize(("code", "expected"), ENDS.items())
def test_a_fork_is_a_command_like_any_other(code: str, expected: int, tmp_path: Path) -> None:
    warm, fresh = (type_in_shell(tmp_path, "-c", SAY.format(code=code), "a", fresh=fresh, SAID="ü") for fresh in (False, True))
    assert (warm.returncode, warm.stdout) == (fresh.returncode, fresh.stdout) and warm.returncode == expected
    assert warm.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_a_module_is_the_users_own_and_each_fork_starts_from_the_same(tmp_path: Path) -> None:
    own = "import torch, sys\ntorch.own = 1 + getattr(torch, 'own', 0)\nprint(torch.own, sys.argv[1:])"
    (tmp_path / "own.py").write_text(own)
    assert [type_in_shell(tmp_path, "-m", "own", "b").stdout for _ in range(2)] == ["1 ['b']\n"] * 2


def test_what_does_not_end_is_killed_and_the_next_one_runs(tmp_path: Path) -> None:
    environment = dict(_warm().environment)
    with pytest.raises(subprocess.TimeoutExpired):
        _warm().run(["-c", "import time; time.sleep(100)"], tmp_path, environment, 0.5)
    assert _warm().run(["-c", "print(1)"], tmp_path, environment, 60).stdout == "1\n"


def test_a_variable_that_is_read_at_import_needs_a_fresh_process() -> None:
    here = _warm().environment
    assert _warm().serves({**here, "SAID": "1"})
    assert not _warm().serves({**here, "OMP_NUM_THREADS": "7"}) and not _warm().serves({**here, "HF_HOME": "elsewhere"})


def composed(folder: Path, *overrides: str) -> str:
    with Composer(flags_parser().parse_args(["--config-dir", str(folder)])) as composer:
        return OmegaConf.to_yaml(composer.compose(overrides), resolve=False)


def test_what_is_remembered_is_what_hydra_composes_and_a_file_that_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "condition").mkdir()
    mine = tmp_path / "condition/mine.yaml"
    lines = [("condition=mine",), ("condition=mine", "battery=h2", "battery.layers=[1]"), ("+verify_slice.device=cpu",)]
    for tag in ("one", "two"):
        mine.write_text(f"defaults: [jsonl, _self_]\npath: my.jsonl\ntag: {tag}\n")
        first, second = ([composed(tmp_path, *line) for line in lines] for _ in range(2))
        with monkeypatch.context() as patch:
            for name, owner in {"create_defaults_list": loader, "_compose_config_from_defaults_list": ConfigLoaderImpl}.items():
                patch.setattr(owner, name, remembered.OWN[name])
            assert first == second == [composed(tmp_path, *line) for line in lines]
        assert f"tag: {tag}" in first[0]
