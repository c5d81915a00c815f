"""Every file, column and number is that of the base commit: the same command lines, run with its code and with this tree's.

`make test-same` makes the runs of `tests/same_runs.py`; `make test` only checks that whoever compares them sees what differs.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from same_numbers import ALLOWED, compare
from same_runs import CODES, FAMILIES, RUNS

BASE = "ded3aa82db348a8f7563fd034f8c82931611672c"
"""The commit that this tree is compared with."""
ROOT = Path(__file__).parent.parent
LONGEST = 1800.0
"""Seconds after which the runs of a tree are taken to hang; on two quiet cores they need a minute and a half."""


class NoBase(Exception):
    """The base commit is not in this clone."""


def export_base(checkout: Path, folder: Path) -> Path:
    """The base commit's code and configs, in a folder.

    Raises:
        NoBase: git does not have it.
    """
    command = ["git", "archive", "--format=tar", BASE, "tinylab", "conf"]
    packed = subprocess.run(command, cwd=checkout, capture_output=True, check=False)
    if packed.returncode != 0:
        raise NoBase(f"git has no commit {BASE}: {packed.stderr.decode().strip()}; fetch the whole history "
                     "(git fetch --unshallow, or fetch-depth: 0).")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def base_or_nothing(checkout: Path, folder: Path) -> Path:
    """The base commit's tree; where it cannot be had a test is skipped, but in CI it fails."""
    try:
        return export_base(checkout, folder)
    except NoBase as reason:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"NOTHING WAS COMPARED WITH THE BASE COMMIT: {reason}")
        pytest.skip(f"nothing was compared with the base commit: {reason}")


