"""The run id: the same for the same numbers, another for other numbers, whatever else is typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import write_jsonl
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.records.identity import battery_identity, run_id
from tinylab.schema import validate
from tinylab.sweep.plan import Plan, make_plan


def planned(*args: str) -> Plan:
    parsed = flags_parser().parse_args(args)
    with Composer(parsed) as composer:
        return make_plan(composer, parsed.overrides, parsed.multirun)


def identity(*overrides: str) -> str:
    return run_id(planned(*overrides).first)


SAME = [
    "run_name=other",
    "sweep_name=other",
    "output_dir=elsewhere",
    "verify_slice=cpu",
    "+verify_slice.n_examples=3",
    "threads=1",
    "engine.max_states=100",
    "plots=false",
    "overwrite=true",
    "invariants.k=3",
    "controls=none",
    "controls.draws=10",
    "device=cpu",
    "battery.keep_value_bias=false",
    "hydra/launcher=joblib",
    "hydra.job_logging.root.level=DEBUG",
    "metrics=[logit_diff,kl_div,acc_flip_rate,p_drop]",
    "metrics=[kl_div]",
    "battery.scales=[0.0]",
]
OTHER = [
    "condition.split=train",
    "condition.split=null",
    "condition.n_examples=7",
    "condition.tag=other",
    "condition=cond_b",
    "seeds=[1]",
    "seeds=[0,1]",
    "model.dtype=float64",
    "model.add_bos=false",
    "battery=h2",
    "battery.scales=[0.5]",
    "battery.layers=[0]",
    "battery.keep_value_bias=true",
    "engine=reference",
    "condition.strict=true",
    "condition.target_field=foil",
]


@pytest.mark.parametrize("override", SAME)
def test_what_does_not_change_the_numbers_does_not_change_the_id(override: str) -> None:
    assert identity("device=cpu", override) == identity("device=cpu")


@pytest.mark.parametrize("override", OTHER)
def test_what_changes_the_numbers_changes_the_id(override: str) -> None:
    assert identity(override) != identity()


def test_all_other_ids_differ_from_each_other() -> None:
    assert len({identity(override) for override in OTHER}) == len(OTHER)


def test_the_id_is_short_hexadecimal() -> None:
    assert re.fullmatch("[0-9a-f]{8,64}", identity())


def test_a_sweeps_jobs_have_the_ids_of_the_single_runs() -> None:
    jobs = planned("-m", "condition=cond_a,cond_b", "battery=h1,h2", "sweep_name=x", "run_name=y").jobs
    assert [job.run_id for job in jobs] == [
        identity(f"condition={condition}", f"battery={battery}") for condition in ("cond_a", "cond_b") for battery in ("h1", "h2")
    ]
    assert all(job.folder == f"y_{job.run_id}" for job in jobs)


def test_the_corpus_counts_by_its_content_and_not_by_its_path(tmp_path: Path) -> None:
    row = {"clean": "a b", "corrupt": "a c", "target": " d", "foil": " e"}
    first, copy, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    write_jsonl(first, [row])
    write_jsonl(copy, [row])
    write_jsonl(other, [row, row])
    ids = [identity("condition=jsonl", f"condition.path={path}") for path in (first, copy, other)]
    assert ids[0] == ids[1] != ids[2]


def test_the_model_counts_by_its_files_and_not_by_its_path(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
    (folders[2] / "model.safetensors").write_bytes(b"others")
    ids = [identity("model=local", f"model.path={folder}") for folder in folders]
    assert ids[0] == ids[1] != ids[2]


def test_where_nothing_can_be_read_the_names_stand_in_and_composing_does_not_fail() -> None:
    gone = ["condition=jsonl", "condition.path=gone.jsonl", "model=local", "model.path=gone"]
    assert identity(*gone) == identity(*gone) != identity(*gone, "condition.path=gone_too.jsonl")


def test_the_sweeps_folder_depends_on_what_is_swept_and_not_on_how() -> None:
    one = planned("-m", "condition=cond_a,cond_b", "battery=h1").sweep_folder
    assert one is not None
    for other in (
        ["battery=h1", "condition=cond_a,cond_b"],
        ["condition=cond_a,cond_b", "battery=h1", "hydra/launcher=joblib"],
        ["condition=cond_a,cond_b", "battery=h1", "threads=1", "overwrite=true"],
    ):
        assert planned("-m", *other).sweep_folder == one
    assert planned("-m", "condition=cond_a,cond_b", "battery=h2").sweep_folder != one


def test_the_id_of_a_composed_config_is_the_one_in_its_folders_name() -> None:
    with Composer(flags_parser().parse_args([])) as composer:
        config = composer.compose(["condition=facts"])
        assert str(config.hydra.run.dir) == f"outputs/runs/h1_facts_{run_id(validate(config))}"


def test_a_setting_at_its_default_is_not_part_of_a_run() -> None:
    """So that a setting that comes later changes no identity, and no group of a sweep."""
    h1, h2 = (battery_identity(planned(f"battery={name}").first.battery) for name in ("h1", "h2"))
    assert h1 == {"kind": "heads_zero", "name": "h1"}
    assert h2 == {"kind": "activation_patch", "name": "h2", "positions": "last"}  # which has no default but the YAML's
    heads = ("battery=h2", "battery.granularity=head_out")
    assert battery_identity(planned(*heads).first.battery) == {**h2, "granularity": "head_out"}
    assert identity(*heads) == identity(*heads, "battery.per_head=false") != identity(*heads, "battery.per_head=true")


BATTERY = """
from dataclasses import dataclass
from typing import ClassVar

from tinylab.batteries.base import Battery


@dataclass(kw_only=True)
class Mine(Battery):
    layer: int = 0{more}

    kind: ClassVar = "mine"
    table: ClassVar = None
    target: ClassVar = "clean"

    def cells(self, n_layers, n_heads):
        return []
"""


def test_neither_a_batterys_file_nor_an_option_that_came_later_changes_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same class in another module, and with a new field; its values count as soon as they are not the default."""
    (tmp_path / "battery").mkdir()
    for module, more in (("here_first", ""), ("moved_there", ""), ("later_version", "\n    more: int = 5")):
        (tmp_path / f"{module}.py").write_text(BATTERY.format(more=more))
        (tmp_path / f"battery/{module}.yaml").write_text(f"name: mine\n_target_: {module}.Mine\n")
    monkeypatch.syspath_prepend(tmp_path)

    def own(*overrides: str) -> str:
        with Composer(flags_parser().parse_args(["--config-dir", str(tmp_path)])) as composer:
            return run_id(validate(composer.compose(list(overrides))))

    first, moved, later = (own(f"battery={module}") for module in ("here_first", "moved_there", "later_version"))
    assert first == moved == later
    assert own("battery=later_version", "+battery.more=6") != first
