"""Every command in the documents is run, or, where it needs a hub, composed and checked."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from _pytest.mark import ParameterSet

from conftest import needs_ray
from gguf_files import needs_reader, write_gguf
from old_lab import lay_out, scan_file, write
from saved_datasets import save_splits
from tinylab.command import COMMANDS
from tinylab.config.hydra_internals import flags_parser
from typed import type_in, type_in_shell

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS_A_HUB = ("model=gpt2", "model=hf", "model=smollm2", "model=pythia", "experiment=ioi_")
NEEDS_SLURM = "submitit_slurm"  # those commands run in tests/sweep/test_slurm.py
RECIPES = "--config-dir conf "  # those run in tests/test_recipes.py, with the files of their recipes
ELSEWHERE = (*NEEDS_A_HUB, NEEDS_SLURM, RECIPES)
SMALL = ["condition.n_examples=4"]
MINE = ["condition=jsonl", "condition.path=my.jsonl", "condition.tag=mine"]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(start: str) -> list[str]:
    lines = [line for document in DOCUMENTS for block in blocks(document, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(line.split("  #")[0].strip() for line in lines if line.startswith(start)))


@pytest.fixture
def user(tmp_path: Path, tinylab: Callable[..., int]) -> Callable[..., int]:
    """A folder with what the README's user has: a corpus, a config folder, a model folder, made of its own snippets."""
    rows = (ROOT / "tinylab/assets/corpora/facts.jsonl").read_text().splitlines()[:20]
    (tmp_path / "my.jsonl").write_text("\n".join([*blocks(ROOT / "README.md", "json")[0].splitlines(), *rows]) + "\n")
    (tmp_path / "my_conf/condition").mkdir(parents=True)
    (tmp_path / "my_conf/condition/mine.yaml").write_text(blocks(ROOT / "README.md", "yaml")[0])
    shutil.copytree(ROOT / "tinylab/assets/tiny", tmp_path / "my_model")
    write_gguf(tmp_path / "my.gguf")
    save_splits(tmp_path / "my_dataset", {"test": pa.Table.from_pylist([json.loads(row) for row in rows]).drop_columns("split")})
    return tinylab


def runnable() -> list[ParameterSet]:
    """Commands that need no hub; those for Ray belong to make test-ray, those for other launchers to make test-slow."""
    found = [c for c in commands("python -m tinylab ") if not any(n in c for n in ELSEWHERE)]
    marks = {"launcher=ray": [needs_ray, pytest.mark.ray], "launcher=": [pytest.mark.slow], "model=gguf": [needs_reader]}
    return [pytest.param(c, marks=next((own for part, own in marks.items() if part in c), [])) for c in found]


