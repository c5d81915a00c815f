"""What tinylab takes from Hydra's private packages. Where a test here fails after an update of Hydra, look at
`tinylab/config/hydra_internals.py`: its table says what each name is for and what must stay true.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

import tinylab
from conftest import Command
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser, split_arguments
from typed import SHORT


def test_the_adapter_alone_imports_what_is_private() -> None:
    package = Path(tinylab.__file__).parent
    private = [str(file.relative_to(package)) for file in package.rglob("*.py") if "hydra._internal" in file.read_text()]
    assert private == ["config/hydra_internals.py"]


@pytest.mark.parametrize("flags", [(), ("-m",)])
def test_hydra_does_not_compose_for_what_the_plan_knows(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tinylab: Command
) -> None:
    asked = list[Any]()
    monkeypatch.setattr(Hydra, "get_mode", lambda *args, **_: asked.append(args))
    before = Hydra.get_mode
    assert tinylab(*flags, *SHORT, "battery.heads=[0]") == 0
    assert asked == [] and Hydra.get_mode is before


def test_hydras_flags_are_read_as_the_wrapper_uses_them() -> None:
    args = flags_parser().parse_args(["-m", "--config-dir", "conf", "battery=h1", "seeds=[0]"])
    assert (args.multirun, args.config_dir, args.overrides) == (True, "conf", ["battery=h1", "seeds=[0]"])
    assert not (args.help or args.hydra_help or args.cfg or args.info or args.shell_completion)
    assert (args.config_path, args.config_name) == (None, None)


def test_composing_and_the_jobs_of_a_multirun_are_hydras_own() -> None:
    with Composer(flags_parser().parse_args([])) as composer:
        assert composer.compose(["battery=h2"]).battery.name == "h2"
        overrides = composer.parse(["condition=cond_a,cond_b", "battery=h1"])
        assert split_arguments(overrides) == [[["condition=cond_a", "battery=h1"], ["condition=cond_b", "battery=h1"]]]
