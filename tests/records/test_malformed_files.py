"""Whatever is done to the files of a run or a sweep: readers give what was written, or one sentence."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import only
from tinylab import aggregate
from tinylab.errors import TinylabError
from tinylab.results import Run, load_run, load_sweep
from typed import SHORT, type_in

EXAMPLES = 20
RUN_FILES = ("manifest.json", "config.yaml", "metrics/head_impact.parquet", "metrics/per_example.parquet",
             "metrics/summary.json", "metrics/verify.json")
SWEEP_FILES = ("manifest.json", *(f"artifacts/cross_condition/{name}" for name in
                                  ("head_matrix.parquet", "summary.json", "invariants.json")))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, 0, -1, 10**400, 1e308, 0.5, "", "x", "../../x", "/x", "\0", "é" * 300, "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "name", "layer"]), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep that two conditions make, verified."""
    folder = tmp_path_factory.mktemp("malformed")
    assert type_in(folder, "-m", "condition=cond_a,cond_b", *SHORT, "verify_slice.n_examples=1") == 0
    return only(folder, "outputs/sweeps/*")


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    at = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(["cut off", "other bytes", "more bytes", "nothing", "not text"]))
    if kind == "cut off":
        return content[:at]
    if kind == "nothing":
        return b""
    new = b"\xff\xfe\x00" if kind == "not text" else draw(st.binary(min_size=1, max_size=4))
    return content[:at] + new + content[at + (len(new) if kind == "other bytes" else 0):]


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """Another value at one place of a document, a key that is gone, or one more."""
    data = json.loads(content)
    holder, key = draw(st.sampled_from(list(places(data))))
    kind = draw(st.sampled_from(["another", "gone", "more"]))
    if kind == "another" or isinstance(holder, list):
        holder[key] = draw(VALUES)
    elif kind == "gone":
        del holder[key]
    else:
        holder["from_tomorrow"] = draw(VALUES)
    return json.dumps(data).encode()


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield data, key
        if isinstance(value, dict | list):
            yield from places(value)


def without_digests(folder: Path) -> None:
    for file in (folder / "manifest.json", *folder.glob("*/manifest.json")):
        content = json.loads(file.read_text())
        content.pop("digests", None)
        file.write_text(json.dumps(content))


def attempted(load: Callable[[Path], Any], path: Path) -> Any:
    """What is loaded, None after one sentence."""
    try:
        return load(path)
    except TinylabError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        return None


def same(found: Run | None, expected: Run) -> bool:
    return found is None or (found.impact.equals(expected.impact) and found.per_example.equals(expected.per_example)
                             and found.summary == expected.summary and found.verify in (None, expected.verify))


def check(sweep: Path, *, whole: bool) -> None:
    for run in sorted(sweep.glob("h1_*")):
        found = attempted(load_run, run)
        assert not whole or same(found, RUNS[run.name])
    found = attempted(load_sweep, sweep)
    assert not whole or found is None or all(same(run, RUNS[run.path.name]) for run in found.runs)
    assert aggregate.main([str(sweep)]) in (0, 2, 3)


RUNS: dict[str, Run] = {}


@pytest.mark.parametrize("digests", [True, False], ids=["with digests", "of before digests"])
@pytest.mark.parametrize("how", [changed_bytes, changed_json])
def test_a_changed_file_gives_the_same_numbers_or_one_sentence(
    how: Callable[[bytes], st.SearchStrategy[bytes]], digests: bool, made: Path
) -> None:
    RUNS.update({run.name: load_run(run) for run in made.glob("h1_*")})
    run = only(made, "h1_cond_a_*").name
    names = [*(f"{run}/{name}" for name in RUN_FILES), *SWEEP_FILES]
    names = [name for name in names if how is changed_bytes or name.endswith(".json")]

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(names))
        with tempfile.TemporaryDirectory() as place:
            sweep = Path(shutil.copytree(made, Path(place) / "sweep"))
            if not digests:
                without_digests(sweep)
            (sweep / name).write_bytes(data.draw(how((sweep / name).read_bytes())))
            check(sweep, whole=digests)

    holds()


@pytest.mark.parametrize("name", [f"RUN/{name}" for name in RUN_FILES] + list(SWEEP_FILES))
def test_a_folder_in_place_of_a_file_is_one_sentence(name: str, made: Path, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(made, tmp_path / "sweep"))
    file = sweep / name.replace("RUN", only(made, "h1_cond_a_*").name)
    file.unlink()
    file.mkdir()
    RUNS.update({run.name: load_run(run) for run in made.glob("h1_*")})
    assert attempted(load_sweep, sweep) is None
    check(sweep, whole=True)


def test_keys_of_a_later_version_are_let_pass_and_kept(made: Path, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(made, tmp_path / "sweep"))
    without_digests(sweep)
    for file in sweep.rglob("*.json"):
        content = json.loads(file.read_text())
        for holder in [content, *(holder[key] for holder, key in list(places(content)) if isinstance(holder[key], dict))]:
            if holder.keys() & {"status", "run_id", "main", "kind", "verdict", "sha256", "mean", "settings", "name", "groups"}:
                holder["from_tomorrow"] = {"x": [1, None]}
        file.write_text(json.dumps(content))
    found = load_sweep(sweep)
    run = found.runs[0]
    assert run.verify is not None
    for document in (found.manifest, found.invariants, run.manifest, run.summary, run.verify["metrics"]["logit_diff"]):
        assert document["from_tomorrow"] == {"x": [1, None]}