def save_family(name: str, folder: Path) -> None:
    """A random model of a family with the embedded model's tokenizer."""
    from families import EVERY, make

    tiny = ROOT / "tinylab/assets/tiny"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "generation_config.json"))
    words = json.loads((tiny / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    make(EVERY[name], vocab_size=words, max_position_embeddings=64).model.save_pretrained(folder)


def start(tree: Path, folder: Path) -> subprocess.Popen[str]:
    """A process that makes every run in a folder with a tree's code; what it says is in a file beside the folder."""
    folder.mkdir()
    command = [sys.executable, "-P", str(Path(__file__).with_name("same_runs.py")), str(tree)]
    own = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "PYTHONPATH")}
    same = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with folder.with_suffix(".log").open("w", encoding="utf-8") as said:
        return subprocess.Popen(command, cwd=folder, env={**own, **same}, stdout=said, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What the base commit and what this tree make of the same command lines."""
    desk = tmp_path_factory.mktemp("same")
    trees = {"before": base_or_nothing(ROOT, desk / "base"), "after": ROOT}
    for name in FAMILIES:
        save_family(name, desk / "models" / name)
    started = {name: start(tree, desk / name) for name, tree in trees.items()}
    try:
        for name, process in started.items():
            assert process.wait(LONGEST) == 0, (desk / f"{name}.log").read_text(encoding="utf-8")[-4000:]
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    return desk / "before", desk / "after"


@pytest.mark.same
def test_every_file_column_and_number_is_that_of_the_base_commit(made: tuple[Path, Path]) -> None:
    found = compare(*made)
    assert not found, f"{len(found)} differences from {BASE}:\n" + "\n".join(found[:40])


@pytest.mark.same
def test_the_runs_that_are_compared_are_the_ones_that_were_meant(made: tuple[Path, Path]) -> None:
    before, _ = made
    codes = json.loads((before / CODES).read_text(encoding="utf-8"))
    ends = {"refused": 2, "sweep_lacks_one": 3, "verify_fails": 4}
    assert codes == {**dict.fromkeys(RUNS, 0), "aggregate": 0, **ends}
    assert {path.name for path in before.iterdir() if path.is_dir()} == RUNS.keys() - {"refused"}
    rows = {file: pq.read_metadata(file).num_rows for file in before.rglob("*.parquet")}
    assert min(rows.values()) > 0 and sum(rows.values()) > 30_000


@pytest.mark.same
def test_the_runs_have_every_model_and_every_way_to_patch(made: tuple[Path, Path]) -> None:
    before, _ = made
    found = [json.loads(file.read_text(encoding="utf-8")) for file in before.rglob("*/manifest.json")]
    runs = [content for content in found if content.get("status") == "complete" and "battery" in content]
    assert len({run["model"] for run in runs}) == 1 + 4 + len(FAMILIES)  # embedded, planted, random
    assert {run["provenance"]["engine"] for run in runs} == {"forked", "reference"}
    patched = {
        (run["battery"]["granularity"], "per_head" in run["battery"], run["direction"], run["positions"].partition("[")[0])
        for run in runs if run["direction"] != "none"
    }
    sites = [("layer_resid", False), ("mlp_out", False), ("head_out", False), ("head_out", True)]
    every = set(product(sites, ("clean->corrupt", "corrupt->clean"), ("last", "all", "")))
    assert patched == {(*site, way, where) for site, way, where in every if (site[0], where) != ("layer_resid", "all")}


# --- whoever compares sees what differs ---

Spoil = Callable[[Path], object]
TABLE, MATRIX = "runs/h1_a_{id}/metrics/head_impact.parquet", "sweep/head_matrix.parquet"
MANIFEST, SUMMARY = "runs/h1_a_{id}/manifest.json", "runs/h1_a_{id}/metrics/summary.json"
OLD_ID, NEW_ID = "0123456789ab", "ba9876543210"
UP = struct.unpack("<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", 0.1))[0] + 1))[0]  # the next float after 0.1


def write(folder: Path, run: str) -> Path:
    """A small folder as a run and a sweep leave it."""
    (folder / f"runs/h1_a_{run}/metrics").mkdir(parents=True)
    (folder / "sweep").mkdir()
    columns = {"run_id": [run] * 3 + ["other" + run], "layer": [0, 1, 2, 3], "head": [3, 2, 1, 0], "value": [0.1, 0.0, -2.5, 7.0]}
    pq.write_table(pa.table(columns), folder / TABLE.format(id=run))
    pq.write_table(pa.table({**columns, "condition": list("aabb")}), folder / MATRIX)
    battery = {"_target_": "old.place", "scales": [0.0, 0.5]}
    manifest = {"run_id": run, "battery": battery, "provenance": {"states": 12, "git": {"commit": run}}, "folder": f"h1_a_{run}"}
    (folder / MANIFEST.format(id=run)).write_text(json.dumps(manifest))
    (folder / SUMMARY.format(id=run)).write_text(json.dumps({"run_id": run, "battery": battery, "mean": 0.1, "heads": [1, 2]}))
    (folder / f"runs/h1_a_{run}/heatmap.png").write_bytes(run.encode())
    return folder


def table(name: str, change: Callable[[pa.Table], pa.Table]) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / name.format(id=NEW_ID)
        pq.write_table(change(pq.read_table(file)), file)

    return spoil


def column(name: str, values: list[Any], kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    return lambda old: old.set_column(old.column_names.index(name), name, pa.array(values, kind))


def document(name: str, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / name.format(id=NEW_ID)
        changed = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))

    return spoil


SEEN: dict[str, Spoil] = {
    "one ulp in a table": table(TABLE, column("value", [UP, 0.0, -2.5, 7.0])),
    "a zero's sign": table(TABLE, column("value", [0.1, -0.0, -2.5, 7.0])),
    "an undefined value": table(TABLE, column("value", [float("nan"), 0.0, -2.5, 7.0])),
    "a value that is missing": table(TABLE, column("value", [None, 0.0, -2.5, 7.0])),
    "two values of a column in each other's place": table(TABLE, column("head", [2, 3, 1, 0])),
    "a column's type": table(TABLE, column("layer", [0, 1, 2, 3], pa.int32())),
    "two columns in each other's place": table(TABLE, lambda old: old.select(["run_id", "head", "layer", "value"])),
    "one column with the values of another": table(TABLE, column("layer", [3, 2, 1, 0])),
    "a column that is gone": table(MATRIX, lambda old: old.drop_columns(["condition"])),
    "a new column in a run's table": table(TABLE, lambda old: old.append_column("dose", pa.array([1.0] * 4))),
    "a new column that is not the last": table(MATRIX, lambda old: old.add_column(3, "dose", pa.array([1.0] * 4))),
    "rows in another order": table(MATRIX, lambda old: old.take([1, 0, 2, 3])),
    "a row too few": table(MATRIX, lambda old: old.slice(0, 3)),
    "a row that is another run's": table(MATRIX, column("run_id", [NEW_ID, NEW_ID, "other" + NEW_ID, "other" + NEW_ID])),
    "a missing file": lambda folder: (folder / MATRIX).unlink(),
    "a file too many": lambda folder: (folder / "sweep/more.json").write_text("{}"),
    "a folder with another name": lambda folder: (folder / "sweep").rename(folder / "swept"),
    "one ulp in a document": document(SUMMARY, mean=UP),
    "a whole number for a float": document(SUMMARY, battery={"_target_": "old.place", "scales": [0, 0.5]}),
    "a list in another order": document(SUMMARY, heads=[2, 1]),
    "a key that is gone": document(SUMMARY, mean=...),
    "a new key in a summary": document(SUMMARY, median=0.1),
    "a run id that is not told": document(SUMMARY, run_id=...),
    "a number of states": document(MANIFEST, provenance={"states": 13, "git": {"commit": NEW_ID}}),
    "a folder of another name": document(MANIFEST, folder=f"h2_a_{NEW_ID}"),
}
NOT_SEEN: dict[str, Spoil] = {
    "nothing": lambda folder: None,
    "another picture": lambda folder: (folder / f"runs/h1_a_{NEW_ID}/heatmap.png").write_bytes(b"drawn anew"),
    "a battery without its class and with more settings": document(MANIFEST, battery={"scales": [0.0, 0.5], "kind": "zero"}),
    "a new key in a manifest": document(MANIFEST, more={"swept": ["dose"]}),
    "a new column after a matrix's": table(MATRIX, lambda old: old.append_column("dose", pa.array([1.0] * 4))),
}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders that are the same but for run ids."""
    return write(tmp_path / "before", OLD_ID), write(tmp_path / "after", NEW_ID)


@pytest.mark.parametrize("spoil", SEEN.values(), ids=SEEN)
def test_what_may_not_change_is_seen(spoil: Spoil, pair: tuple[Path, Path]) -> None:
    spoil(pair[1])
    assert compare(*pair)


@pytest.mark.parametrize("spoil", NOT_SEEN.values(), ids=NOT_SEEN)
def test_what_may_change_is_let_through(spoil: Spoil, pair: tuple[Path, Path]) -> None:
    spoil(pair[1])
    assert compare(*pair) == []


def test_every_allowance_has_a_reason() -> None:
    assert all(rule.reason for rule in ALLOWED)
    assert len({(rule.document, rule.key, rule.kind) for rule in ALLOWED}) == len(ALLOWED)


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_clone_without_the_base_commit_fails_in_ci_and_says_so_elsewhere(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=f"git has no commit {BASE}.*fetch"):
        base_or_nothing(tmp_path, tmp_path / "base")
