"""Every JSON file of runs and sweeps keeps its published schema; a broken document is refused, and never written."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from conftest import only
from tinylab.config.groups import RANKS, SETS
from tinylab.errors import OutputError, SchemaError
from tinylab.records import schemas
from tinylab.records.checking import check_document, read_document, write_document
from tinylab.records.documents import RunSummary, Verify
from tinylab.records.manifest import RunFolder
from tinylab.records.manifests import ClaimedBy, Rank, RunManifest
from tinylab.records.schemas import DOCUMENTS
from typed import SHORT, type_in

Change = Callable[[Any], Any]
ROOT = Path(__file__).parent.parent.parent
SCHEMAS = ROOT / "docs/schemas"
PUBLISHED = {name: Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text())) for name in DOCUMENTS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of both batteries, one verified, one failed, and sweeps: whole ones, one with a missing run."""
    folder = tmp_path_factory.mktemp("documents")
    seeds = "seeds=[0,1]"
    assert type_in(folder, "battery=h1", "run_name=alone", seeds, *SHORT) == 0
    verified = ["+verify_slice.n_examples=2", "battery.sham_control=true", "run_name=verified"]
    assert type_in(folder, "battery=h2", seeds, *verified, *SHORT) == 0
    assert type_in(folder, "battery=h2", "condition=cond_b", "metrics=[recovery]", "run_name=recovery", *SHORT) == 0
    assert type_in(folder, "-m", "condition=cond_a,cond_b", "battery=h1,h2", *SHORT) == 0
    assert type_in(folder, "-m", "condition=cond_a,cond_b", "battery.heads=[7],[99]", "sweep_name=partial", *SHORT) == 3
    twins = ["model=planted", "model.variant=twins", "condition=planted_c,planted_d", "metrics=[logit_diff]", "plots=false"]
    assert type_in(folder, "-m", *twins, "sweep_name=twins", "controls.cross=true") == 0
    baselines = ["battery.ablation=zero,mean", "condition=cond_a", "sweep_name=where_baselines_disagree"]
    assert type_in(folder, "-m", *baselines, *SHORT) == 0
    return folder


def kind(file: Path) -> str:
    """Which document a file is, by where it lies."""
    of_sweep = file.parent.name == "cross_condition" or file.parent.parent.name == "sweeps"
    return {"manifest": "sweep_manifest" if of_sweep else "run_manifest",
            "summary": "sweep_summary" if of_sweep else "run_summary"}.get(file.stem, file.stem)


def document(made: Path, name: str, status: str = "complete") -> dict[str, Any]:
    """One document of a kind; of manifests one with a status."""
    for file in sorted(made.glob("outputs/**/*.json")):
        content: dict[str, Any] = json.loads(file.read_text())
        if kind(file) == name and content.get("status", status) == status and (name != "invariants" or content["groups"]):
            return content
    raise AssertionError(f"no {name} with status {status}")


def test_the_published_schemas_are_those_of_the_models(tmp_path: Path) -> None:
    assert schemas.main([str(tmp_path)]) == 0
    published = {file.name: file.read_text() for file in SCHEMAS.iterdir()}
    assert published == {file.name: file.read_text() for file in tmp_path.iterdir()}, "run make schemas"


def test_every_json_file_of_runs_and_sweeps_keeps_its_published_schema_and_its_model(made: Path) -> None:
    files = sorted(made.glob("outputs/**/*.json"))
    assert {kind(file) for file in files} == set(DOCUMENTS)
    statuses = {(kind(file), json.loads(file.read_text()).get("status")) for file in files}
    assert {("run_manifest", "failed"), ("run_manifest", "complete"), ("sweep_manifest", "partial")} <= statuses
    for file in files:
        assert [fault.message for fault in PUBLISHED[kind(file)].iter_errors(json.loads(file.read_text()))] == [], file
        read_document(DOCUMENTS[kind(file)], file)


def test_manifests_while_they_run_keep_their_schemas(made: Path, tmp_path: Path) -> None:
    for name in ("run_manifest", "sweep_manifest"):
        started = document(made, name)
        for later in ("provenance", "verify_slice", "runs", "failures", "verify_failed", "artifacts"):
            started.pop(later, None)
        started["status"] = "running"
        assert list(PUBLISHED[name].iter_errors(started)) == []
        write_document(DOCUMENTS[name], tmp_path / name, started)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_written_is_what_was_given_key_for_key(name: str, made: Path, tmp_path: Path) -> None:
    given = document(made, name)
    backwards = dict(reversed(given.items()))
    for content in (given, backwards):
        write_document(DOCUMENTS[name], tmp_path / "written.json", content)
        assert (tmp_path / "written.json").read_text() == json.dumps(content, indent=2) + "\n"


