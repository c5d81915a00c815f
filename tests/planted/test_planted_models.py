"""The planted models as files: written again the same, loaded as any model is, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import Command, write_jsonl
from planted import HOMES, Typed, model, pairs
from tinylab.config.composing import Composer
from tinylab.config.groups import VARIANTS, ModelConfig
from tinylab.config.hydra_internals import flags_parser
from tinylab.models.loading import skeleton
from tinylab.planted import corpora
from tinylab.planted.__main__ import ASSETS, MODELS, write
from tinylab.planted.closed_forms import LEDGER_LEVEL, TOLERANCE
from tinylab.planted.identity_norm import POSITIONS
from tinylab.records.identity import run_id
from tinylab.schema import validate

CHANGED = {"planted_b": 4, "planted_llama": 2}
"""Condition → how many words of a pair differ, where it is not one."""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("models"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_writing_them_again_gives_the_shipped_files_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path)
    assert files(tmp_path / "planted") == files(ASSETS / "planted")
    shipped = files(ASSETS / "corpora")
    assert files(tmp_path / "corpora") == {name: content for name, content in shipped.items() if name.startswith("planted_")}


def test_every_variant_that_the_command_line_knows_is_shipped() -> None:
    assert set(VARIANTS) == set(MODELS) == {path.name for path in (ASSETS / "planted").iterdir()} == set(HOMES.values())


@pytest.mark.parametrize("condition", HOMES)
def test_the_forked_engine_runs_them_by_itself_and_no_row_is_dropped(typed: Typed, condition: str) -> None:
    provenance = typed.run(condition, "forked", "engine=auto").manifest["provenance"]
    assert (provenance["engine"], provenance["engine_fallback_reason"]) == ("forked", None)
    assert provenance["self_check_max_difference"] < 1e-9
    assert provenance["corpus"]["kept"] == len(corpora.corpora()[condition])
    assert provenance["corpus"]["dropped"] == {}
    assert provenance["model"]["name"] == f"planted-{HOMES[condition]}"
    assert provenance["dtype"] == "float64"


@pytest.mark.parametrize("condition", HOMES)
def test_the_models_are_small_and_their_prompts_fit(condition: str) -> None:
    loaded = model(HOMES[condition])
    assert loaded.context == POSITIONS == 12
    assert loaded.vocabulary == len(MODELS[HOMES[condition]].vocabulary) <= 15
    for pair in pairs(condition):
        assert len(pair.clean) == len(pair.corrupt) <= POSITIONS
        assert sum(a != b for a, b in zip(pair.clean, pair.corrupt, strict=True)) == CHANGED.get(condition, 1)


def test_no_pair_stands_twice() -> None:
    for rows in corpora.corpora().values():
        assert len({json.dumps(row) for row in rows}) == len(rows)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "llama"])  # its RMSNorms: test_planted_llama
def test_every_norm_leaves_the_stream_as_it_is_and_its_mean_is_zero(variant: str) -> None:
    loaded = model(variant)
    condition = next(name for name, home in HOMES.items() if home == variant)
    seen: list[float] = []

    def compare(_module: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert float(args[0].mean(dim=-1).abs().max()) < 1e-13
        seen.append(float((output - args[0]).abs().max() / args[0].abs().max()))

    norms = [module for module in loaded.model.modules() if isinstance(module, torch.nn.LayerNorm)]
    hooks = [norm.register_forward_hook(compare) for norm in norms]
    loaded.model(torch.tensor([pairs(condition)[0].clean]))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(norms) == 2 * loaded.n_layers + 1
    assert max(seen) < 1e-9


# what does not fit


def test_an_unknown_variant_is_one_sentence_with_the_options(tinylab: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert tinylab("model=planted", "model.variant=twin") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model.variant=twin: not an option; did you mean 'twins'?" in said
    assert all(variant in said for variant in VARIANTS)


@pytest.mark.parametrize(("args", "told"), [
    (("model=tiny", "+model.variant=twins"), "only model=planted has variants"),
    (("model=planted", "model.path=elsewhere/ledger"),
     "model.path=elsewhere/ledger: model=planted has a source of its own, and would give its name to another; "
     "use model=local model.path=elsewhere/ledger."),
])
def test_a_variant_of_a_model_that_has_none_is_refused(
    args: tuple[str, ...], told: str, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*args) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variant", "condition", "words"),
    [("ledger", "planted_b", "(lit, so, dark, open, shut)"), ("gates", "planted_a", "red"), ("twins", "planted_a", "red"),
     ("ledger", "planted_c", "sun"), ("ledger", "cond_a", "had")],
)
def test_a_condition_of_another_model_is_refused_with_the_words_that_are_missing(
    tinylab: Command, capsys: pytest.CaptureFixture[str], variant: str, condition: str, words: str
) -> None:
    assert tinylab("model=planted", f"model.variant={variant}", f"condition={condition}") == 2
    said = capsys.readouterr().err
    assert words in said
    assert "words that the model's vocabulary lacks" in said


def test_one_unknown_word_is_enough_wherever_it_stands(
    tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = corpora.ledger_rows()[0]
    for field in ("clean", "corrupt", "target", "foil"):
        write_jsonl(tmp_path / "mine.jsonl", [good, {**good, field: good[field].replace(good[field].split()[0], "purple")}])
        assert tinylab("model=planted", "condition=jsonl", "condition.path=mine.jsonl") == 2
        assert "row 1 has words that the model's vocabulary lacks (purple)" in capsys.readouterr().err


def test_a_token_that_also_begins_documents_does_not_count_as_unknown() -> None:
    tiny = skeleton(ModelConfig(path="pkg://tinylab/assets/tiny"))
    assert tiny.tokenizer.unk_token_id == tiny.bos
    assert tiny.unknown is None
    assert model("ledger").unknown == 1


def test_a_prompt_beyond_the_context_is_refused(tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = corpora.ledger_rows()[0]
    write_jsonl(tmp_path / "mine.jsonl", [{**good, "clean": "pink " * POSITIONS + good["clean"]}])
    assert tinylab("model=planted", "condition=jsonl", "condition.path=mine.jsonl") == 2
    assert "none of its 1 rows can be used (prompt longer than the context: 1)" in capsys.readouterr().err


def test_the_longest_prompt_that_fits_is_checked_and_run(tinylab: Command, tmp_path: Path) -> None:
    good = corpora.ledger_rows()[0]
    filler = "pink " * (POSITIONS - 6)
    write_jsonl(tmp_path / "mine.jsonl", [{**good, "clean": filler + good["clean"], "corrupt": filler + good["corrupt"]}, good])
    assert tinylab("model=planted", "condition=jsonl", "condition.path=mine.jsonl", "engine=forked", "plots=false") == 0
    summary = json.loads(next(tmp_path.glob("outputs/runs/*/metrics/summary.json")).read_text())
    assert summary["baselines"]["clean"]["logit_diff"]["mean"] == pytest.approx(LEDGER_LEVEL, abs=TOLERANCE)


def test_a_runs_id_knows_the_weights_and_not_the_name_of_the_variant() -> None:
    def identity(*overrides: str) -> str:
        with Composer(flags_parser().parse_args([])) as composer:
            return run_id(validate(composer.compose([*overrides, "condition=planted_c", "device=cpu"])))

    own_path = ("model=local", "model.path=pkg://tinylab/assets/planted/twins", "model.dtype=float64", "model.add_bos=true")
    assert identity("model=planted", "model.variant=twins") == identity(*own_path) != identity("model=planted")
