"""Sweeps from the command line: joined tables, failures, reuse, `tinylab.aggregate`, launchers, experiments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest

from conftest import Command, only, write_jsonl
from tinylab import aggregate, computing
from tinylab.config.composing import Composer
from tinylab.config.hydra_internals import flags_parser
from tinylab.paths import locate
from tinylab.schema import Config
from tinylab.sweep.plan import make_plan
from typed import SHORT, snapshot, type_in, type_in_shell

LABELS: Final = ["condition", "model", "battery", "device", "dtype", "direction", "positions"]
IMPACT: Final = ["run_id", "seed", "layer", "head", "scale", "metric", "value"]
LAYER_IMPACT: Final = ["run_id", "seed", "layer", "granularity", "metric", "value"]
CROSS: Final = "artifacts/cross_condition"


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def invariants(sweep: Path) -> dict[str, Any]:
    return read(sweep / CROSS / "invariants.json")


def matrix(sweep: Path, kind: str = "head") -> pd.DataFrame:
    return pd.read_parquet(sweep / CROSS / f"{kind}_matrix.parquet")


def strongest(sweep: Path, condition: str, metric: str, k: int) -> set[tuple[int, int]]:
    """The k heads whose metric changes most in a condition, recomputed from per_example."""
    run = only(sweep, f"h1_{condition}_*")
    table = pd.read_parquet(run / "metrics/per_example.parquet")
    table = table[(table["metric"] == metric) & (table["control"] == "none")]
    by_seed = table.groupby(["layer", "head", "seed"])[["value", "baseline"]].mean().groupby(["layer", "head"]).mean()
    change = (by_seed["value"] - by_seed["baseline"]).abs().sort_values(ascending=False, kind="stable")
    return {(int(layer), int(head)) for layer, head in change.index[:k]}


def listed(components: set[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"layer": layer, "head": head} for layer, head in sorted(components)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a sweep over two conditions and both batteries was typed."""
    folder = tmp_path_factory.mktemp("made")
    overrides = ["condition=cond_a,cond_b", "battery=h1,h2", "battery.layers=[0,1]", "seeds=[0,1]", "invariants.k=4", *SHORT[::2]]
    assert type_in(folder, "-m", *overrides) == 0
    return folder


@pytest.fixture(scope="module")
def sweep(made: Path) -> Path:
    """That sweep, to be read only."""
    return only(made, "outputs/sweeps/*")


@pytest.fixture
def copy(sweep: Path, tmp_path: Path) -> Path:
    """A copy of that sweep, to be spoilt."""
    return Path(shutil.copytree(sweep, tmp_path / "copied"))


# --- what a sweep leaves ---


def test_the_manifest_names_jobs_runs_and_artifacts_that_exist(sweep: Path) -> None:
    content = read(sweep / "manifest.json")
    assert (content["status"], content["failures"]) == ("complete", [])
    assert [(job["condition"], job["battery"]) for job in content["jobs"]] == [
        ("cond_a", "h1"),
        ("cond_a", "h2"),
        ("cond_b", "h1"),
        ("cond_b", "h2"),
    ]
    for job, run in zip(content["jobs"], content["runs"], strict=True):
        assert read(sweep / run / "manifest.json")["run_id"] == job["run_id"]
    assert set(content["artifacts"]) == {"head_matrix", "layer_matrix", "summary", "invariants"}
    assert all((sweep / path).is_file() for path in content["artifacts"].values())