@pytest.mark.parametrize("command", runnable())
def test_a_command_of_the_documents_runs(user: Callable[..., int], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    words = shlex.split(command)[3:]
    in_process = "hydra/launcher=" not in command
    small = [] if "n_examples" in command else SMALL
    small = [*small, *(MINE if "gguf" in command else [])]  # whose words the small file knows
    if in_process:
        assert user(*words, *small) == 0
    else:
        assert (done := type_in_shell(Path(), "-m", "tinylab", *words, *small)).returncode == 0, done.stderr
    assert bool(list(Path("outputs").glob("*/*/manifest.json"))) != ("dry_run=true" in words)


@pytest.mark.parametrize("command", [c for c in commands("python -m tinylab ") if any(n in c for n in NEEDS_A_HUB)])
def test_a_command_for_a_hub_model_composes(
    user: Callable[..., int], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del user
    from tinylab.config.composing import Composer
    from tinylab.sweep.plan import make_plan

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    args = flags_parser().parse_args(shlex.split(command)[3:])
    with Composer(args) as composer:
        assert all(config.model.path is None for config in make_plan(composer, args.overrides, args.multirun).configs)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a sweep was typed."""
    folder = tmp_path_factory.mktemp("swept")
    assert type_in(folder, "-m", "condition=cond_a,cond_b", "report=false", "plots=false", *SMALL) == 0
    return folder / "outputs"


@pytest.mark.parametrize("command", commands("python -m tinylab.aggregate"))
def test_an_aggregate_command_of_the_documents_runs(user: Callable[..., int], command: str, swept: Path) -> None:
    from tinylab.aggregate import main

    del user
    shutil.copytree(swept, "outputs")
    words = [str(path) for word in shlex.split(command)[3:] for path in (Path().glob(word) if "*" in word else [word])]
    assert main(words) == 0


@pytest.mark.parametrize("command", commands("python -m tinylab.report"))
def test_a_report_command_of_the_documents_writes_a_page(
    user: Callable[..., int], command: str, pages: None, swept: Path
) -> None:
    from tinylab.report.__main__ import main

    del user
    shutil.copytree(swept, "outputs")
    words = [str(path) for word in shlex.split(command)[3:] for path in (Path().glob(word) if "*" in word else [word])]
    assert main(words) == 0 and all((Path(word) / "report.html").is_file() for word in words)


@pytest.mark.parametrize("command", [c for c in commands("python -m tinylab.convert") if ".json" in c])
def test_a_conversion_of_the_first_versions_configs_runs(user: Callable[..., int], command: str) -> None:
    from tinylab.convert import main

    write(lay_out(Path()) / "scan_h1.json", scan_file("battery_h1_random"))
    assert main(shlex.split(command)[3:]) == 0
    experiments = "experiment=scan_h1_cond_a,scan_h1_cond_b"
    assert user("-m", "--config-dir", "my_conf", experiments, "model=tiny", "model.dtype=float32", "device=cpu") == 0


@pytest.mark.parametrize("command", [c for c in commands("python -m tinylab.convert") if ".gguf" in c])
@needs_reader
def test_a_conversion_of_the_documents_runs(user: Callable[..., int], command: str) -> None:
    from tinylab.convert import main

    assert main(shlex.split(command)[3:]) == 0
    assert user("model=local", "model.path=my_folder", *MINE) == 0


@pytest.mark.parametrize("command", commands("python -m tinylab.selftest"))
def test_a_selftest_of_the_documents_passes(user: Callable[..., int], command: str) -> None:
    from tinylab.selftest import main

    del user
    assert main([*shlex.split(command)[3:], *SMALL]) == 0


@pytest.mark.parametrize("command", commands("python -m tinylab.reproduce"))
def test_a_reproduce_command_of_the_documents_runs_or_composes_where_it_needs_weights(
    user: Callable[..., int], command: str
) -> None:
    del user
    from tinylab.checks.published import load
    from tinylab.config.composing import Composer
    from tinylab.reproduce import main
    from tinylab.schema import validate

    words = shlex.split(command)[3:]
    if not words or load(words[0]).weights is None:
        assert main(words) == 0
        return
    args = flags_parser().parse_args([f"experiment={words[0]}", *words[1:]])
    with Composer(args) as composer:
        assert validate(composer.compose(args.overrides)).run_name == words[0]


@pytest.mark.parametrize("command", commands("make "))
def test_a_make_command_of_the_documents_exists(command: str) -> None:
    result = subprocess.run(["make", "-n", *command.split()[1:2]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_python_of_the_readme_runs(user: Callable[..., int]) -> None:
    del user
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "tinylab/assets/tiny"
    names = {"model": AutoModelForCausalLM.from_pretrained(folder), "tokenizer": AutoTokenizer.from_pretrained(folder)}
    for block in blocks(ROOT / "README.md", "python"):
        exec(block, names)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_help_lists_only_commands_that_compose(user: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    from tinylab.config.composing import Composer
    from tinylab.sweep.plan import make_plan

    with pytest.raises(SystemExit) as stopped:
        user("--help")
    assert stopped.value.code == 0
    examples = re.findall(r"^  (python -m tinylab(?: .*?)?)(?:   |$)", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(examples) >= 7
    for example in examples:
        words = shlex.split(example)[3:]
        if words and words[0] in COMMANDS:
            continue
        args = flags_parser().parse_args(words)
        with Composer(args) as composer:
            make_plan(composer, args.overrides, args.multirun)