def metric(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["metrics"]["logit_diff"]
    return found


Broken = tuple[str, Change, str]
ANYONE_SEES: dict[str, Broken] = {
    "no status": ("run_manifest", lambda d: d.pop("status"), "status is missing, expected"),
    "an unknown status": ("run_manifest", lambda d: d.update(status="done"), "status is 'done', expected one of running"),
    "no identity": ("run_manifest", lambda d: d.pop("run_id"), "run_id is missing, expected a name"),
    "no provenance": ("run_manifest", lambda d: d.pop("provenance"), "provenance is missing, expected an object"),
    "a digest that is none": ("run_manifest", lambda d: d["provenance"]["corpus"].update(sha256="x"),
                              "provenance.corpus.sha256 is 'x', expected a sha256"),
    "no pairs": ("run_manifest", lambda d: d["provenance"]["corpus"].update(kept=0), "corpus.kept is 0, expected .* at least 1"),
    "a file anywhere": ("run_manifest", lambda d: d.update(summary="/tmp/summary.json"), "summary is '/tmp.*relative to"),
    "a run of neither prompt": ("run_summary", lambda d: d.update(target_run="both"), "is 'both', expected one of clean"),
    "an interval of one bound": ("run_summary", lambda d: metric(d).update(ci95=[1.0]), "ci95 is .1.0., expected at least 2"),
    "a mean as text": ("run_summary", lambda d: metric(d).update(mean="1"), "logit_diff.mean is '1', expected a finite number"),
    "a negative control": ("run_summary", lambda d: d.update(controls={"sham": {"kl_div": -1.0}}), "sham.kl_div is -1.0"),
    "a seed twice": ("run_summary", lambda d: d.update(seeds=[0, 0]), "seeds is .0, 0., expected no duplicates"),
    "half an example": ("verify", lambda d: d.update(n_examples=0.5), "n_examples is 0.5, expected a whole number"),
    "more than all": ("verify", lambda d: d.update(top_k_agreement=1.5), "top_k_agreement is 1.5, expected a number from 0 to 1"),
    "a slip of the pen": ("verify", lambda d: metric(d).update(max_abs_dif=0.0), "max_abs_dif is not a key"),
    "a job without a folder": ("sweep_manifest", lambda d: d["jobs"][1].pop("folder"), r"jobs\.1\.folder is missing"),
    "no artifacts": ("sweep_manifest", lambda d: d.pop("artifacts"), "artifacts is missing, expected an object"),
    "a summary that is none": ("sweep_summary", lambda d: d["conditions"].update(cond_c={}), "cond_c.run_id is missing"),
    "a failure without words": ("sweep_summary", lambda d: d.update(failed=[{"condition": "c", "log": None}]),
                                r"failed\.0\.error is missing"),
    "a group without a kind": ("invariants", lambda d: d["groups"][0].pop("kind"), r"groups\.0\.kind is missing"),
    "a head that is a number": ("invariants", lambda d: d.update(heads=[3]), r"heads\.0 is 3, expected an object"),
    "a metric without ranks": ("invariants", lambda d: d["per_metric"]["heads"]["logit_diff"].pop("top_k"),
                               "per_metric.heads.logit_diff.top_k is missing"),
    "a chance over one": ("invariants", lambda d: d["per_metric"]["heads"]["logit_diff"]["by_chance"].update(p=1.5),
                          "by_chance.p is 1.5, expected a number from 0 to 1"),
    "an unknown correction": ("invariants", lambda d: d["groups"][0]["conjunction"].update(correction="none"),
                              "conjunction.correction is 'none', expected one of holm"),
    "an effect as text": ("invariants", lambda d: d["groups"][0]["conjunction"].update(components=[
        {"layer": 0, "head": 0, "p": 0.5, "p_adjusted": 0.5, "sign": "-", "count": 1, "matters_in": [], "mixed_in": [],
         "effects": {"a": "1"}, "plus_minus": {}}]), "components.0.effects is .'a': '1'., expected an object of finite numbers"),
}
MODELS_SEE: dict[str, Broken] = {
    "a group without its components": ("invariants", lambda d: d["groups"][0].update(kind="neurons"),
                                       r"groups\.0 is .*, expected the key neurons with a list"),
    "a component without a layer": ("invariants", lambda d: d["groups"][0]["per_metric"]["logit_diff"]["top_k"].update(
        cond_a=[{"head": 0}]), r"top_k\.cond_a\.0 is .*, expected the number of a layer, or an object"),
    "a component of a kind to come twice": ("invariants", lambda d: d["groups"][0]["per_metric"]["logit_diff"].update(
        neurons=[{"layer": 0, "neuron": 5}] * 2), r"logit_diff\.neurons is .*, expected no duplicates"),
    "a number that is none": ("run_summary", lambda d: metric(d).update(mean=float("nan")), "mean is nan, expected a finite"),
    "a setting that is none": ("run_summary", lambda d: d["battery"].update(scale=[float("inf")]), "scale is .inf., expected"),
    "a mean of nothing": ("run_summary", lambda d: metric(d).update(per_seed={}), "mean is .*, expected a number where per_seed"),
    "bounds the wrong way": ("run_summary", lambda d: metric(d).update(ci95=[2.0, 1.0]), "ci95 is .*, expected the lower"),
    "no logit_diff": ("run_summary", lambda d: d["baselines"]["clean"].pop("logit_diff"), "clean is .*, expected .* logit_diff"),
    "more used than kept": ("run_manifest", lambda d: d["provenance"]["corpus"].update(used=10**6),
                            "used is 1000000, expected at most"),
    "no table": ("run_manifest", lambda d: d.pop(d["table"]), "the document is .*, expected the key .*_impact"),
    "an error that is not told": ("run_manifest", lambda d: d.update(verify_slice={
        "verdict": "error", "settings": {"device": "cpu", "n_examples": 1, "dtype": "float32", "tolerance": 1, "strict": False},
    }), "verify_slice is .*, expected an error where the verdict is error"),
    "one side only": ("verify", lambda d: metric(d).update(verify=None), "verify is None, expected a finite number, as main"),
    "another difference": ("verify", lambda d: metric(d).update(abs_diff=7.0), r"abs_diff is 7.0, expected .main - verify. = "),
    "complete with a failure": ("sweep_manifest", lambda d: d.update(status="partial"), "failures is .., expected one"),
    "artifacts without a summary": ("sweep_manifest", lambda d: d["artifacts"].pop("summary"), "artifacts is .* summary"),
    "a claim that is withheld": ("invariants", lambda d: d.update(withheld="no run of c"), "expected no heads, layers"),
    "more than k in a group": ("invariants", lambda d: d.update(k=1, intersection={}, per_metric={}), "groups is .* k=1"),
    "more than k by a metric": ("invariants", lambda d: d.update(k=1, intersection={}, groups=[]), "per_metric is .* k=1"),
    "more than k in all": ("invariants", lambda d: d.update(k=1, per_metric={}, groups=[]), "intersection is .* k=1"),
    "a claim of more than k by rank": ("invariants", lambda d: d.update(k=1, set="intersection", heads=[
        {"layer": 0, "head": head} for head in range(2)]), "heads is .* k=1"),
}


@pytest.mark.parametrize("fault", ANYONE_SEES)
def test_a_broken_document_is_refused_by_its_published_schema(fault: str, made: Path) -> None:
    name, change, _ = ANYONE_SEES[fault]
    content = document(made, name)
    assert PUBLISHED[name].is_valid(content)
    change(content)
    assert not PUBLISHED[name].is_valid(content)


@pytest.mark.parametrize("fault", [*ANYONE_SEES, *MODELS_SEE])
def test_a_broken_document_is_never_written_and_the_fault_is_one_sentence(fault: str, made: Path, tmp_path: Path) -> None:
    name, change, message = {**ANYONE_SEES, **MODELS_SEE}[fault]
    file = tmp_path / "document.json"
    file.write_text("what was there")
    content = document(made, name)
    change(content)
    with pytest.raises(SchemaError, match=f"^{file}: .*{message}") as refused:
        write_document(DOCUMENTS[name], file, content)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
    assert file.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [file]


def test_a_document_is_read_as_it_was_written(made: Path) -> None:
    file = only(made, "outputs/runs/verified_*/manifest.json")
    assert read_document(RunManifest, file) == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("{", "cannot be read"), ("[]", "holds a list"), ('{"status": "complete"}', "run_id is missing")],
)
def test_what_cannot_be_read_is_one_sentence_that_names_the_file(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(OutputError, match=f"^{file}: .*{message}"):
        read_document(RunManifest, file)


def test_manifests_of_earlier_and_later_versions_are_read_and_kept(made: Path, tmp_path: Path) -> None:
    folder = only(made, "outputs/runs/verified_*")
    earlier = json.loads((folder / "manifest.json").read_text())
    del earlier["process"]
    for key in ("results_version", "value_bias", "tokenizer"):
        del earlier["provenance"][key]
    del earlier["provenance"]["corpus"]["used"]
    later = deepcopy(earlier)
    later.update(described="patches the residual stream", from_tomorrow=[1])
    later["provenance"].update(identity_version=2, added=[{"metric": "kl_div"}], from_tomorrow={"x": 1.5})
    for content in (earlier, later):
        check_document(RunManifest, content, "manifest")
        assert PUBLISHED["run_manifest"].is_valid(content)
    RunFolder(tmp_path).write({**later, "table": "later", "later": "metrics/later.parquet"} | {"status": "running"})
    assert json.loads((tmp_path / "manifest.json").read_text())["from_tomorrow"] == [1]
    sweep = {**document(made, "sweep_manifest"), "swept": ["condition", "battery"]}
    assert PUBLISHED["sweep_manifest"].is_valid(sweep)
    check_document(DOCUMENTS["sweep_manifest"], sweep, "manifest")


def test_a_run_fails_in_words_whatever_its_folder_held_before(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"status": 7, "battery": [1], "provenance": "elsewhere"}')
    RunFolder(tmp_path).fail(None, OutputError("the disk is full"))
    read = read_document(RunManifest, tmp_path / "manifest.json")
    assert (read["status"], read["run_id"], read["error"]["message"]) == ("failed", None, "the disk is full")


def test_a_run_without_its_files_is_never_called_complete(made: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="config is missing, expected a path"):
        RunFolder(tmp_path).write(document(made, "run_manifest"))
    assert list(tmp_path.iterdir()) == []


def test_a_verify_slice_may_be_undefined_on_both_sides(made: Path) -> None:
    content = document(made, "verify")
    content["metrics"]["recovery"] = {"main": None, "verify": None, "abs_diff": None, "max_abs_diff": 0.0, "missing": 4}
    check_document(Verify, content, "verify")
    content["metrics"]["recovery"]["abs_diff"] = 0.0
    with pytest.raises(SchemaError, match="metrics.recovery.abs_diff is 0.0, expected null"):
        check_document(Verify, content, "verify")


def test_components_of_a_kind_to_come_are_compared_like_any(made: Path) -> None:
    content = json.loads(json.dumps(document(made, "invariants")).replace('"heads"', '"neurons"').replace('"head"', '"neuron"'))
    content["heads"] = []
    assert PUBLISHED["invariants"].is_valid(content)
    check_document(DOCUMENTS["invariants"], content, "invariants")
    content["groups"] = [group for group in content["groups"] if group["kind"] == "neurons"]
    with pytest.raises(SchemaError, match="groups is .*, expected at most k=3 components in a list, not [4-9]"):
        check_document(DOCUMENTS["invariants"], {**content, "k": 3, "intersection": {}, "per_metric": {}}, "invariants")


def test_what_is_no_object_is_refused(made: Path) -> None:
    for model in DOCUMENTS.values():
        with pytest.raises(SchemaError, match=r"^here: the document is \[\], expected an object\.$"):
            check_document(model, [], "here")
    with pytest.raises(SchemaError, match="battery is 'h1', expected an object"):
        check_document(RunSummary, {**document(made, "run_summary"), "battery": "h1"}, "here")


def test_the_ranks_and_sets_of_the_config_and_of_the_documents_are_the_same() -> None:
    assert get_args(Rank) == RANKS
    assert get_args(ClaimedBy) == SETS


def test_invariants_of_before_the_tests_are_read(made: Path) -> None:
    content = document(made, "invariants")
    for entry in (content, *content["groups"]):
        entry.update(entry.pop("intersection"))
        for name in ("conjunction", "sign_agreement", "runs"):
            entry.pop(name, None)
    for entry in (*content["per_metric"].values(), *(group["per_metric"] for group in content["groups"])):
        for metric_entry in entry.values():
            metric_entry.pop("by_chance", None)
    content["set"] = "intersection"
    check_document(DOCUMENTS["invariants"], content, "invariants")
    assert PUBLISHED["invariants"].is_valid(content)