@pytest.mark.parametrize(("kind", "columns"), [("head", IMPACT), ("layer", LAYER_IMPACT)])
def test_the_matrix_is_the_runs_tables_and_their_labels(kind: str, columns: list[str], sweep: Path) -> None:
    joined = matrix(sweep, kind)
    assert list(joined.columns) == [*columns, *LABELS]
    runs = [
        run
        for run in (sweep / name for name in read(sweep / "manifest.json")["runs"])
        if (run / f"metrics/{kind}_impact.parquet").exists()
    ]
    assert len(runs) == 2
    assert len(joined) == sum(len(pd.read_parquet(run / f"metrics/{kind}_impact.parquet")) for run in runs)
    for run in runs:
        content = read(run / "manifest.json")
        own = joined[joined["run_id"] == content["run_id"]]
        expected = pd.read_parquet(run / f"metrics/{kind}_impact.parquet")
        pd.testing.assert_frame_equal(own[columns].reset_index(drop=True), expected, check_exact=True)
        direction, positions = ("none", "all") if kind == "head" else ("clean->corrupt", "last")
        assert own[LABELS].drop_duplicates().to_numpy().tolist() == [
            [
                content["condition"],
                "tiny",
                content["battery"]["name"],
                content["provenance"]["device"],
                "float32",
                direction,
                positions,
            ]
        ]


def test_the_summary_holds_each_runs_own(sweep: Path) -> None:
    summary = read(sweep / CROSS / "summary.json")
    assert set(summary["conditions"]) == {"cond_a", "cond_b"}
    assert summary["failed"] == []
    for tag, entry in summary["conditions"].items():
        for name, own in entry["runs"].items():
            assert own == read(sweep / name / "metrics/summary.json")
            assert own["condition"] == tag


def test_heads_and_layers_are_found_in_groups_of_their_own(sweep: Path) -> None:
    found = invariants(sweep)
    assert [(group["kind"], group["battery"], group["conditions"]) for group in found["groups"]] == [
        ("heads", "h1", ["cond_a", "cond_b"]),
        ("layers", "h2", ["cond_a", "cond_b"]),
    ]
    both = strongest(sweep, "cond_a", "logit_diff", 4) & strongest(sweep, "cond_b", "logit_diff", 4)
    assert found["intersection"]["heads"] == listed(both)
    assert found["intersection"]["layers"] == [0, 1]
    assert found["groups"][1]["granularity"] == "layer_resid"
    assert found["expected_by_chance"]["heads"] == pytest.approx(4 * 4 / 16)
    assert (found["k"], found["metrics"], found["rank"], found["conditions"]) == (
        4,
        ["logit_diff"],
        "magnitude",
        ["cond_a", "cond_b"],
    )


def test_one_battery_alone_has_its_runs_summaries_under_the_tags_and_no_other_matrix(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("-m", *SHORT) == 0
    run_lock = only(tmp_path, "outputs/sweeps/*")
    assert read(run_lock / CROSS / "summary.json")["conditions"]["cond_a"] == read(
        only(run_lock, "h1_cond_a_*") / "metrics/summary.json"
    )
    assert not (run_lock / CROSS / "layer_matrix.parquet").exists()
    assert "layer_matrix" not in read(run_lock / "manifest.json")["artifacts"]
    assert "one condition only" in invariants(run_lock)["note"]


def test_a_sweep_typed_again_in_another_order_computes_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "made")
    sweep = only(tmp_path, "made/outputs/sweeps/*")
    tables = {path: facts for path, facts in snapshot(sweep).items() if path.startswith("h") and not path.endswith("run.log")}
    overrides = ["battery=h1,h2", "condition=cond_a,cond_b", "seeds=[0,1]", "battery.layers=[0,1]", "invariants.k=4", *SHORT[::2]]
    assert type_in(tmp_path / "made", "-m", *overrides) == 0
    assert only(tmp_path, "made/outputs/sweeps/*") == sweep
    assert {path: facts for path, facts in snapshot(sweep).items() if path in tables} == tables
    assert capsys.readouterr().out.startswith("4 of 4 runs\n")


