"""Corpora, configs, command lines and model folders of any content: an answer in one sentence, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fuzzing import answered, broken, changed, files, seeded
from hypothesis import given
from hypothesis import strategies as st

from tinylab.paths import locate

pytestmark = pytest.mark.fuzz
SMALL = ("battery.layers=[0]", "battery.heads=[0]", "condition.n_examples=2", "plots=false", "threads=1", "metrics=[logit_diff]")
ROWS = [{"clean": "The capital of France is", "corrupt": "The capital of Italy is", "target": " Paris", "foil": " Rome",
         "template": "is", "split": "test", "note": i} for i in range(3)]
MODEL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, a note, and corpora in three formats."""
    folder = tmp_path_factory.mktemp("desk")
    table = pd.DataFrame(ROWS)
    table.to_json(folder / "rows.jsonl", orient="records", lines=True)
    table.to_csv(folder / "rows.csv", index=False)
    table.to_parquet(folder / "rows.parquet")
    (folder / "notes.txt").write_text("mine")
    return folder


def mine(desk: Path) -> dict[str, bytes]:
    """What must not be touched."""
    ours = ("outputs/", "broken", "conf/", "model/")
    return {name: content for name, content in files(desk).items() if not name.startswith(ours)}


@given(data=st.data())
@seeded(60)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_corpus_of_any_content(suffix: str, data: st.DataObject, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = mine(desk)
    content = (desk / f"rows.{suffix}").read_bytes()
    if suffix == "jsonl" and data.draw(st.booleans()):
        rows: Any = [data.draw(changed(row)) for row in ROWS]
        content = "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")
    else:
        content = data.draw(broken(content))
    (desk / f"broken.{suffix}").write_bytes(content)
    answered(capsys, desk, "condition=jsonl", f"condition.path=broken.{suffix}", "condition.tag=t", *SMALL)
    assert mine(desk) == before


KEYS = [
    "battery", "battery.scales", "battery.layers", "battery.heads", "battery.keep_value_bias", "battery.name", "condition",
    "controls", "controls.sham", "controls.random_sets", "controls.shuffled_donors", "controls.draws",
    "condition.n_examples", "condition.path", "condition.split", "condition.tag", "condition.strict", "condition.clean_field",
    "device", "engine", "engine.max_states", "experiment", "invariants.k", "invariants.metrics", "invariants.rank", "metrics",
    "invariants.set", "invariants.at_least",
    "model", "model.path", "model.name", "model.revision", "model.dtype", "model.add_bos", "overwrite", "plots", "run_name",
    "seeds", "sweep_name", "threads", "verify_slice.device", "+verify_slice.tolerance", "hydra.job.chdir", "hydra/job_logging",
    "hydra.verbose", "hydra.sweep.subdir", "hydra.run.dir", "+new", "~battery", "~condition.path", "++seeds",
]
VALUES = [
    "", "null", "true", "-1", "0", "1", "1e3", "1_0", "nan", "inf", "1" * 40, "x" * 300, "[]", "[0]", "[0,0]", "[nan]", "[[0]]",
    "{}", "{a: 1}", "h1", "h2", "cond_a", "facts", "cpu", "float64", "reference", "logit_diff", "[logit_diff]", "${seeds}",
    "${nothing}", "${oc.env:HOME}", "'a b'", "'[bold]'", "a\\b", "é", "\ud800", "a/b", "..", "cond_a,cond_b", "range(3)",
    "glob(*)", "choice(1,2)", "notes.txt", "rows.csv", "outputs",
]
OVERRIDES = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=12)),
    st.text(max_size=12),
)


@given(overrides=st.lists(OVERRIDES, min_size=1, max_size=3), multirun=st.booleans())
@seeded(120)
def test_any_overrides(overrides: list[str], multirun: bool, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = mine(desk)
    answered(capsys, desk, *(["-m"] if multirun else []), *SMALL, *overrides, "dry_run=true")
    assert mine(desk) == before


@given(data=st.data())
@seeded(40)
def test_a_config_file_of_any_content(data: st.DataObject, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = desk / "conf/condition"
    folder.mkdir(parents=True, exist_ok=True)
    config = {"defaults": ["jsonl"], "path": "rows.jsonl", "tag": "mine", "n_examples": 2}
    if data.draw(st.booleans()):
        text = yaml.safe_dump(data.draw(changed(config))).encode("utf-8", "surrogatepass")
    else:
        text = data.draw(broken(yaml.safe_dump(config).encode()))
    (folder / "broken.yaml").write_bytes(text)
    before = mine(desk)
    answered(capsys, desk, "--config-dir", "conf", "condition=broken", *SMALL, "dry_run=true")
    assert mine(desk) == before


@given(data=st.data())
@seeded(25)
@pytest.mark.parametrize("file", MODEL)
def test_a_model_folder_of_any_content(file: str, data: st.DataObject, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = desk / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(locate("pkg://tinylab/assets/tiny"), folder)
    content = (folder / file).read_bytes()
    if file.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(content)))).encode("utf-8", "surrogatepass")
    elif file.endswith(".safetensors"):  # its header says what all the rest means
        length = int.from_bytes(content[:8], "little") + 8
        content = data.draw(broken(content[:length])) + content[length:]
    else:
        content = data.draw(broken(content))
    (folder / file).write_bytes(content)
    before = mine(desk)
    answered(capsys, desk, "model=local", "model.path=model", "condition=jsonl", "condition.path=rows.jsonl", "condition.tag=t",
             *SMALL)
    assert mine(desk) == before


