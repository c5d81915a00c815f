"""From Python: the same numbers as the command line's, a model that is left as it was, and errors that are exceptions."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, AutoTokenizer

import tinylab as package
from conftest import only
from tinylab.api import running
from tinylab.errors import ConfigError, CorpusError, ModelError, OutputError, TinylabError
from tinylab.records.identity import Resolved
from tinylab.records.manifest import RunFolder
from typed import type_in, type_in_shell

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tinylab/assets/tiny"
SHORT = ("condition.n_examples=2", "battery.layers=[0]", "controls=none", "threads=1")
BOTH = ("condition=cond_a,cond_b", "battery.scales=[0.0,0.5]", "seeds=[0,1]", *SHORT)
ROWS = [json.loads(line) for line in (ROOT / "tinylab/assets/corpora/ioi.jsonl").read_text().splitlines()[:3]]
QUICK = ("battery.layers=[1]", "controls=none", "model.add_bos=true", "threads=1")


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """The tiny model as a user of transformers has it, in training mode, parts of it frozen."""
    model = AutoModelForCausalLM.from_pretrained(TINY, attn_implementation="eager").train()
    model.transformer.h[0].eval()
    model.transformer.wte.requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and one for temporary files; returns the latter."""
    for name in ("desk", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def state(model: Any) -> dict[str, Any]:
    """Everything of a model that an intervention might leave behind."""
    hooks = [name for name in vars(model) if name.endswith("_hooks")]
    return {
        "training": [module.training for module in model.modules()],
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [parameter.grad is None for parameter in model.parameters()],
        "attention": [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")],
        "config": model.config.to_dict(),
        "hooks": [len(getattr(module, name)) for module in model.modules() for name in hooks],
        "own": [sorted(vars(module)) for module in model.modules()],
        "weights": [float(tensor.double().abs().sum()) for tensor in model.state_dict().values()],
    }


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep of the command line's."""
    folder = tmp_path_factory.mktemp("typed")
    assert type_in(folder, "-m", *BOTH, "plots=false") == 0
    return package.load_sweep(only(folder, "outputs/sweeps/*"))


@pytest.fixture(scope="module")
def made() -> Any:
    """The same from Python."""
    return package.sweep(*BOTH)


def left(folder: Path) -> list[Path]:
    """What we left in a folder."""
    gc.collect()
    return [*folder.glob("tinylab-*"), *Path().iterdir()]


def test_a_run_has_the_tables_of_the_command_line_and_leaves_nothing_on_disk(elsewhere: Path, typed: Any) -> None:
    run = package.run(*BOTH[1:], condition="cond_b")
    assert run.path.is_relative_to(elsewhere)
    assert list(Path().iterdir()) == []
    same = next(one for one in typed.runs if one.manifest["condition"] == "cond_b")
    for name in ("impact", "head_impact", "per_example", "effects"):
        pd.testing.assert_frame_equal(getattr(run, name), getattr(same, name), check_exact=True)
    assert run.summary == same.summary
    del run
    assert left(elsewhere) == []


def test_a_sweep_joins_its_runs_as_the_command_line_does(typed: Any, made: Any) -> None:
    pd.testing.assert_frame_equal(made.head_matrix, typed.head_matrix, check_exact=True)
    assert made.invariants == typed.invariants
    assert repr(made) == "Sweep(2 runs: cond_a, cond_b; status complete)"
    assert all(word in made._repr_html_() for word in ("cond_a", "cond_b", "undecided", "shared"))
    assert isinstance(made.plot(), Figure)


def test_a_sweep_over_baselines_says_where_they_disagree_and_one_that_is_kept_has_its_picture(made: Any) -> None:
    line = ("battery.ablation=zero,mean", "condition=cond_a", *SHORT)
    kept = package.sweep(*line, output_dir="outputs")
    assert (kept.path / kept.manifest["artifacts"]["heatmap"]).is_file()
    assert kept.baselines is not None and set(kept.baselines["groups"][0]["runs"]) == {"zero", "mean"}
    assert type_in(Path(), "-m", *line, "sweep_name=typed", "plots=false", "report=false") == 0
    assert package.load_sweep(only(Path(), "outputs/sweeps/typed*")).baselines == kept.baselines
    assert made.baselines is None and made.cross_controls is None


def test_a_sweep_vanishes_with_the_last_of_its_runs(elsewhere: Path) -> None:
    sweep = package.sweep("battery.heads=[0],[99]", *SHORT)
    assert len(sweep.runs) == 1
    for told in (str(sweep.manifest["failures"][0]["error"]), sweep._repr_html_()):
        assert "99 is out of range" in told
    run = sweep.runs[0]
    del sweep
    gc.collect()
    assert run.path.is_dir()
    del run
    assert left(elsewhere) == []


def test_whatever_one_run_dies_of_the_others_of_its_sweep_are_joined(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute = running.run_experiment

    def dying(resolved: Resolved, *args: Any, **options: Any) -> None:
        if resolved.config.condition.tag == "cond_a":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory")
        compute(resolved, *args, **options)

    monkeypatch.setattr(running, "run_experiment", dying)
    sweep = package.sweep("condition=cond_a,cond_b", *SHORT)
    assert [run.manifest["condition"] for run in sweep.runs] == ["cond_b"]
    assert "can't allocate memory" in str(sweep.manifest["failures"][0]["error"])
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.getMessage().startswith("cond_a (h1) failed: [enforce fail") and "dying" in caplog.text
    with pytest.raises(RuntimeError, match="allocate memory"):
        package.sweep("condition=cond_a", "battery.scales=[0.0],[0.5]", *SHORT)


def test_a_disk_that_is_full_when_a_failure_is_noted_does_not_keep_a_sweep_from_being_joined(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OutputError("manifest.json: cannot be written (No space left on device).")

    monkeypatch.setattr(RunFolder, "fail", full)
    sweep = package.sweep("battery.heads=[99],[0]", *SHORT, output_dir="outputs")
    assert [run.manifest["battery"]["heads"] for run in sweep.runs] == [[0]]
    assert ["99 is out of range" in failure["error"]["message"] for failure in sweep.manifest["failures"]] == [True]
    assert [record.getMessage()[:40] for record in caplog.records if record.levelname == "ERROR"] == [
        "manifest.json: cannot be written (No spa", "cond_a (h1) failed: battery.heads=[99]: "]
    assert sweep.head_matrix["head"].unique().tolist() == [0]


def test_what_is_kept_lies_where_the_command_line_would_put_it_and_is_reused() -> None:
    first = package.run(*SHORT, condition="cond_a", output_dir="kept")
    assert only(Path("kept"), "runs/*").resolve() == first.path.resolve()
    made = first.manifest["provenance"]["finished"]
    again = package.run(*SHORT, "condition=cond_a", "output_dir=kept")
    assert again.manifest["provenance"]["finished"] == made
    assert type_in(Path(), "condition=cond_a", *SHORT, "output_dir=kept", "plots=false") == 0
    assert package.load_run(first.path).manifest["provenance"]["finished"] == made


def test_a_model_in_memory_has_its_own_numbers_and_is_as_it_was(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr("tinylab.models.weights._hub_config", _never)
    before, threads = state(model), torch.get_num_threads()
    run = package.run(*QUICK, "threads=1", battery="h1", model=model, tokenizer=tokenizer, pairs=ROWS)
    assert state(model) == before
    assert torch.get_num_threads() == threads
    assert run.manifest["provenance"]["engine"] == "forked"
    assert (run.manifest["condition"], run.manifest["model"]) == ("pairs", "tiny")
    same = package.run(*QUICK, "threads=1", "model=local", f"model.path={TINY}", battery="h1", pairs=ROWS)
    difference = (run.impact["value"] - same.impact["value"]).abs().max()
    assert difference < 1e-5  # eager attention here, sdpa there
    assert torch.is_grad_enabled()
    out = model(torch.tensor([[1, 2, 3]])).logits.sum()
    assert out.requires_grad


def _never(*_: object) -> Path:
    raise AssertionError("a model in memory was looked for on the hub")


@pytest.mark.parametrize("engine", ["reference", "forked"])
def test_a_model_is_as_it_was_after_an_error_too(engine: str, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = state(model)
    for wrong in ("battery.heads=[99]", "verify_slice.dtype=float64"):
        with pytest.raises(TinylabError):
            package.run(*QUICK, f"engine={engine}", wrong, model=model, tokenizer=tokenizer, pairs=ROWS)
        assert state(model) == before


def test_a_verify_slice_repeats_a_model_in_memory_and_a_sweep_tries_its_conditions(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    pairs = {"first": ROWS, "second": [tuple(row[name] for name in ("clean", "corrupt", "target", "foil")) for row in ROWS[:2]]}
    sweep = package.sweep("verify_slice=cpu", "model.add_bos=true", "battery.layers=[1]", model=model, tokenizer=tokenizer,
                          pairs=pairs)
    assert [run.manifest["condition"] for run in sweep.runs] == ["first", "second"]
    assert all(run.verify is not None and run.verify["verdict"] == "pass" for run in sweep.runs)
    first, second = (run.per_example for run in sweep.runs)
    columns = ["layer", "head", "example", "metric", "value"]
    kept = first[(first["example"] < 2) & (first["control"] == "none")][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(second[second["control"] == "none"][columns].reset_index(drop=True), kept, rtol=1e-5, atol=1e-5)


def test_other_weights_or_words_are_another_model(loaded: tuple[Any, Any]) -> None:
    from tinylab.models.lent import digest

    model, tokenizer = loaded
    before = digest(model, tokenizer)
    assert digest(AutoModelForCausalLM.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)) == before
    weight = model.transformer.h[1].mlp.c_proj.bias
    kept = weight[0].item()
    with torch.no_grad():
        weight[0] += 1e-3
    assert digest(model, tokenizer) != before
    with torch.no_grad():
        weight[0] = kept
    assert digest(model, tokenizer) == before
    more = AutoTokenizer.from_pretrained(TINY)
    more.add_tokens(["zzz"])
    assert digest(model, more) != before


@pytest.mark.parametrize("given", [ROWS, [tuple(row[k] for k in ("clean", "corrupt", "target", "foil")) for row in ROWS],
                                   pd.DataFrame(ROWS)], ids=["mappings", "texts", "table"])
def test_pairs_may_be_mappings_texts_or_a_table(given: Any) -> None:
    run = package.run("battery.layers=[0]", "controls=none", "condition.tag=mine", pairs=given)
    assert run.manifest["condition"] == "mine"
    assert run.per_example["example"].nunique() == len(ROWS)


WRONG: dict[str, tuple[type[TinylabError], str, Callable[[Any, Any], Any]]] = {
    "an option": (ConfigError, "condition/nope", lambda m, t: package.run("condition=nope")),
    "a key": (ConfigError, "n_exampels", lambda m, t: package.run("condition.n_exampels=3")),
    "a flag": (ConfigError, "expected overrides", lambda m, t: package.run("-m")),
    "a number": (ConfigError, "expected overrides", lambda m, t: package.run(3)),
    "several values": (ConfigError, "use tinylab.sweep", lambda m, t: package.run("condition=cond_a,cond_b")),
    "a preset that is a sweep": (ConfigError, "use tinylab.sweep", lambda m, t: package.run("experiment=scan_h1")),
    "an option twice": (ConfigError, "give it once", lambda m, t: package.run("battery=h1", battery="h2")),
    "a folder twice": (ConfigError, "give it once", lambda m, t: package.run("output_dir=a", output_dir="b")),
    "a dry run": (ConfigError, "for the command line", lambda m, t: package.run("dry_run=true")),
    "a launcher": (ConfigError, "for the command line", lambda m, t: package.sweep("hydra/launcher=joblib", "seeds=[0],[1]")),
    "a folder of configs": (ConfigError, "no such folder", lambda m, t: package.run(config_dir="gone")),
    "no model": (ConfigError, "model=int", lambda m, t: package.run(model=3)),
    "no causal model": (ModelError, "expected a causal",
                        lambda m, t: package.run(model=m.transformer, tokenizer=t)),
    "a module": (ModelError, "expected a causal",
                        lambda m, t: package.run(model=torch.nn.Linear(2, 2), tokenizer=t)),
    "no tokenizer": (ModelError, "tokenizer=NoneType", lambda m, t: package.run(model=m)),
    "a tokenizer too many": (ConfigError, "have their own", lambda m, t: package.run(model="tiny", tokenizer=t)),
    "two models": (ConfigError, "leave it out", lambda m, t: package.run("model=tiny", model=m, tokenizer=t)),
    "another dtype": (ConfigError, "leave it out", lambda m, t: package.run("model.dtype=float64", model=m, tokenizer=t)),
    "no pairs": (ConfigError, "there are none", lambda m, t: package.run(pairs=[])),
    "pairs that are none": (ConfigError, r"pairs\[0\]", lambda m, t: package.run(pairs=["a", "b"])),
    "one pair": (ConfigError, r"as in pairs=\[pair\]", lambda m, t: package.run(pairs=ROWS[0])),
    "pairs that are a text": (ConfigError, r"='my.jsonl'.*\"condition.path=FILE\"", lambda m, t: package.run(pairs="my.jsonl")),
    "a pair without a foil": (CorpusError, "no field 'foil'", lambda m, t: package.run(pairs=[{"clean": "a", "corrupt": "b",
                                                                                             "target": " c"}])),
    "pairs and a condition": (ConfigError, "prompt pairs are given", lambda m, t: package.run("condition=ioi", pairs=ROWS)),
    "a head": (ConfigError, "out of range", lambda m, t: package.run("battery.heads=[99]", *SHORT[:1])),
    "every run of a sweep": (ConfigError, "out of range", lambda m, t: package.sweep("battery.heads=[98],[99]", *SHORT[:1])),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_an_error_of_tinylabs_and_leaves_nothing(
    what: str, loaded: tuple[Any, Any], elsewhere: Path
) -> None:
    error, said, call = WRONG[what]
    before = state(loaded[0])
    with pytest.raises(error, match=said):
        call(*loaded)
    assert left(elsewhere) == []
    assert state(loaded[0]) == before


def test_another_programs_hydra_is_there_again_afterwards() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        run = package.run(*SHORT)
        assert compose("battery/h1").battery.name == "h1"
    assert "h1" in repr(run)


def test_a_notebook_shows_the_strongest_components_and_words_are_only_words() -> None:
    run = package.run("condition.tag='<b>x'", "controls=none", "condition=jsonl",
                      f"condition.path={ROOT}/tinylab/assets/corpora/ioi.jsonl", "condition.n_examples=8", "threads=1")
    shown = run._repr_html_()
    assert "&lt;b&gt;x" in shown
    assert "<b>x" not in shown
    strongest = run.effects.query("metric == 'logit_diff'").sort_values("effect_logits", key=abs, ascending=False).iloc[0]
    assert f"<td>{strongest['layer']}</td>\n      <td>{strongest['head']}</td>" in shown.split("</tr>")[1]
    assert repr(run) == "Run(h1, head × 0 on <b>x, tiny: 32 cells)"


def test_a_picture_is_the_change_from_the_unmodified_run(made: Any) -> None:
    run = made.runs[0]
    image = run.plot("kl_div").axes[0].images[0].get_array()
    rows = run.impact.query("metric == 'kl_div' and scale == 0")
    table = rows.groupby(["layer", "head"])["value"].mean().unstack()  # over seeds
    assert image.shape == table.shape
    assert abs(image - table.to_numpy()).max() < 1e-12  # the unmodified run's own is 0
    with pytest.raises(ConfigError, match="logit_dif: this run has none of it; did you mean 'logit_diff'"):
        run.plot("logit_dif")
    pairs = package.run("battery=pairs", "battery.heads=['0.1','1.0']", "condition.n_examples=2", "threads=1")
    assert "synergy" in pairs.plot().axes[-1].get_ylabel()


def test_numbers_as_xarray_are_those_of_the_table(made: Any) -> None:
    pytest.importorskip("xarray", reason="the extra `xarray` is not installed here")
    run = made.runs[0]
    cube = run.to_xarray()
    assert dict(cube.sizes) == {"seed": 2, "layer": 1, "head": 8, "scale": 2}
    assert len(run.impact) == sum(cube[name].size for name in cube)
    for row in run.impact.itertuples():
        assert cube[row.metric].sel(seed=row.seed, layer=row.layer, head=row.head, scale=row.scale).item() == row.value
    assert cube.attrs["condition"] == "cond_a"
    whole = made.to_xarray()
    assert list(whole.sizes) == ["condition", "seed", "layer", "head", "scale"]
    assert (whole["logit_diff"].sel(condition="cond_a") == cube["logit_diff"]).all()


@pytest.mark.usefixtures("pages")
def test_a_page_is_written_where_it_is_asked_for(made: Any) -> None:
    pytest.importorskip("altair", reason="the extra `report` is not installed here")
    page = made.runs[0].report("page.html")
    assert page == Path("page.html")
    assert "cond_a" in page.read_text()
    whole = made.report()
    assert whole == made.path / "report.html"
    assert "cond_b" in whole.read_text()
    run = package.run("report=true", *SHORT)
    assert (run.path / "report.html").is_file()


def test_xarray_that_is_not_installed_is_one_sentence(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ConfigError, match=r"pip install 'tiny-ablation-lab\[xarray\]'"):
        made.runs[0].to_xarray()


def test_the_function_and_the_room_of_one_name_are_both_there(tmp_path: Path) -> None:
    code = ("import tinylab, sys; first = tinylab.sweep; import tinylab.sweep.naming as naming; from tinylab.sweep import room; "
            "assert naming.number_job and room and callable(tinylab.sweep) and callable(first)\n"
            "for call in (first, tinylab.sweep):\n"
            "    try: call('condition=nope')\n"
            "    except tinylab.errors.ConfigError as error: print('told', 'condition' in str(error))")
    done = type_in_shell(tmp_path, "-c", code, PYTHONPATH=str(ROOT))
    assert done.stdout.split() == ["told", "True", "told", "True"], done.stderr