def test_two_splits_of_one_condition_are_compared_and_not_lost(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("-m", "condition.split=train,test", *SHORT) == 0
    found = invariants(only(tmp_path, "outputs/sweeps/*"))
    assert len(found["intersection"]["heads"]) == 8  # eight heads, k=10: all of them are among the ten strongest of both
    assert len(found["groups"][0]["per_metric"]["logit_diff"]["top_k"]) == 2


# --- a sweep that cannot be planned ---


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["condition=cond_a,nope"], ["nope", "cond_b"]),
        (["battery.scales=[0],[x]"], ["battery.scales", "x"]),
        (["battery=h1,h2", "battery.granularity=mlp_out"], ["battery.granularity"]),
        (["condition=cond_a,jsonl"], ["condition.path=…"]),
        (["condition=cond_a,cond_a"], ["two jobs of this sweep are the same run", "condition=cond_a"]),
        (["condition=cond_a,cond_b", "condition.tag=x"], ["condition.tag=x", "two different corpora"]),
        (["condition=jsonl", "condition.path=a.jsonl,b.jsonl"], ["condition.tag=jsonl", "two different corpora"]),
        (["condition=cond_a,cond_b", "output_dir=file/sub"], ["output_dir", "cannot be written"]),
        (["condition=cond_a,cond_b", "invariants.k=0"], ["invariants.k=0", "at least 1"]),
        (["condition=cond_a,cond_b", "invariants.set=most"], ["invariants.set=most", "partial_conjunction, intersection, union"]),
        (["condition=cond_a,cond_b", "invariants.at_least=3"], ["invariants.at_least=3", "2 conditions", "1 to 2, or null"]),
        (["condition=cond_a,cond_b", "invariants.at_least=0"], ["invariants.at_least=0", "at least 1"]),
        (["condition=cond_a,cond_b", "invariants.set=union", "invariants.at_least=2"], ["invariants.at_least=2", "leave"]),
        (["condition.split=train,test", "invariants.at_least=2"], ["invariants.at_least=2", "1 condition;"]),
        (["condition=cond_a,cond_b", "hydra/launcher=slurm"], ["slurm", "joblib"]),
    ],
)
def test_an_invalid_sweep_is_refused_whole_and_leaves_nothing(
    args: list[str], words: list[str], tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    before = snapshot(tmp_path)
    assert tinylab("-m", *args) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("tinylab: ")
    assert [word for word in words if word not in said.err] == [], said.err
    assert said.out == ""
    assert snapshot(tmp_path) == before


# --- a sweep in which one condition fails ---


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a sweep was typed whose second condition has no corpus."""
    folder = tmp_path_factory.mktemp("partial")
    own = folder / "my_conf/condition/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [jsonl, _self_]\npath: gone.jsonl\ntag: mine\n")
    assert type_in(folder, "-m", "--config-dir", "my_conf", "condition=cond_a,mine,cond_b", *SHORT) == 3
    return folder


def test_the_others_finish_and_the_failure_is_named_with_its_error(partial: Path) -> None:
    broken = only(partial, "outputs/sweeps/*")
    content = read(broken / "manifest.json")
    assert content["status"] == "partial"
    assert [failure["condition"] for failure in content["failures"]] == ["mine"]
    error = content["failures"][0]["error"]
    assert error["type"] == "CorpusError" and "condition.path=gone.jsonl" in error["message"]
    named = read(broken / CROSS / "summary.json")["failed"]
    assert named == [{"condition": "mine", "error": error, "log": content["failures"][0]["log"]}]
    assert "gone.jsonl" in (broken / named[0]["log"]).read_text()
    assert set(matrix(broken)["condition"]) == {"cond_a", "cond_b"}
    assert set(read(broken / CROSS / "summary.json")["conditions"]) == {"cond_a", "cond_b"}
    failed = read(only(broken, "h1_mine_*") / "manifest.json")
    assert (failed["status"], failed["error"]) == ("failed", error)


def test_invariants_are_withheld_and_the_reason_is_given(partial: Path) -> None:
    found = invariants(only(partial, "outputs/sweeps/*"))
    assert (found["heads"], found["layers"], found["groups"]) == ([], [], [])
    assert "mine" in found["withheld"]


def test_mending_the_corpus_and_typing_the_same_again_completes_the_sweep(partial: Path, tmp_path: Path) -> None:
    shutil.copytree(partial, tmp_path / "again")
    rows = [json.loads(line) for line in locate("pkg://tinylab/assets/corpora/facts.jsonl").read_text().splitlines()[:3]]
    write_jsonl(tmp_path / "again/gone.jsonl", rows)
    assert type_in(tmp_path / "again", "-m", "--config-dir", "my_conf", "condition=cond_a,mine,cond_b", *SHORT) == 0
    mended = only(tmp_path / "again", "outputs/sweeps/*")
    assert read(mended / "manifest.json")["status"] == "complete"
    assert read(mended / "manifest.json")["failures"] == []
    assert "withheld" not in invariants(mended)
    assert set(matrix(mended)["condition"]) == {"cond_a", "mine", "cond_b"}


def test_with_allow_partial_invariants_are_those_of_the_others(partial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["condition=cond_a,mine,cond_b", "invariants.allow_partial=true", *SHORT, "sweep_name=allowed"]
    assert type_in(partial, "-m", "--config-dir", "my_conf", *overrides) == 3
    allowed = only(partial, "outputs/sweeps/allowed_*")
    found = invariants(allowed)
    assert len(found["intersection"]["heads"]) == 8 and "withheld" not in found
    assert "mine" in found["note"]
    said = capsys.readouterr().out
    assert "FAILED mine" in said and "gone.jsonl" in said
    shutil.rmtree(allowed)


def test_a_sweep_in_which_all_fail_is_failed(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("-m", "battery.heads=[98],[99]", *SHORT) == 3
    failed = only(tmp_path, "outputs/sweeps/*")
    content = read(failed / "manifest.json")
    assert (content["status"], len(content["failures"])) == ("failed", 2)
    assert all("out of range" in failure["error"]["message"] for failure in content["failures"])
    assert set(content["artifacts"]) == {"summary", "invariants"}


def test_each_failure_is_printed_once_when_the_sweep_ends(
    tinylab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate = computing._evaluate

    def dying(config: Config, *rest: Any) -> Any:
        if config.condition.tag == "facts":
            raise RuntimeError("the accelerator fell off")
        return evaluate(config, *rest)

    monkeypatch.setattr(computing, "_evaluate", dying)
    assert tinylab("-m", "condition=facts,cond_a", "battery.heads=[0],[99]", "report=false", *SHORT) == 3
    sweep, said = only(Path("outputs/sweeps"), "*"), capfd.readouterr()
    broken = [str(sweep / failure["log"]) for failure in read(sweep / "manifest.json")["failures"]]
    told = said.out[said.out.index("FAILED"):said.out.index("sweep partial: 1 of 4 runs")].splitlines()
    assert told == [
        "FAILED facts (h1, battery.heads=[0]): RuntimeError: the accelerator fell off (the log has the traceback)",
        f"  log: {broken[0]}",
        "FAILED facts (h1, battery.heads=[99]), cond_a (h1, battery.heads=[99]): ConfigError: battery.heads=[99]: 99 is out of "
        "range, this model has 0 to 7.",
        f"  log: {broken[1]} and 1 more",
    ]
    assert [(said.out + said.err).count(words) for words in ("accelerator fell off", "out of range", "Traceback")] == [1, 1, 0]
    for log, errors in zip(broken, ("the accelerator fell off", "out of range", "out of range"), strict=True):
        content = Path(log).read_text()
        assert errors in content and ("Traceback" in content) == (log == broken[0])


# --- python -m tinylab.aggregate ---


def aggregated(*args: object) -> int:
    return aggregate.main([str(arg) for arg in args])


@pytest.mark.parametrize("k", [1, 3, 10])
def test_k_may_be_another(k: int, copy: Path) -> None:
    assert aggregated(copy, "--k", k) == 0
    found = invariants(copy)
    assert found["k"] == k
    both = strongest(copy, "cond_a", "logit_diff", k) & strongest(copy, "cond_b", "logit_diff", k)
    assert found["intersection"]["heads"] == listed(both)
    pd.testing.assert_frame_equal(matrix(copy), matrix(copy))


def test_several_metrics_are_intersected(copy: Path) -> None:
    assert aggregated(copy, "--metrics", "logit_diff", "kl_div", "--k", 6) == 0
    found = invariants(copy)
    assert found["metrics"] == ["logit_diff", "kl_div"]
    tops = [strongest(copy, condition, metric, 6) for condition in ("cond_a", "cond_b") for metric in ("logit_diff", "kl_div")]
    assert found["intersection"]["heads"] == listed(set.intersection(*tops))


@pytest.mark.parametrize(("rank", "largest"), [("highest", True), ("lowest", False)])
def test_rank_by_level(rank: str, largest: bool, copy: Path) -> None:
    assert aggregated(copy, "--rank", rank, "--k", 5) == 0
    joined = matrix(copy)
    tops = []
    for _, rows in joined[joined["metric"] == "logit_diff"].groupby("condition"):
        level = rows.groupby(["layer", "head"])["value"].mean().sort_values(ascending=not largest, kind="stable")
        tops.append(set(level.index[:5]))
    assert invariants(copy)["intersection"]["heads"] == listed(set.intersection(*tops))
    assert invariants(copy)["rank"] == rank


def test_without_settings_they_are_those_of_the_sweep_and_nothing_changes(copy: Path) -> None:
    before = snapshot(copy)
    assert aggregated(copy) == 0
    assert {path: digest for path, (_, digest) in snapshot(copy).items()} == {
        path: digest for path, (_, digest) in before.items()
    }


def test_several_folders_and_the_path_of_the_artifacts(copy: Path, tmp_path: Path) -> None:
    other = shutil.copytree(copy, tmp_path / "other")
    assert aggregated(copy / CROSS, f"{other}/", "--k", 2) == 0
    assert invariants(copy)["k"] == invariants(Path(other))["k"] == 2
    assert not (copy / CROSS / "artifacts").exists()


@pytest.mark.parametrize("how", ["no manifest", "running", "no folder", "half a manifest", "no table"])
def test_an_interrupted_sweep_is_joined_as_far_as_it_went(how: str, copy: Path) -> None:
    child = only(copy, "h1_cond_b_*")
    if how == "no manifest":
        (child / "manifest.json").unlink()
    elif how == "running":
        (child / "manifest.json").write_text(json.dumps({**read(child / "manifest.json"), "status": "running"}))
    elif how == "half a manifest":
        (child / "manifest.json").write_text('{"status": "comp')
    elif how == "no table":
        (child / "metrics/head_impact.parquet").unlink()
    else:
        shutil.rmtree(child)
    assert aggregated(copy) == 3
    content = read(copy / "manifest.json")
    assert content["status"] == "partial"
    assert [(failure["condition"], failure["battery"]) for failure in content["failures"]] == [("cond_b", "h1")]
    assert set(matrix(copy)["condition"]) == {"cond_a"}
    assert "cond_b" in invariants(copy)["withheld"]
    assert aggregated(copy, "--allow-partial") == 3
    assert "withheld" not in invariants(copy)


def test_a_sweep_whose_own_manifest_is_lost_is_joined_from_its_runs(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert aggregated(copy, "--k", 4) == 0
    assert len(read(copy / "manifest.json")["jobs"]) == 4
    assert set(matrix(copy)["condition"]) == {"cond_a", "cond_b"}


def strict_verify_fails(run: Path) -> None:
    """Spoil a run's manifest as a strict verify slice that disagreed would."""
    content = read(run / "manifest.json")
    settings = {"strict": True, "device": "cpu", "dtype": "float32", "n_examples": 1, "tolerance": 0.001}
    content["verify_slice"] = {"verdict": "fail", "settings": settings}
    (run / "manifest.json").write_text(json.dumps(content))


def test_of_several_exit_codes_missing_runs_go_first_then_a_verify_slice_then_mistakes(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    well = Path(shutil.copytree(copy, tmp_path / "well"))
    verify = Path(shutil.copytree(copy, tmp_path / "verify"))
    strict_verify_fails(only(verify, "h1_cond_a_*"))
    both = Path(shutil.copytree(verify, tmp_path / "both"))
    shutil.rmtree(only(both, "h1_cond_b_*"))
    nowhere = tmp_path / "nowhere"
    assert [aggregated(folder) for folder in (well, verify, both, nowhere)] == [0, 4, 3, 2]
    assert aggregated(nowhere, well) == 2
    assert aggregated(nowhere, verify, well) == 4
    assert aggregated(verify, both, well) == 3
    capsys.readouterr()
    assert aggregated(nowhere, both, "--k", 2) == 3
    said = capsys.readouterr()
    assert "no such folder" in said.err and "VERIFY FAILED cond_a" in said.out
    assert invariants(both)["k"] == 2


@pytest.mark.parametrize("what", ["missing", "empty", "a file", "a run", "outputs", "outputs/sweeps"])
def test_a_folder_that_is_no_sweep_is_exit_code_2_and_stays_as_it_was(
    what: str, made: Path, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").write_text("x")
    folder = {"a run": only(sweep, "h1_cond_a_*"), "outputs": made / "outputs", "outputs/sweeps": made / "outputs/sweeps"}
    path = folder.get(what, tmp_path / what)
    before = snapshot(path)
    assert aggregated(path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said
    assert "expected a sweep's" in said or "a sweep's folder" in said or "not a sweep's folder" in said
    assert snapshot(path) == before


@pytest.mark.parametrize("args", [["--k", "0"], ["--k", "many"], ["--rank", "best"], ["--set", "most"], ["--at-least", "0"], []])
def test_wrong_arguments_are_exit_code_2(args: list[str], sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        aggregated(*([sweep, *args] if args else []))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_metric_is_refused_and_the_sweep_stays_as_it_was(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(copy)
    assert aggregated(copy, "--metrics", "logit_dif") == 2
    assert "did you mean 'logit_diff'?" in capsys.readouterr().err
    assert snapshot(copy) == before


def test_a_metric_that_the_runs_do_not_have_is_said(copy: Path) -> None:
    assert aggregated(copy, "--metrics", "recovery") == 0
    found = invariants(copy)
    assert found["intersection"]["heads"] == []
    assert "has no metric recovery" in found["note"]
    assert found["intersection"]["layers"] == [0, 1]


def test_what_is_claimed_may_be_another_and_is_kept(copy: Path) -> None:
    assert aggregated(copy, "--set", "intersection") == 0
    found = invariants(copy)
    assert (found["set"], found["heads"], found["layers"]) == ("intersection", *found["intersection"].values())
    assert aggregated(copy) == 0 and invariants(copy) == found
    assert aggregated(copy, "--set", "partial_conjunction", "--at-least", 1) == 0
    told = read(copy / "manifest.json")["invariants"]
    assert (told["set"], told["at_least"]) == ("partial_conjunction", 1)
    assert [group["conjunction"]["at_least"] for group in invariants(copy)["groups"]] == [1, 1]
    assert aggregated(copy, "--set", "union") == 0  # which has no number
    assert read(copy / "manifest.json")["invariants"]["at_least"] is None
    assert {group["conjunction"]["at_least"] for group in invariants(copy)["groups"]} == {1}


@pytest.mark.parametrize(("args", "words"), [
    (["--at-least", 3], "the sweep has 2 conditions; expected 1 to 2"),
    (["--set", "union", "--at-least", 2], "only partial_conjunction counts conditions"),
])
def test_conditions_that_cannot_be_counted_are_refused_and_the_sweep_stays_as_it_was(
    args: list[object], words: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(copy)
    assert aggregated(copy, *args) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and f"invariants.at_least={args[-1]}" in said
    assert snapshot(copy) == before


def test_a_sweep_of_before_is_joined_by_the_defaults(copy: Path) -> None:
    """Its manifest says nothing of what is claimed nor of pictures, and its runs have no effects."""
    content = read(copy / "manifest.json")
    content["invariants"] = {key: content["invariants"][key] for key in ("k", "metrics", "rank", "allow_partial")}
    del content["plots"]
    (copy / "manifest.json").write_text(json.dumps(content))
    before = invariants(copy)
    for run in content["runs"]:
        told = read(copy / run / "manifest.json")
        told["digests"].pop("effects", None)
        (copy / run / "manifest.json").write_text(json.dumps({k: v for k, v in told.items() if k not in ("effects", "judged")}))
        (copy / run / "metrics/effects.parquet").unlink()
    assert aggregated(copy) == 0
    found = invariants(copy)
    assert (found["set"], found["heads"]) == ("partial_conjunction", [])
    assert "cond_a, cond_b: no effects (it was computed by a version without effects; the same command again" in found["note"]
    for key in ("intersection", "per_metric", "expected_by_chance"):
        assert found[key] == before[key]


def test_the_command_in_a_process_of_its_own(copy: Path, tmp_path: Path) -> None:
    done = type_in_shell(tmp_path, "-m", "tinylab.aggregate", str(copy), "--k", "2")
    assert done.returncode == 0, done.stderr
    assert "heads that matter with one sign in every condition (cond_a, cond_b): 0" in done.stdout
    assert "heads are among the 2 strongest of both by logit_diff: by chance 0.25 (p " in done.stdout
    assert invariants(copy)["k"] == 2
    assert type_in_shell(tmp_path, "-m", "tinylab.aggregate", str(tmp_path / "nowhere")).returncode == 2


# --- launchers and experiments ---


def test_joblib_gives_the_basic_launchers_tables_bit_for_bit(sweep: Path, tmp_path: Path) -> None:
    overrides = ["condition=cond_a,cond_b", "battery.layers=[0,1]", "seeds=[0,1]", "invariants.k=4", *SHORT[::2]]
    done = type_in_shell(tmp_path, "-m", "tinylab", "-m", *overrides, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    other = only(tmp_path, "outputs/sweeps/*")
    pd.testing.assert_frame_equal(matrix(other), matrix(sweep), check_exact=True)
    for run in read(other / "manifest.json")["runs"]:
        for table in ("head_impact", "per_example"):
            own, expected = (pd.read_parquet(folder / run / f"metrics/{table}.parquet") for folder in (other, sweep))
            pd.testing.assert_frame_equal(own, expected, check_exact=True)
        assert read(other / run / "metrics/summary.json") == read(sweep / run / "metrics/summary.json")
        provenance, expected = (read(folder / run / "manifest.json")["provenance"] for folder in (other, sweep))
        assert provenance["threads"] == expected["threads"]
    assert invariants(other)["per_metric"]["heads"] == invariants(sweep)["per_metric"]["heads"]


@pytest.mark.parametrize(("name", "table"), [("scan_h1", "head_matrix"), ("scan_h2", "layer_matrix")])
def test_a_scan_runs_both_conditions_with_or_without_m(name: str, table: str, tinylab: Command, tmp_path: Path) -> None:
    flags = ["-m"] if name == "scan_h1" else []
    assert tinylab(*flags, f"experiment={name}", *SHORT) == 0
    scan = only(tmp_path, f"outputs/sweeps/{name}_*")
    content = read(scan / "manifest.json")
    assert [job["condition"] for job in content["jobs"]] == ["cond_a", "cond_b"]
    assert set(content["artifacts"]) == {table, "summary", "invariants"}
    assert all(run.startswith(f"{name}_cond_") for run in content["runs"])


def test_a_scans_conditions_can_be_chosen_on_the_command_line() -> None:
    args = flags_parser().parse_args(["-m", "experiment=scan_h1", "condition=facts,logic"])
    with Composer(args) as composer:
        assert [job.condition for job in make_plan(composer, args.overrides, args.multirun).jobs] == ["facts", "logic"]


def test_h2_with_verify_runs_and_is_verified(tinylab: Command, tmp_path: Path) -> None:
    assert tinylab("experiment=h2_with_verify", *SHORT) == 0
    run = only(tmp_path, "outputs/runs/h2_with_verify_*")
    assert read(run / "metrics/verify.json")["verdict"] == "pass"
    assert read(run / "manifest.json")["provenance"]["seeds"] == [0, 1, 2]
